"""I2V background (VBench++, arXiv 2411.13503): is the picture's scene in the clip, and does it stay? By DreamSim."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from motionloom.metrics.base import Item, Measured, Metric, Value, as_pixels
from motionloom.metrics.consistency import faithfulness, in_batches
from motionloom.metrics.preprocess import picture_squashed, squashed
from motionloom.metrics.setup import Setup

SIDE_PX = 224


class I2VBackground(Metric):
    """DreamSim's embedding of frames and picture squashed to 224 x 224, with the weights of `faithfulness`."""

    name = "i2v_background"
    measured_as = "i2v_background/1"
    needs = frozenset({"picture"})
    gives: ClassVar = {"i2v_background": Value("VBench-I2V i2v_background, frames antialiased")}

    def __init__(self, dreamsim: Callable[[Tensor], Tensor], device: str = "cpu") -> None:
        self.dreamsim, self.device = dreamsim, device

    @classmethod
    def made(cls, setup: Setup) -> I2VBackground:
        return cls(setup.networks.call("dreamsim"), setup.networks.device)

    def measure(self, item: Item) -> Measured:
        assert item.picture is not None
        picture = picture_squashed(item.picture, SIDE_PX)
        frames = (
            squashed(as_pixels(frame[None]), SIDE_PX, "bicubic", antialias=True).clamp(0, 255)
            for frame in item.clip.frames
        )
        given = in_batches(self.dreamsim, [(picture / 255).to(self.device)])
        features = in_batches(self.dreamsim, ((one / 255).to(self.device) for one in frames))
        return Measured({self.name: faithfulness(given, features)})

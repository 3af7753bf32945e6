"""I2V subject (VBench++, arXiv 2411.13503): is the picture's subject in the clip, and does it stay? By DINO."""

from __future__ import annotations

from typing import ClassVar

import torch

from motionloom.metrics.base import Item, Measured, Metric, Value, as_pixels
from motionloom.metrics.consistency import faithfulness, in_batches
from motionloom.metrics.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    centre_crop,
    normalised,
    picture_shorter_side,
    shorter_side,
)
from motionloom.metrics.setup import Setup


class I2VSubject(Metric):
    """Frames and picture at 256, bicubic, centre crop 224. Whether frames are antialiased followed torchvision's
    default, which changed: antialiased is today's, `/no_antialias` the older leaderboard's.
    """

    name = "i2v_subject"
    measured_as = "i2v_subject/1"
    needs = frozenset({"picture"})
    gives: ClassVar = {
        "i2v_subject": Value("VBench-I2V i2v_subject, frames antialiased (compat, torchvision >= 0.17)"),
        "i2v_subject/no_antialias": Value("VBench-I2V i2v_subject, not antialiased (compat, before 0.17)"),
    }

    def __init__(self, dino: torch.nn.Module, device: str = "cpu") -> None:
        self.dino, self.device = dino, device

    @classmethod
    def made(cls, setup: Setup) -> I2VSubject:
        return cls(setup.networks.load("dino-vitb16"), setup.networks.device)

    def measure(self, item: Item) -> Measured:
        assert item.picture is not None
        picture = self._features([picture_shorter_side(item.picture, 256)])
        values = {}
        for name, antialias in ((self.name, True), (f"{self.name}/no_antialias", False)):
            frames = [
                shorter_side(as_pixels(frame[None]), 256, "bicubic", antialias) for frame in item.clip.frames
            ]
            values[name] = faithfulness(picture, self._features(frames))
        return Measured(values)

    def _features(self, pixels: list[torch.Tensor]) -> torch.Tensor:
        cropped = (
            normalised(centre_crop(one.clamp(0, 255), 224), IMAGENET_MEAN, IMAGENET_STD) for one in pixels
        )
        return in_batches(self.dino, (one.to(self.device) for one in cropped))

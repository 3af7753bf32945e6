"""Imaging quality (VBench, arXiv 2311.17982): MUSIQ trained on SPAQ (arXiv 2108.05997); with the loss MIVA reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from motionloom.metrics.base import Item, Measured, Metric, Value, as_pixels
from motionloom.metrics.first_frame import fitted
from motionloom.metrics.setup import Setup

LONGEST_PX = 512


class ImagingQuality(Metric):
    """Mean over frames of MUSIQ / 100, frames no longer than 512 px (bilinear, no antialiasing). VBench divides the
    set's value by 100 and leaves the clips' undivided; here both are 0..1.
    """

    name = "imaging_quality"
    measured_as = "imaging_quality/2"
    may_use = frozenset({"picture"})
    min_frames = 1
    gives: ClassVar = {
        "imaging_quality": Value("VBench imaging_quality, 0..1"),
        "imaging_quality/loss": Value("MIVA: the picture's score minus the frames' mean", "", "lower"),
    }

    def __init__(self, musiq: Callable[[Tensor], Tensor], device: str = "cpu") -> None:
        self.musiq, self.device = musiq, device

    @classmethod
    def made(cls, setup: Setup) -> ImagingQuality:
        return cls(setup.networks.load("musiq-spaq"), setup.networks.device)

    def measure(self, item: Item) -> Measured:
        curve = [self._score(as_pixels(frame[None])) for frame in item.clip.frames]
        mean = sum(curve) / len(curve)
        values = {self.name: mean}
        if item.picture is not None:
            values[f"{self.name}/loss"] = self._score(as_pixels(fitted(item)[None])) - mean
        return Measured(values, {self.name: curve})

    def _score(self, pixels: Tensor) -> float:
        height, width = pixels.shape[-2:]
        if max(height, width) > LONGEST_PX:
            scale = LONGEST_PX / max(height, width)
            size = (int(scale * height), int(scale * width))
            pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
        return float(self.musiq((pixels / 255).to(self.device))) / 100

"""Background consistency (VBench, arXiv 2311.17982): do CLIP features of the frames stay the same?"""

from __future__ import annotations

from typing import ClassVar

import torch

from motionloom.metrics.base import Item, Measured, Metric, Value, as_pixels
from motionloom.metrics.consistency import consistency, in_batches
from motionloom.metrics.networks.clip import CLIP, MEAN, STD
from motionloom.metrics.preprocess import centre_crop, normalised, shorter_side
from motionloom.metrics.setup import Setup


class BackgroundConsistency(Metric):
    """CLIP ViT-B/32 after the projection; frames as `for_clip` makes them."""

    name = "background_consistency"
    measured_as = "background_consistency/1"
    gives: ClassVar = {"background_consistency": Value("VBench background_consistency, mean over clips")}

    def __init__(self, clip: CLIP, device: str = "cpu") -> None:
        self.clip, self.device = clip, device

    @classmethod
    def made(cls, setup: Setup) -> BackgroundConsistency:
        return cls(setup.networks.load("clip-vit-base-patch32"), setup.networks.device)  # type: ignore[arg-type]

    def measure(self, item: Item) -> Measured:
        frames = (
            for_clip(as_pixels(frame[None]), self.clip.side_px).to(self.device) for frame in item.clip.frames
        )
        curve = consistency(in_batches(self.clip, frames))
        return Measured({self.name: sum(curve) / len(curve)}, {self.name: curve})


def for_clip(pixels: torch.Tensor, side_px: int) -> torch.Tensor:
    """VBench's way to CLIP: bicubic on floats, no antialiasing, overshoot kept, centre crop: (N, 3, H, W), 0..255."""
    return normalised(centre_crop(shorter_side(pixels, side_px, "bicubic"), side_px), MEAN, STD)

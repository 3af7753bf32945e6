"""Subject consistency (VBench, arXiv 2311.17982): do DINO features of the frames stay the same?

It saturates near 1, and a frozen clip scores exactly 1: read it beside the amount of motion.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from motionloom.metrics.base import Item, Measured, Metric, Value, as_pixels
from motionloom.metrics.consistency import consistency, in_batches
from motionloom.metrics.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalised, shorter_side
from motionloom.metrics.setup import Setup


class SubjectConsistency(Metric):
    """Frames at a shorter side of 224, bilinear without antialiasing, not cropped. The set's value is the mean over
    clips; VBench on one process averages over frames, which differs where lengths do.
    """

    name = "subject_consistency"
    measured_as = "subject_consistency/1"
    gives: ClassVar = {"subject_consistency": Value("VBench subject_consistency, mean over clips")}

    def __init__(self, dino: torch.nn.Module, device: str = "cpu", side_px: int = 224) -> None:
        self.dino, self.device, self.side_px = dino, device, side_px

    @classmethod
    def made(cls, setup: Setup) -> SubjectConsistency:
        return cls(setup.networks.load("dino-vitb16"), setup.networks.device)

    def measure(self, item: Item) -> Measured:
        frames = (
            normalised(
                shorter_side(as_pixels(frame[None]), self.side_px, "bilinear"), IMAGENET_MEAN, IMAGENET_STD
            ).to(self.device)
            for frame in item.clip.frames
        )
        curve = consistency(in_batches(self.dino, frames))
        return Measured({self.name: sum(curve) / len(curve)}, {self.name: curve})

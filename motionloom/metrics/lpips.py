"""LPIPS (arXiv 1801.03924) against the reference clip, frame by frame."""

from __future__ import annotations

from typing import ClassVar

import torch

from motionloom.metrics.base import Item, Measured, Metric, Value, as_pixels
from motionloom.metrics.reference import aligned
from motionloom.metrics.setup import Setup


class LPIPSDistance(Metric):
    """v0.1 with VGG16, as LaMD measures; mean over frames."""

    name = "lpips"
    measured_as = "lpips/1"
    needs = frozenset({"reference"})
    min_frames = 1
    gives: ClassVar = {"lpips": Value("LPIPS v0.1, VGG16, mean over frames", "", "lower")}

    def __init__(self, lpips: torch.nn.Module, device: str = "cpu") -> None:
        self.lpips, self.device = lpips, device

    @classmethod
    def made(cls, setup: Setup) -> LPIPSDistance:
        return cls(setup.networks.load("lpips-vgg16"), setup.networks.device)

    def measure(self, item: Item) -> Measured:
        own, real = aligned(item)
        curve = [
            float(self.lpips(*(as_pixels(x[None]).to(self.device) / 127.5 - 1 for x in pair)))
            for pair in zip(own, real, strict=True)
        ]
        return Measured({self.name: sum(curve) / len(curve)}, {self.name: curve})

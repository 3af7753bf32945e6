"""Fréchet Inception Distance (arXiv 1706.08500) over the frames of both sets.

Frames of one clip are not independent: the effective number of samples is about that of clips, which is what the
sample sizes say.
"""

from __future__ import annotations

import torch

from motionloom.metrics.base import Item, Measured, as_pixels
from motionloom.metrics.consistency import in_batches
from motionloom.metrics.distribution import SetDistance
from motionloom.metrics.networks.inception import SIDE_PX
from motionloom.metrics.preprocess import squashed
from motionloom.metrics.setup import Setup, Window


class FID(SetDistance):
    """pytorch-fid's convention: bilinear to 299 without antialiasing, covariance over N - 1; `/kernel` is KID."""

    name = "fid"
    feature = "inception"
    definition = "FID, pytorch-fid: Inception-2015 pool3 of all frames, resize=torch"
    min_frames = 1

    def __init__(
        self, window: Window, small_sets: bool, inception: torch.nn.Module, device: str = "cpu"
    ) -> None:
        super().__init__(window, small_sets)
        self.inception, self.device = inception, device
        self.measured_as = f"fid/1/{window}"

    @classmethod
    def made(cls, setup: Setup) -> FID:
        inception = setup.networks.load("inception-2015")
        return cls(setup.window, setup.small_sets, inception, setup.networks.device)

    def measure(self, item: Item) -> Measured:
        frames = (
            (2 * squashed(as_pixels(frame[None]), SIDE_PX, "bilinear") / 255 - 1).to(self.device)
            for frame in self.window.of(item)
        )
        return Measured(features={self.feature: in_batches(self.inception, frames)})

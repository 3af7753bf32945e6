"""Fréchet video distance in a video transformer's features: less bound to the content of single frames than I3D's
(Ge et al., arXiv 2404.12391, with VideoMAE-v2; here the VideoMAE the weights folder holds, and its own name).
"""

from __future__ import annotations

import torch

from motionloom.metrics.base import Item, Measured, as_pixels
from motionloom.metrics.distribution import SetDistance
from motionloom.metrics.networks.videomae import VideoMAE
from motionloom.metrics.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalised, squashed
from motionloom.metrics.setup import Setup, Window


class FVDVideoMAE(SetDistance):
    name = "fvd_videomae"
    feature = "videomae"
    ddof = 0
    definition = "Fréchet distance of VideoMAE's mean token, stretched, covariance over N"

    def __init__(self, window: Window, small_sets: bool, videomae: VideoMAE, device: str = "cpu") -> None:
        super().__init__(Window(videomae.frames, window.of_references), small_sets)
        self.videomae, self.device = videomae, device
        self.measured_as = f"{self.name}/1/{self.window}"
        self.min_frames = videomae.frames

    @classmethod
    def made(cls, setup: Setup) -> FVDVideoMAE:
        videomae = setup.networks.load("videomae")
        return cls(setup.window, setup.small_sets, videomae, setup.networks.device)  # type: ignore[arg-type]

    def measure(self, item: Item) -> Measured:
        side = self.videomae.side_px
        small = [squashed(as_pixels(frame[None]), side, "bilinear") for frame in self.window.of(item)]
        clip = normalised(torch.cat(small), IMAGENET_MEAN, IMAGENET_STD)[None]
        return Measured(features={self.feature: self.videomae(clip.to(self.device)).cpu()})

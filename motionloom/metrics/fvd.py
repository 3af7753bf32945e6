"""Fréchet Video Distance (arXiv 1812.01717) in I3D's logits. "FVD" without its convention is not a number: these are
the published ones, by name.

    fvd               StyleGAN-V, LFDM: frames stretched to 224, covariance over N; I3D as published
    fvd_videogpt      VideoGPT, TATS, JunyaoHu: shorter side 224 and centre crop, covariance over N - 1, I3D with an
                      epsilon of 1e-5 in its norms instead of 1e-3
    fvd_tensorflow    Google: TensorFlow 1's resize, without half-pixel centres, covariance over N - 1
    fvd_shuffled      fvd with the frames of generated clips in random order: a control. Where it is hardly larger than
                      fvd, fvd has not seen the motion (Ge et al., arXiv 2404.12391)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from motionloom.metrics.base import Item, Measured, as_pixels
from motionloom.metrics.distribution import SetDistance
from motionloom.metrics.networks.i3d import I3D, MIN_FRAMES, SIDE_PX
from motionloom.metrics.preprocess import centre_crop, shorter_side, squashed
from motionloom.metrics.setup import Setup, Window


class FVD(SetDistance):
    name = "fvd"
    feature = "i3d"
    ddof = 0
    definition = "FVD, StyleGAN-V: I3D logits, stretched to 224, covariance over N"
    norm_eps = 1e-3
    min_frames = MIN_FRAMES

    def __init__(self, window: Window, small_sets: bool, i3d: I3D, device: str = "cpu") -> None:
        super().__init__(window, small_sets)
        self.i3d, self.device = i3d.with_norm_eps(self.norm_eps), device
        self.measured_as = f"{self.name}/1/{window}"

    @classmethod
    def made(cls, setup: Setup) -> FVD:
        i3d = setup.networks.load("i3d")
        return cls(setup.window, setup.small_sets, i3d, setup.networks.device)  # type: ignore[arg-type]

    def measure(self, item: Item) -> Measured:
        small = torch.cat([self.fitted(as_pixels(frame[None])) for frame in self.window.of(item)])
        clip = (2 * small / 255 - 1).permute(1, 0, 2, 3)[None]
        return Measured(features={self.feature: self.i3d(clip.to(self.device)).cpu()})

    def fitted(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) => (N, 3, 224, 224), 0..255."""
        return squashed(pixels, SIDE_PX, "bilinear")


class FVDVideoGPT(FVD):
    name = "fvd_videogpt"
    ddof = 1
    definition = (
        "FVD, VideoGPT: I3D logits (norm epsilon 1e-5), shorter side 224, centre crop, covariance over N - 1"
    )
    norm_eps = 1e-5

    def fitted(self, pixels: Tensor) -> Tensor:
        return centre_crop(shorter_side(pixels, SIDE_PX, "bilinear"), SIDE_PX)


class FVDTensorFlow(FVD):
    name = "fvd_tensorflow"
    ddof = 1
    definition = "FVD, Google: I3D logits, TensorFlow 1's resize to 224, covariance over N - 1"

    def fitted(self, pixels: Tensor) -> Tensor:
        """Output place i looks at i * in / out: F.grid_sample in absolute pixels, the border repeated."""
        height, width = pixels.shape[-2:]
        ys, xs = (torch.arange(SIDE_PX) * (size / SIDE_PX) for size in (height, width))
        grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1)[None]
        scaled = 2 * grid / torch.tensor([max(width - 1, 1), max(height - 1, 1)]) - 1
        scaled = scaled.to(pixels).expand(len(pixels), -1, -1, -1)
        return F.grid_sample(pixels, scaled, mode="bilinear", padding_mode="border", align_corners=True)


class FVDShuffled(FVD):
    name = "fvd_shuffled"
    definition = "control: fvd with the frames of generated clips in random order"

    def measure(self, item: Item) -> Measured:
        if item.role == "reference":
            return super().measure(item)
        order = np.random.default_rng(0).permutation(item.clip.num_frames)
        shuffled = type(item.clip)(item.clip.frames[order], item.clip.fps)
        return super().measure(Item(shuffled, item.id, item.role))

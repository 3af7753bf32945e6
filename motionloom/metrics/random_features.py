"""A Fréchet distance without weights: features of a fixed random 3-D convolution. Never called FVD.

It sees colour, texture and motion of a few frames; it knows nothing of objects. For regression tests on one machine's
own clips, not for tables.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionloom.metrics.base import Item, Measured, as_pixels
from motionloom.metrics.distribution import SetDistance
from motionloom.metrics.setup import Window

SIDE_PX = 64


class RandomConv3d(nn.Module):
    """Three convolutions with weights drawn by name; mean and deviation of each channel: (B, 3, T, H, W), -1..1 =>
    (B, 128).
    """

    WIDTHS = (3, 16, 32, 64)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv3d(a, b, 3, stride=(1, 2, 2), padding=1)
            for a, b in zip(self.WIDTHS[:-1], self.WIDTHS[1:], strict=True)
        )
        for name, parameter in self.named_parameters():
            seed = int.from_bytes(hashlib.sha256(f"random-3d-v1/{name}".encode()).digest()[:8], "little")
            drawn = np.random.Generator(np.random.PCG64(seed)).standard_normal(parameter.shape)
            scale = (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1
            parameter.data.copy_(torch.from_numpy(drawn * scale))

    def forward(self, clips: Tensor) -> Tensor:
        x = clips
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        places = x.flatten(2)
        return torch.cat([places.mean(2), places.std(2)], 1)


class RandomFeatureDistance(SetDistance):
    """FD(random-3d-v1) over clips squashed to 64 x 64."""

    name = "fd_random3d"
    feature = "random-3d-v1"
    definition = "ours: Fréchet distance of random-3d-v1 features, 64 px, at most the window's frames"

    def __init__(self, window: Window, small_sets: bool = False) -> None:
        super().__init__(window, small_sets)
        self.measured_as = f"random-3d-v1/1/{window}"
        self.network = RandomConv3d().eval()

    def measure(self, item: Item) -> Measured:
        frames = item.clip.frames[: self.window.frames]  # time is averaged: a shorter clip has features, too
        small = F.interpolate(as_pixels(frames), (SIDE_PX, SIDE_PX), mode="area")
        clip = (small / 127.5 - 1).permute(1, 0, 2, 3)[None]
        return Measured(features={self.feature: self.network(clip)})

"""Clips with known motion, and networks with known weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from motionloom.motion.warp import warp
from motionloom.video.clip import Clip

Frames = npt.NDArray[np.uint8]


def stream(name: str) -> np.random.Generator:
    """The same numbers for the same name, in every version."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(seed))


def texture(height: int, width: int, name: str = "texture") -> torch.Tensor:
    """Smooth noise at several scales: (1, 3, height, width), 0..255."""
    total = torch.zeros(1, 3, height, width)
    for cells in (6, 12, 24, 48):
        coarse = torch.from_numpy(stream(f"{name}{cells}").random((1, 3, cells, cells))).float()
        size = (height, width)
        total += nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=False) / cells**0.5
    low, high = total.amin(), total.amax()
    return (total - low) / (high - low) * 255


def moved(
    shift: Callable[[torch.Tensor], torch.Tensor], frames: int, side: int = 128, fps: float = 8.0
) -> Clip:
    """A texture looked at through a moving frame: `shift` maps centred places (h, w, 2) in px to where the texture is
    read, once a frame further.
    """
    margin = 48
    wide = texture(side + 2 * margin, side + 2 * margin)
    full = side + 2 * margin
    ys, xs = torch.meshgrid(torch.arange(full), torch.arange(full), indexing="ij")
    places = torch.stack([xs, ys], -1).float() - (full - 1) / 2
    shown, where = [], places
    for _ in range(frames):
        picture = warp(wide, (where - places)[None] / full, "bicubic")
        shown.append(picture[0, :, margin:-margin, margin:-margin])
        where = shift(where)
    stacked = torch.stack(shown).permute(0, 2, 3, 1).round().clamp(0, 255).byte().numpy()
    return Clip(np.ascontiguousarray(stacked), fps)


def pan(right_px: float, down_px: float, frames: int = 5, side: int = 128, fps: float = 8.0) -> Clip:
    """The scene moves right and down by this much a frame."""
    step = torch.tensor([right_px, down_px])
    return moved(lambda where: where - step, frames, side, fps)


def zoom(scale: float, frames: int = 5, side: int = 128) -> Clip:
    return moved(lambda where: where / scale, frames, side)


def roll(degrees: float, frames: int = 5, side: int = 128) -> Clip:
    """The scene turns clockwise by this much a frame."""
    angle = torch.deg2rad(torch.tensor(degrees))
    back = torch.tensor([[angle.cos(), angle.sin()], [-angle.sin(), angle.cos()]])
    return moved(lambda where: where @ back.T, frames, side)


def noise_clip(name: str = "noise", frames: int = 5, side: int = 32, fps: float = 8.0) -> Clip:
    return Clip(stream(name).integers(0, 256, (frames, side, side, 3), dtype=np.uint8), fps)


def filled(module: nn.Module) -> nn.Module:
    """Weights drawn by name, scaled so that features differ; norms with statistics of their own."""
    for name, value in module.state_dict().items():
        if not value.is_floating_point():
            continue
        drawn = stream(name).standard_normal(value.shape)
        if "running_var" in name:
            drawn = np.abs(drawn) * 0.2 + 0.9
        elif "running_mean" in name:
            drawn = drawn * 0.05
        elif value.ndim > 1:
            drawn = drawn * (1.4 / value[0].numel() ** 0.5)
        elif "weight" in name:
            drawn = 1 + 0.1 * drawn
        else:
            drawn = 0.05 * drawn
        value.copy_(torch.from_numpy(np.asarray(drawn)))
    return module.eval()

"""Structural similarity (Wang, Bovik, Sheikh, Simoncelli 2004), in the one convention fixed here.

"SSIM" without its convention is not a number: window, channel handling and data range move it by 0.2 on one clip.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from motionloom.errors import InputError
from motionloom.metrics.base import Item, Measured, Metric, Value, as_pixels
from motionloom.metrics.reference import aligned

WINDOW_PX, SIGMA_PX = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim_rgb_g11(a: Tensor, b: Tensor) -> Tensor:
    """Gaussian window 11 px, sigma 1.5, K 0.01 and 0.03, L = 255, each RGB channel, only where the window fits.

    Args:
        a, b: float (N, 3, H, W), 0..255, sides of at least 11 px.

    Returns:
        (N,): -1..1, 1 for equal pictures.
    """
    a, b = a - 128, b - 128  # variances do not mind, and float32 keeps their digits
    mean_a, mean_b, aa, bb, ab = (_smoothed(x) for x in (a, b, a * a, b * b, a * b))
    structure = (2 * (ab - mean_a * mean_b) + C2) / ((aa - mean_a**2) + (bb - mean_b**2) + C2)
    mean_a, mean_b = mean_a + 128, mean_b + 128
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    similarity: Tensor = (luminance * structure).mean(dim=(1, 2, 3))
    return similarity


def _smoothed(x: Tensor) -> Tensor:
    offsets = torch.arange(WINDOW_PX, dtype=x.dtype, device=x.device) - WINDOW_PX // 2
    tap = torch.exp(-(offsets**2) / (2 * SIGMA_PX**2))
    tap = (tap / tap.sum()).view(1, 1, 1, -1)
    planes = x.flatten(0, 1)[:, None]
    smooth = F.conv2d(F.conv2d(planes, tap), tap.transpose(2, 3))
    return smooth.view(*x.shape[:2], *smooth.shape[-2:])


class SSIM(Metric):
    """Mean over frames of `ssim_rgb_g11` against the reference clip."""

    name = "ssim"
    measured_as = "ssim/1"
    needs = frozenset({"reference"})
    min_frames = 1
    gives: ClassVar = {
        "ssim": Value("SSIM rgb_g11: Gaussian 11 px sigma 1.5, per RGB channel, L 255, valid region")
    }

    def measure(self, item: Item) -> Measured:
        own, real = aligned(item)
        if min(own.shape[1:3]) < WINDOW_PX:
            raise InputError(
                f"it is {own.shape[2]}x{own.shape[1]} px, SSIM needs at least {WINDOW_PX} px a side",
                fix="leave out ssim",
            )
        curve = [
            float(ssim_rgb_g11(as_pixels(a[None]), as_pixels(b[None])))
            for a, b in zip(own, real, strict=True)
        ]
        return Measured({"ssim": sum(curve) / len(curve)}, {"ssim": curve})

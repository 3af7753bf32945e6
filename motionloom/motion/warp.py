"""Warping a picture by a backward flow, at its own size."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from motionloom.motion.grid import places

Kernel = Literal["bilinear", "bicubic"]


def warp(picture: torch.Tensor, flow: torch.Tensor, kernel: Kernel = "bicubic") -> torch.Tensor:
    """What a frame shows when every place x takes the colour the picture has at x + flow(x).

    Places outside the picture show its mirror image. A zero flow returns the picture's own values: exactly with
    "bilinear" up to rounding of the sampling grid, so callers that need frame 0 bit for bit copy it instead.

    Args:
        picture: (B, C, H, W).
        flow: (B, H, W, 2) in frame units.

    Returns:
        (B, C, H, W), the picture's type.
    """
    height, width = picture.shape[-2:]
    unit_px = (height * width) ** 0.5
    source = places(height, width).to(flow) + flow
    # frame units -> pixels -> grid_sample's -1..1 between the outer edges
    grid = source * torch.tensor([2 * unit_px / width, 2 * unit_px / height]).to(flow)
    return F.grid_sample(
        picture, grid.to(picture.dtype), mode=kernel, padding_mode="reflection", align_corners=False
    )


def outside(flow: torch.Tensor) -> torch.Tensor:
    """1 where a flow points out of the picture: (B, H, W, 2) => (B, 1, H, W)."""
    height, width = flow.shape[1:3]
    limit = torch.tensor([width, height]).to(flow) / (2 * (height * width) ** 0.5)
    source = places(height, width).to(flow) + flow
    lost: torch.Tensor = (source.abs() > limit).any(-1)
    return lost.to(flow)[:, None]

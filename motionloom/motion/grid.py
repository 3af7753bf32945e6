"""Places of a grid in frame units, and moving flows between grids."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def places(height: int, width: int, aspect: float | None = None) -> torch.Tensor:
    """Centres of the cells of a grid laid over a frame.

    Args:
        height, width: cells.
        aspect: width / height of the frame; by default that of the grid (square cells).

    Returns:
        float32 (height, width, 2), (x, y) in frame units.
    """
    aspect = aspect if aspect is not None else width / height
    side_x, side_y = aspect**0.5, aspect**-0.5  # of a frame of area 1
    x = ((torch.arange(width) + 0.5) / width - 0.5) * side_x
    y = ((torch.arange(height) + 0.5) / height - 0.5) * side_y
    return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)


def resize_maps(maps: torch.Tensor, height: int, width: int, mode: str = "bicubic") -> torch.Tensor:
    """Maps (B, C, h, w) => (B, C, height, width); averages when it shrinks."""
    if maps.shape[-2:] == (height, width):
        return maps
    if height < maps.shape[-2] or width < maps.shape[-1]:
        return F.interpolate(maps, (height, width), mode="area")
    return F.interpolate(maps, (height, width), mode=mode, align_corners=False)


def latent_grid(height_px: int, width_px: int, places_total: int = 256) -> tuple[int, int]:
    """Cells (h, w) of a latent grid of about `places_total` square cells over a picture; both even, at least 4."""
    aspect = width_px / height_px
    h = max(4, 2 * round((places_total / aspect) ** 0.5 / 2))
    w = max(4, 2 * round((places_total * aspect) ** 0.5 / 2))
    return h, w

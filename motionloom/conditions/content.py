"""The first frame as condition: tokens for cross-attention, or a map joined to the latent."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def content_tokens(f_x0: Tensor, pooled_side: int | None = None) -> Tensor:
    """The content features of the first frame as tokens that know their place.

    Args:
        f_x0: (B, c, h, w), what `MotionContentAutoencoder.content` returns; c a multiple of 4.
        pooled_side: average to this many places a side first, such as 8, where attention to every place is
            too dear; None keeps every place.

    Returns:
        (B, n, c), n = h w or pooled_side^2, row by row.
    """
    if pooled_side is not None:
        f_x0 = F.adaptive_avg_pool2d(f_x0, pooled_side)
    code = position_code(f_x0.shape[-2], f_x0.shape[-1], f_x0.shape[1], f_x0.device)
    return f_x0.flatten(2).transpose(1, 2) + code.to(f_x0)


def position_code(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Sinusoids of the row in the first half of the channels, of the column in the second.

    Returns:
        (h w, channels), row by row.
    """
    assert channels % 4 == 0, "sine and cosine for two axes"
    quarter = channels // 4
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(quarter, device=device) / quarter)
    rows = torch.arange(height, device=device)[:, None] * frequencies
    columns = torch.arange(width, device=device)[:, None] * frequencies
    row_code = torch.cat([rows.sin(), rows.cos()], dim=1)[:, None].expand(-1, width, -1)
    column_code = torch.cat([columns.sin(), columns.cos()], dim=1)[None].expand(height, -1, -1)
    return torch.cat([row_code, column_code], dim=-1).flatten(0, 1)


class AlignedContent(nn.Module):
    """Content features on the latent's own grid, projected to a few channels (16 to 64).

    Joined to the noisy latent they tell every place what is there; 8x8 pooled tokens then suffice for the
    overview, and a step at 32x32 costs three quarters.

    Args:
        content_width: channels of f_x0.
        channels: `concat_channels` of the denoiser.
    """

    def __init__(self, content_width: int, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(content_width, channels, 1)

    def forward(self, f_x0: Tensor) -> Tensor:
        """(B, content_width, h, w) -> (B, channels, h, w)."""
        aligned: Tensor = self.project(f_x0)
        return aligned

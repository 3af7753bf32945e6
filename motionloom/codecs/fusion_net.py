"""The network that adds to a warped photo what a flow cannot say."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motionloom.motion.warp import outside

FLOW_GAIN = 10.0  # frame units -> about unit scale
LARGEST_CORRECTION = 0.04  # frame units


class FusionNet(nn.Module):
    """Flow correction, detail mask and residual of each frame, from the coarsely drawn frame; frames are independent.

    A small U-Net over three scales; the motion latent joins at the coarsest, which is its own grid.
    """

    def __init__(self, latent_channels: int, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3 + 3 + 2 + 1 + 1 + 1, width, 3, padding=1)
        self.fine = Block(width, width)
        self.middle = nn.ModuleList([Block(width, 2 * width), Block(2 * width, 2 * width)])
        self.coarse = nn.ModuleList(
            [Block(2 * width + latent_channels, 4 * width), Block(4 * width, 4 * width)]
        )
        self.up_middle = Block(6 * width, 2 * width)
        self.up_fine = Block(3 * width, width)
        self.out = nn.Conv2d(width, 6, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(
        self, photo: Tensor, drawn: Tensor, flow: Tensor, light: Tensor, tau: Tensor, latents: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All at the fine grid (N, ., h, w) but latents, which are at a quarter of it.

        Args:
            photo, drawn: (N, 3, h, w), -1..1.
            flow: (N, h, w, 2), frame units.
            light: (N, h, w).
            tau: (N,), 0..1.
            latents: (N, d, h / 4, w / 4).

        Returns:
            correction (N, 2, h, w) in frame units, keep (N, 1, h, w) in 0..1, residual (N, 3, h, w); at tau = 0
            exactly 0, 1 and 0, and a fresh network returns these everywhere.
        """
        clock = tau[:, None, None, None].expand(-1, 1, *photo.shape[-2:])
        x0 = torch.cat(
            [photo, drawn, FLOW_GAIN * flow.permute(0, 3, 1, 2), light[:, None], outside(flow), clock], 1
        )
        x0 = self.fine(self.stem(x0))
        x1 = F.avg_pool2d(x0, 2)
        for block in self.middle:
            x1 = block(x1)
        x2 = torch.cat([F.avg_pool2d(x1, 2), latents], 1)
        for block in self.coarse:
            x2 = block(x2)
        x1 = self.up_middle(torch.cat([F.interpolate(x2, scale_factor=2.0), x1], 1))
        x0 = self.up_fine(torch.cat([F.interpolate(x1, scale_factor=2.0), x0], 1))
        correction, fade, residual = self.out(x0).float().split([2, 1, 3], 1)
        begin = -torch.expm1(-8 * tau)[:, None, None, None]  # 0 at the photo, 1 soon after
        return (
            begin * LARGEST_CORRECTION * torch.tanh(correction),
            1 - begin * torch.tanh(fade).clamp_min(0),
            begin * residual,
        )


class Block(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(_groups(in_width), in_width),
            nn.SiLU(),
            nn.Conv2d(in_width, out_width, 3, padding=1),
            nn.GroupNorm(_groups(out_width), out_width),
            nn.SiLU(),
            nn.Conv2d(out_width, out_width, 3, padding=1),
        )
        self.skip = nn.Identity() if in_width == out_width else nn.Conv2d(in_width, out_width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.skip(x) + self.body(x)
        return out


def _groups(width: int) -> int:
    return next(groups for groups in (8, 4, 2, 1) if width % groups == 0)

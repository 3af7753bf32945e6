"""The video discriminator: a 3-D PatchGAN."""

from __future__ import annotations

import math

from torch import Tensor, nn

from motionloom.codecs.conv3d import Conv3d


class PatchDiscriminator3d(nn.Module):
    """One logit per space-time patch: 4x4x4 kernels, stride 2 three times, then 1 twice.

    11,057,857 parameters at base 64 and cap 512. GroupNorm instead of BatchNorm, since a batch is one or two
    clips.

    Args:
        base: width of the first layer; each further one doubles it.
        cap: no layer is wider.
    """

    def __init__(self, base: int = 64, cap: int = 512) -> None:
        super().__init__()
        widths = [min(base * 2**layer, cap) for layer in range(4)]
        self.layers = nn.Sequential(Conv3d(3, widths[0], 4, stride=2, padding=2), nn.LeakyReLU(0.2))
        for in_width, width, stride in zip(widths, widths[1:], (2, 2, 1), strict=False):
            self.layers.extend(
                [
                    Conv3d(in_width, width, 4, stride=stride, padding=2),
                    nn.GroupNorm(math.gcd(32, width), width),
                    nn.LeakyReLU(0.2),
                ]
            )
        self.layers.append(Conv3d(widths[-1], 1, 4, padding=2))

    def forward(self, frames: Tensor) -> Tensor:
        """Pixels (B, 3, T, H, W), -1..1 -> logits (B, 1, t, h, w), positive for real."""
        logits: Tensor = self.layers(frames)
        return logits

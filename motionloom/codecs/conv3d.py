"""A 3-D convolution whose bf16 weight gradient is right on CPU at every temporal size.

oneDNN's AVX512-bf16 kernel returns garbage weight gradients (values up to 1e36, different on every run) when
the temporal size is exactly 2 and the convolution pads time itself. A motion autoencoder passes that size on
its way to one time step and back. Zeros put there by hand cost a copy and avoid the kernel.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` with zero padding, same arguments, same parameter names, same result.

    Time is padded explicitly; the convolution itself pads height and width only.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C', T', H', W')."""
        assert self.padding_mode == "zeros" and not isinstance(self.padding, str)
        time, height, width = self.padding
        if time:
            input = F.pad(input, (0, 0, 0, 0, time, time))
        padding = (0, height, width)
        return F.conv3d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

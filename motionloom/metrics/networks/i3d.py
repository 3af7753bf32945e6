"""I3D (Carreira and Zisserman, arXiv 1705.07750), RGB, with the parameter names of the public PyTorch port.

Its 400 Kinetics logits, averaged over time, are the features of FVD.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionloom.errors import InputError
from motionloom.weights import load_strictly, load_weights

SIDE_PX = 224
MIN_FRAMES = 9  # below, time is pooled away before the last pooling over two steps
# each mixed block: 1x1, then (1x1, 3x3x3) twice, then 1x1 after pooling
WIDTHS = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}


def load_i3d(path: Path) -> I3D:
    i3d = I3D()
    load_strictly(i3d, load_weights(path)[0], path)
    return i3d


class I3D(nn.Module):
    """Attributes:

    norm_eps: of every batch norm. The original's is 1e-3; the port that VideoGPT, TATS and cd-fvd measure with has
        1e-5 and so gives other features from the same weights.
    """

    def __init__(self, num_classes: int = 400) -> None:
        super().__init__()
        self.norm_eps = 1e-3
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        for name, widths in WIDTHS.items():
            self.add_module(name, Mixed(*widths))
        self.logits = Unit(1024, num_classes, 1, plain=True)

    def with_norm_eps(self, norm_eps: float) -> I3D:
        """The same weights with another epsilon; parameters are shared."""
        other = copy.copy(self)
        other._modules = copy.deepcopy(
            self._modules, {id(p): p for p in (*self.parameters(), *self.buffers())}
        )
        other.norm_eps = norm_eps
        for module in other.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps = norm_eps
        return other

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, T, 224, 224), -1..1, T >= 9 => (B, 400) logits, averaged over time.

        Raises:
            InputError: T is smaller.
        """
        if clips.shape[2] < MIN_FRAMES:
            raise InputError(
                f"it has {clips.shape[2]} frames, I3D needs at least {MIN_FRAMES}", fix="give longer clips"
            )
        x = _pool(self.Conv3d_1a_7x7(clips), (1, 3, 3), (1, 2, 2))
        x = _pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name in WIDTHS:
            if name == "Mixed_4b":
                x = _pool(x, (3, 3, 3), (2, 2, 2))
            elif name == "Mixed_5b":
                x = _pool(x, (2, 2, 2), (2, 2, 2))
            x = self.get_submodule(name)(x)
        x = F.avg_pool3d(x, (2, 7, 7), stride=1)
        return self.logits(x).flatten(3).squeeze(3).mean(2)  # type: ignore[no-any-return]


class Unit(nn.Module):
    """Convolution with TensorFlow's "same" padding, norm, ReLU; `plain` has a bias instead of the last two."""

    def __init__(self, width_in: int, width: int, kernel: int, stride: int = 1, plain: bool = False) -> None:
        super().__init__()
        self.kernel, self.stride, self.plain = kernel, stride, plain
        self.conv3d = nn.Conv3d(width_in, width, kernel, stride, bias=plain)
        if not plain:
            self.bn = nn.BatchNorm3d(width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(_same(x, (self.kernel,) * 3, (self.stride,) * 3))
        return x if self.plain else self.bn(x).relu()


class Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, width: int, b0: int, b1a: int, b1b: int, b2a: int, b2b: int, b3b: int) -> None:
        super().__init__()
        self.b0 = Unit(width, b0, 1)
        self.b1a, self.b1b = Unit(width, b1a, 1), Unit(b1a, b1b, 3)
        self.b2a, self.b2b = Unit(width, b2a, 1), Unit(b2a, b2b, 3)
        self.b3b = Unit(width, b3b, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = _pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], 1)


def _pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Max pooling; the padding's zeros take part, which after a ReLU changes nothing."""
    return F.max_pool3d(_same(x, kernel, stride), kernel, stride)


def _same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """TensorFlow's "same" padding: the odd one goes to the end."""
    padding: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max(k - s, 0) if size % s == 0 else max(k - size % s, 0)
        padding = [total // 2, total - total // 2, *padding]
    return F.pad(x, padding)

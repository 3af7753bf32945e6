"""Inception v3 in the form of the file inception-2015-12-05, the network of FID and of the inception score.

It differs from today's Inception v3: averages leave the border's zeros out, the last block pools by maximum, and there
are 1,008 classes. Parameter names are those of the public PyTorch port.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionloom.weights import load_strictly, load_weights

SIDE_PX = 299
Kernel = int | tuple[int, int]


def load_inception(path: Path) -> Inception:
    inception = Inception()
    load_strictly(inception, load_weights(path)[0], path)
    return inception


class Conv(nn.Module):
    """Convolution, norm, ReLU."""

    def __init__(
        self, width_in: int, width: int, kernel: Kernel, stride: int = 1, padding: Kernel = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x)).relu()
        return out


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a = BlockB()
        self.Mixed_6b, self.Mixed_6c = BlockC(128), BlockC(160)
        self.Mixed_6d, self.Mixed_6e = BlockC(160), BlockC(192)
        self.Mixed_7a = BlockD()
        self.Mixed_7b, self.Mixed_7c = BlockE(1280, "average"), BlockE(2048, "max")
        self.fc = nn.Linear(2048, 1008)

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 3, 299, 299), -1..1 => (N, 2048), the pooled features."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(pictures)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for block in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = self.get_submodule(f"Mixed_{block}")(x)
        pooled: Tensor = x.mean(dim=(2, 3))
        return pooled


def _chain(module: nn.Module, names: Sequence[str], x: Tensor) -> Tensor:
    for name in names:
        x = module.get_submodule(name)(x)
    return x


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class BlockA(nn.Module):
    def __init__(self, width: int, pool_width: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(width, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Conv(width, 48, 1), Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Conv(width, 64, 1)
        self.branch3x3dbl_2, self.branch3x3dbl_3 = Conv(64, 96, 3, padding=1), Conv(96, 96, 3, padding=1)
        self.branch_pool = Conv(width, pool_width, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = _chain(self, ("branch5x5_1", "branch5x5_2"), x)
        three = _chain(self, ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"), x)
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_average(x))], 1)


class BlockB(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch3x3 = Conv(288, 384, 3, 2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(288, 64, 1), Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        double = _chain(self, ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"), x)
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


def _across(width_in: int, width: int) -> Conv:
    return Conv(width_in, width, (1, 7), padding=(0, 3))


def _down(width_in: int, width: int) -> Conv:
    return Conv(width_in, width, (7, 1), padding=(3, 0))


class BlockC(nn.Module):
    def __init__(self, inner: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(768, 192, 1)
        self.branch7x7_1 = Conv(768, inner, 1)
        self.branch7x7_2, self.branch7x7_3 = _across(inner, inner), _down(inner, 192)
        self.branch7x7dbl_1 = Conv(768, inner, 1)
        self.branch7x7dbl_2, self.branch7x7dbl_3 = _down(inner, inner), _across(inner, inner)
        self.branch7x7dbl_4, self.branch7x7dbl_5 = _down(inner, inner), _across(inner, 192)
        self.branch_pool = Conv(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = _chain(self, [f"branch7x7_{i}" for i in (1, 2, 3)], x)
        double = _chain(self, [f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)], x)
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_average(x))], 1)


class BlockD(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Conv(768, 192, 1), Conv(192, 320, 3, 2)
        self.branch7x7x3_1 = Conv(768, 192, 1)
        self.branch7x7x3_2 = Conv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Conv(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Conv(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        three = _chain(self, ("branch3x3_1", "branch3x3_2"), x)
        seven = _chain(self, [f"branch7x7x3_{i}" for i in (1, 2, 3, 4)], x)
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


class BlockE(nn.Module):
    def __init__(self, width: int, pooling: Literal["average", "max"]) -> None:
        super().__init__()
        self.pooling = pooling
        self.branch1x1 = Conv(width, 320, 1)
        self.branch3x3_1 = Conv(width, 384, 1)
        self.branch3x3_2a = Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(width, 448, 1), Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Conv(width, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = _average(x) if self.pooling == "average" else F.max_pool2d(x, 3, 1, 1)
        branches = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        branches += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(pooled)]
        return torch.cat(branches, 1)

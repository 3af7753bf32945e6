"""Task vectors as products of thin matrices. A kernel (out, in, k, ...) counts as the matrix (out, in k ...)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Factors(NamedTuple):
    """up (out, r) @ down (r, in): LoRA's B and A (Hu et al., arXiv 2106.09685)."""

    up: Tensor
    down: Tensor


def factors(tau: Tensor, rank: int | None = None, energy: float | None = None) -> Factors:
    """The best approximation of tau in the Frobenius norm (Eckart & Young, 1936), singular values shared by both factors.

    Args:
        tau: (out, in, ...), two axes or more.
        rank: r at most; at most the tensor's own.
        energy: the smallest r whose singular values hold this share of the sum of squares, 0..1.
    """
    left, values, right = torch.linalg.svd(tau.reshape(tau.shape[0], -1), full_matrices=False)
    chosen = len(values)
    if energy is not None:
        shares = values.square().cumsum(0) / values.square().sum().clamp_min(torch.finfo(values.dtype).tiny)
        chosen = min(chosen, int((shares < energy - 1e-7).sum()) + 1)
    if rank is not None:
        chosen = min(chosen, rank)
    root = values[:chosen].sqrt()
    return Factors(left[:, :chosen] * root, root[:, None] * right[:chosen])


def product(pair: Factors, shape: torch.Size | tuple[int, ...], scale: float = 1.0) -> Tensor:
    """scale up @ down, in the shape of the weight it is added to."""
    return (scale * (pair.up.flatten(1) @ pair.down.flatten(1))).reshape(shape)


def truncated(tau: Tensor, rank: int | None = None, energy: float | None = None) -> Tensor:
    """tau reduced to a rank or to a share of its energy; tensors of fewer than two axes as they are."""
    if tau.ndim < 2:
        return tau.clone()
    return product(factors(tau, rank, energy), tau.shape)

"""Methods that weigh models by what each saw of its data. Tensors are float32; a result is new."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def fisher(tuned: Sequence[Tensor], information: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Fisher merging (Matena & Raffel, arXiv 2111.09832, Eq. 3): sum_i w_i F_i theta_i / sum_i w_i F_i, entry by entry.

    Args:
        tuned: theta_i.
        information: F_i, the diagonal of each Fisher information matrix, of the shape of theta_i, >= 0.
        weights: one each. Where all F_i are 0, the weighted mean.
    """
    scaled = [weight * f for weight, f in zip(weights, information, strict=True)]
    total = torch.stack(scaled).sum(0)
    mean = sum(w * theta for w, theta in zip(weights, tuned, strict=True)) / sum(weights)
    weighed = sum(f * theta for f, theta in zip(scaled, tuned, strict=True)) / total.clamp_min(
        torch.finfo(total.dtype).tiny
    )
    return torch.where(total > 0, weighed, mean)


def regmean(tuned: Sequence[Tensor], grams: Sequence[Tensor], shrink: float = 0.9) -> Tensor:
    """RegMean (Jin et al., arXiv 2212.09849, Eq. 2): (sum_i G_i)^-1 sum_i G_i W_i for linear layers y = x W.

    Args:
        tuned: W_i as torch stores them, (out, in).
        grams: G_i = X_i^T X_i of each layer's inputs, (in, in).
        shrink: off-diagonal entries of G_i are multiplied by it, the paper's alpha.
    """
    mixed = [shrink * gram + (1 - shrink) * torch.diag(gram.diagonal()) for gram in grams]
    total = torch.stack(mixed).sum(0).double()
    right = sum(gram.double() @ weight.double().T for gram, weight in zip(mixed, tuned, strict=True))
    assert isinstance(right, Tensor)
    solution: Tensor = torch.linalg.lstsq(total, right, driver="gelsd").solution
    return solution.T.float().contiguous()

"""Methods that are linear in the weights. A task vector is tau = tuned - base.

Tensors of one call share a shape and are float32; a result is new.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def task_vector(base: Tensor, tuned: Tensor) -> Tensor:
    """tau = tuned - base (Ilharco et al., Editing Models with Task Arithmetic, arXiv 2212.04089)."""
    return tuned - base


def extrapolated(pre: Tensor, tuned: Tensor, alpha: float) -> Tensor:
    """pre - alpha tau: away from the tuned model for alpha > 0, and pre bit for bit at alpha 0.

    Extrapolating and Decoupling Image-to-Video Generation Models, arXiv 2503.00948, the second stage.
    Where the models agree, pre is kept bit for bit.
    """
    return torch.add(pre, task_vector(pre, tuned), alpha=-alpha)


def task_arithmetic(
    base: Tensor, tuned: Sequence[Tensor], weights: Sequence[float], scale: float = 1.0
) -> Tensor:
    """base + scale sum_i w_i tau_i (arXiv 2212.04089). A single tuned model of weight 1 is that model, bit for bit."""
    used = [
        (scale * weight, tensor) for weight, tensor in zip(weights, tuned, strict=True) if scale * weight != 0
    ]
    if len(used) == 1 and used[0][0] == 1.0:
        return used[0][1].clone()
    return plus(base, [task_vector(base, tensor) for _, tensor in used], [weight for weight, _ in used])


def plus(base: Tensor, taus: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """base + sum_i w_i tau_i, added one after another."""
    if not taus:
        return base.clone()
    merged = torch.add(base, taus[0], alpha=weights[0])
    for weight, tau in zip(weights[1:], taus[1:], strict=True):
        merged.add_(tau, alpha=weight)
    return merged


def average(tuned: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_i w_i theta_i / sum_i w_i (Wortsman et al., Model Soups, arXiv 2203.05482)."""
    used = [(weight, tensor) for weight, tensor in zip(weights, tuned, strict=True) if weight != 0]
    if len(used) == 1:
        return used[0][1].clone()
    total = sum(weights)
    merged = used[0][1] * (used[0][0] / total)
    for weight, tensor in used[1:]:
        merged.add_(tensor, alpha=weight / total)
    return merged

"""Methods that thin out a task vector before it is added. Tensors are float32; a result is new."""

from __future__ import annotations

import torch
from torch import Tensor

from motionloom.merging.draws import Draw


def is_thinned(num_axes: int) -> bool:
    """Whether the released code masks a tensor: all but those of exactly one axis (biases, gains, tables)."""
    return num_axes != 1


def dare(tau: Tensor, drop: float, keep: Tensor) -> Tensor:
    """Drop And REscale: keep * tau / (1 - drop), tau in expectation (Yu et al., arXiv 2311.03099).

    Args:
        tau: a task vector.
        drop: p, the probability that `keep` was drawn with.
        keep: bool (or 0 and 1), of the shape of tau.
    """
    return tau.mul(_zeros_and_ones(keep)).div_(1.0 - drop)


def dare_by_norm(tau: Tensor, keep: Tensor) -> Tensor:
    """DARE that rescales by the ratio of L1 norms before and after, not by the expected one (mergekit's form)."""
    kept = tau * _zeros_and_ones(keep)
    norm = kept.abs().sum()
    return kept * (tau.abs().sum() / norm) if norm > 0 else kept


def _zeros_and_ones(keep: Tensor) -> Tensor:
    """A mask as integers: torch converts bool by branching, which a random mask makes twenty times slower."""
    return keep.view(torch.uint8) if keep.dtype == torch.bool else keep


def magnitude(tau: Tensor, density: float) -> Tensor:
    """The floor(density n) entries of largest magnitude, the others 0 (TIES' trim, arXiv 2306.01708; peft's code)."""
    from peft.utils.merge_utils import magnitude_based_pruning

    if density >= 1:
        return tau.clone()
    trimmed: Tensor = magnitude_based_pruning(tau, density)
    return trimmed


def breadcrumbs(tau: Tensor, density: float, outliers: float) -> Tensor:
    """Model Breadcrumbs (Davari & Belilovsky, arXiv 2312.06795): without the largest and the smallest entries.

    Args:
        tau: a task vector.
        density: rho, the fraction that remains.
        outliers: gamma, the fraction dropped at the top; 1 - gamma - rho is dropped at the bottom.
    """
    order = tau.abs().flatten().argsort(descending=True, stable=True)
    top = int(outliers * tau.numel())
    remaining = order[top : top + int(density * tau.numel())]
    thinned = torch.zeros_like(tau).flatten()
    thinned[remaining] = tau.flatten()[remaining]
    return thinned.reshape(tau.shape)


def della_probabilities(tau: Tensor, density: float, epsilon: float) -> Tensor:
    """Keep probabilities of DELLA (Deep et al., arXiv 2406.11617): linear in an entry's rank within its row.

    The smallest of a row has density - epsilon, the largest density + epsilon; rows of a kernel are its output channels.
    """
    rows = tau.reshape(tau.shape[0], -1) if tau.ndim > 1 else tau.reshape(1, -1)
    ranks = rows.abs().argsort(dim=1, stable=True).argsort(dim=1)  # 0 is the smallest
    share = ranks.float() / max(1, rows.shape[1] - 1) if rows.shape[1] > 1 else torch.full_like(rows, 0.5)
    return (density + epsilon * (2 * share - 1)).reshape(tau.shape)


def della(tau: Tensor, density: float, epsilon: float, draw: Draw) -> Tensor:
    """DELLA's stochastic pruning: each kept entry divided by its own probability, tau in expectation."""
    probability = della_probabilities(tau, density, epsilon)
    return torch.where(draw.keep(tau.shape, probability), tau / probability, torch.zeros_like(tau))

"""Methods that look at the angle between whole tensors. Tensors are float32; a result is new."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ALMOST_PARALLEL = 0.9995  # |cos| above it: a straight line instead of an arc of no length


def cosine(first: Tensor, second: Tensor) -> float:
    """cos of the angle between two tensors; 1 where one of them is 0."""
    norms = float(first.norm() * second.norm())
    return float((first.flatten() @ second.flatten()) / norms) if norms > 0 else 1.0


def slerp(start: Tensor, end: Tensor, t: float) -> Tensor:
    """Spherical interpolation (Shoemake, 1985): sin((1-t) w) / sin w start + sin(t w) / sin w end, w the angle.

    t = 0 is start and t = 1 is end, bit for bit.
    """
    if t in (0.0, 1.0):
        return (end if t else start).clone()
    cos = cosine(start, end)
    if abs(cos) > ALMOST_PARALLEL:
        return torch.lerp(start, end, t)
    angle = torch.arccos(torch.tensor(cos, dtype=torch.float64))
    at_start, at_end = torch.sin((1 - t) * angle) / torch.sin(angle), torch.sin(t * angle) / torch.sin(angle)
    return start * float(at_start) + end * float(at_end)


def model_stock(base: Tensor, tuned: Sequence[Tensor]) -> Tensor:
    """Model Stock (Jang et al., arXiv 2403.19522): t mean + (1 - t) base, t = N cos / (1 + (N - 1) cos).

    cos is the mean over all pairs of the N >= 2 task vectors; a negative one counts as 0.
    """
    taus = [tensor - base for tensor in tuned]
    count = len(taus)
    pairs = [cosine(taus[i], taus[j]) for i in range(count) for j in range(i)]
    cos = max(0.0, sum(pairs) / len(pairs))
    t = count * cos / (1 + (count - 1) * cos)
    return torch.add(base, torch.stack(taus).mean(0), alpha=t)

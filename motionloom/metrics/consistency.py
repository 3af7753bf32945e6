"""Similarity of frames over time, the arithmetic VBench's consistency metrics share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

BATCH = 16


def in_batches(network: Callable[[Tensor], Tensor], pictures: Iterable[Tensor]) -> Tensor:
    """Features of frames, a few at a time: [(1, 3, h, w)] => (T, d)."""
    stacked = list(pictures)
    batches = [torch.cat(stacked[start : start + BATCH]) for start in range(0, len(stacked), BATCH)]
    return torch.cat([network(batch).float().cpu() for batch in batches])


def consistency(features: Tensor) -> list[float]:
    """s_t = (max(0, cos(f_t, f_{t-1})) + max(0, cos(f_t, f_1))) / 2 for t = 2..T: (T, d) => T - 1 numbers."""
    unit = F.normalize(features.double(), dim=-1)
    to_last = (unit[1:] * unit[:-1]).sum(-1).clamp_min(0)
    to_first = (unit[1:] * unit[0]).sum(-1).clamp_min(0)
    steps: list[float] = ((to_last + to_first) / 2).tolist()
    return steps


def faithfulness(picture: Tensor, features: Tensor) -> float:
    """VBench-I2V: 0.4 max_t c_t + 0.3 mean + 0.3 min of consecutive similarities, c_t that of frame t to the picture.

    Args:
        picture: (1, d).
        features: (T, d), T >= 2.
    """
    given, unit = F.normalize(picture.double(), dim=-1), F.normalize(features.double(), dim=-1)
    to_picture = (unit * given).sum(-1).clamp_min(0)
    steps = (unit[1:] * unit[:-1]).sum(-1).clamp_min(0)
    return float(0.4 * to_picture.max() + 0.3 * steps.mean() + 0.3 * steps.min())

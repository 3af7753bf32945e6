"""How fast places move, and a generator's speeds matched to those of real clips.

A network that predicts the flow of a whole picture is a little wrong everywhere, so nothing it draws stands quite still.
One curve a motion mends it: the place that ranks q-th among the generated ones gets the speed that ranks q-th in real
clips, if that is slower (quantile matching; ours). Faster it gets nowhere: the fastest places of real clips are often
errors of their flow.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 33  # quantiles kept of a distribution
MOST = 1.0  # no place is made faster than this many times


def way(local: Tensor) -> Tensor:
    """Local flow (B, T, 2, h, w) => the length of the way each place goes, (B, h, w), in its units."""
    return local.diff(dim=1).square().sum(2).sqrt().sum(1)


def quantiles(ways: Tensor) -> Tensor:
    """Any number of ways => their quantiles 0, 1/32, ..., 1: (33,)."""
    ordered = ways.flatten().sort().values
    ranks = torch.linspace(0, len(ordered) - 1, LEVELS).round().long()
    return ordered[ranks]


def gain(ways: Tensor, generated: Tensor, real: Tensor) -> Tensor:
    """What each place's flow is multiplied with, smoothed over its neighbours.

    Args:
        ways: (B, h, w), generated.
        generated, real: (33,), quantiles.

    Returns:
        (B, h, w), 0..1.
    """
    generated = generated.clamp_min(1e-9) + 1e-9 * torch.arange(LEVELS)  # strictly rising
    above = torch.searchsorted(generated, ways.contiguous()).clamp(1, LEVELS - 1)
    low, high = generated[above - 1], generated[above]
    share = ((ways - low) / (high - low)).clamp(0, 1)
    target = torch.lerp(real[above - 1], real[above], share)
    ratio = (target / ways.clamp(min=1e-9).minimum(generated[-1])).clamp(0, MOST)
    return F.avg_pool2d(F.pad(ratio[:, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[:, 0]

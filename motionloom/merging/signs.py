"""TIES: task vectors that disagree on a sign do not cancel. Tensors are float32; a result is new."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Election = Literal["total", "frequency"]


def elected(taus: Sequence[Tensor], weights: Sequence[float], election: Election = "total") -> Tensor:
    """Elect a sign for every entry, then average the task vectors that agree with it, those trimmed away left out.

    TIES-Merging (Yadav et al., arXiv 2306.01708), steps 2 and 3, with peft's functions for both. Weights multiply after
    the election, as in peft.

    Args:
        taus: task vectors, thinned before ("trim" is `sparse.magnitude`).
        weights: one each.
        election: "total" takes the sign of the sum, "frequency" that of the majority; 0 counts as positive.
    """
    from peft.utils.merge_utils import calculate_majority_sign_mask, disjoint_merge

    stacked = torch.stack(list(taus))
    agrees = calculate_majority_sign_mask(stacked, method=election)
    weighted = stacked * torch.tensor(weights).reshape(-1, *[1] * (stacked.ndim - 1))
    merged: Tensor = disjoint_merge(weighted, agrees)
    return merged

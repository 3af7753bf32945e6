"""The motion map: which motion happens where, and how much of it.

One channel per motion word over the latent grid; the value is the amplitude, 0 where the motion was not asked for and 1
for its usual strength. Several motions in several regions are one map and one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from motionloom.conditions.words import WORDS, find


def motion_map(parts: Sequence[tuple[str, float, Tensor]], height: int, width: int) -> Tensor:
    """Motion words with amplitudes and regions => the map.

    Args:
        parts: (word, amplitude, region (height, width) 0..1); parts of one word add up.
        height, width: the latent grid.

    Returns:
        (K, height, width), K = len(WORDS).
    """
    maps = torch.zeros(len(WORDS), height, width)
    for name, amplitude, region in parts:
        maps[find(name)] += amplitude * region
    return maps

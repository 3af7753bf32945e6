"""Random masks that depend on a seed and a tensor's name, and on nothing else.

The release draws its masks from one generator in the order of a Python set, so the same torch seed gives another
checkpoint under another hash seed. Here each tensor has a stream of its own, so neither the order of tensors, nor shards,
nor pieces, nor PYTHONHASHSEED can change a mask. The streams are NumPy's SFC64 raw words, which NumPy promises to keep.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

Words = np.ndarray[tuple[int], np.dtype[np.int32]]
WORD = 2**32  # a mask entry compares one 32-bit word with a threshold: a probability is met within 2^-32


class Draw:
    """The random words of one tensor, taken in order.

    Args:
        seed: of the merge.
        name: of the tensor.
        purpose: tells independent masks of one tensor apart ("adt", "deg", ...).
    """

    def __init__(self, seed: int, name: str, purpose: str = "") -> None:
        digest = hashlib.sha256(f"{seed}\x00{purpose}\x00{name}".encode()).digest()
        self._words = np.random.SFC64(int.from_bytes(digest[:16], "little"))
        self._left = np.empty(0, np.int32)

    def keep(self, shape: torch.Size | tuple[int, ...], probability: float | Tensor) -> Tensor:
        """Bool mask, each entry True with this probability, a number or a tensor of the shape.

        Masks of consecutive pieces, joined, are the mask of the whole.
        """
        words = self._take(math.prod(shape))
        if isinstance(probability, Tensor):
            drawn = torch.from_numpy(words).reshape(shape)
            return drawn.double() < probability.double() * WORD - WORD // 2
        threshold = round(probability * WORD) - WORD // 2
        if threshold >= WORD // 2:  # beyond int32: every entry is kept
            return torch.ones(shape, dtype=torch.bool)
        return torch.from_numpy(words < np.int32(threshold)).reshape(shape)

    def _take(self, count: int) -> Words:
        """The next `count` words, uniform over int32."""
        fresh = -(-max(0, count - len(self._left)) // 2)  # a raw word is 64 bits
        words = self._words.random_raw(fresh).view(np.int32) if fresh else self._left
        if fresh and len(self._left):
            words = np.concatenate([self._left, words])
        self._left = words[count:].copy()
        return words[:count]

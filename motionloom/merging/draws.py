"""Random masks that depend on a seed and a tensor's name, and on nothing else.

The release draws its masks from one generator in the order of a Python set, so the same torch seed gives another
checkpoint under another hash seed. Here each tensor has streams of its own, so neither the order of tensors, nor shards,
nor pieces, nor PYTHONHASHSEED can change a mask. The streams are NumPy's SFC64 raw words, which NumPy promises to keep.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Numbers = npt.NDArray[np.unsignedinteger[Any]]
WORD = 2**32  # a probability is met within 2^-32
FIRST = 2**8  # values of the byte that settles all but one in 256 entries


class Stream:
    """Random bytes in order, read as integers of one kind."""

    def __init__(self, seed: bytes, dtype: type[np.uint8] | type[np.uint32]) -> None:
        self._words = np.random.SFC64(int.from_bytes(seed, "little"))
        self._left: Numbers = np.empty(0, dtype)

    def take(self, count: int) -> Numbers:
        """The next `count` integers, uniform over the whole range of the kind."""
        fresh_bytes = max(0, count - len(self._left)) * self._left.itemsize
        if fresh_bytes:
            drawn = self._words.random_raw(-(-fresh_bytes // 8)).view(self._left.dtype)
            self._left = np.concatenate([self._left, drawn]) if len(self._left) else drawn
        taken, self._left = self._left[:count], self._left[count:].copy()
        return taken


class Draw:
    """The masks of one tensor for one purpose, entry by entry.

    Args:
        seed: of the merge.
        name: of the tensor.
        purpose: tells independent masks of one tensor apart ("adt", "deg", ...).
    """

    def __init__(self, seed: int, name: str, purpose: str = "") -> None:
        digest = hashlib.sha256(f"{seed}\x00{purpose}\x00{name}".encode()).digest()
        self._bytes, self._words = Stream(digest[:16], np.uint8), Stream(digest[16:], np.uint32)

    def keep(self, shape: torch.Size | tuple[int, ...], probability: float | Tensor) -> Tensor:
        """Bool mask, each entry True with this probability, a number or a tensor of the shape.

        Masks of consecutive pieces, joined, are the mask of the whole.
        """
        count = math.prod(shape)
        if isinstance(probability, Tensor):
            drawn = torch.from_numpy(self._words.take(count).astype(np.int64)).reshape(shape)
            return drawn < probability.double() * WORD
        return torch.from_numpy(self._kept(count, probability)).reshape(shape)

    def _kept(self, count: int, probability: float) -> npt.NDArray[np.bool_]:
        """Below a threshold, compared digit by digit in base 256: only where the first agrees is a word drawn."""
        first, rest = divmod(probability * FIRST, 1.0)
        if first >= FIRST:
            return np.ones(count, np.bool_)
        drawn = self._bytes.take(count)
        kept = drawn < np.uint8(first)
        tied = np.flatnonzero(drawn == np.uint8(first))
        kept[tied] = self._words.take(len(tied)) < rest * WORD
        return kept

"""The contract of a training dataset: a sample is a function of (seed, epoch, index) and of nothing else."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import Any

from torch.utils.data import Dataset

Sample = dict[str, Any]


class TrainingDataset(Dataset[Sample], ABC):
    """Samples by position, so that order, augmentation and resume never depend on what was read before.

    A sample is a dict of tensors, stackable with those of other samples; text may be a str.
    """

    refused: tuple[tuple[str, str], ...] = ()
    """(name, reason) of what was found but cannot be used."""

    notes: tuple[str, ...] = ()
    """What was changed on the way in, in sentences."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def at(self, epoch: int, index: int) -> Sample:
        """Sample `index` (0 <= index < len) of the given epoch; all randomness comes from `sample_seed`."""

    def __getitem__(self, index: int) -> Sample:
        return self.at(0, index)

    @property
    def fingerprint(self) -> str:
        """Identifies the content, so that a resumed run notices another dataset."""
        return f"{type(self).__name__}:{len(self)}"


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """A 63-bit seed that is independent for each (seed, epoch, index), the same on every machine."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1

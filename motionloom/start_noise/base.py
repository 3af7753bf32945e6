"""The contract of every start noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator]  # one for all samples, or one per sample


class StartNoise(Protocol):
    """Draws the latents that sampling starts from.

    Attributes:
        level: the noise level it starts at, as a fraction of the training time: 1 is the last timestep.
    """

    @property
    def level(self) -> float: ...

    def __call__(self, first_latent: Tensor | None, shape: tuple[int, ...], generator: Generators) -> Tensor:
        """One draw.

        Args:
            first_latent: (B, d, h, w), unit scale: the latent of the first frame; None where there is none.
            shape: (B, ...), the shape of the latents.
            generator: the only randomness; with one generator per sample, sample i depends on its own alone
                and is the same in a batch of any size.

        Returns:
            Latents of `shape`, float32, with unit variance at level 1.
        """
        ...

"""Independent normal noise: what every denoiser was trained to start from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from motionloom.start_noise.base import Generators


@dataclass(frozen=True)
class Gaussian:
    """N(0, I), drawn sample by sample on the generators' device; knows nothing of the first frame."""

    level: float = 1.0

    def __call__(self, first_latent: Tensor | None, shape: tuple[int, ...], generator: Generators) -> Tensor:
        """See `StartNoise`; `first_latent` only chooses the device of the result."""
        batch = shape[0]
        each = [generator] * batch if isinstance(generator, torch.Generator) else list(generator)
        assert len(each) == batch, f"{len(each)} generators for {batch} samples"
        noise = torch.stack([torch.randn(shape[1:], generator=one, device=one.device) for one in each])
        return noise if first_latent is None else noise.to(first_latent.device)


def one_generator_per_sample(seed: int, batch: int) -> list[torch.Generator]:
    """CPU generators seeded seed, seed + 1, ...: the same numbers on every device and in every batch."""
    return [torch.Generator().manual_seed(seed + index) for index in range(batch)]

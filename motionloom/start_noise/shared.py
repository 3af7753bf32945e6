"""Noise that the frames share in part, so that neighbouring frames start alike (LAMP; MIVA with rho 0.05)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from motionloom.start_noise.base import Generators
from motionloom.start_noise.gaussian import Gaussian


def share_noise(noise: Tensor, rho: float) -> Tensor:
    """eps_f <- rho eps_0 + (1 - rho) eps_f for frames f >= 1; frame 0 stays.

    As published it is not re-normalised: frames 1.. have standard deviation sqrt(rho^2 + (1 - rho)^2), 0.951 at 0.05.

    Args:
        noise: (B, C, F, h, w).
        rho: the shared part, 0 (independent) to 1 (all frames equal).
    """
    shared: Tensor = noise.clone()
    shared[:, :, 1:] = rho * noise[:, :, :1] + (1 - rho) * noise[:, :, 1:]
    return shared


@dataclass(frozen=True)
class SharedNoise:
    """A `StartNoise` of which each frame shares the part `rho` with the first.

    Attributes:
        rho: 0.05 in MIVA, 0.2 in LAMP.
        draws: what is shared.
    """

    rho: float = 0.05
    draws: Gaussian = field(default_factory=Gaussian)
    level: float = 1.0

    def __call__(self, first_latent: Tensor | None, shape: tuple[int, ...], generator: Generators) -> Tensor:
        """See `StartNoise`."""
        return share_noise(self.draws(first_latent, shape, generator), self.rho)

"""Start noise whose low spatial frequencies know the photo (MIVA inference; the DCTInit of Cinemo, arXiv 2407.15642).

    y = signal z_0 + noise eps_f            the photo's latent, noised as at the start timestep
    z_f = eps_f + IDCT( L . DCT(y - eps_f) )    L keeps the lowest frequencies

With an orthonormal transform that is linear, so replacing the low band of eps by that of y needs no more than the band
itself. L is constant in time, so a transform over the two spatial axes gives what one over all three gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from motionloom.start_noise.base import Generators, StartNoise
from motionloom.start_noise.shared import SharedNoise

KEPT_SHARE = 0.23  # Cinemo's; of each spatial axis
START_TIMESTEP = 975  # Cinemo's; of 1000


def dct_matrix(size: int, rows: int | None = None, like: Tensor | None = None) -> Tensor:
    """The first `rows` rows of the orthonormal DCT-II: (rows, size), D D^T = 1.

    D[k, n] = sqrt(2 / size) cos(pi k (2 n + 1) / (2 size)), row 0 divided by sqrt(2).
    """
    k = torch.arange(size if rows is None else rows, dtype=torch.float64)[:, None]
    n = torch.arange(size, dtype=torch.float64)[None]
    matrix = math.sqrt(2 / size) * torch.cos(math.pi * k * (2 * n + 1) / (2 * size))
    matrix[:1] /= math.sqrt(2)
    return matrix.to(torch.float32) if like is None else matrix.to(like)


def low_frequencies(maps: Tensor, share: float) -> Tensor:
    """IDCT(L . DCT(maps)): what is left of (..., h, w) when int(share h) x int(share w) coefficients are kept."""
    height, width = maps.shape[-2:]
    rows = dct_matrix(height, int(share * height), maps)  # (a, h)
    columns = dct_matrix(width, int(share * width), maps)  # (b, w)
    kept = rows @ maps @ columns.T
    return rows.T @ kept @ columns


@dataclass(frozen=True)
class DCTStart:
    """A `StartNoise`: [z_0 ; z_1 ...], the clean photo and frames whose low frequencies come from it.

    Attributes:
        signal, noise: y = signal z_0 + noise eps; sqrt(abar) and sqrt(1 - abar) of the start timestep for
            variance-preserving diffusion, 1 - sigma and sigma for flow matching.
        share: kept of each spatial axis; 0 keeps nothing, and frames start from the noise alone.
        draws: the noise.
    """

    signal: float
    noise: float
    share: float = KEPT_SHARE
    draws: StartNoise = field(default_factory=SharedNoise)
    level: float = 1.0

    def __call__(self, first_latent: Tensor | None, shape: tuple[int, ...], generator: Generators) -> Tensor:
        """See `StartNoise`; first_latent is (B, C, 1, h, w)."""
        assert first_latent is not None, "there is no photo to take low frequencies from"
        return self.around(first_latent, self.draws(first_latent, shape, generator))

    def around(self, first_latent: Tensor, noise: Tensor) -> Tensor:
        """The start latents for a given noise (B, C, F, h, w)."""
        noised = self.signal * first_latent + self.noise * noise[:, :, 1:]
        moving = noise[:, :, 1:] + low_frequencies(noised - noise[:, :, 1:], self.share)
        return torch.cat([first_latent, moving], dim=2)

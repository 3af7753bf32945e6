"""Distances between two sets of features: Fréchet, its extrapolation to infinitely many samples, and unbiased MMD.

The Fréchet distance of finite sets is biased upwards: two samples of one distribution are at a distance that falls
like 1/N. So it is never shown alone: with it stand N, FD-infinity, the unbiased kernel distance and a noise floor.
Features are float64 (N, d); no input is changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float64]
SUBSETS = 10  # sizes that FD-infinity is fitted through
KERNEL_BLOCK = 2048


def frechet_distance(real: Features, generated: Features, ddof: int = 1) -> float:
    """|mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)  (Dowson & Landau 1982; Heusel et al. 2017, eq. 6).

    With A, B the centred features over sqrt(N - ddof), the last trace is the nuclear norm of A B^T: exact when
    N < d, zero for equal sets, and no complex roots.

    Args:
        real, generated: (N, d) and (M, d).
        ddof: 1 divides by N - 1; 0 by N, as StyleGAN-V and cd-fvd do.
    """
    assert real.ndim == generated.ndim == 2 and real.shape[1] == generated.shape[1]
    a, b = (_centred(x, ddof) for x in (real, generated))
    means = real.mean(0) - generated.mean(0)
    if max(len(a), len(b)) <= a.shape[1]:
        cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    else:  # the same singular values, from d x d: sqrt of the eigenvalues of R S2 R^T, with S1 = R^T R
        root = _root(a)
        cross = np.linalg.svd(root @ _root(b).T, compute_uv=False).sum()
    return max(0.0, float(means @ means + (a * a).sum() + (b * b).sum() - 2 * cross))


def _centred(x: Features, ddof: int) -> Features:
    centred: Features = (x - x.mean(0)) / math.sqrt(max(len(x) - ddof, 1))
    return centred


def _root(x: Features) -> Features:
    """R with R^T R = x^T x and at most d rows."""
    if len(x) <= x.shape[1]:
        return x
    triangle: Features = np.linalg.qr(x, mode="reduced").R
    return triangle


def kernel_distance(real: Features, generated: Features) -> float:
    """Unbiased squared MMD with the kernel (x.y / d + 1)^3 (Binkowski et al. 2018, sec. 4): KID, KVD."""
    n, m = len(real), len(generated)
    within_real = (_kernel_sum(real, real) - _kernel_diagonal(real).sum()) / (n * (n - 1))
    within = (_kernel_sum(generated, generated) - _kernel_diagonal(generated).sum()) / (m * (m - 1))
    return float(within_real + within - 2 * _kernel_sum(real, generated) / (n * m))


def kernel_distance_error(real: Features, generated: Features) -> float:
    """Jackknife standard error of `kernel_distance` over the generated clips."""
    n, m = len(real), len(generated)
    if m < 3:
        return math.nan
    own = _kernel_rows(generated, generated) - _kernel_diagonal(generated)
    cross = _kernel_rows(generated, real)
    left_out = (own.sum() - 2 * own) / ((m - 1) * (m - 2)) - 2 * (cross.sum() - cross) / (n * (m - 1))
    return float(np.sqrt((m - 1) / m * ((left_out - left_out.mean()) ** 2).sum()))


def _kernel_rows(x: Features, y: Features) -> Features:
    """sum over j of k(x_i, y_j), (N,), in blocks."""
    rows = [
        ((x[start : start + KERNEL_BLOCK] @ y.T / x.shape[1] + 1) ** 3).sum(1)
        for start in range(0, len(x), KERNEL_BLOCK)
    ]
    out: Features = np.concatenate(rows)
    return out


def _kernel_sum(x: Features, y: Features) -> float:
    return float(_kernel_rows(x, y).sum())


def _kernel_diagonal(x: Features) -> Features:
    diagonal: Features = ((x * x).sum(1) / x.shape[1] + 1) ** 3
    return diagonal


def frechet_at_infinity(real: Features, generated: Features, ddof: int = 1) -> float:
    """The distance extrapolated to infinitely many samples of both sets (after Chong & Forsyth 2020).

    A straight line in 1/N through subsets of 10 sizes from a quarter of the sets upwards. Negative values are noise
    around zero and stay negative.
    """
    generator = np.random.default_rng(0)
    shares = np.linspace(0.25, 1.0, SUBSETS)
    distances = []
    for share in shares:
        n, m = (max(2, round(share * len(x))) for x in (real, generated))
        chosen_real, chosen = (generator.permutation(len(x))[:k] for x, k in ((real, n), (generated, m)))
        distances.append(frechet_distance(real[chosen_real], generated[chosen], ddof))
    return float(np.polyfit(1 / shares, distances, 1)[1])


def noise_floor(real: Features, ddof: int = 1) -> float:
    """The distance between two random halves of the real set: what no model can be expected to beat at this N / 2."""
    order = np.random.default_rng(0).permutation(len(real))
    half = len(real) // 2
    return frechet_distance(real[order[:half]], real[order[half : 2 * half]], ddof)


@dataclass(frozen=True)
class Distances:
    frechet: float
    infinity: float
    kernel: float
    kernel_error: float
    noise_floor: float


def all_distances(real: Features, generated: Features, ddof: int = 1) -> Distances:
    """Everything that belongs beside a Fréchet distance."""
    return Distances(
        frechet_distance(real, generated, ddof),
        frechet_at_infinity(real, generated, ddof) if min(len(real), len(generated)) >= 16 else math.nan,
        kernel_distance(real, generated),
        kernel_distance_error(real, generated),
        noise_floor(real, ddof) if len(real) >= 4 else math.nan,
    )

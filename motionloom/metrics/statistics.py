"""Intervals and tests that respect how clips are drawn: the independent unit is the prompt or picture (the cluster)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
RESAMPLES = 2000
FLIPS = 20_000
FEW_CLUSTERS = 20  # below, the t interval on cluster means; a bootstrap of so few is too narrow
EXACT_UP_TO = 14  # clusters: 2^14 sign patterns are enumerated, more are drawn
SIGNS_AT_ONCE = 1 << 18  # 2 MiB of drawn signs, whatever the number of clusters


def cluster_means(numbers: Floats, clusters: Sequence[str]) -> Floats:
    """One mean a cluster, in the order of the clusters' names, so that the order of the clips does not matter."""
    groups: dict[str, list[float]] = {}
    for cluster, number in zip(clusters, numbers.tolist(), strict=True):
        groups.setdefault(cluster, []).append(number)
    return np.array([math.fsum(groups[name]) / len(groups[name]) for name in sorted(groups)])


def mean_interval(numbers: Floats, clusters: Sequence[str]) -> tuple[tuple[float, float] | None, str]:
    """A 95 % interval of the mean of cluster means, and how it was found; None for fewer than 2 clusters.

    From 20 clusters on a percentile bootstrap over clusters (2,000 resamples, fixed seed), below a t interval.
    """
    means = cluster_means(numbers, clusters)
    if len(means) < 2:
        return None, ""
    if len(means) < FEW_CLUSTERS:
        half = t_quantile(0.975, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means))
        return (float(means.mean() - half), float(means.mean() + half)), f"t over {len(means)} clusters"
    chosen = np.random.default_rng(0).integers(0, len(means), (RESAMPLES, len(means)))
    low, high = np.percentile(means[chosen].mean(1), [2.5, 97.5])
    return (float(low), float(high)), f"bootstrap over {len(means)} clusters"


def wilson_interval(booleans: Floats) -> tuple[float, float] | None:
    """Wilson's 95 % interval of a fraction of 0 and 1; None without any."""
    n = len(booleans)
    if n == 0:
        return None
    p, z = float(booleans.mean()), 1.959964
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t for probability > 0.5, by bisection of its integrated density; to 1e-6."""
    low, high = 0.0, 1000.0
    while high - low > 1e-7 * max(1.0, low):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_above_zero(middle, degrees) < probability - 0.5 else (low, middle)
    return (low + high) / 2


def _t_above_zero(t: float, degrees: int) -> float:
    """P(0 < T < t), with x = sqrt(degrees) tan(angle), which makes the density cos^(degrees-1)."""
    angles, weights = np.polynomial.legendre.leggauss(64)
    top = math.atan(t / math.sqrt(degrees))
    inside = float((np.cos((angles + 1) * top / 2) ** (degrees - 1) * weights).sum()) * top / 2
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    return inside * scale


@dataclass(frozen=True)
class Paired:
    """A against B on the same inputs: B - A."""

    num_pairs: int
    num_clusters: int
    mean_difference: float
    interval: tuple[float, float] | None
    interval_method: str
    p_value: float | None  # sign-flip permutation over clusters, or McNemar's exact test for booleans
    test: str
    cliffs_delta: float  # fraction of pairs of clips where B is higher, minus where it is lower


def paired_difference(a: Floats, b: Floats, clusters: Sequence[str], boolean: bool = False) -> Paired:
    """Compare b[i] with a[i]; clusters are flipped as a whole."""
    difference = b - a
    interval, method = mean_interval(difference, clusters)
    means = cluster_means(difference, clusters)
    if boolean:
        p_value, test = mcnemar(a, b), "McNemar, exact"
    else:
        p_value, test = sign_flip(means), "sign-flip permutation over clusters"
    delta = float(np.sign(b[:, None] - a[None, :]).mean()) if len(a) else 0.0
    return Paired(
        len(a),
        len(means),
        float(means.mean()) if len(means) else math.nan,
        interval,
        method,
        p_value if len(means) > 1 else None,
        test,
        delta,
    )


def sign_flip(differences: Floats) -> float:
    """Two-sided p of mean zero when each difference is as likely as its negative; exact up to 14 of them."""
    n, observed = len(differences), abs(differences.mean()) if len(differences) else 0.0
    exact = n <= EXACT_UP_TO
    hits, flips = 0, 0
    for negative in _every_pattern(n) if exact else _drawn_patterns(n):
        # the sum of the flipped differences is the sum of all minus twice that of the negative ones
        means = (differences.sum() - 2 * (negative @ differences)) / max(n, 1)
        hits += int((np.abs(means) >= observed * (1 - 1e-9)).sum())
        flips += len(negative)
    return hits / flips if exact else (hits + 1) / (flips + 1)


def smallest_p(num_clusters: int) -> float:
    """The p of `sign_flip` when all differences have one sign: no data of so many clusters can give less."""
    return 2.0 / 2**num_clusters if num_clusters <= EXACT_UP_TO else 1 / (FLIPS + 1)


def _every_pattern(n: int) -> Iterator[Floats]:
    """All 2^n choices of which differences change their sign, as rows of 0 and 1."""
    yield ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.float64)


def _drawn_patterns(n: int) -> Iterator[Floats]:
    """FLIPS choices from a fixed seed, a few rows at a time: the same as if drawn at once."""
    generator = np.random.default_rng(0)
    rows = max(1, SIGNS_AT_ONCE // n)
    for start in range(0, FLIPS, rows):
        yield generator.integers(0, 2, (min(rows, FLIPS - start), n)).astype(np.float64)


def mcnemar(a: Floats, b: Floats) -> float:
    """Exact two-sided p for paired booleans: the discordant pairs against a fair coin."""
    up, down = int(((a == 0) & (b == 1)).sum()), int(((a == 1) & (b == 0)).sum())
    n, k = up + down, min(up, down)
    tail: int = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, 2.0 * tail / float(2**n))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction; None stays None and does not count."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        corrected[i] = highest
    return corrected

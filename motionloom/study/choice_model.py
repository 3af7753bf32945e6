"""Strengths behind choices, by maximum likelihood.

A method of strength π_i is chosen from those shown, S, with probability

    P(i | S) = π_i / Z,   P(no difference | S) = ν Π_{j∈S} π_j^{1/|S|} / Z,   Z: the sum of them all.

For two methods this is Bradley and Terry (1952) with Davidson's (1970) ties; without ties, and any number of methods, it
is Luce's choice axiom (1959). The geometric mean for more than two methods is our continuation of Davidson's. In
θ = log π and λ = log ν the likelihood is that of a conditional logit, which is concave: Newton's method finds its top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = Mapping[
    tuple[int, ...], Floats
]  # methods shown -> how often each was chosen, and last: no difference
MAX_STEPS = 100
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Strengths:
    """`log_strengths` have mean 0; `log_tie` is λ, None where nobody saw no difference."""

    log_strengths: Floats
    log_tie: float | None


def fit_strengths(counts: Counts, num_methods: int) -> Strengths | None:
    """The strengths, or None where they are not finite (Ford 1957): some methods were never chosen over the others."""
    if not has_finite_strengths(counts, num_methods):
        return None
    ties = sum(float(chosen[-1]) for chosen in counts.values())
    if ties and ties == sum(float(chosen.sum()) for chosen in counts.values()):
        return None  # nobody ever chose
    options = {shown: _options(shown, num_methods, ties > 0) for shown in counts}
    chosen_of = {shown: chosen if ties else chosen[:-1] for shown, chosen in counts.items()}
    parameters = np.zeros(num_methods + (ties > 0))
    value = _log_likelihood(parameters, options, chosen_of)
    for _ in range(MAX_STEPS):
        step = _newton_step(parameters, options, chosen_of)
        if np.abs(step).max() < TOLERANCE:
            break
        while (better := _log_likelihood(parameters + step, options, chosen_of)) < value - 1e-9:
            step *= 0.5
        parameters, value = parameters + step, better
    theta = parameters[:num_methods]
    return Strengths(theta - theta.mean(), float(parameters[-1]) if ties else None)


def _options(shown: tuple[int, ...], num_methods: int, ties: bool) -> Floats:
    """One row an option: its utility is row · (θ, λ)."""
    rows = np.zeros((len(shown) + ties, num_methods + ties))
    rows[np.arange(len(shown)), shown] = 1
    if ties:
        rows[-1, list(shown)] = 1 / len(shown)
        rows[-1, -1] = 1
    return rows


def _log_probabilities(parameters: Floats, rows: Floats) -> Floats:
    utility = rows @ parameters
    log: Floats = utility - utility.max() - np.log(np.exp(utility - utility.max()).sum())
    return log


def _log_likelihood(parameters: Floats, options: Mapping[tuple[int, ...], Floats], chosen: Counts) -> float:
    return sum(float(chosen[shown] @ _log_probabilities(parameters, rows)) for shown, rows in options.items())


def _newton_step(parameters: Floats, options: Mapping[tuple[int, ...], Floats], chosen: Counts) -> Floats:
    """Least squares, because adding one number to every θ changes nothing."""
    size = len(parameters)
    gradient, curvature = np.zeros(size), np.zeros((size, size))
    for shown, rows in options.items():
        p, total = np.exp(_log_probabilities(parameters, rows)), chosen[shown].sum()
        gradient += rows.T @ (chosen[shown] - total * p)
        curvature += total * (rows.T * p) @ rows - total * np.outer(rows.T @ p, p @ rows)
    return np.asarray(np.linalg.lstsq(curvature, gradient, rcond=1e-12)[0], np.float64)


def has_finite_strengths(counts: Counts, num_methods: int) -> bool:
    """Whether, however the methods are split in two, each side was chosen over the other at least once."""
    over = np.eye(num_methods, dtype=bool)  # over[i, j]: i was chosen where j was shown
    for shown, chosen in counts.items():
        for i, count in zip(shown, chosen[:-1], strict=True):
            if count or chosen[-1]:  # no difference counts both ways
                over[i, list(shown)] = True
    for _ in range(num_methods):
        over = (over.astype(int) @ over.astype(int)) > 0
    return bool(over.all())

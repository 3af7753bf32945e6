"""Who sees what in which order: questionnaires ("sheets") drawn before the first viewer comes.

Drawing them beforehand makes balance a property of the study that can be checked, not of who happens to come. Viewer k
gets sheet k, in turn; each method stands in each place equally often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

Mode = Literal["pairs", "best"]
Kind = Literal["vote", "repeat", "control"]
DAMAGED = -1  # stands for the damaged copy of a clip in a control
CHECK_EVERY = 15  # one repeat and one control for so many votes: 6 to 7 % each
MIN_SHEETS = 24


@dataclass(frozen=True)
class Trial:
    """One screen: `methods` are shown from left to right."""

    case: int
    methods: tuple[int, ...]
    kind: Kind = "vote"


def balanced_square(n: int) -> list[tuple[int, ...]]:
    """Rows in which every item stands in every place, and beside every other item, equally often (Williams 1949).

    n rows for even n, 2 n for odd.
    """
    first = [(i + 1) // 2 if i % 2 else (n - i // 2) % n for i in range(n)]  # 0, 1, n-1, 2, n-2, ...
    rows = [tuple((item + shift) % n for item in first) for shift in range(n)]
    return rows if n % 2 == 0 else rows + [row[::-1] for row in rows]


def draw_sheets(
    num_cases: int, num_methods: int, mode: Mode, *, votes_each: int | None = None, seed: int = 0
) -> list[list[Trial]]:
    """All questionnaires.

    Args:
        num_cases: pictures.
        num_methods: at least 2.
        mode: "pairs" shows two methods at a time, "best" all of them.
        votes_each: screens of one viewer before repeats and controls; None is all there are. Fewer are dealt in turn,
            so that every screen is seen equally often, to within one.
        seed: the same seed draws the same sheets.
    """
    rng = np.random.default_rng(seed)
    everyone = tuple(range(num_methods))
    groups = list(combinations(everyone, 2)) if mode == "pairs" else [everyone]
    ring = [(case, group) for case in range(num_cases) for group in groups]
    ring = [ring[i] for i in rng.permutation(len(ring))]
    rows = balanced_square(len(groups[0]))
    count = min(votes_each or len(ring), len(ring))
    num_sheets = len(rows) * -(-MIN_SHEETS // len(rows))
    shown = [0] * len(ring)
    sheets = []
    for sheet in range(num_sheets):
        dealt = [(sheet * count + i) % len(ring) for i in range(count)]
        votes = []
        for i in dealt:
            case, group = ring[i]
            row = rows[(shown[i] + i) % len(rows)]
            votes.append(Trial(case, tuple(group[place] for place in row)))
            shown[i] += 1
        ordered = [votes[i] for i in rng.permutation(len(votes))]
        sheets.append(_with_checks(ordered, num_methods, rng))
    return sheets


def _with_checks(votes: Sequence[Trial], num_methods: int, rng: np.random.Generator) -> list[Trial]:
    """Repeats, in the other order and late in the sheet, and controls: a clip beside its damaged copy."""
    sheet = list(votes)
    checks = round(len(votes) / CHECK_EVERY)
    for i in rng.permutation(max(1, len(votes) // 2))[:checks]:
        again = Trial(votes[i].case, votes[i].methods[::-1], "repeat")
        sheet.insert(int(rng.integers(len(votes) * 3 // 4, len(sheet) + 1)), again)
    for _ in range(checks):
        pair = (int(rng.integers(num_methods)), DAMAGED)
        control = Trial(
            votes[int(rng.integers(len(votes)))].case, pair[:: int(rng.choice((1, -1)))], "control"
        )
        sheet.insert(int(rng.integers(1, len(sheet) + 1)), control)
    return sheet

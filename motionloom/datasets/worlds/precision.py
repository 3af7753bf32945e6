"""P_act and P_re: how well what a clip shows agrees with what its caption asked for (MAGE, Hu et al. 2022).

The arithmetic is the released script's. Each sentence is compared with each: an action counts 1, and its destination another
1 where it slides or is placed; attribute words of the subject count 1 each, and those of the contained thing where
both say that something is contained. Only the caption's words are asked for. Of two sentences that pairing is taken
whose P_act is higher, then whose P_re is. The paper speaks of detected coordinates; the script compares captions, so
whoever reports these numbers says who described the clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from motionloom.datasets.cater_captions import Place, Statement, quadrant_of


@dataclass(frozen=True)
class Precision:
    """P_act and P_re of one clip, each in [0, 1]."""

    action: float
    reference: float


@dataclass(frozen=True)
class _Counts:
    right_actions: int = 0
    actions: int = 0
    right_words: int = 0
    words: int = 0

    def __add__(self, other: _Counts) -> _Counts:
        return _Counts(
            self.right_actions + other.right_actions,
            self.actions + other.actions,
            self.right_words + other.right_words,
            self.words + other.words,
        )


def precision_of(asked: Sequence[Statement], shown: Sequence[Statement]) -> Precision:
    """P_act and P_re of a clip that shows `shown` where the caption asked for `asked` (one or two statements)."""
    assert asked, "a caption says something"
    if not shown:
        return Precision(0.0, 0.0)
    return max(
        (_score(pairs) for pairs in _pairings(asked, shown)), key=lambda one: (one.action, one.reference)
    )


def mean_precision(scores: Sequence[Precision]) -> Precision:
    """The mean over clips. Raises ZeroDivisionError without any."""
    return Precision(
        sum(s.action for s in scores) / len(scores), sum(s.reference for s in scores) / len(scores)
    )


def _pairings(
    asked: Sequence[Statement], shown: Sequence[Statement]
) -> list[list[tuple[Statement, Statement]]]:
    """As the script: at most two sentences of each; with one against two, only one is compared."""
    if len(asked) == 1 or len(shown) == 1:
        return [[(a, s)] for a in asked[:2] for s in shown[:2]]
    return [[(asked[0], shown[0]), (asked[1], shown[1])], [(asked[0], shown[1]), (asked[1], shown[0])]]


def _score(pairs: list[tuple[Statement, Statement]]) -> Precision:
    total = _Counts()
    for asked, shown in pairs:
        total += _compare(asked, shown)
    return Precision(total.right_actions / total.actions, total.right_words / total.words)


def _compare(asked: Statement, shown: Statement) -> _Counts:
    words = _Counts(0, 0, sum(word in shown.subject for word in asked.subject), len(asked.subject))
    if asked.action != shown.action:
        return words + _Counts(0, 1)
    if asked.action in ("slide", "pick-place"):
        return words + _Counts(1 + int(_same_place(asked.place, shown.place)), 2)
    contained = sum(word in shown.contained for word in asked.contained)
    return words + _Counts(1, 1, contained, len(asked.contained))


def _same_place(asked: Place | None, shown: Place | None) -> bool:
    """A cell of the grid answers for its quadrant, where a quadrant was asked for."""
    if isinstance(asked, int) and isinstance(shown, tuple):
        return quadrant_of(*shown) == asked
    return shown is not None and asked == shown

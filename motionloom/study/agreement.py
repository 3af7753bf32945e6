"""Do people agree: Krippendorff's alpha for names (nominal data)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence


def krippendorff_alpha(units: Iterable[Sequence[str]]) -> float | None:
    """1 - observed / expected disagreement: 1 is full agreement, 0 chance (Krippendorff 2011).

    Args:
        units: for everything that was judged, what each judge said; one with fewer than two judges says nothing.

    Returns:
        None where nothing was judged twice, or everybody always said the same one thing.
    """
    judged = [Counter(unit) for unit in units if len(unit) > 1]
    totals: Counter[str] = sum(judged, Counter())
    n = totals.total()
    if not n:
        return None
    observed = sum(
        (unit.total() ** 2 - sum(count**2 for count in unit.values())) / (unit.total() - 1) for unit in judged
    )
    expected = (n**2 - sum(count**2 for count in totals.values())) / (n - 1)
    return 1 - observed / expected if expected else None

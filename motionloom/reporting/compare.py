"""Sets of scores side by side: which is best, which differences are larger than chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from motionloom.metrics.scores import ClipScores, Summary, as_float
from motionloom.metrics.statistics import Paired, holm, paired_difference
from motionloom.reporting.inputs import ScoreSet


@dataclass(frozen=True)
class Row:
    """One value of every set; None where a set lacks it.

    Attributes:
        best: sets that hold the best value; empty when nothing may be compared.
        close: other sets whose interval overlaps that of the best.
        notes: why nothing is compared, and what a reader must know.
    """

    name: str
    cells: tuple[Summary | None, ...]
    best: frozenset[int] = frozenset()
    close: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> Summary:
        return next(cell for cell in self.cells if cell is not None)

    @property
    def metric(self) -> str:
        return self.name.partition("/")[0]


def summary_rows(sets: Sequence[ScoreSet]) -> list[Row]:
    """One row a value name, in the order the sets name them."""
    names = dict.fromkeys(name for one in sets for name in one.scores.summary)
    rows = [_row(name, tuple(one.scores.summary.get(name) for one in sets)) for name in names]
    return sorted(rows, key=lambda row: [other.metric for other in rows].index(row.metric))


def _row(name: str, cells: tuple[Summary | None, ...]) -> Row:
    present = [cell for cell in cells if cell is not None]
    notes = list(dict.fromkeys(warning for cell in present for warning in cell.warnings))
    best: frozenset[int] = frozenset()
    if len(present) > 1 and present[0].direction != "none":
        reason = _why_incomparable(present)
        if reason:
            notes.append(f"not compared: {reason}")
        else:
            best = _best(cells, present[0].direction == "higher")
    return Row(name, cells, best, _close_to(best, cells), tuple(notes))


def _why_incomparable(cells: Sequence[Summary]) -> str:
    """Numbers that were not measured the same way have no best."""
    if len({cell.definition for cell in cells}) > 1:
        return "the sets use different definitions"
    if len({cell.sample for cell in cells}) > 1:
        return "a distance between sets depends on their sizes, and these differ"
    return ""


def _best(cells: Sequence[Summary | None], higher: bool) -> frozenset[int]:
    numbers = {i: as_float(cell.value) for i, cell in enumerate(cells) if cell is not None}
    numbers = {i: number for i, number in numbers.items() if not math.isnan(number)}
    if len(numbers) < 2 or len(set(numbers.values())) == 1:
        return frozenset()
    top = max(numbers.values()) if higher else min(numbers.values())
    return frozenset(i for i, number in numbers.items() if number == top)


def _close_to(best: frozenset[int], cells: Sequence[Summary | None]) -> frozenset[int]:
    tops = [cell.interval for i in best if (cell := cells[i]) is not None and cell.interval is not None]
    return frozenset(
        i
        for i, cell in enumerate(cells)
        if i not in best and cell is not None and cell.interval is not None
        for low, high in tops
        if cell.interval[0] <= high and low <= cell.interval[1]
    )


def definitions_that_differ(one: ScoreSet) -> list[str]:
    """Metrics whose official (compat) and corrected (clean) definitions differ by more than their intervals."""
    summary = one.scores.summary
    found = []
    for name, compat in summary.items():
        clean = summary.get(f"{name.removesuffix('/compat')}/clean") if name.endswith("/compat") else None
        if clean is None or clean.unit != compat.unit:
            continue
        gap = abs(as_float(compat.value) - as_float(clean.value))
        widths = [high - low for low, high in filter(None, (compat.interval, clean.interval))]
        if gap > max(widths, default=0.0) / 2:
            found.append(name.removesuffix("/compat"))
    return found


# --- paired


@dataclass(frozen=True)
class Pairing:
    """Two sets matched clip by clip: B against A."""

    a: ScoreSet
    b: ScoreSet
    pairs: list[tuple[ClipScores, ClipScores]]
    refused: list[str] = field(default_factory=list)  # one sentence a reason


def pair(a: ScoreSet, b: ScoreSet) -> Pairing:
    """Clips of the same id, made from the same picture, prompt and seed where both say so."""
    own = {clip.id: clip for clip in a.scores.clips}
    pairs, reasons = [], {"picture": 0, "prompt": 0, "seed": 0}
    for clip in b.scores.clips:
        other = own.get(clip.id)
        if other is None:
            continue
        differing = [
            what
            for what, x, y in (
                ("picture", other.picture_sha256, clip.picture_sha256),
                ("prompt", other.prompt, clip.prompt),
                ("seed", other.seed, clip.seed),
            )
            if x is not None and y is not None and x != y
        ]
        if differing:
            reasons[differing[0]] += 1
        else:
            pairs.append((other, clip))
    lonely = len(own) + len(b.scores.clips) - 2 * (len(pairs) + sum(reasons.values()))
    refused = [f"{count} clips of one name differ in {what}" for what, count in reasons.items() if count]
    refused += [f"{lonely} clips have no partner in the other set"] if lonely else []
    return Pairing(a, b, pairs, refused)


@dataclass(frozen=True)
class Comparison:
    """One value, paired: B - A."""

    name: str
    paired: Paired
    p_corrected: float | None  # Holm, over all values of the table
    summary: Summary

    @property
    def verdict(self) -> str:
        """ "better" or "worse" when the corrected p is below 0.05 and the value judges; else ""."""
        if self.p_corrected is None or self.p_corrected >= 0.05 or self.summary.direction == "none":
            return ""
        return (
            "better" if (self.paired.mean_difference > 0) == (self.summary.direction == "higher") else "worse"
        )


def compare(pairing: Pairing) -> list[Comparison]:
    """Every per-clip value both sets have, with Holm's correction over them."""
    summaries = {**pairing.a.scores.summary, **pairing.b.scores.summary}
    names = [name for name in summaries if any(_both(name, a, b) for a, b in pairing.pairs)]
    results = []
    for name in names:
        found = [(a, b) for a, b in pairing.pairs if _both(name, a, b)]
        left = np.array([as_float(a.values[name]) for a, _ in found])
        right = np.array([as_float(b.values[name]) for _, b in found])
        boolean = bool(np.isin(np.concatenate([left, right]), (0.0, 1.0)).all())
        results.append(paired_difference(left, right, [a.cluster for a, _ in found], boolean))
    corrected = holm([result.p_value for result in results])
    return [
        Comparison(name, result, p, summaries[name])
        for name, result, p in zip(names, results, corrected, strict=True)
    ]


def _both(name: str, a: ClipScores, b: ClipScores) -> bool:
    return all(name in clip.values and math.isfinite(as_float(clip.values[name])) for clip in (a, b))


# --- clips, worst first

OVERALL = "overall"


def badness(sets: Sequence[ScoreSet]) -> dict[str, dict[str, float]]:
    """Clip id -> value name -> 0 (best) to 1 (worst): the rank among all clips, of the worst set that has the clip.

    `OVERALL` is the mean rank over the values that judge, again of the worst set; so a case where one set fails comes
    first even if the others do well.
    """
    worst: dict[str, dict[str, float]] = {
        clip.id: {OVERALL: 0.0} for one in sets for clip in one.scores.clips
    }
    every: dict[tuple[int, str], list[float]] = {}
    for name, direction in _judging(sets):
        for key, rank in _ranks(sets, name, direction):
            every.setdefault(key, []).append(rank)
            own = worst[key[1]]
            own[name] = max(own.get(name, 0.0), rank)
    for (_, clip_id), ranks in every.items():
        worst[clip_id][OVERALL] = max(worst[clip_id][OVERALL], sum(ranks) / len(ranks))
    return worst


def _ranks(sets: Sequence[ScoreSet], name: str, direction: str) -> list[tuple[tuple[int, str], float]]:
    """((set, clip id), rank), 0 the best and 1 the worst; equal values share their middle rank."""
    found = [
        ((i, clip.id), as_float(clip.values[name]))
        for i, one in enumerate(sets)
        for clip in one.scores.clips
        if name in clip.values and not math.isnan(as_float(clip.values[name]))
    ]
    numbers = np.array([number for _, number in found]) * (-1 if direction == "higher" else 1)
    ordered = np.sort(numbers)
    middle = (np.searchsorted(ordered, numbers) + np.searchsorted(ordered, numbers, "right") - 1) / 2
    ranks = (middle / max(1, len(found) - 1)).tolist()
    return [(key, rank) for (key, _), rank in zip(found, ranks, strict=True)]


def _judging(sets: Sequence[ScoreSet]) -> list[tuple[str, str]]:
    found = {name: s.direction for one in sets for name, s in one.scores.summary.items()}
    return [(name, direction) for name, direction in found.items() if direction != "none"]


def chosen_clips(worst: Mapping[str, Mapping[str, float]], count: int) -> list[tuple[str, str]]:
    """(clip id, why) of the clips to show, worst first: all, or the worst, middle and best thirds of `count`."""
    ordered = sorted(worst, key=lambda clip_id: (-worst[clip_id][OVERALL], clip_id))
    if len(ordered) <= count:
        return [(clip_id, "") for clip_id in ordered]
    third = count // 3
    middle = (len(ordered) - third) // 2
    parts = {
        "worst": ordered[: count - 2 * third],
        "middle": ordered[middle : middle + third],
        "best": ordered[len(ordered) - third :],
    }
    taken: dict[str, str] = {}
    for why, ids in parts.items():
        for clip_id in ids:
            taken.setdefault(clip_id, why)
    return list(taken.items())

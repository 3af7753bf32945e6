"""Two scores.json of the same inputs: is B better than A, by how much, and could it be chance?

Clips are paired by id; where ids differ nothing is paired by guess. The unit of every test is the prompt or picture.
Distances between sets are one number a set: their difference is shown, and not tested.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from motionloom.errors import InputError
from motionloom.metrics.scores import Direction, Number, Scores, as_float, as_number, load_scores
from motionloom.metrics.statistics import Paired, holm, paired_difference, smallest_p

SIGNIFICANT = 0.05


class Compared(BaseModel):
    """One value of both sets. Differences are B - A, over the pairs in which both are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    unit: str
    direction: Direction
    a: Number
    b: Number
    num_pairs: int = 0
    num_clusters: int = 0
    mean_difference: Number | None = None
    interval: tuple[float, float] | None = None
    interval_method: str = ""
    p_value: float | None = None
    p_holm: float | None = None
    test: str = ""
    cliffs_delta: float | None = None
    better: str = ""  # "A", "B" or "": undecided, or not a matter of better


class Comparison(BaseModel):
    """`warnings` says what stands in the way of a fair comparison."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    a: str
    b: str
    num_pairs: int
    warnings: tuple[str, ...] = ()
    values: list[Compared]


def compare(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Comparison:
    """Compare two scores.json (or their folders).

    Raises:
        InputError: one cannot be read, or they share no value.
    """
    first, second = load_scores(a), load_scores(b)
    names = [name for name in first.summary if name in second.summary]
    if not names:
        raise InputError(f'"{a}" and "{b}" share no value', fix="evaluate both with the same --metrics")
    rows = [_compared(name, first, second) for name in names]
    corrected = holm([row.p_value for row in rows])
    rows = [
        row.model_copy(update={"p_holm": p, "better": _better(row, p)})
        for row, p in zip(rows, corrected, strict=True)
    ]
    shared = {clip.id for clip in first.clips} & {clip.id for clip in second.clips}
    return Comparison(
        a=os.fspath(a),
        b=os.fspath(b),
        num_pairs=len(shared),
        warnings=(*_warnings(first, second, shared), *_powerless(rows)),
        values=rows,
    )


def _compared(name: str, a: Scores, b: Scores) -> Compared:
    one, two = a.summary[name], b.summary[name]
    row = Compared(name=name, unit=one.unit, direction=one.direction, a=one.value, b=two.value)
    paired = _paired(name, a, b)
    if paired is None:
        return row.model_copy(
            update={"mean_difference": as_number(as_float(two.value) - as_float(one.value))}
        )
    return row.model_copy(
        update={
            "num_pairs": paired.num_pairs,
            "num_clusters": paired.num_clusters,
            "mean_difference": as_number(paired.mean_difference),
            "interval": paired.interval,
            "interval_method": paired.interval_method,
            "p_value": paired.p_value,
            "test": paired.test,
            "cliffs_delta": paired.cliffs_delta,
        }
    )


def _paired(name: str, a: Scores, b: Scores) -> Paired | None:
    """None when the value is the set's alone, or no clip has it in both."""
    others = {clip.id: clip for clip in b.clips}
    pairs = [
        (as_float(clip.values[name]), as_float(others[clip.id].values[name]), clip.cluster)
        for clip in a.clips
        if name in clip.values and clip.id in others and name in others[clip.id].values
    ]
    pairs = [pair for pair in pairs if np.isfinite(pair[0]) and np.isfinite(pair[1])]
    if not pairs:
        return None
    first, second = (np.array([pair[i] for pair in pairs], dtype=np.float64) for i in (0, 1))
    boolean = a.summary[name].interval_method == "Wilson"
    return paired_difference(first, second, [pair[2] for pair in pairs], boolean)


def _better(row: Compared, p_holm: float | None) -> str:
    if row.direction == "none" or p_holm is None or p_holm > SIGNIFICANT or row.mean_difference is None:
        return ""
    return "B" if (as_float(row.mean_difference) > 0) == (row.direction == "higher") else "A"


def _powerless(rows: Sequence[Compared]) -> list[str]:
    """Said when so few clips, over so many values, cannot decide anything whatever they show."""
    tested = [row for row in rows if row.p_value is not None]
    most = max((row.num_clusters for row in tested), default=0)
    least = smallest_p(most) * len(tested)
    if not tested or least <= SIGNIFICANT:
        return []
    return [
        f"{most} independent pairs cannot reach p = {SIGNIFICANT} over {len(tested)} values (at best {least:.2g}): "
        "score more clips, or fewer --metrics"
    ]


def _warnings(a: Scores, b: Scores, shared: set[str]) -> list[str]:
    found = []
    for name, scores in (("A", a), ("B", b)):
        alone = len(scores.clips) - len(shared)
        if alone:
            found.append(f"{alone} clips of {name} have no partner of the same id and are not compared")
        if scores.partial:
            found.append(f"{name} is partial: some clips or metrics failed")
    pictures = {clip.id: clip.picture_sha256 for clip in a.clips}
    moved = [clip.id for clip in b.clips if clip.id in pictures and clip.picture_sha256 != pictures[clip.id]]
    if moved:
        found.append(f"{len(moved)} pairs were made from different pictures, such as {moved[0]}")
    if a.versions != b.versions:
        changed = sorted(
            name for name in {*a.versions, *b.versions} if a.versions.get(name) != b.versions.get(name)
        )
        found.append(f"made with different versions of {', '.join(changed)}")
    if (
        a.weights
        and b.weights
        and {w.name: w.sha256 for w in a.weights} != {w.name: w.sha256 for w in b.weights}
    ):
        found.append("networks differ")
    return found

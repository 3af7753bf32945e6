"""The section that is read first: warnings, and one table of all values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from motionloom.metrics.scores import Summary, as_float
from motionloom.reporting.compare import Row, definitions_that_differ
from motionloom.reporting.inputs import ScoreSet
from motionloom.reporting.markup import Html, join, tag
from motionloom.reporting.tables import ARROWS, caption_of, counted, fixed, scrolling

STAND_INS = ("fd_random",)  # distances without trained networks


def banners(sets: Sequence[ScoreSet]) -> Html:
    """What a reader must know before quoting a number."""
    alarms: list[str] = []
    for one in sets:
        scores = one.scores
        if scores.partial:
            alarms.append(
                f"{one.label} is partial: {counted(len(scores.failures), 'failure')}, "
                f"{counted(len(scores.left_out), 'metric')} left out; its means do not hold everything"
            )
        if scores.protocol and scores.protocol.deviations:
            alarms.append(
                f"{one.label} deviates from the protocol {scores.protocol.name}: {'; '.join(scores.protocol.deviations)}"
            )
    names = dict.fromkeys(name for one in sets for name in one.scores.summary if name.startswith(STAND_INS))
    if names:
        alarms.append(
            f"{', '.join(names)} stand in for published distances: they compare sets measured here with each other, and "
            "with nothing published"
        )
    notes = [
        f"{one.label}: the official (compat) and the corrected (clean) definition of {', '.join(differing)} differ by more "
        "than their intervals; quote both"
        for one in sets
        if (differing := definitions_that_differ(one))
    ]
    return join(
        tag(
            "div",
            tag("strong", words),
            tag("ul", [tag("li", line) for line in lines]),
            class_=kind,
            role="note",
        )
        for words, kind, lines in (
            ("Before you quote a number", "banner alarm", alarms),
            ("Two definitions", "banner", notes),
        )
        if lines
    )


def summary_table(sets: Sequence[ScoreSet], rows: Sequence[Row]) -> Html:
    """One row a value, one column a set; numbered notes below."""
    head = tag(
        "tr",
        tag("th", "Value", scope="col"),
        [
            tag(
                "th",
                one.label,
                tag("small", counted(len(one.scores.clips), "clip")),
                scope="col",
                class_="number",
            )
            for one in sets
        ],
    )
    notes: dict[str, int] = {}
    body: list[Html] = []
    metric = ""
    for row in rows:
        if row.metric != metric:
            metric = row.metric
            group = tag("th", metric, colspan=len(sets) + 1, scope="rowgroup")
            body.append(tag("tr", group, class_="group"))
        body.append(_summary_row(row, sets, notes))
    caption = "↑ higher is better, ↓ lower is better, no arrow: it describes and does not judge. Brackets: 95 % interval."
    if len(sets) > 1:
        caption += " Shaded: best of the row. ≈: its interval overlaps the best one's."
    table = tag("table", caption_of(caption), tag("thead", head), tag("tbody", body))
    return join([scrolling(table, "Summary"), _numbered(notes)])


def _summary_row(row: Row, sets: Sequence[ScoreSet], notes: dict[str, int]) -> Html:
    first = row.first
    numbers = [notes.setdefault(note, len(notes) + 1) for note in row.notes]
    refs = tag("sup", ", ".join(str(number) for number in numbers)) if numbers else None
    name = tag(
        "th",
        tag("span", ARROWS[first.direction], class_="arrow", aria_hidden="true"),
        row.name.removeprefix(f"{row.metric}/") if row.name != row.metric else row.name,
        tag("span", f" {first.unit}", class_="unit") if first.unit else None,
        refs,
        tag("small", *_definition(row)),
        scope="row",
    )
    decimals = _decimals(row.cells)
    cells = [
        _summary_cell(cell, len(one.scores.clips), decimals, i in row.best, i in row.close)
        for i, (cell, one) in enumerate(zip(row.cells, sets, strict=True))
    ]
    return tag("tr", name, cells)


def _definition(row: Row) -> list[object]:
    said = list(dict.fromkeys(cell.definition for cell in row.cells if cell is not None))
    words = {part for text in (*said, row.name) for part in text.replace("/", " ").replace(",", " ").split()}
    chips = [
        tag("span", name, class_="chip")
        for name in ("compat", "clean")
        if name in words or f"({name})" in words
    ]
    return [" / ".join(said), *([" ", *chips] if chips else [])]


def _summary_cell(cell: Summary | None, num_clips: int, decimals: int, best: bool, close: bool) -> Html:
    if cell is None:
        return tag("td", tag("small", "not measured"), class_="number")
    spread: list[str] = []
    if cell.interval is not None:
        spread.append(f"[{fixed(cell.interval[0], decimals)}, {fixed(cell.interval[1], decimals)}]")
    if cell.spread is not None:
        spread.append(f"sd {fixed(cell.spread, decimals)}")
    below: list[object] = [_breaking_between(spread)] if spread else []
    if cell.sample is not None:
        sample = cell.sample
        below.append(f"{sample.num_real:,} real, {sample.num_generated:,} generated")
        below.append(f"{counted(sample.num_frames, 'frame')}, {sample.num_features:,}-d")
    elif cell.num_used != num_clips or cell.num_expected != num_clips or cell.num_excluded:
        below.append(
            f"{cell.num_used} of {cell.num_expected}"
            + (f", {cell.num_excluded} not finite" if cell.num_excluded else "")
        )
    if cell.num_clusters and cell.num_clusters != cell.num_used:
        below.append(f"{cell.num_clusters} independent")
    said = fixed(as_float(cell.value), decimals)
    return tag(
        "td",
        tag("span", "best: ", class_="skip") if best else None,
        ("≈ " if close else "") + said,
        [tag("small", line) for line in below],
        class_="number best" if best else "number",
        title=cell.interval_method or None,
    )


def _breaking_between(parts: Sequence[str]) -> Html:
    """Parts that are never broken themselves, so that many columns fit side by side."""
    return join(
        part
        for i, text in enumerate(parts)
        for part in ([", "] * (i > 0) + [tag("span", text, class_="whole")])
    )


def _decimals(cells: Iterable[Summary | None]) -> int:
    """Two digits of the narrowest interval; else four digits of the largest value."""
    present = [cell for cell in cells if cell is not None]
    widths = [high - low for low, high in filter(None, (cell.interval for cell in present)) if high > low]
    sizes = [abs(as_float(cell.value)) for cell in present if math.isfinite(as_float(cell.value))]
    if widths:
        return min(6, max(0, 1 - math.floor(math.log10(min(widths) / 2))))
    largest = max(sizes, default=0.0)
    return min(6, max(0, 3 - math.floor(math.log10(largest)))) if largest > 0 else 2


def _numbered(notes: dict[str, int]) -> Html | None:
    if not notes:
        return None
    return tag("ol", [tag("li", tag("small", note)) for note in notes], aria_label="Notes to the table")

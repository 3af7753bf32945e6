"""Every value of every set as a strip or a bar, a radar, the plane of motion and fidelity, and what people preferred."""

from __future__ import annotations

import math
from collections.abc import Sequence

from motionloom.errors import ConfigError
from motionloom.metrics.scores import Number, as_float
from motionloom.reporting.compare import Row
from motionloom.reporting.inputs import ScoreSet, StudyResults
from motionloom.reporting.markup import Html, join, tag
from motionloom.reporting.plots import MAX_POINTS, Series, figure, legend, plane, radar, value_chart
from motionloom.reporting.tables import ARROWS, counted

# in the order of preference, the plane takes the first that single clips have
MOTION = (
    "average_flow",
    "motion_dis/px_per_second_at_256",
    "motion_lk/px_per_second_at_256",
    "motion_dis",
    "motion_lk",
)
FIDELITY = (
    "i2v_subject",
    "i2v_background",
    "subject_consistency",
    "background_consistency",
    "first_frame/all_frames_ssim",
    "ssim",
    "temporal_flickering",
)


# VBench's own ranges (Quality score): most methods lie so near 1 that a radar of raw values would show one circle
RANGES = {
    "subject_consistency": (0.1462, 1.0),
    "background_consistency": (0.2615, 1.0),
    "temporal_flickering": (0.6293, 1.0),
    "motion_smoothness": (0.706, 0.9975),
}


def charts(sets: Sequence[ScoreSet], rows: Sequence[Row]) -> Html:
    """One small drawing a value, and the radar."""
    drawn = [_value_figure(sets, row) for row in rows]
    keys = legend([(one.label, i) for i, one in enumerate(sets)]) if len(sets) > 1 else None
    plots = tag("div", drawn, class_="grid-of-plots")
    about = tag(
        "p",
        "Dots are clips, the large mark their mean, the line its 95 % interval. Distances between sets are bars.",
    )
    return join([about, keys, plots, _radar(sets, rows)])


def _value_figure(sets: Sequence[ScoreSet], row: Row) -> Html:
    series = [
        Series(
            one.label,
            i,
            [number for number in _clip_values(one, row.name) if math.isfinite(number)],
            mean=_finite(cell.value) if cell is not None else None,
            interval=cell.interval if cell is not None else None,
        )
        for i, (one, cell) in enumerate(zip(sets, row.cells, strict=True))
    ]
    most = max(len(one.ys) for one in series)
    thin = f" {MAX_POINTS} of {most:,} clips drawn, evenly by rank." if most > MAX_POINTS else ""
    samples = list(dict.fromkeys(cell.sample for cell in row.cells if cell is not None and cell.sample))
    sizes = "".join(f" {s.num_real:,} real, {s.num_generated:,} generated." for s in samples)
    arrow = ARROWS[row.first.direction]
    unit = f" ({row.first.unit})" if row.first.unit else ""
    caption = join([tag("b", f"{row.name}{unit} {arrow}".rstrip()), sizes, thin])
    return figure(value_chart(row.name, row.first.unit, series), caption)


def _clip_values(one: ScoreSet, name: str) -> list[float]:
    return [as_float(clip.values[name]) for clip in one.scores.clips if name in clip.values]


def _finite(number: Number) -> float | None:
    value = as_float(number)
    return value if math.isfinite(value) else None


def _radar(sets: Sequence[ScoreSet], rows: Sequence[Row]) -> Html | None:
    spokes = {row.name: scaled for row in rows if (scaled := _spoke(row)) is not None}
    if len(spokes) < 3:
        return None
    names = list(spokes)
    series = [Series(one.label, i, [spokes[name][i] for name in names]) for i, one in enumerate(sets)]
    caption = (
        "Only values between 0 and 1 that judge, turned so that the rim is best; the VBench consistency values, "
        "flickering and smoothness are scaled by VBench's own ranges. Areas mean nothing: read the table."
    )
    return tag(
        "details", tag("summary", "The same as a radar"), figure(radar(names, series), caption, wide=True)
    )


def _spoke(row: Row) -> list[float] | None:
    if row.first.direction == "none" or any(cell is None for cell in row.cells):
        return None
    numbers = [as_float(cell.value) for cell in row.cells if cell is not None]
    if row.first.unit not in ("", "fraction") or row.first.sample or not all(0 <= x <= 1 for x in numbers):
        return None
    low, high = RANGES.get(row.metric, (0.0, 1.0))
    scaled = [min(1.0, max(0.0, (number - low) / (high - low))) for number in numbers]
    return [1 - number for number in scaled] if row.first.direction == "lower" else scaled


def motion_and_fidelity(sets: Sequence[ScoreSet], asked: tuple[str, str] | None) -> Html | None:
    """The plane; None where no single clip has both values. Raises ConfigError for values asked for that none has."""
    names = _plane_names(sets, asked)
    if names is None:
        return None
    across, up = names
    series = []
    for i, one in enumerate(sets):
        pairs = [
            (as_float(clip.values[across]), as_float(clip.values[up]))
            for clip in one.scores.clips
            if across in clip.values and up in clip.values
        ]
        pairs = [pair_ for pair_ in pairs if all(math.isfinite(number) for number in pair_)][: 4 * MAX_POINTS]
        if pairs:
            means = [sum(numbers) / len(numbers) for numbers in zip(*pairs, strict=True)]
            xs, ys = zip(*pairs, strict=True)
            series.append(Series(one.label, i, [means[1], *ys], [means[0], *xs]))
    if not series:
        return None
    about = (
        "Consistency is cheap for a clip that does not move: read both axes together. "
        "Small dots are clips, large marks means."
    )
    labels = [_with_unit(sets, name) for name in names]
    caption = join([tag("b", up), " against ", tag("b", across)])
    keys = legend([(one.label, one.which) for one in series])
    return join([tag("p", about), keys, figure(plane(labels[0], labels[1], series), caption, wide=True)])


def _plane_names(sets: Sequence[ScoreSet], asked: tuple[str, str] | None) -> tuple[str, str] | None:
    known = dict.fromkeys(name for one in sets for clip in one.scores.clips for name in clip.values)
    if asked is not None:
        for name in asked:
            if name not in known:
                raise ConfigError(
                    f"there is no value {name!r} of single clips in these scores",
                    fix="choose from " + ", ".join(known) if known else "evaluate first",
                )
        return asked
    found = []
    for wanted in (MOTION, FIDELITY):
        matches = [name for want in wanted for name in known if name == want or name.startswith(want + "/")]
        if not matches:
            return None
        found.append(matches[0])
    return found[0], found[1]


def _with_unit(sets: Sequence[ScoreSet], name: str) -> str:
    summary = next((one.scores.summary[name] for one in sets if name in one.scores.summary), None)
    if summary is None:
        return name
    unit = f" ({summary.unit})" if summary.unit else ""
    return f"{name}{unit} {ARROWS[summary.direction]}".rstrip()


def preferences(one: StudyResults) -> Html:
    """Shares of votes, with the intervals over participants where there are enough; the numbers of `study analyse`."""
    order = one.results["methods"]
    drawn = []
    for question in one.results["questions"]:
        found = sorted(question["methods"], key=lambda method: order.index(method["method"]))
        ends = [m["share_interval_over_participants"] or m["share_interval"] for m in found]
        series = [
            Series(m["method"], order.index(m["method"]), [], mean=m["share"], interval=(low, high))
            for m, (low, high) in zip(found, ends, strict=True)
        ]
        alpha = question["agreement_alpha"]
        said = f" {counted(question['num_votes'], 'vote')} of {question['num_participants']} people"
        said += f", {question['num_no_difference']} saw no difference"
        said += f", agreement α {alpha:.2f}" if alpha is not None else ""
        said += ". Share of the votes in which a method was shown, 95 % interval. "
        caption = join([tag("b", f"{one.label}: {question['question']}"), said, *question["warnings"]])
        drawn.append(figure(value_chart(f"Preference, {question['question']}", "", series), caption))
    return tag("div", drawn, class_="grid-of-plots")

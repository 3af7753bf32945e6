"""The page, section by section, in reading order."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

from motionloom import __version__
from motionloom.errors import ConfigError
from motionloom.metrics.scores import ClipScores, Number, Summary, as_float
from motionloom.reporting.compare import (
    OVERALL,
    Comparison,
    Row,
    badness,
    chosen_clips,
    compare,
    definitions_that_differ,
    pair,
    summary_rows,
)
from motionloom.reporting.inputs import Results, Run, ScoreSet, StudyResults
from motionloom.reporting.markup import Html, join, tag
from motionloom.reporting.media import Shelf
from motionloom.reporting.plots import (
    MAX_POINTS,
    Series,
    curves,
    figure,
    legend,
    plane,
    radar,
    short,
    value_chart,
)

MAX_TABLE_CLIPS = 300  # rows of the table of all clips, of each set
MAX_LISTED = 40
ARROWS = {"higher": "↑", "lower": "↓", "none": ""}
STAND_INS = ("fd_random",)  # distances without trained networks
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
    "first_frame",
    "sharpness",
    "temporal_flickering",
)
# VBench's own ranges (Quality score): most methods lie so near 1 that a radar of raw values would show one circle
RANGES = {
    "subject_consistency": (0.1462, 1.0),
    "background_consistency": (0.2615, 1.0),
    "temporal_flickering": (0.6293, 1.0),
    "motion_smoothness": (0.706, 0.9975),
}


@dataclass(frozen=True)
class Choices:
    """What the person asked for; see `report`."""

    num_cases: int = 15
    plane: tuple[str, str] | None = None
    paired: bool = True
    title: str | None = None


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    content: Html | None


def page_of(results: Results, shelf: Shelf, choices: Choices) -> str:
    """The whole page."""
    sets = results.sets
    labels = [one.label for one in sets] + [one.label for one in results.runs]
    labels += [one.label for one in results.studies]
    title = choices.title or ", ".join(dict.fromkeys(labels))
    sections = [section for section in _sections(results, shelf, choices) if section.content]
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "media-src data: file: 'self'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content=f"MotionLoom {__version__}"),
        tag("title", f"{title} · MotionLoom report"),
        tag("style", Html(_asset("page.css"))),
    )
    links = [tag("li", tag("a", section.title, href=f"#{section.id}")) for section in sections]
    links.append(tag("li", tag("button", "Light or dark", id="theme", type="button")))
    body = tag(
        "body",
        tag("a", "Skip to the results", href=f"#{sections[0].id}" if sections else "#", class_="skip"),
        tag("header", tag("h1", title), _lead(results), class_="page"),
        tag("nav", tag("ul", links), aria_label="Sections"),
        tag("main", [_drawn(section) for section in sections]),
        tag(
            "footer",
            f"Written by MotionLoom {__version__} from files alone; nothing was measured for this page.",
        ),
        tag("script", Html(script)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _asset(name: str) -> str:
    return files("motionloom.reporting").joinpath(name).read_text("utf-8")


def _drawn(section: Section) -> Html:
    heading = tag("h2", section.title, id=f"{section.id}-title")
    return tag("section", heading, section.content, id=section.id, aria_labelledby=f"{section.id}-title")


def _sections(results: Results, shelf: Shelf, choices: Choices) -> Iterable[Section]:
    sets = results.sets
    if sets:
        rows = summary_rows(sets)
        yield Section("summary", "Summary", join([_banners(sets), _summary_table(sets, rows)]))
        yield Section("charts", "Charts", _charts(sets, rows))
        yield Section("plane", "Motion and fidelity", _plane(sets, choices.plane))
        if choices.paired and len(sets) > 1:
            yield Section("paired", "Clip by clip", join([_paired(sets[0], other) for other in sets[1:]]))
        yield Section("clips", "Clips", _cases(sets, shelf, choices.num_cases))
    if results.studies:
        yield Section("people", "What people preferred", join([_study(one) for one in results.studies]))
    if results.runs:
        yield Section("training", "Training", _training(results.runs))
    if sets:
        yield Section("missing", "Not measured", _not_measured(sets))
        yield Section("made", "How it was measured", join([_made(one) for one in sets]))


def _lead(results: Results) -> Html:
    parts = [
        f"{one.label}: {_count(len(one.scores.clips), 'clip')}"
        + (f", {_count(one.scores.num_references, 'real clip')}" if one.scores.num_references else "")
        + (f", protocol {one.scores.protocol.name}" if one.scores.protocol else "")
        for one in results.sets
    ]
    parts += [
        f"{one.label}: training, {_count(len(one.records), 'line')} of progress up to step {_last_step(one):,}"
        for one in results.runs
    ]
    parts += [f"{one.label}: preference study" for one in results.studies]
    return tag("p", "; ".join(parts) + ".", class_="soft")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# --- summary


def _banners(sets: Sequence[ScoreSet]) -> Html:
    """What a reader must know before quoting a number."""
    alarms: list[str] = []
    for one in sets:
        scores = one.scores
        if scores.partial:
            alarms.append(
                f"{one.label} is partial: {_count(len(scores.failures), 'failure')}, "
                f"{_count(len(scores.left_out), 'metric')} left out; its means do not hold everything"
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


def _summary_table(sets: Sequence[ScoreSet], rows: Sequence[Row]) -> Html:
    head = tag(
        "tr",
        tag("th", "Value", scope="col"),
        [
            tag(
                "th",
                one.label,
                tag("small", _count(len(one.scores.clips), "clip")),
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
    table = tag("table", _caption(caption), tag("thead", head), tag("tbody", body))
    return join([_scrolling(table, "Summary"), _numbered(notes)])


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
    below: list[str] = []
    if cell.interval is not None:
        below.append(f"[{_fixed(cell.interval[0], decimals)}, {_fixed(cell.interval[1], decimals)}]")
    if cell.spread is not None:
        below[-1:] = [", ".join([*below[-1:], f"sd {_fixed(cell.spread, decimals)}"])]
    if cell.sample is not None:
        sample = cell.sample
        below.append(f"{sample.num_real:,} real, {sample.num_generated:,} generated")
        below.append(f"{_count(sample.num_frames, 'frame')}, {sample.num_features:,}-d")
    elif cell.num_used != num_clips or cell.num_expected != num_clips or cell.num_excluded:
        below.append(
            f"{cell.num_used} of {cell.num_expected}"
            + (f", {cell.num_excluded} not finite" if cell.num_excluded else "")
        )
    if cell.num_clusters and cell.num_clusters != cell.num_used:
        below.append(f"{cell.num_clusters} independent")
    said = _fixed(as_float(cell.value), decimals)
    return tag(
        "td",
        tag("span", "best: ", class_="skip") if best else None,
        ("≈ " if close else "") + said,
        [tag("small", line) for line in below],
        class_="number best" if best else "number",
        title=cell.interval_method or None,
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


def _fixed(number: float, decimals: int) -> str:
    if not math.isfinite(number) or (number and abs(number) >= 1e6):
        return short(number)
    said = f"{number:.{decimals}f}"
    return said.replace("-", "−") if float(said) else said.replace("-", "")


def _numbered(notes: dict[str, int]) -> Html | None:
    if not notes:
        return None
    return tag("ol", [tag("li", tag("small", note)) for note in notes], aria_label="Notes to the table")


def _caption(text: str) -> Html:
    return tag("caption", tag("span", text))


def _scrolling(table: Html, name: str) -> Html:
    return tag("div", table, class_="scroll", role="region", aria_label=name, tabindex=0)


# --- charts


def _charts(sets: Sequence[ScoreSet], rows: Sequence[Row]) -> Html:
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


def _plane(sets: Sequence[ScoreSet], asked: tuple[str, str] | None) -> Html | None:
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


# --- paired


def _paired(a: ScoreSet, b: ScoreSet) -> Html:
    pairing = pair(a, b)
    said = f"{b.label} against {a.label}: {_count(len(pairing.pairs), 'pair')} of clips with the same name"
    said += f" ({'; '.join(pairing.refused)})" if pairing.refused else ""
    results = compare(pairing) if len(pairing.pairs) > 1 else []
    if not results:
        return tag("p", f"{said}. Nothing to compare.")
    titles = ("Value", f"{b.label} − {a.label}", "95 % interval", "p (Holm)", "Cliff's δ", "Pairs", "")
    head = tag(
        "tr",
        [tag("th", words, scope="col", class_="number" if i else None) for i, words in enumerate(titles)],
    )
    about = (
        "Differences of pairs, averaged within each prompt or picture; p by sign flips over prompts or pictures "
        "(fractions: McNemar), corrected by Holm over all values of this table. Cliff's δ: from −1, always lower, to 1."
    )
    table = tag(
        "table",
        _caption(about),
        tag("thead", head),
        tag("tbody", [_paired_row(one) for one in results]),
    )
    return join([tag("p", f"{said}."), _scrolling(table, f"{b.label} against {a.label}")])


def _paired_row(one: Comparison) -> Html:
    result, interval = one.paired, one.paired.interval
    width = (interval[1] - interval[0]) if interval else 0.0
    decimals = min(6, max(0, 1 - math.floor(math.log10(width / 2)))) if width > 0 else 4
    verdict = one.verdict
    cells: list[object] = [
        _fixed(result.mean_difference, decimals),
        f"[{_fixed(interval[0], decimals)}, {_fixed(interval[1], decimals)}]" if interval else "–",
        "–"
        if one.p_corrected is None
        else ("< 0.001" if one.p_corrected < 0.001 else f"{one.p_corrected:.3f}"),
        _fixed(result.cliffs_delta, 2),
        f"{result.num_pairs} ({result.num_clusters} independent)",
        tag("span", verdict, class_=verdict) if verdict else "",
    ]
    name = tag("th", f"{one.name} {ARROWS[one.summary.direction]}".rstrip(), scope="row")
    return tag("tr", name, [tag("td", cell, class_="number") for cell in cells])


# --- clips


def _cases(sets: Sequence[ScoreSet], shelf: Shelf, count: int) -> Html:
    worst = badness(sets)
    chosen = chosen_clips(worst, count)
    by_id = [{clip.id: clip for clip in one.scores.clips} for one in sets]
    cases = []
    for clip_id, why in chosen:
        members = [(i, one, by_id[i][clip_id]) for i, one in enumerate(sets) if clip_id in by_id[i]]
        cases.append(_case(clip_id, why, members, len(sets), shelf, worst[clip_id]))
    said = f"{len(chosen)} of {_count(len(worst), 'clip')}, worst first by mean rank"
    said += ": a third each of the worst, the middle and the best." if len(chosen) < len(worst) else "."
    keys = join(
        [tag("kbd", "j"), " ", tag("kbd", "k"), " next and previous, ", tag("kbd", "space"), " plays, "]
    )
    keys = join([keys, tag("kbd", "←"), " ", tag("kbd", "→"), " one frame."])
    tools = tag(
        "div",
        tag("button", "Play what is on screen", id="play-all", type="button", aria_pressed="false"),
        tag("label", "Order: ", _order(worst, chosen)),
        tag("span", keys, class_="soft"),
        class_="tools",
    )
    shown = join([tools, tag("div", cases)]) if cases else None
    return join([tag("p", said), shown, [_all_clips(one, worst) for one in sets]])


def _order(worst: dict[str, dict[str, float]], chosen: Sequence[tuple[str, str]]) -> Html:
    names = dict.fromkeys([OVERALL, *(name for clip_id, _ in chosen for name in worst[clip_id])])
    words = {OVERALL: "worst overall"}
    options = [tag("option", words.get(name, f"worst {name}"), value=name) for name in names]
    return tag("select", options, id="order")


def _case(
    clip_id: str,
    why: str,
    members: Sequence[tuple[int, ScoreSet, ClipScores]],
    num_sets: int,
    shelf: Shelf,
    worst: dict[str, float],
) -> Html:
    first = members[0][2]
    facts = [
        f"seed {first.seed}" if first.seed is not None else "",
        first.class_name or "",
        first.subject or "",
    ]
    header = tag(
        "header",
        tag("h3", clip_id),
        tag("span", why, class_="chip") if why else None,
        tag("p", first.prompt) if first.prompt else None,
        tag("p", " · ".join(filter(None, facts))) if any(facts) else None,
        tag("p", f"in {len(members)} of {num_sets} sets") if len(members) < num_sets else None,
    )
    weakest = sorted((name for name in worst if name != OVERALL), key=lambda name: (-worst[name], name))[:3]
    weak = [f"{name} ({worst[name]:.0%} of clips do better)" for name in weakest if worst[name] > 0.5]
    shown = [shelf.show(clip, one) for _, one, clip in members]
    screens = [
        _screen(i, one, clip, media.src, media.note)
        for (i, one, clip), media in zip(members, shown, strict=True)
    ]
    player = tag(
        "div",
        tag("button", "Play", type="button", aria_pressed="false", aria_label=f"Play {clip_id}"),
        tag("input", type="range", min="0", max="1", step="any", value="0", aria_label=f"Time in {clip_id}"),
        tag("output"),
        class_="player",
    )
    return tag(
        "article",
        header,
        None if shelf.mode == "none" else tag("div", screens, class_="screens"),
        player if any(media.src for media in shown) else None,
        tag("p", "Weakest in ", "; ".join(weak), ".", class_="soft") if weak else None,
        _case_numbers(members),
        class_="case",
        tabindex=0,
        aria_label=f"Clip {clip_id}",
        data_worst=json.dumps({name: round(rank, 4) for name, rank in worst.items()}),
    )


def _screen(which: int, one: ScoreSet, clip: ClipScores, src: str | None, note: str) -> Html:
    if src is not None:
        screen = tag(
            "video",
            src=src,
            muted=True,
            playsinline=True,
            preload="auto" if src.startswith("data:") else "metadata",
            data_fps=f"{clip.fps:g}",
            width=clip.width_px,
            height=clip.height_px,
            aria_label=f"{clip.id} by {one.label}",
            style="height:auto",
        )
    else:
        screen = tag("div", note, class_="absent")
    facts = f"{clip.width_px}×{clip.height_px}, {_count(clip.num_frames, 'frame')} at {clip.fps:g} fps"
    notes = [facts, *([note] if src and note else []), *clip.notes]
    return tag(
        "figure",
        screen,
        tag(
            "figcaption",
            legend([(one.label, which)]),
            tag("small", "; ".join(notes)),
        ),
    )


def _case_numbers(members: Sequence[tuple[int, ScoreSet, ClipScores]]) -> Html:
    """Every value of every set, and the curves over frames."""
    summaries = {name: summary for _, one, _ in members for name, summary in one.scores.summary.items()}
    names = dict.fromkeys(name for _, _, clip in members for name in clip.values)
    labels = [tag("th", one.label, scope="col", class_="number") for _, one, _ in members]
    lines = []
    for name in names:
        arrow = ARROWS[summaries[name].direction] if name in summaries else ""
        cells = [short(as_float(clip.values[name])) if name in clip.values else "–" for _, _, clip in members]
        row = tag("th", f"{name} {arrow}".rstrip(), scope="row")
        lines.append(tag("tr", row, [tag("td", cell, class_="number") for cell in cells]))
    head = tag("thead", tag("tr", tag("th", "Value", scope="col"), labels))
    table = _scrolling(tag("table", head, tag("tbody", lines)), "Values of this clip")
    return tag("details", tag("summary", "Its values and curves"), _case_curves(members), table)


def _case_curves(members: Sequence[tuple[int, ScoreSet, ClipScores]]) -> Html:
    drawn = []
    for name in dict.fromkeys(name for _, _, clip in members for name in clip.curves):
        series = [
            Series(
                one.label,
                i,
                [as_float(number) for number in clip.curves[name]],
                range(len(clip.curves[name])),
            )
            for i, one, clip in members
            if clip.curves.get(name)
        ]
        if any(math.isfinite(y) for one in series for y in one.ys):
            drawn.append(figure(curves("frame", name, series, small=True), tag("b", name)))
    return tag("div", drawn, class_="grid-of-plots")


def _all_clips(one: ScoreSet, worst: dict[str, dict[str, float]]) -> Html:
    clips = sorted(one.scores.clips, key=lambda clip: (-worst[clip.id][OVERALL], clip.id))
    names = list(dict.fromkeys(name for clip in clips for name in clip.values))
    titles = ["Clip", *names]
    head = tag(
        "tr",
        [
            tag("th", tag("button", words, type="button"), scope="col", class_="number" if i else None)
            for i, words in enumerate(titles)
        ],
    )
    body = [_clip_line(clip, names) for clip in clips[:MAX_TABLE_CLIPS]]
    left = len(clips) - len(body)
    caption = "Worst first; a click on a title sorts." + (
        f" {left:,} more clips stand in {one.file.name} only." if left else ""
    )
    table = tag("table", _caption(caption), tag("thead", head), tag("tbody", body))
    return tag(
        "details",
        tag("summary", f"Every clip of {one.label} ({len(clips):,})"),
        _scrolling(table, f"Every clip of {one.label}"),
    )


def _clip_line(clip: ClipScores, names: Sequence[str]) -> Html:
    cells = []
    for name in names:
        number = as_float(clip.values[name]) if name in clip.values else math.nan
        said = short(number) if name in clip.values else "–"
        cells.append(
            tag("td", said, class_="number", data_value=f"{number:.6g}" if math.isfinite(number) else "-1e99")
        )
    return tag("tr", tag("th", clip.id, scope="row"), cells)


# --- people


def _study(one: StudyResults) -> Html:
    """Shares of votes; the numbers are those of `study analyse`."""
    parts: list[Html] = []
    for question in one.results.get("questions", []):
        methods = question.get("methods", [])
        series = [
            Series(str(m["method"]), i, [], mean=m["share"], interval=tuple(m["share_interval"]))
            for i, m in enumerate(methods[:MAX_LISTED])
        ]
        caption = join(
            [
                tag("b", f"{one.label}: {question.get('question')}"),
                f" {question.get('num_votes')} votes of {question.get('num_participants')} people;"
                " share of the votes in which a method was shown, 95 % interval.",
            ]
        )
        parts.append(figure(value_chart(f"Preference, {question.get('question')}", "", series), caption))
    return tag("div", parts, class_="grid-of-plots")


# --- training


def _training(runs: Sequence[Run]) -> Html:
    charts = []
    for group, log in (("losses", True), ("numbers", False), ("grad_norm", True), ("lr", False)):
        names = dict.fromkeys(
            name for run in runs for record in run.records for name in record.get(group) or {}
        )
        charts += [_training_figure(runs, group, name, log) for name in names]
    charts.append(_training_figure(runs, "", "samples_per_second", False))
    keys = legend([(run.label, i) for i, run in enumerate(runs)]) if len(runs) > 1 else None
    plots = tag("div", [chart for chart in charts if chart is not None], class_="grid-of-plots")
    return join([keys, plots, [_run_facts(run) for run in runs]])


def _training_figure(runs: Sequence[Run], group: str, name: str, log: bool) -> Html | None:
    series, lost = [], 0
    for i, run in enumerate(runs):
        points = []
        for record in run.records:
            holder = (record.get(group) or {}) if group else record
            if isinstance(holder, dict) and name in holder:
                number = holder[name]
                is_number = isinstance(number, int | float) and math.isfinite(number)
                points.append((float(record["step"]), float(number) if is_number else math.nan))
        lost += sum(math.isnan(y) for _, y in points)
        if any(math.isfinite(y) for _, y in points):
            xs, ys = zip(*points, strict=True)
            series.append(Series(run.label, i, ys, xs))
    if not series:
        return None
    longest = max(len(one.xs) for one in series)
    per = math.ceil(longest / MAX_POINTS)
    shown = {"losses": "loss", "numbers": "", "grad_norm": "gradient norm", "lr": "learning rate", "": ""}[
        group
    ]
    words = " ".join(filter(None, (shown, name.replace("_", " ") if not group else name)))
    notes = [f" Mean of {per} logged lines a point." if per > 1 else ""]
    notes.append(f" {_count(lost, 'number')} not finite, left open." if lost else "")
    return figure(curves("step", words, series, log=log), join([tag("b", words), *notes]))


def _last_step(run: Run) -> int:
    return max((int(record["step"]) for record in run.records), default=0)


def _run_facts(run: Run) -> Html:
    seconds = next(
        (r.get("elapsed_seconds") for r in reversed(run.records) if r.get("elapsed_seconds")), None
    )
    facts = [f"{run.label}: step {_last_step(run):,}"]
    facts += [f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"] if seconds else []
    facts += [f"{_count(run.num_damaged, 'line')} of the log could not be read"] if run.num_damaged else []
    events = [
        tag("li", f"step {int(event['step']):,}: {event.get('message') or event['event']}")
        for event in run.events[-MAX_LISTED:]
    ]
    hidden = len(run.events) - len(events)
    more = tag("li", f"{hidden} earlier events stand in {run.folder.name}/log.jsonl") if hidden > 0 else None
    return join(
        [
            tag("p", ", ".join(facts) + "."),
            tag("details", tag("summary", "Events"), tag("ul", more, events)) if events else None,
            tag("details", tag("summary", "Recipe"), tag("pre", run.recipe)) if run.recipe else None,
        ]
    )


# --- what is missing, and what made it


def _not_measured(sets: Sequence[ScoreSet]) -> Html:
    left = [
        tag("li", tag("b", one.label), ": ", tag("code", item.metric), f" – {item.reason}. {item.fix}")
        for one in sets
        for item in one.scores.left_out
    ]
    failures = [
        tag(
            "li",
            tag("b", one.label),
            ": ",
            tag("code", item.file),
            f" ({item.metric})" if item.metric else "",
            f" – {item.reason}",
        )
        for one in sets
        for item in one.scores.failures
    ]
    hidden = len(failures) - 5 * MAX_LISTED
    more = tag("p", f"{hidden} more stand in scores.json.") if hidden > 0 else None
    parts = [
        join([tag("h3", "Metrics left out"), tag("ul", left)]) if left else None,
        join([tag("h3", "Clips that failed"), tag("ul", failures[: 5 * MAX_LISTED]), more])
        if failures
        else None,
    ]
    return join(parts) if left or failures else tag("p", "Every metric asked for ran on every clip.")


def _made(one: ScoreSet) -> Html:
    scores = one.scores
    protocol = scores.protocol
    lines: list[tuple[str, object]] = [
        ("Command", tag("code", scores.command)),
        ("Clips", tag("code", scores.clips_from)),
        ("References", tag("code", scores.references_from) if scores.references_from else "none"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in scores.versions.items())),
        ("Settings", tag("code", json.dumps(scores.settings, ensure_ascii=False))),
    ]
    if protocol is not None:
        followed = "; ".join(protocol.deviations) or "followed in full"
        lines.append(("Protocol", f"{protocol.name}: {protocol.about} ({protocol.source}). {followed}"))
    lines += [
        (
            f"Network {used.name}",
            join([f"{used.licence}, ", tag("code", used.file), " sha256 ", tag("code", used.sha256)]),
        )
        for used in scores.weights
    ]
    body = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in lines]
    table = tag("table", _caption(f"{one.label}, {one.file}"), tag("tbody", body))
    return _scrolling(table, f"How {one.label} was measured")

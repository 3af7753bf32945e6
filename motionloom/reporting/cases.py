"""The clips: some in full, side by side, worst first; all of them in a table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from motionloom.metrics.scores import ClipScores, as_float
from motionloom.reporting.compare import OVERALL, badness, chosen_clips
from motionloom.reporting.inputs import ScoreSet
from motionloom.reporting.markup import Html, join, tag
from motionloom.reporting.media import Shelf
from motionloom.reporting.plots import Series, curves, figure, legend, short
from motionloom.reporting.tables import ARROWS, caption_of, counted, scrolling

MAX_TABLE_CLIPS = 300  # rows of the table of all clips, of each set


def cases(sets: Sequence[ScoreSet], shelf: Shelf, count: int) -> Html:
    """`count` clips in full, worst first, then a table of every clip of every set."""
    worst = badness(sets)
    chosen = chosen_clips(worst, count)
    by_id = [{clip.id: clip for clip in one.scores.clips} for one in sets]
    cases = []
    for clip_id, why in chosen:
        members = [(i, one, by_id[i][clip_id]) for i, one in enumerate(sets) if clip_id in by_id[i]]
        cases.append(_case(clip_id, why, members, len(sets), shelf, worst[clip_id]))
    said = f"{len(chosen)} of {counted(len(worst), 'clip')}, worst first by mean rank"
    said += ": some of the worst, of the middle and of the best." if len(chosen) < len(worst) else "."
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
    facts = f"{clip.width_px}×{clip.height_px}, {counted(clip.num_frames, 'frame')} at {clip.fps:g} fps"
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
    table = scrolling(tag("table", head, tag("tbody", lines)), "Values of this clip")
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
    table = tag("table", caption_of(caption), tag("thead", head), tag("tbody", body))
    return tag(
        "details",
        tag("summary", f"Every clip of {one.label} ({len(clips):,})"),
        scrolling(table, f"Every clip of {one.label}"),
        class_="wide",  # too wide for paper: stays folded there
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

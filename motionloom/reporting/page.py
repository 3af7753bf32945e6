"""The page, section by section, in reading order."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files

from motionloom import __version__
from motionloom.reporting.cases import cases
from motionloom.reporting.charts import charts, motion_and_fidelity, preferences
from motionloom.reporting.compare import summary_rows
from motionloom.reporting.inputs import Results
from motionloom.reporting.markup import Html, join, tag
from motionloom.reporting.media import Shelf
from motionloom.reporting.paired import paired_table
from motionloom.reporting.provenance import how_measured, not_measured
from motionloom.reporting.summary import banners, summary_table
from motionloom.reporting.tables import counted
from motionloom.reporting.training import last_step, training


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
        yield Section("summary", "Summary", join([banners(sets), summary_table(sets, rows)]))
        yield Section("charts", "Charts", charts(sets, rows))
        yield Section("plane", "Motion and fidelity", motion_and_fidelity(sets, choices.plane))
        if choices.paired and len(sets) > 1:
            yield Section(
                "paired", "Clip by clip", join([paired_table(sets[0], other) for other in sets[1:]])
            )
        yield Section("clips", "Clips", cases(sets, shelf, choices.num_cases))
    if results.studies:
        yield Section("people", "What people preferred", join([preferences(one) for one in results.studies]))
    if results.runs:
        yield Section("training", "Training", training(results.runs))
    if sets:
        yield Section("missing", "Not measured", not_measured(sets))
        yield Section("made", "How it was measured", join([how_measured(one) for one in sets]))


def _lead(results: Results) -> Html:
    parts = [
        f"{one.label}: {counted(len(one.scores.clips), 'clip')}"
        + (f", {counted(one.scores.num_references, 'real clip')}" if one.scores.num_references else "")
        + (f", protocol {one.scores.protocol.name}" if one.scores.protocol else "")
        for one in results.sets
    ]
    parts += [
        f"{one.label}: training, {counted(len(one.records), 'line')} of progress up to step {last_step(one):,}"
        for one in results.runs
    ]
    parts += [f"{one.label}: preference study" for one in results.studies]
    return tag("p", "; ".join(parts) + ".", class_="soft")

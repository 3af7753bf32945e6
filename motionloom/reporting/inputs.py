"""Folders => the results in them: scores, training runs, preference studies."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motionloom.errors import InputError
from motionloom.labels import named_paths
from motionloom.metrics.scores import Scores, load_scores

SCORES, LOG, STUDY = "scores.json", "log.jsonl", "results.json"
STUDY_VERSION = 1


@dataclass(frozen=True)
class ScoreSet:
    """The scores of one set of clips."""

    label: str
    file: Path
    scores: Scores


@dataclass(frozen=True)
class Run:
    """One training run: its progress lines, its events, its recipe."""

    label: str
    folder: Path
    records: list[dict[str, Any]]
    events: list[dict[str, Any]]
    recipe: str = ""
    num_damaged: int = 0  # lines of the log that are no JSON


@dataclass(frozen=True)
class StudyResults:
    """What `motionloom study analyse` wrote."""

    label: str
    file: Path
    results: dict[str, Any]


@dataclass
class Results:
    """Everything the folders hold, in the order they were given."""

    sets: list[ScoreSet] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    studies: list[StudyResults] = field(default_factory=list)


def find_results(places: Sequence[str | os.PathLike[str]]) -> Results:
    """Read every place: a folder with results, a folder of such folders, or a scores file.

    Raises:
        InputError: a place is missing, holds nothing to report, or something that cannot be read.
        ConfigError: two places have one name.
    """
    found = Results()
    for label, place in named_paths(places):
        before = len(found.sets) + len(found.runs) + len(found.studies)
        for name, path in _places_with_results(label, place):
            _read(name, path, found)
        if len(found.sets) + len(found.runs) + len(found.studies) == before:
            raise InputError(
                f"nothing to report in \"{place}\": expected {SCORES}, a run's {LOG} or a study's {STUDY}",
                fix="check the path"
                if not place.exists()
                else "run `motionloom evaluate` or `motionloom train`",
            )
    return found


def _places_with_results(label: str, place: Path) -> Iterator[tuple[str, Path]]:
    if place.is_file() or _holds_results(place):
        yield label, place
    elif place.is_dir():
        for folder in sorted(path for path in place.iterdir() if _holds_results(path)):
            yield f"{label}/{folder.name}", folder


def _holds_results(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (SCORES, LOG, STUDY))


def _read(label: str, place: Path, found: Results) -> None:
    if place.is_file():
        found.sets.append(ScoreSet(label, place, load_scores(place)))
        return
    if (place / SCORES).is_file():
        found.sets.append(ScoreSet(label, place / SCORES, load_scores(place)))
    if (place / LOG).is_file():
        found.runs.append(read_run(label, place))
    if (place / STUDY).is_file() and (study := _read_study(place / STUDY)) is not None:
        found.studies.append(StudyResults(label, place / STUDY, study))


def read_run(label: str, folder: Path) -> Run:
    """A run folder's log and recipe. Damaged lines (a run that was killed while writing) are counted."""
    records: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    damaged = 0
    for line in _text_of(folder / LOG).splitlines():
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or not isinstance(entry.get("step"), int | float):
            damaged += 1
        else:
            (events if "event" in entry else records).append(entry)
    recipe = folder / "recipe.yaml"
    return Run(label, folder, records, events, _text_of(recipe) if recipe.is_file() else "", damaged)


def _read_study(file: Path) -> dict[str, Any] | None:
    """None for a results.json of something else. Raises InputError for another version."""
    try:
        content = json.loads(_text_of(file))
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("kind") != "motionloom study":
        return None
    if content.get("version") != STUDY_VERSION:
        raise InputError(
            f'cannot read "{file}": version {content.get("version")!r}, this MotionLoom reads {STUDY_VERSION}',
            fix="run `motionloom study analyse` again",
        )
    return content


def _text_of(file: Path) -> str:
    try:
        return file.read_text("utf-8", errors="replace")
    except OSError as problem:
        raise InputError(f'cannot read "{file}": {problem.strerror}', fix="check the permissions") from None

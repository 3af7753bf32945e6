"""Result folders -> one self-contained HTML page: the verb `report`.

report(["runs/a", "runs/b"], out="report.html")     # folders with scores.json, log.jsonl or a study's results.json

The page opens from the disk and loads nothing from a network. Everything on it was read from files; nothing is measured
again. A leaf: nothing else in the package knows it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from motionloom.durable import write_text
from motionloom.errors import ConfigError
from motionloom.reporting.inputs import find_results
from motionloom.reporting.media import Mode, Shelf
from motionloom.reporting.page import Choices, page_of
from motionloom.reporting.plots import NUM_COLOURS

Place = str | os.PathLike[str]


def report(
    places: Sequence[Place],
    out: Place = "report.html",
    *,
    clips: Mode = "auto",
    num_cases: int = 15,
    plane: tuple[str, str] | None = None,
    paired: bool = True,
    title: str | None = None,
) -> Path:
    """Write the page and return its path.

    Args:
        places: folders that hold results, folders of such folders, or scores files; "name=folder" names one.
        out: the page.
        clips: "auto" embeds small clips and links large ones; "embed" or "link" all; "none" shows no clips.
        num_cases: clips shown in full, a third each of the worst, the middle and the best; the table has all.
        plane: (value across, value up) of the scatter plot; default motion against fidelity.
        paired: compare the other sets with the first clip by clip.
        title: of the page.

    Raises:
        InputError: a place is missing, holds no results, or results that cannot be read.
        ConfigError: two places of one name, more sets than can be told apart, or a plane of unknown values.
        ResourceError: the disk refuses; an older page stays.
    """
    if not places:
        raise ConfigError("nothing to report", fix="give folders with scores.json or run folders")
    if num_cases < 0:
        raise ConfigError(f"the number of cases is {num_cases}, expected 0 or more", fix="15 is the default")
    results = find_results(places)
    if max(len(results.sets), len(results.runs)) > NUM_COLOURS:
        raise ConfigError(
            f"{len(results.sets)} sets and {len(results.runs)} runs, a page tells at most {NUM_COLOURS} of each apart",
            fix="write several reports",
        )
    target = Path(out)
    return write_text(
        target, page_of(results, Shelf(clips, target), Choices(num_cases, plane, paired, title))
    )

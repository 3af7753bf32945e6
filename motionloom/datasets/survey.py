"""What a folder of a published data set holds: counts, rates, sizes, captions, and what cannot be used and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from motionloom.datasets.cater_captions import tokens
from motionloom.datasets.layout import Contents, Entry, Layout
from motionloom.errors import MotionLoomError
from motionloom.video.clip import Clip

READ_BY_DEFAULT = 32  # clips a split, evenly spread, unless all are asked for
LISTED = 20

Progress = Callable[[str, int, int], None]


def survey(
    layout: Layout,
    read_all: bool = False,
    progress: Progress = lambda stage, done, total: None,
    on_clip: Callable[[str, Entry, Clip], None] = lambda split, entry, clip: None,
) -> dict[str, Any]:
    """Facts about the main splits of a data set, as JSON.

    Args:
        layout: the opened data set.
        read_all: read every clip; otherwise READ_BY_DEFAULT of each split, evenly spread.
        progress: called with (split, clips read, clips to read).
        on_clip: called with each clip that could be read, for a contact sheet.

    Returns:
        {"layout": title, "folder", "splits": {split: {"clips", "official_clips", "subjects", "captions", "caption_words",
        "clips_read", "frames", "frames_per_second", "sizes", "refused": {name: reason}, "refused_clips", "notes"}}}
    """
    splits: dict[str, Any] = {}
    for split in layout.main_splits:
        try:
            contents = layout.contents(split)
        except MotionLoomError as problem:
            splits[split] = {"clips": 0, "problem": problem.message}
            continue
        if contents.entries or contents.refused:
            splits[split] = _describe(
                layout, split, layout.official_counts[split], contents, read_all, progress, on_clip
            )
    return {"layout": layout.title, "folder": str(layout.folder), "splits": splits}


def _describe(
    layout: Layout,
    split: str,
    official: int,
    contents: Contents,
    read_all: bool,
    progress: Progress,
    on_clip: Callable[[str, Entry, Clip], None],
) -> dict[str, Any]:
    chosen = contents.entries if read_all else spread(contents.entries, READ_BY_DEFAULT)
    lengths: list[int] = []
    rates: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    refused = list(contents.refused)
    for number, entry in enumerate(chosen, start=1):
        try:
            clip = layout.read(entry)
        except MotionLoomError as problem:
            refused.append((entry.name, problem.message))
        else:
            lengths.append(clip.num_frames)
            rates[f"{clip.fps:.6g}"] += 1
            sizes[f"{clip.width_px}x{clip.height_px}"] += 1
            on_clip(split, entry, clip)
        progress(split, number, len(chosen))
    texts = [entry.text for entry in contents.entries if entry.text is not None]
    facts: dict[str, Any] = {"clips": len(contents.entries)}
    if official:
        facts["official_clips"] = official
    subjects = {entry.subject for entry in contents.entries if entry.subject is not None}
    if subjects:
        facts["subjects"] = len(subjects)
    if texts:
        facts["captions"] = len(texts)
        facts["caption_words"] = len({word for text in texts for word in tokens(text)})
    facts["clips_read"] = len(chosen)
    if lengths:
        facts["frames"] = {
            "least": min(lengths),
            "most": max(lengths),
            "mean": round(float(np.mean(lengths)), 2),
        }
        facts["frames_per_second"] = dict(rates)
        facts["sizes"] = dict(sizes)
    facts["refused_clips"] = len(refused)
    facts["refused"] = dict(refused[:LISTED])
    if contents.notes:
        facts["notes"] = contents.notes
    return facts


def spread(entries: list[Entry], count: int) -> list[Entry]:
    """At most `count` entries, evenly over the list, the first and the last among them."""
    if len(entries) <= count:
        return entries
    return [entries[int(k)] for k in np.linspace(0, len(entries) - 1, count)]

"""Clips of the world `blocks` against the truth: what was asked for, what they show, how far the two are apart.

    measure_blocks("data/blocks")                           the world's own test clips: the ceiling of the method
    measure_blocks("data/blocks", "samples/")               clips a model made from their first frames

Clips of a model are named as the world's, with anything after an underscore for further samples of one first frame:
CATER_test_000007.mp4, or CATER_test_000007_0.mp4, CATER_test_000007_1.mp4.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from motionloom.datasets.cater import CaterGen
from motionloom.datasets.cater_captions import Mode, parse_caption
from motionloom.datasets.layout import Entry
from motionloom.datasets.survey import spread
from motionloom.datasets.worlds.blocks.folder import read_scene
from motionloom.datasets.worlds.blocks.observe import SIDE_PX, Observer, Seen, describe
from motionloom.datasets.worlds.blocks.render import Caster
from motionloom.datasets.worlds.blocks.scene import TICKS, Scene
from motionloom.datasets.worlds.precision import mean_precision, precision_of
from motionloom.errors import InputError
from motionloom.video.read import read_clip

SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".gif", ".webp")
IN_VIEW_PX = 20  # pixels, of 128 x 128, that a block must show at the end to be asked for
DESCRIBED_BY = "analysis by synthesis (motionloom.datasets.worlds.blocks.observe)"


def measure_blocks(
    world: str | Path,
    clips: str | Path | None = None,
    split: str = "test",
    captions: Mode = "ambiguous",
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Scores of a folder of clips that begin with the first frames of a world's clips.

    Args:
        world: a folder that `motionloom data synth --world blocks` wrote.
        clips: the clips to score; None scores the world's own.
        split: whose captions and scenes.
        captions: which captions are asked for.
        limit: only so many of the split's clips, evenly spread.
        progress: called with (clips done, clips in all).

    Returns:
        {"clips": scored, "described_by", "p_act", "p_re" in [0, 1] (see `precision`),
        "trajectory_error": table units from where a mover should be, mean over frames and movers,
        "colour_permanence", "shape_permanence": share of blocks that should be in view at the
        end and are found with the colour or shape they began with,
        "diversity": table units between samples of one first frame, mean over frames, movers and pairs; None without them}

    Raises:
        InputError: the world has no such split, or a clip is missing or cannot be read.
    """
    layout = CaterGen(world, captions)
    entries = layout.contents(split).entries
    entries = entries if limit is None else spread(entries, limit)
    if not entries:
        raise InputError(f'"{world}" has no clips in its split "{split}"', fix="write some with --test-count")
    files = [_files_of(layout, entry, clips) for entry in entries]
    scores, errors, colours, shapes, spreads = [], [], [], [], []
    for done, (entry, samples) in enumerate(zip(entries, files, strict=True), start=1):
        scene = read_scene(layout.root / "scenes" / f"{Path(entry.name).stem}.json")
        observer = Observer(scene)
        seen_in = [observer.observe(read_clip(sample).frames) for sample in samples]
        for seen in seen_in:
            scores.append(precision_of(parse_caption(entry.text or ""), describe(seen, captions)))
            errors += trajectory_errors(scene, seen)
            colours += kept(scene, seen, "colour")
            shapes += kept(scene, seen, "shape")
        if len(seen_in) > 1:
            spreads.append(diversity(seen_in))
        progress(done, len(entries))
    precision = mean_precision(scores)
    return {
        "clips": len(scores),
        "described_by": DESCRIBED_BY,
        "p_act": precision.action,
        "p_re": precision.reference,
        "trajectory_error": float(np.mean(errors)) if errors else None,
        "colour_permanence": float(np.mean(colours)),
        "shape_permanence": float(np.mean(shapes)),
        "diversity": float(np.mean(spreads)) if spreads else None,
    }


def kept(scene: Scene, seen: Sequence[Seen], attribute: Literal["colour", "shape"]) -> list[bool]:
    """For each block that should be in view at the end: is it there, and looks as it began?"""
    _, mask = Caster(scene, SIDE_PX, supersample=1).frame(TICKS - 1.0)
    return [
        bool(np.isfinite(one.track[-1, 0])) and getattr(one.looks, attribute) == getattr(block, attribute)
        for one, block in zip(seen, scene.blocks, strict=True)
        if np.count_nonzero(mask == one.number + 1) >= IN_VIEW_PX
    ]


def trajectory_errors(scene: Scene, seen: Sequence[Seen]) -> list[float]:
    """For each block that should move: the mean distance of its base point from where it should be, table units."""
    errors = []
    for movement in scene.movements:
        track = seen[movement.mover].track
        ticks = np.linspace(0, TICKS - 1, len(track))
        true = np.array([scene.pose(movement.mover, float(tick)).base for tick in ticks])
        found = np.isfinite(track[:, 0])
        if found.any():
            errors.append(float(np.linalg.norm(track[found] - true[found], axis=1).mean()))
    return errors


def diversity(samples: Sequence[Sequence[Seen]]) -> float:
    """How far samples of one beginning are apart: the mean distance between two samples' tracks, over frames and those
    blocks that move in any of them, mean over pairs; 0 when nothing moves in any.
    """
    movers = sorted({one.number for sample in samples for one in sample if one.action is not None})
    distances = [
        float(np.nanmean(np.linalg.norm(a[n].track - b[n].track, axis=1)))
        for a, b in itertools.combinations(samples, 2)
        for n in movers
        if np.isfinite(a[n].track[:, 0] + b[n].track[:, 0]).any()
    ]
    return float(np.mean(distances)) if distances else 0.0


def _files_of(layout: CaterGen, entry: Entry, clips: str | Path | None) -> list[Path]:
    """The clip of an entry, or a model's samples of it."""
    if clips is None:
        return [layout.root / entry.place[0]]
    stem = Path(entry.name).stem
    found = sorted(
        path
        for path in Path(clips).glob(f"{stem}*")
        if path.suffix.lower() in SUFFIXES and (path.stem == stem or path.stem.startswith(f"{stem}_"))
    )
    if not found:
        raise InputError(
            f'no clip for "{stem}" in "{clips}"', fix="make one for each clip of the split, or set a limit"
        )
    return found

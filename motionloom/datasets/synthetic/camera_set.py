"""Clips that teach a camera motion: crops of photographs, panned or zoomed (MIVA, supplement D.2).

The paper animates 20 photos x 5 random crops by resizing or translating them, and trains an ordinary adapter on the 100
clips. It gives no speed: here it is constant, and the camera travels, or the picture grows, by 10 to 25 % of the frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from motionloom.datasets.synthetic.camera import PAN, ZOOM, Camera
from motionloom.datasets.synthetic.motion import Region
from motionloom.datasets.synthetic.render import render
from motionloom.datasets.synthetic.write import as_canvas, find_photos
from motionloom.durable import write_text
from motionloom.errors import ConfigError, InputError
from motionloom.video.clip import Clip

TRAVEL = (0.10, 0.25)  # of the frame, over a clip
SMALLEST_CROP = 0.6  # of the largest that fits

# word -> how far the view reaches beyond its start, in frames per travel: (left, right, up, down)
REACH = {
    "pan-left": (1.0, 0.0, 0.0, 0.0),
    "pan-right": (0.0, 1.0, 0.0, 0.0),
    "pan-up": (0.0, 0.0, 1.0, 0.0),
    "pan-down": (0.0, 0.0, 0.0, 1.0),
    "zoom-in": (0.0, 0.0, 0.0, 0.0),
    "zoom-out": (0.5, 0.5, 0.5, 0.5),
}


@dataclass(frozen=True)
class CameraSet:
    """What to write.

    Attributes:
        word: a key of REACH.
        crops: of each photo.
        num_frames, fps: of each clip.
        size_px: (width, height), even.
        seed: clip (i, j), crop j of photo i, is a function of (seed, i, j) alone.

    Raises:
        ConfigError: an unknown word, or numbers that cannot be.
    """

    word: str
    crops: int = 5
    num_frames: int = 16
    fps: float = 8.0
    size_px: tuple[int, int] = (512, 320)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.word not in REACH:
            raise ConfigError(
                f'there is no camera motion "{self.word}"', fix=f"use one of {', '.join(REACH)}"
            )
        if (
            self.crops < 1
            or self.num_frames < 2
            or min(self.size_px) < 16
            or any(s % 2 for s in self.size_px)
        ):
            raise ConfigError(
                f"cannot write {self.crops} crops of {self.num_frames} frames at {self.size_px} px",
                fix="use at least 1 crop, 2 frames and even sides of 16 px or more",
            )


def write_camera_clips(
    photos: str | Path,
    out: str | Path,
    what: CameraSet,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Write `crops` clips of every photo in a folder; the camera never looks beyond a photo's edge.

    Raises:
        InputError: no photo, or one too small to crop.
    """
    paths, written = find_photos(Path(photos)), []
    for i, path in enumerate(paths):
        canvas = as_canvas(path)
        for j in range(what.crops):
            clip = _animated(canvas, path, what, np.random.default_rng([what.seed, i, j]))
            written.append(clip.save(Path(out) / f"{path.stem}_{j}.mp4"))
            write_text(written[-1].with_suffix(".txt"), what.word + "\n")
            progress(i * what.crops + j + 1, len(paths) * what.crops)
    return written


def _animated(canvas: torch.Tensor, path: Path, what: CameraSet, rng: np.random.Generator) -> Clip:
    width_px, height_px = what.size_px
    travel = float(rng.uniform(*TRAVEL))
    view = _view(canvas, path, width_px / height_px, [reach * travel for reach in REACH[what.word]], rng)
    motion = Camera(what.word, amplitude_of(what.word, travel, width_px / height_px))
    rendered = render(canvas, view, [(motion, Region())], what.num_frames, height_px, width_px)
    return Clip(rendered.frames, what.fps, {"motion": what.word, "travel": round(travel, 4)})


def amplitude_of(word: str, travel: float, aspect: float) -> float:
    """The amplitude of a `Camera` that travels, or zooms, by a share of the frame; its unit is the root of the area."""
    if word.startswith("zoom"):
        return math.log1p(travel) / ZOOM
    side = math.sqrt(aspect) if word in ("pan-left", "pan-right") else 1 / math.sqrt(aspect)
    return travel * side / PAN


def _view(
    canvas: torch.Tensor, path: Path, aspect: float, reach: list[float], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A random crop (left, top, width, height), in pixels, with room for the camera's way."""
    left, right, up, down = reach
    photo_height, photo_width = canvas.shape[-2:]
    largest = min(photo_width / (1 + left + right), photo_height * aspect / (1 + up + down))
    if largest < 16:
        raise InputError(f'the photo "{path}" is too small to crop', fix="leave it out")
    width = largest * float(rng.uniform(SMALLEST_CROP, 1.0))
    height = width / aspect
    return (
        float(rng.uniform(left * width, photo_width - (1 + right) * width)),
        float(rng.uniform(up * height, photo_height - (1 + down) * height)),
        width,
        height,
    )

"""A folder of photos => a folder of clips with their words and true flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from motionloom.durable import write_durably, write_text
from motionloom.errors import ConfigError, InputError
from motionloom.video.clip import Clip
from motionloom.video.picture import read_picture

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
Progress = Callable[[int, int], None]


def write_clips(
    photos: str | Path,
    out: str | Path,
    count: int,
    motions: Sequence[str] | None = None,
    frames: int = 16,
    size_px: int = 128,
    fps: float = 8.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Path]:
    """Write `count` square clips of known motion; clip i is a function of (seed, i) alone.

    Beside each `00012_zoom-in.mp4` lie its caption (`.txt`, the motion word) and, where a flow tells the whole story, its
    true backward flow (`.flow.npz`, key "flow", float16 (T, H/4, W/4, 2), frame units).

    Args:
        photos: folder of pictures (searched in depth).
        out: folder to write into; made when missing.
        count: number of clips, at least 1.
        motions: words of motionloom.datasets.synthetic.MOTIONS, in turn; default all.
        frames: frames a clip, at least 2.
        size_px: side of the square clips, even.
        fps: frame rate written into the files.
        seed: of everything drawn.
        progress: called with (clips done, clips in all).

    Returns:
        The clips' paths.

    Raises:
        ConfigError: an unknown motion word, or a count, size or length that cannot be.
        InputError: no photo in the folder, or a photo that cannot be read.
    """
    from motionloom.datasets.synthetic import MOTIONS, draw_motion
    from motionloom.datasets.synthetic.motion import Region
    from motionloom.datasets.synthetic.render import render

    words = _known(motions, list(MOTIONS))
    if count < 1 or frames < 2 or size_px < 16 or size_px % 2 or fps <= 0:
        raise ConfigError(
            f"cannot write {count} clips of {frames} frames at {size_px} px, {fps} fps",
            fix="use at least 1 clip, 2 frames, an even size of 16 px or more and a positive rate",
        )
    paths = find_photos(Path(photos))
    written = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        word = words[number % len(words)]
        canvas = as_canvas(paths[int(rng.integers(len(paths)))])
        view = draw_view(canvas.shape[1], canvas.shape[2], 1.0, rng)
        motion = draw_motion(word, rng, float(rng.uniform(0.5, 1.3)))
        clip = render(canvas, view, [(motion, Region())], frames, size_px, size_px)
        path = Path(out) / f"{number:05d}_{word}.mp4"
        written.append(Clip(clip.frames, fps, {"motion": word, "seed": [seed, number]}).save(path))
        write_text(path.with_suffix(".txt"), word + "\n")
        if clip.flow is not None:
            flow = clip.flow[:, 2::4, 2::4].astype(np.float16)
            write_durably(path.with_suffix(".flow.npz"), partial(_save_flow, flow))
        if progress is not None:
            progress(number + 1, count)
    return written


def find_photos(folder: Path) -> list[Path]:
    """All pictures of a folder, sorted.

    Raises:
        InputError: there is none.
    """
    found = (
        [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    )
    if not found:
        raise InputError(
            f'no photos in "{folder}": expected {", ".join(sorted(SUFFIXES))}', fix="give a folder of photos"
        )
    return found


def as_canvas(path: Path) -> torch.Tensor:
    """A photo as float32 (3, H, W), 0..1."""
    return torch.from_numpy(read_picture(path).copy()).permute(2, 0, 1).float() / 255


def draw_view(
    height: int, width: int, aspect: float, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A random crop (left, top, width, height) of an aspect, inside the photo so that cameras see beyond it."""
    largest = min(width, height * aspect)
    crop_width = largest * float(rng.uniform(0.55, 0.9))
    crop_height = crop_width / aspect
    return (
        float(rng.uniform(0, width - crop_width)),
        float(rng.uniform(0, height - crop_height)),
        crop_width,
        crop_height,
    )


def _known(motions: Sequence[str] | None, all_words: list[str]) -> list[str]:
    import difflib

    for word in motions or ():
        if word not in all_words:
            near = difflib.get_close_matches(word, all_words, 1)
            raise ConfigError(
                f'there is no synthetic motion "{word}"',
                fix=f'did you mean "{near[0]}"?' if near else f"use one of {', '.join(all_words)}",
            )
    return list(motions or all_words)


def _save_flow(flow: npt.NDArray[np.float16], path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, flow=flow)

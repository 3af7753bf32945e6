"""A clip in memory: frames, frame rate, and the settings that made it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from motionloom.errors import InputError

MAX_FPS = 1000.0


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames with their rate. Frame k is on screen during [k/fps, (k+1)/fps) seconds.

    `frames` is uint8 RGB of shape (T, H, W, 3), values 0-255, T, H, W >= 1. `fps` is frames per second, in
    (0, 1000]. `settings` are the JSON-like values that made the clip; they travel inside every file format we
    write. `settings["notes"]`, when present, is a list of sentences on what reading or resampling changed.
    Raises InputError for anything else.
    """

    frames: npt.NDArray[np.uint8]
    fps: float
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_frames(self.frames)
        if isinstance(self.fps, bool) or not isinstance(self.fps, (int, float, np.integer, np.floating)):
            raise InputError(
                f"fps is {self.fps!r}, expected a number", fix="give frames per second, such as 8"
            )
        if not math.isfinite(self.fps) or not 0 < self.fps <= MAX_FPS:
            raise InputError(
                f"fps is {self.fps}, expected above 0 and at most {MAX_FPS:g}", fix="give frames per second"
            )
        object.__setattr__(self, "fps", float(self.fps))

    def __len__(self) -> int:
        return self.num_frames

    @property
    def num_frames(self) -> int:
        return int(self.frames.shape[0])

    @property
    def height_px(self) -> int:
        return int(self.frames.shape[1])

    @property
    def width_px(self) -> int:
        return int(self.frames.shape[2])

    @property
    def duration_seconds(self) -> float:
        return self.num_frames / self.fps

    def with_note(self, note: str) -> Clip:
        """The same clip with one more sentence in settings["notes"]; a sentence already there is not
        repeated.
        """
        notes = list(self.settings.get("notes", []))
        if note in notes:
            return self
        return replace(self, settings={**self.settings, "notes": [*notes, note]})

    def save(self, path: str | os.PathLike[str], *, crf: int = 16, quality: int = 90) -> Path:
        """Write the clip; the suffix picks the format. See `motionloom.video.write.write_clip`."""
        from motionloom.video.write import (
            write_clip,
        )  # write.py needs Clip: the import waits until it is used

        return write_clip(self, path, crf=crf, quality=quality)


def check_frames(frames: npt.NDArray[np.uint8]) -> None:
    """Raise InputError unless `frames` is a uint8 array of shape (T, H, W, 3) with no empty axis."""
    if not isinstance(frames, np.ndarray):
        raise InputError(
            f"frames are a {type(frames).__name__}, expected a uint8 array (frames, height, width, 3)",
            fix="convert them with numpy.asarray",
        )
    if frames.dtype != np.uint8:
        raise InputError(
            f"frames have dtype {frames.dtype}, expected uint8 with values 0-255",
            fix="scale to 0-255, round, and convert with .astype(numpy.uint8)",
        )
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise InputError(
            f"frames have shape {frames.shape}, expected (frames, height, width, 3) with no empty axis",
            fix="reorder the axes, or add the missing one with frames[None]",
        )

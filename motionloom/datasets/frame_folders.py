"""Clips as folders of numbered pictures; and Landscape (Sky time-lapse, Xiong et al. 2018), which comes as such.

    sky_train/<id>/<id>_<k>/<id>_frames_XXXXXXXX.jpg      640 x 360, one folder an uncut piece of video
    sky_test/...

LaMD's clips are consecutive chunks of 32 frames that do not overlap: 35,392 to train on and 2,815 to test. (cINN's lists
of 1,074 / 120 / 153 pieces with random windows are another protocol.) MDGAN squashes the picture to 128 x 128, LVDM crops
its middle: the recipe's `fit`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from motionloom.datasets.layout import Contents, Entry, Layout, size_bytes, subfolder_in
from motionloom.datasets.protocol import Protocol
from motionloom.errors import InputError
from motionloom.video.clip import Clip
from motionloom.video.picture import read_picture

PICTURES = (".jpg", ".jpeg", ".png")
CHUNK = 32  # frames


def list_frames(folder: Path) -> list[Path]:
    """The pictures of a folder, by the last number in their names, then by name."""
    return sorted((path for path in folder.iterdir() if path.suffix.lower() in PICTURES), key=_frame_order)


def _frame_order(path: Path) -> tuple[int, str]:
    number = frame_number(path)
    return (-1 if number is None else number), path.name


def frame_number(path: Path) -> int | None:
    digits = re.findall(r"\d+", path.stem)
    return int(digits[-1]) if digits else None


def missing_frame(files: Sequence[Path]) -> int | None:
    """The first number that is skipped, or given twice, in consecutive files; None when there is none."""
    for before, after in pairwise(files):
        a, b = frame_number(before), frame_number(after)
        if a is not None and b is not None and b != a + 1:
            return a + 1
    return None


def read_frames(files: Sequence[Path], fps: float) -> Clip:
    """Pictures of one size as a clip. Raises InputError, naming the file, when one cannot be read or differs in size."""
    frames = [read_picture(file) for file in files]
    for file, frame in zip(files, frames, strict=True):
        if frame.shape != frames[0].shape:
            raise InputError(
                f'"{file}" is {frame.shape[1]}x{frame.shape[0]} pixels, "{files[0].name}" is '
                f"{frames[0].shape[1]}x{frames[0].shape[0]}",
                fix="download that folder again",
            )
    return Clip(np.stack(frames), fps)


class Landscape(Layout):
    """Args: folder: see the top; chunk: frames of a clip."""

    title = "Landscape (Sky time-lapse)"
    expected = "expected sky_train/ and sky_test/ with <id>/<id>_<k>/*.jpg"
    fps = 30.0  # ours: the frames do not say
    official_counts = {"train": 35392, "test": 2815}  # noqa: RUF012

    def __init__(self, folder: str | Path, chunk: int = CHUNK) -> None:
        super().__init__(folder)
        self.chunk = chunk

    @classmethod
    def root_in(cls, folder: Path) -> Path | None:
        return subfolder_in(folder, "sky_t*/*/*/")

    def protocol(self, split: str) -> Protocol:
        return Protocol("first")

    def contents(self, split: str) -> Contents:
        self.check_split(split)
        contents, leftover, pieces = Contents(), 0, 0
        for folder in sorted((self.root / f"sky_{split}").glob("*/*/")):
            files, name = list_frames(folder), self.relative(folder)
            gap = missing_frame(files)
            if not files or gap is not None:
                contents.refused.append((name, "no frames" if not files else f"frame {gap} is missing"))
                continue
            whole = len(files) // self.chunk
            leftover, pieces = leftover + len(files) - whole * self.chunk, pieces + 1
            for number in range(whole):
                part = files[number * self.chunk : (number + 1) * self.chunk]
                total = sum(size_bytes(file) for file in part)
                first = frame_number(part[0])
                contents.entries.append(
                    Entry(
                        f"{name}@{first}",
                        (name, number * self.chunk),
                        subject=folder.parent.name,
                        size_bytes=total,
                    )
                )
        if leftover:
            contents.notes.append(
                f"{leftover} frames of {pieces} pieces fill no whole clip of {self.chunk} frames"
            )
        return contents

    def read(self, entry: Entry) -> Clip:
        name, start = entry.place
        return read_frames(list_frames(self.root / name)[start : start + self.chunk], self.fps)

    def num_frames(self, entry: Entry) -> int:
        return self.chunk

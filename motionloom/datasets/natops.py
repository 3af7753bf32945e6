"""NATOPS aircraft handling signals (Song et al. 2011): long videos, cut into repetitions by a text file.

    gesture<XX>/g<XX>s<YY>.avi        24 gestures, 20 subjects, 320 x 240, 20 frames per second
    segmentation.txt                  for each subject a line "// Subject ...", then for each gesture a line of three numbers
                                      and 20 lines "repetition:first,last", counted from 1, both included

LFDM's protocol (Ni et al. 2023), which LaMD follows: one clip a repetition; rows 10:239 and columns 30:290, shrunk by
area and letter-boxed; ten subjects each. LFDM's released code tests on nine, without subject 1 (4,320 clips): "test-lfdm".
"""

from __future__ import annotations

import re
from pathlib import Path

from motionloom.datasets.layout import Contents, Entry, Layout, read_text, size_bytes, subfolder_in
from motionloom.datasets.protocol import Protocol
from motionloom.errors import InputError
from motionloom.video.clip import Clip
from motionloom.video.read import read_clip
from motionloom.video.resample import take_window

GESTURES = (
    "I Have Command", "All Clear", "Not Clear", "Spread Wings", "Fold Wings", "Lock Wings", "Up Hook", "Down Hook",
    "Remove Tiedowns", "Remove Chocks", "Insert Chocks", "Move Ahead", "Turn Left", "Turn Right", "Next Marshaller",
    "Slow Down", "Stop", "Nosegear Steering", "Hot Brakes", "Brakes On", "Brakes Off", "Install Tiedowns", "Fire",
    "Cut Engine",
)  # fmt: skip
TRAIN_SUBJECTS = (3, 4, 8, 9, 12, 13, 15, 17, 19, 20)
TEST_SUBJECTS = (1, 2, 5, 6, 7, 10, 11, 14, 16, 18)
SUBJECTS = {"train": TRAIN_SUBJECTS, "test": TEST_SUBJECTS, "test-lfdm": TEST_SUBJECTS[1:]}
REPETITIONS = 20
BOX = (30, 10, 290, 239)  # left, top, right, bottom
Segments = dict[tuple[int, int], list[tuple[int, int]]]  # (subject, gesture) -> [first, last) frames, from 0

_HEADING = re.compile(r"\d+\s*,\s*\d+\s*,\s*\d+")
_SEGMENT = re.compile(r"\d+\s*:\s*(\d+)\s*,\s*(\d+)")


class Natops(Layout):
    title = "NATOPS"
    expected = "expected segmentation.txt beside gesture01/g01s01.avi, ..."
    fps = 20.0
    official_counts = {"train": 4800, "test": 4800, "test-lfdm": 4320}  # noqa: RUF012

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self._open: tuple[str, Clip] | None = (
            None  # the repetitions of one video are often read one after another
        )

    @classmethod
    def root_in(cls, folder: Path) -> Path | None:
        return subfolder_in(folder, "gesture[0-9][0-9]/g[0-9][0-9]s[0-9][0-9].avi")

    def protocol(self, split: str) -> Protocol:
        return Protocol("sorted-random" if split == "train" else "uniform", BOX, area=True)

    def contents(self, split: str) -> Contents:
        self.check_split(split)
        segments = read_segmentation(self.root / "segmentation.txt")
        contents, absent = Contents(), []
        for gesture in range(1, len(GESTURES) + 1):
            for subject in SUBJECTS[split]:
                name = f"gesture{gesture:02d}/g{gesture:02d}s{subject:02d}.avi"
                if not (self.root / name).is_file():
                    absent.append(name)
                    continue
                self._add(contents, name, gesture, subject, segments.get((subject, gesture), []))
        if absent:
            contents.notes.append(f"{len(absent)} videos are not there, the first is {absent[0]}")
        return contents

    def _add(
        self, contents: Contents, name: str, gesture: int, subject: int, segments: list[tuple[int, int]]
    ) -> None:
        if len(segments) != REPETITIONS:
            contents.refused.append(
                (name, f"segmentation.txt has {len(segments)} of {REPETITIONS} repetitions")
            )
        size = size_bytes(self.root / name)
        contents.entries += [
            Entry(f"{name}[{number}]", (name, first, end), GESTURES[gesture - 1], f"s{subject:02d}", size)
            for number, (first, end) in enumerate(segments, start=1)
        ]

    def read(self, entry: Entry) -> Clip:
        name, first, end = entry.place
        if self._open is None or self._open[0] != name:
            self._open = (name, read_clip(self.root / name))
        video = self._open[1]
        if end > video.num_frames:
            raise InputError(
                f'"{entry.name}" is frames {first + 1} to {end} of a video of {video.num_frames}',
                fix="download the video or segmentation.txt again",
            )
        return take_window(video, first, end - first)


def read_segmentation(path: Path) -> Segments:
    """segmentation.txt as half-open frame ranges. Raises InputError, naming the line, when it is missing or damaged."""
    segments: Segments = {}
    subject = gesture = 0
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        line = line.strip()
        if line.lower().startswith("// subject"):
            subject, gesture = subject + 1, 0
        elif match := _SEGMENT.match(line):
            first, last = int(match[1]), int(match[2])
            if not subject or not gesture or not 1 <= first <= last:
                raise _damaged(path, number, line)
            segments[subject, gesture].append((first - 1, last))
        elif _HEADING.match(line):
            gesture += 1
            segments[subject, gesture] = []
        elif line and not line.startswith("//"):
            raise _damaged(path, number, line)
    if not segments:
        raise InputError(f'"{path}" holds no segments', fix="download segmentation.txt again")
    return segments


def _damaged(path: Path, number: int, line: str) -> InputError:
    return InputError(
        f'"{path}", line {number}: unexpected {line[:60]!r}', fix="download segmentation.txt again"
    )

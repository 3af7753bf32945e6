"""MUG facial expressions (Aifanti et al. 2010): folders of pictures, one a recording; access on request.

    <subject>/<expression>/<take>/*.jpg                 subjects 001, 002, ...
    <subject>/session0/<expression>/<take>/*.jpg        subjects 002, 003 and 049 came more than once

LFDM's split (Ni et al. 2023), which LaMD follows: 26 subjects to train on and 26 to test, seven expressions, the first
session. Its loader lists that session twice for the three subjects, so its counts are larger than ours by their clips;
the published 465 and 544 cannot be told apart from that.
"""

from __future__ import annotations

from pathlib import Path

from motionloom.datasets.frame_folders import list_frames, read_frames
from motionloom.datasets.layout import Contents, Entry, Layout, size_bytes
from motionloom.datasets.protocol import Protocol
from motionloom.video.clip import Clip

EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
TRAIN = (
    "008 017 021 028 030 031 034 036 037 038 039 042 043 044 045 055 060 061 062 063 071 075 076 077 083 084"
)
TEST = (
    "001 002 006 007 010 013 014 020 027 032 033 040 046 048 049 052 064 065 066 070 072 073 074 078 079 082"
)
SUBJECTS = {"train": tuple(TRAIN.split()), "test": tuple(TEST.split())}


class Mug(Layout):
    title = "MUG facial expressions"
    expected = "expected <subject>/<expression>/<take>/*.jpg, subjects 001, 002, ..."
    fps = 19.0
    official_counts = {"train": 465, "test": 544}  # noqa: RUF012

    @classmethod
    def root_in(cls, folder: Path) -> Path | None:
        for root in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
            for one in sorted(root.glob("[0-9][0-9][0-9]")):
                if any((one / inside / word).is_dir() for inside in ("", "session0") for word in EXPRESSIONS):
                    return root
        return None

    def protocol(self, split: str) -> Protocol:
        return Protocol("uniform" if split == "test" else "sorted-random", area=True)

    def contents(self, split: str) -> Contents:
        self.check_split(split)
        contents, absent = Contents(), []
        for subject in SUBJECTS[split]:
            home = self.root / subject
            if not home.is_dir():
                absent.append(subject)
                continue
            home = home / "session0" if (home / "session0").is_dir() else home
            for expression in EXPRESSIONS:
                for take in sorted(path for path in (home / expression).glob("*/") if path.is_dir()):
                    self._add(contents, take, subject, expression)
        if absent:
            contents.notes.append(
                f"{len(absent)} of {len(SUBJECTS[split])} subjects are not there: {', '.join(absent)}"
            )
        return contents

    def _add(self, contents: Contents, take: Path, subject: str, expression: str) -> None:
        name, files = self.relative(take), list_frames(take)
        if not files:
            contents.refused.append((name, "no frames"))
            return
        total = sum(size_bytes(file) for file in files)
        contents.entries.append(Entry(name, (name,), expression, subject, total))

    def read(self, entry: Entry) -> Clip:
        return read_frames(list_frames(self.root / entry.place[0]), self.fps)

    def num_frames(self, entry: Entry) -> int:
        return len(list_frames(self.root / entry.place[0]))

"""UCF101 (Soomro et al. 2012): videos in folders of their class, and three official splits.

    UCF-101/<Class>/v_<Class>_g<GG>_c<CC>.avi       320 x 240, 25 frames per second
    ucfTrainTestlist/{trainlist,testlist}0<N>.txt   "<Class>/<video>.avi 1" on each line

A clip's caption is its class in words. Split 1 has 9,537 clips to train on. Sixteen frames, the middle of the picture.
"""

from __future__ import annotations

import re
from pathlib import Path

from motionloom.datasets.layout import Contents, Entry, Layout, read_text, size_bytes
from motionloom.datasets.protocol import Protocol

_LISTS = {
    f"{split}{n if n > 1 else ''}": f"{split}list0{n}.txt" for n in (1, 2, 3) for split in ("train", "test")
}


class Ucf101(Layout):
    title = "UCF101"
    expected = "expected UCF-101/<Class>/v_*.avi, and ucfTrainTestlist/ for its splits"
    fps = 25.0
    official_counts = {  # noqa: RUF012
        "train": 9537, "test": 3783, "train2": 9586, "test2": 3734, "train3": 9624, "test3": 3696, "all": 13320,
    }  # fmt: skip

    @classmethod
    def root_in(cls, folder: Path) -> Path | None:
        for root in (folder, folder.parent):
            if next((root / "UCF-101").glob("*/v_*_g[0-9][0-9]_c[0-9][0-9].avi"), None) is not None:
                return root if root == folder or folder.name == "UCF-101" else None
        return None

    def protocol(self, split: str) -> Protocol:
        return Protocol("first" if split.startswith("test") else "window")

    def contents(self, split: str) -> Contents:
        self.check_split(split)
        contents = Contents()
        for name in self._names(split):
            path = self.root / "UCF-101" / name
            if not path.resolve().is_relative_to(self.root.resolve()):
                contents.refused.append((name, "it lies outside the folder"))
            elif not path.is_file():
                contents.refused.append((name, "the video is not there"))
            else:
                group = re.search(r"_(g\d\d)_", name)
                contents.entries.append(
                    Entry(
                        self.relative(path),
                        (f"UCF-101/{name}",),
                        class_words(Path(name).parent.name),
                        group[1] if group else None,
                        size_bytes(path),
                    )
                )
        return contents

    def _names(self, split: str) -> list[str]:
        if split == "all":
            return sorted(
                path.relative_to(self.root / "UCF-101").as_posix()
                for path in self.root.glob("UCF-101/*/*.avi")
            )
        lines = read_text(self.root / "ucfTrainTestlist" / _LISTS[split]).splitlines()
        return [line.split()[0] for line in lines if line.strip()]


def class_words(name: str) -> str:
    """ "ApplyEyeMakeup" => "apply eye makeup"."""
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)).lower()

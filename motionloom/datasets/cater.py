"""CATER-GEN-v1 and -v2 (MAGE, Hu et al. 2022), and the world `blocks`, which is written in the same layout.

    videos/*.avi                                  (or .mp4)
    {train,test}_{explicit,ambiguous}.json        {"0": {"video": "videos/CATER_new_000001.avi", "caption": " the ..."}, ...}
    scenes/*.json                                 CATER's scene files: objects, movements, positions

24,000 clips of v2 to train on and 6,000 to test. LaMD takes the ambiguous captions of v2, 16 frames at 128 x 128; MAGE
picks frames with a stride drawn from 3 to 6 and squashes the picture. LaMD does not say its stride; ours is MAGE's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from motionloom.datasets.cater_captions import Mode, unknown_words
from motionloom.datasets.layout import Contents, Entry, Layout, Refusal, read_text, size_bytes, subfolder_in
from motionloom.datasets.protocol import Protocol
from motionloom.errors import InputError

VIDEOS = (".avi", ".mp4")
WORLD_FACTS = "world.json"  # what `motionloom data synth --world blocks` writes


class CaterGen(Layout):
    title = "CATER-GEN"
    expected = "expected videos/ beside train_ambiguous.json, test_ambiguous.json, train_explicit.json, test_explicit.json"
    fps = 24.0
    official_counts = {"train": 24000, "test": 6000}  # noqa: RUF012

    def __init__(self, folder: str | Path, captions: Mode = "ambiguous") -> None:
        super().__init__(folder)
        self.captions: Mode = captions

    @classmethod
    def root_in(cls, folder: Path) -> Path | None:
        root = subfolder_in(folder, "*_ambiguous.json") or subfolder_in(folder, "*_explicit.json")
        return root if root is not None and (root / "videos").is_dir() else None

    def protocol(self, split: str) -> Protocol:
        """MAGE's strides of 3 to 6; clips of our own world are short enough to be taken whole."""
        return Protocol("uniform" if (self.root / WORLD_FACTS).is_file() else "speed-3-6")

    def contents(self, split: str) -> Contents:
        self.check_split(split)
        contents = Contents()
        listed = self._annotations(split)
        for number, (key, value) in enumerate(listed.items()):
            entry, refusal = self._entry(f"{split}_{self.captions}.json[{key}]", value)
            if refusal is not None:
                contents.refused.append(refusal)
            if entry is not None:
                contents.entries.append(entry)
            if key != str(number):
                contents.refused.append(
                    (f"{split}_{self.captions}.json", f'key "{key}" where "{number}" was expected')
                )
        contents.refused += self._without_caption(split)
        return contents

    def _annotations(self, split: str) -> dict[str, Any]:
        path = self.root / f"{split}_{self.captions}.json"
        try:
            found = json.loads(read_text(path))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise InputError(f'"{path}" is no list of captions', fix="download the annotations again")
        return found

    def _entry(self, where: str, value: Any) -> tuple[Entry | None, Refusal | None]:
        if not isinstance(value, dict) or not isinstance(value.get("video"), str):
            return None, (where, "it names no video")
        name, caption = value["video"], value.get("caption")
        path = self.root / name
        if not path.resolve().is_relative_to(self.root.resolve()):
            return None, (where, f'"{name}" lies outside the folder')
        if not path.is_file():
            return None, (name, "the video is not there")
        if not isinstance(caption, str) or not caption.strip():
            return None, (name, "it has no caption")
        unknown = unknown_words(caption)
        if unknown:
            return None, (name, f'unknown caption word "{unknown[0]}"')
        return Entry(name, (name,), caption.strip(), size_bytes=size_bytes(path)), None

    def _without_caption(self, split: str) -> list[Refusal]:
        """Videos that neither list names; told with the training split."""
        if split != "train":
            return []
        named: set[str] = set()
        for other in self.official_counts:
            if (self.root / f"{other}_{self.captions}.json").is_file():
                values = self._annotations(other).values()
                named |= {Path(str(value.get("video"))).name for value in values if isinstance(value, dict)}
        videos = sorted(path for path in (self.root / "videos").iterdir() if path.suffix.lower() in VIDEOS)
        return [(self.relative(path), "no caption names it") for path in videos if path.name not in named]

"""Videos with a table of captions, as WebVid (Bain et al. 2021) was distributed.

    *.csv                              columns videoid, page_dir and name (the caption), or a path and a caption
    videos/<page_dir>/<videoid>.mp4

A table whose name has "val" or "test" in it is that split, the others are "train". WebVid itself was withdrawn in 2024:
this reads copies people have, and any table of one's own with the columns `path` and `caption`.
"""

from __future__ import annotations

import csv
from pathlib import Path

from motionloom.datasets.layout import Contents, Entry, Layout, read_text, size_bytes
from motionloom.datasets.protocol import Protocol
from motionloom.errors import InputError

PATHS = ("path", "video", "file_name")
CAPTIONS = ("caption", "text", "name")


class CsvClips(Layout):
    title = "videos with a table of captions (WebVid)"
    expected = "expected a .csv with the columns videoid, page_dir, name, or path, caption"
    fps = 25.0
    main_splits = ("train", "val", "test")
    official_counts = {"train": 0, "val": 0, "test": 0}  # noqa: RUF012

    @classmethod
    def root_in(cls, folder: Path) -> Path | None:
        return folder if any(_columns(path) for path in sorted(folder.glob("*.csv"))) else None

    def protocol(self, split: str) -> Protocol:
        return Protocol("window" if split == "train" else "first")

    def contents(self, split: str) -> Contents:
        self.check_split(split)
        contents = Contents()
        for table in sorted(self.root.glob("*.csv")):
            if _split_of(table) == split and _columns(table):
                self._add(contents, table)
        return contents

    def _add(self, contents: Contents, table: Path) -> None:
        try:
            rows = list(csv.DictReader(read_text(table).splitlines(), strict=True))
        except csv.Error as problem:
            raise InputError(f'"{table}" is damaged: {problem}', fix="download the table again") from None
        for number, row in enumerate(rows, start=2):
            where = f"{table.name}, line {number}"
            name = _video_name(row)
            caption = next((row[key] for key in CAPTIONS if row.get(key)), "")
            path = self.root / (name or "")
            if name is None:
                contents.refused.append((where, "it names no video"))
            elif not path.resolve().is_relative_to(self.root.resolve()):
                contents.refused.append((where, f'"{name}" lies outside the folder'))
            elif not path.is_file():
                contents.refused.append((name, "the video is not there"))
            elif not caption.strip():
                contents.refused.append((name, "it has no caption"))
            else:
                text = " ".join(caption.split())
                contents.entries.append(Entry(name, (name,), text, size_bytes=size_bytes(path)))


def _columns(table: Path) -> bool:
    """True when a table has columns we can use."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            names = set(next(csv.reader(stream), []))
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return bool(names & {*PATHS, "videoid"}) and bool(names & set(CAPTIONS))


def _video_name(row: dict[str, str]) -> str | None:
    if row.get("videoid"):
        return "/".join(
            part for part in ("videos", row.get("page_dir") or "", f"{row['videoid']}.mp4") if part
        )
    return next((row[key] for key in PATHS if row.get(key)), None)


def _split_of(table: Path) -> str:
    return next((split for split in ("val", "test") if split in table.stem.lower()), "train")

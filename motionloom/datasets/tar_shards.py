"""WebDataset tars: clips and captions as neighbours in shards, read in place.

    *.tar, or {train,val,test}/*.tar        members <key>.mp4 and <key>.txt (the caption) or <key>.json {"caption": ...}

A shard is indexed once, by the headers of its members; clips are then read at their offsets. Nothing is unpacked into
the working folder, whatever the members' names say.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from motionloom.datasets.layout import Contents, Entry, Layout
from motionloom.datasets.protocol import Protocol
from motionloom.errors import InputError, MotionLoomError
from motionloom.video.clip import Clip
from motionloom.video.read import read_clip

VIDEOS = ("mp4", "avi", "mov", "mkv", "webm", "gif", "webp")
CAPTION_KEYS = ("caption", "text")
MAX_CAPTION_BYTES = 1 << 20
SPLITS = ("train", "val", "test")


@dataclass
class _Sample:
    video: tuple[str, int, int] | None = None  # (suffix, offset, bytes)
    text: str | None = None
    problem: str = ""
    seen: set[str] = field(default_factory=set)


class TarShards(Layout):
    title = "WebDataset tars"
    expected = "expected *.tar, or train/*.tar"
    fps = 25.0
    main_splits = ("train", "val", "test")
    official_counts = dict.fromkeys(SPLITS, 0)

    @classmethod
    def root_in(cls, folder: Path) -> Path | None:
        if next(folder.glob("*.tar"), None) is not None:
            return folder
        return folder if any(next((folder / split).glob("*.tar"), None) for split in SPLITS) else None

    def protocol(self, split: str) -> Protocol:
        return Protocol("window" if split == "train" else "first")

    def contents(self, split: str) -> Contents:
        self.check_split(split)
        contents = Contents()
        shards = sorted(self.root.glob("*.tar")) if split == "train" else []
        for shard in [*shards, *sorted((self.root / split).glob("*.tar"))]:
            self._add(contents, shard)
        return contents

    def _add(self, contents: Contents, shard: Path) -> None:
        name = self.relative(shard)
        samples: dict[str, _Sample] = {}
        try:
            with tarfile.open(shard, "r:") as archive:
                for member in archive:
                    if member.isfile():
                        _take(samples, archive, member)
        except (tarfile.TarError, OSError, EOFError) as problem:
            contents.refused.append((name, f"damaged after {len(samples)} samples: {problem}"))
        for key, sample in samples.items():
            where = f"{name}:{key}"
            if sample.video is None or sample.problem:
                contents.refused.append((where, sample.problem or "it has no video"))
                continue
            contents.entries.append(
                Entry(where, (name, *sample.video), sample.text, size_bytes=sample.video[2])
            )

    def read(self, entry: Entry) -> Clip:
        name, suffix, offset, count = entry.place
        with (self.root / name).open("rb") as shard:
            shard.seek(offset)
            data = shard.read(count)
        with tempfile.TemporaryDirectory(prefix="motionloom-") as folder:
            path = Path(folder) / f"clip.{suffix}"
            path.write_bytes(data)
            try:
                return read_clip(path)
            except MotionLoomError as problem:
                raise InputError(problem.message.replace(str(path), entry.name), fix=problem.fix) from None


def _take(samples: dict[str, _Sample], archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """Put a member to its sample: the key is its name up to the first dot of the last part (WebDataset's rule)."""
    path = PurePosixPath(member.name)
    stem, _, suffix = path.name.partition(".")
    sample = samples.setdefault(str(path.with_name(stem)), _Sample())
    suffix = suffix.lower()
    if suffix in sample.seen:
        sample.problem = f'two members end in ".{suffix}"'
    sample.seen.add(suffix)
    if suffix in VIDEOS:
        sample.video = (suffix, member.offset_data, member.size)
    elif suffix in ("txt", "json"):
        text, problem = _caption(archive, member, suffix)
        sample.text, sample.problem = text or sample.text, problem or sample.problem


def _caption(archive: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> tuple[str | None, str]:
    stream = archive.extractfile(member)
    assert stream is not None  # a regular file
    data = stream.read(MAX_CAPTION_BYTES)
    try:
        text = data.decode()
        if suffix == "json":
            facts: Any = json.loads(text)
            text = next((str(facts[key]) for key in CAPTION_KEYS if facts.get(key)), "")
    except (ValueError, AttributeError, RecursionError):
        return None, f'its ".{suffix}" is damaged'
    return " ".join(text.split()) or None, ""

"""The contract of a published data set on disk: which clips a split has, and how one is read.

A layout is opened on a folder and asked for a split:

    layout = BairPushing(folder)
    contents = layout.contents("train")       # entries, what was refused and why, what else to know
    clip = layout.read(contents.entries[0])   # Clip

A new data set is one file with one `Layout`, and its row in `layouts.LAYOUTS`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from motionloom.datasets.protocol import Protocol
from motionloom.errors import ConfigError, InputError
from motionloom.video.clip import Clip
from motionloom.video.read import read_clip

Refusal = tuple[str, str]  # (name, reason)


@dataclass(frozen=True)
class Entry:
    """One clip of a data set. `place` is the layout's own: where the clip is found; `size_bytes` of its file."""

    name: str  # relative to the folder, as messages show it
    place: tuple[Any, ...]
    text: str | None = None
    subject: str | None = None
    size_bytes: int = 0


@dataclass
class Contents:
    """What a split holds. `refused` cannot be used; `notes` say what else was left aside, counted."""

    entries: list[Entry] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """Changes when a clip is added, removed, renamed or changes size, or a caption changes."""
        digest = hashlib.sha256()
        for entry in self.entries:
            digest.update(f"{entry.name}\0{entry.size_bytes}\0{entry.text}\n".encode())
        return digest.hexdigest()[:16]


class Layout(ABC):
    """A data set in its official on-disk form.

    Args:
        folder: the folder the download unpacks to, or its parent where that is what people have.

    Raises:
        InputError: the folder does not have this layout.
    """

    title: ClassVar[str]
    fps: ClassVar[float]  # of clips that carry none
    official_counts: ClassVar[Mapping[str, int]]
    """Clips of each split in the complete set; the keys are the splits. 0 where the set has no fixed size."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        root = self.root_in(self.folder) if self.folder.is_dir() else None
        if root is None:
            raise InputError(
                f'"{self.folder}" is not {self.title}: {self.expected}',
                fix="check the folder, see docs/datasets.md",
            )
        self.root = root

    main_splits: ClassVar[tuple[str, ...]] = ("train", "test")
    """The splits that together are the whole set; the others are other ways to cut it."""

    expected: ClassVar[str]
    """What the folder must hold, for error messages."""

    @classmethod
    @abstractmethod
    def root_in(cls, folder: Path) -> Path | None:
        """Where the data set begins in a folder; None when it is not this data set. Looks at few names only."""

    @abstractmethod
    def contents(self, split: str) -> Contents:
        """The clips of a split, in a fixed order. Raises ConfigError for an unknown split, InputError when the
        annotations are missing or damaged.
        """

    @abstractmethod
    def protocol(self, split: str) -> Protocol:
        """How the papers prepare this split's clips."""

    def read(self, entry: Entry) -> Clip:
        """All frames of an entry at its own size and rate. Raises InputError, naming it, when it cannot be read."""
        return read_clip(self.root / entry.place[0])

    def num_frames(self, entry: Entry) -> int:
        """How many frames an entry has. Raises InputError when it cannot be read."""
        return self.read(entry).num_frames

    def check_split(self, split: str) -> None:
        if split not in self.official_counts:
            raise ConfigError(
                f'{self.title} has no split "{split}"', fix=f"use one of {', '.join(self.official_counts)}"
            )

    def relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def size_bytes(path: Path) -> int:
    """Of a file; 0 when it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def read_text(path: Path) -> str:
    """A text file of annotations. Raises InputError, naming it."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f'cannot read "{path}": {reason}', fix="download the annotations again") from None


def subfolder_in(folder: Path, pattern: str, inside: str = "*") -> Path | None:
    """`folder`, or the first folder inside it, that holds something matching `pattern`."""
    candidates = [folder, *sorted(path for path in folder.glob(inside) if path.is_dir())]
    return next((path for path in candidates if next(path.glob(pattern), None) is not None), None)

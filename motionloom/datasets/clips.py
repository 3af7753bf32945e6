"""A folder of clips as training samples.

    folder/clips/a.mp4, a.txt      clips, each with an optional caption beside it (or directly in folder/)
    folder/metadata.jsonl          or a list: {"file_name": "clips/a.mp4", "text": "..."} on each line
    masks/a.mp4 or masks/a.png     where asked for: white where a clip's subject is, moving or for all frames

Every clip is looked at before training starts. One that cannot be used is refused with its reason, and
training stops unless `skip_bad` says to go on without it; nothing is dropped in silence.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from motionloom.datasets.base import Sample, TrainingDataset, sample_seed
from motionloom.errors import InputError, MotionLoomError
from motionloom.video.picture import read_picture
from motionloom.video.read import read_clip
from motionloom.video.resample import resample_fps
from motionloom.video.resize import resize

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".gif", ".webp")
STILL_MASK_SUFFIXES = (".png", ".jpg", ".jpeg")
LISTED_IN_ERRORS = 10


@dataclass(frozen=True)
class _Source:
    name: str  # relative to the folder, as messages show it
    path: Path
    text: str | None


class ClipFolder(TrainingDataset):
    """Random windows of the clips in a folder.

    A sample is {"frames": (3, T, H, W) float -1..1} and, where any clip has a caption, "text": str; with masks also
    "masks": (1, T, H, W) 0..1, cut and mirrored like the frames. The window's start, and whether it is mirrored, are
    functions of (seed, epoch, index).

    Args:
        folder: see the top of the file.
        frames: T, frames per sample.
        fps: clips are resampled to this; None keeps each clip's own.
        size_px: side of the square, or (width, height).
        fit: what happens to another aspect ratio: "crop" the middle, "pad" with black, "squash".
        flip: mirror half of the samples left to right. Not for captions that say left and right.
        skip_bad: go on without clips that cannot be used; they are in `refused`.
        seed: of the windows and mirrors.
        cache_mb: decoded, resized clips kept in memory, per process.
        masks: folder with a mask of every clip, under the clip's own name (relative to `clips/`); a clip without one, or
            whose moving mask has another number of frames, is refused.
        on_clip: called after each clip of the preflight with (clips looked at, clips found).

    Raises:
        InputError: the folder is missing or empty, no clip can be used, or, without `skip_bad`, any cannot.
    """

    def __init__(
        self,
        folder: str | Path,
        frames: int,
        fps: float | None,
        size_px: int | tuple[int, int],
        *,
        fit: Literal["crop", "pad", "squash"] = "crop",
        flip: bool = False,
        skip_bad: bool = False,
        seed: int = 0,
        cache_mb: int = 512,
        masks: str | Path | None = None,
        on_clip: Callable[[int, int], None] = lambda done, found: None,
    ) -> None:
        self.folder, self.frames, self.fps, self.fit = Path(folder), frames, fps, fit
        self.width_px, self.height_px = (size_px, size_px) if isinstance(size_px, int) else size_px
        self.flip, self.seed = flip, seed
        self.masks = None if masks is None else Path(masks)
        self._cache = _ClipCache(cache_mb * 2**20)
        self._rates: Counter[float] = Counter()
        found = list(_sources(self.folder))
        used: list[_Source] = []
        refused: list[tuple[str, str]] = []
        for done, source in enumerate(found):
            reason = self._refusal(source)
            if reason:
                refused.append((source.name, reason))
            else:
                used.append(source)
            on_clip(done + 1, len(found))
        self._clips, self.refused = used, tuple(refused)
        self._has_text = any(source.text is not None for source in used)
        self.notes = self._notes()
        if refused and (not used or not skip_bad):
            raise InputError(
                f"{len(refused)} of {len(found)} clips in {self.folder} cannot be used: {_listed(refused)}",
                fix="remove or replace them"
                + (", or set data.skip_bad=true to go on without them" if used else ""),
            )

    def __len__(self) -> int:
        return len(self._clips)

    def at(self, epoch: int, index: int) -> Sample:
        """One window: "frames" (3, T, H, W) float -1..1, and "text"."""
        source = self._clips[index]
        clip = self._read(source)  # (all, H, W, 3) uint8
        if len(clip) < self.frames:
            raise InputError(
                f'clip "{source.name}" was replaced during training: {self._too_short(len(clip))}',
                fix="restore it and run again",
            )
        random = np.random.default_rng(sample_seed(self.seed, epoch, index))
        start = int(random.integers(0, len(clip) - self.frames + 1))
        mirrored = bool(random.random() < 0.5) and self.flip  # drawn either way
        cut = slice(start, start + self.frames)
        window = clip[cut]
        if mirrored:
            window = window[:, :, ::-1]
        sample: Sample = {"frames": to_pixels(window)}
        if self.masks is not None:
            mask = self._read_mask(source, len(clip))[cut].copy()
            sample["masks"] = (
                to_pixels(mask[:, :, ::-1] if mirrored else mask).mean(0, keepdim=True).add(1).div(2)
            )
        if self._has_text:
            sample["text"] = source.text or ""
        return sample

    @property
    def fingerprint(self) -> str:
        """See `fingerprint_of`; of the clips in use, and of their masks."""
        return _fingerprint(self._clips, self.masks)

    def _notes(self) -> tuple[str, ...]:
        said = [
            f"{count} of {len(self)} clips resampled from {rate:.6g} to {self.fps:.6g} frames per second"
            for rate, count in sorted(self._rates.items())
        ]
        captionless = sum(source.text is None for source in self._clips)
        if self._has_text and captionless:
            said.append(f"{captionless} of {len(self)} clips have no caption")
        return tuple(said)

    def _refusal(self, source: _Source) -> str:
        """Why a clip cannot be used, or ""."""
        try:
            clip = self._read(source, counting=True)
            if len(clip) < self.frames:
                return self._too_short(len(clip))
            if self.masks is not None:
                self._read_mask(source, len(clip))
        except MotionLoomError as error:
            return error.message
        return ""

    def _too_short(self, count: int) -> str:
        at = f" at {self.fps:.6g} frames per second" if self.fps else ""
        return f"{count} frames{at}, {self.frames} needed"

    def _read(self, source: _Source, counting: bool = False) -> npt.NDArray[np.uint8]:
        """The whole clip at our rate and size, (all, H, W, 3)."""
        kept = self._cache.get(source.path)
        if kept is not None:
            return kept
        clip = read_clip(source.path)
        if self.fps is not None:
            if counting and abs(clip.fps - self.fps) > 1e-6:
                self._rates[round(clip.fps, 3)] += 1
            clip = resample_fps(clip, self.fps)
        frames = resize(clip.frames, self.width_px, self.height_px, self.fit)
        self._cache.put(source.path, frames)
        return frames

    def _read_mask(self, source: _Source, count: int) -> npt.NDArray[np.uint8]:
        """The mask of a clip at our rate and size, (count, H, W, 3). Raises InputError when it has none that fits."""
        assert self.masks is not None
        path = _mask_of(source, self.masks)
        mask = self._cache.get(path)
        if mask is None:
            if path.suffix.lower() in STILL_MASK_SUFFIXES:
                frames = read_picture(path)[None]
            else:
                clip = read_clip(path)
                frames = (clip if self.fps is None else resample_fps(clip, self.fps)).frames
            mask = resize(frames, self.width_px, self.height_px, self.fit)
            self._cache.put(path, mask)
        if len(mask) not in (1, count):
            raise InputError(
                f'its mask "{path.name}" has {len(mask)} frames, the clip {count}',
                fix="make the mask from this clip",
            )
        return np.broadcast_to(mask, (count, *mask.shape[1:]))


def to_pixels(frames: npt.NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (T, H, W, 3) => pixels (3, T, H, W), float -1..1."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2).float().div(127.5).sub(1.0)


class _ClipCache:
    """Clips by path, the least recently used dropped beyond a number of bytes. It changes speed, never
    results.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._clips: OrderedDict[Path, npt.NDArray[np.uint8]] = OrderedDict()

    def get(self, path: Path) -> npt.NDArray[np.uint8] | None:
        if path in self._clips:
            self._clips.move_to_end(path)
        return self._clips.get(path)

    def put(self, path: Path, frames: npt.NDArray[np.uint8]) -> None:
        self._clips[path] = frames
        self._bytes += frames.nbytes
        while self._bytes > self._max_bytes:
            self._bytes -= self._clips.popitem(last=False)[1].nbytes


def clip_files(folder: str | Path) -> list[tuple[str, Path]]:
    """(name, path) of every clip in a folder; no clip is opened. Raises InputError when there is none."""
    return [(source.name, source.path) for source in _sources(Path(folder))]


def read_captions(folder: str | Path) -> list[str]:
    """The caption of every clip in a folder, "" where there is none; no clip is opened.

    Raises InputError when there is no clip.
    """
    return [source.text or "" for source in _sources(Path(folder))]


def fingerprint_of(folder: str | Path) -> str:
    """Changes when a clip is added, removed, renamed or changes size, or a caption changes; no clip is
    opened.

    Raises InputError when there is no clip.
    """
    return _fingerprint(list(_sources(Path(folder))))


def _fingerprint(sources: list[_Source], masks: Path | None = None) -> str:
    digest = hashlib.sha256()
    for source in sources:
        size = source.path.stat().st_size if source.path.exists() else None
        digest.update(f"{source.name}\0{size}\0{source.text}\n".encode())
        if masks is not None:
            mask = _mask_of(source, masks)
            digest.update(f"{mask.name}\0{mask.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


# --- finding clips ------------------------------------------------------------------------------------------


def _sources(folder: Path) -> Iterator[_Source]:
    """Clips in the order of their names. Raises InputError when there is nothing."""
    if not folder.is_dir():
        raise InputError(f"no folder of clips at {folder}", fix="check data.folder")
    listing = folder / "metadata.jsonl"
    if listing.is_file():
        yield from _listed_sources(folder, listing)
        return
    root = folder / "clips" if (folder / "clips").is_dir() else folder
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise InputError(
            f"no clip in {root}, expected {', '.join(SUFFIXES)}", fix="put clips there, or check data.folder"
        )
    for path in paths:
        caption = path.with_suffix(".txt")
        yield _Source(
            path.relative_to(folder).as_posix(), path, _caption(caption) if caption.is_file() else None
        )


def _mask_of(source: _Source, masks: Path) -> Path:
    """The file with a clip's mask. Raises InputError when there is none."""
    stem = Path(source.name.removeprefix("clips/")).with_suffix("")
    for suffix in (*SUFFIXES, *STILL_MASK_SUFFIXES):
        for path in (masks / f"{stem}{suffix}", masks / f"{stem.name}{suffix}"):
            if path.is_file():
                return path
    raise InputError(
        f'no mask "{stem.name}" in {masks}',
        fix="make one with `motionloom data mask`, or paint a picture of that name",
    )


def _listed_sources(folder: Path, listing: Path) -> Iterator[_Source]:
    empty = True
    for number, line in enumerate(_text(listing).splitlines(), start=1):
        if not line.strip():
            continue
        empty = False
        where = f"{listing}, line {number}"
        name, text = _entry(line, where)
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f'{where}: "{name}" lies outside {folder}', fix="list clips below the folder")
        yield _Source(name, path, text)
    if empty:
        raise InputError(
            f"{listing} lists no clip", fix='add lines such as {"file_name": "a.mp4", "text": "..."}'
        )


def _entry(line: str, where: str) -> tuple[str, str | None]:
    try:
        entry: Any = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
        raise InputError(f"{where}: expected a JSON object with a file_name", fix="correct the line")
    text = entry.get("text")
    if text is not None and not isinstance(text, str):
        raise InputError(f"{where}: text is {text!r}, expected words", fix="correct the line")
    return entry["file_name"], text


def _caption(path: Path) -> str:
    return " ".join(_text(path).split())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}", fix="save it as UTF-8 text") from None


def _listed(refused: list[tuple[str, str]]) -> str:
    shown = "; ".join(f"{name} ({reason})" for name, reason in refused[:LISTED_IN_ERRORS])
    more = len(refused) - LISTED_IN_ERRORS
    return shown + (f"; and {more} more" if more > 0 else "")

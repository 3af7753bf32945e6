"""Clips of a published data set as training samples, prepared as its papers do."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from motionloom.datasets.base import Sample, TrainingDataset, sample_seed
from motionloom.datasets.clips import to_pixels
from motionloom.datasets.layout import Entry, Layout, Refusal
from motionloom.datasets.protocol import SAMPLINGS, frames_needed, prepare
from motionloom.errors import ConfigError, InputError, MotionLoomError
from motionloom.video.resample import resample_fps
from motionloom.video.resize import Policy

LISTED_IN_ERRORS = 10


class PublishedClips(TrainingDataset):
    """T frames of each clip of a split.

    A sample is {"frames": (3, T, H, W) float -1..1} and, where clips have captions, "text": str. Which frames, and
    whether they are mirrored, are functions of (seed, epoch, index).

    Args:
        layout: the opened data set.
        split: one of its splits.
        frames: T.
        size_px: (width, height).
        fit: what happens to another aspect ratio.
        sampling: a key of `protocol.SAMPLINGS`; None takes the papers' own for this split.
        fps: clips are resampled to this first; None keeps their own.
        flip: mirror half of the samples left to right.
        skip_bad: go on without clips that cannot be used; they are in `refused`. Each is read once at the start then: a
            damaged record is found here and not in the middle of a training.
        seed: of everything drawn.
        cache_mb: prepared clips kept in memory, per process.
        on_clip: called with (clips looked at, clips found).

    Raises:
        ConfigError: an unknown sampling or split.
        InputError: no clip can be used, or, without `skip_bad`, any cannot.
    """

    def __init__(
        self,
        layout: Layout,
        split: str,
        frames: int,
        size_px: tuple[int, int],
        *,
        fit: Policy = "crop",
        sampling: str | None = None,
        fps: float | None = None,
        flip: bool = False,
        skip_bad: bool = False,
        seed: int = 0,
        cache_mb: int = 512,
        on_clip: Callable[[int, int], None] = lambda done, found: None,
    ) -> None:
        self.layout, self.split, self.frames, self.fps = layout, split, frames, fps
        self.width_px, self.height_px = size_px
        self.fit, self.flip, self.seed = fit, flip, seed
        self.protocol = layout.protocol(split)
        self.sampling = sampling or self.protocol.sampling
        if self.sampling not in SAMPLINGS:
            raise ConfigError(
                f'there is no sampling "{self.sampling}"', fix=f"use one of {', '.join(SAMPLINGS)}"
            )
        self._cache: OrderedDict[str, npt.NDArray[np.uint8]] = OrderedDict()
        self._cache_bytes, self._max_cache_bytes = 0, cache_mb * 2**20
        self._rates: Counter[float] = Counter()
        contents = layout.contents(split)
        self._reads_first = skip_bad or fps is not None
        used, refused = self._checked(contents.entries, on_clip)
        self.refused = (*contents.refused, *refused)
        self._entries, self._fingerprint = used, contents.fingerprint
        self._has_text = any(entry.text is not None for entry in used)
        self.notes = (*contents.notes, *self._own_notes())
        if not used or (self.refused and not skip_bad):
            raise self._unusable(len(contents.entries) + len(contents.refused))

    def __len__(self) -> int:
        return len(self._entries)

    def at(self, epoch: int, index: int) -> Sample:
        """Sample `index`: "frames" (3, T, H, W) float -1..1, and "text"."""
        entry = self._entries[index]
        clip = self._read(entry)  # (n, H, W, 3) uint8
        if len(clip) < frames_needed(self.sampling, self.frames):
            raise InputError(
                f'clip "{entry.name}" was replaced during training: it has {len(clip)} frames',
                fix="restore it",
            )
        random = np.random.default_rng(sample_seed(self.seed, epoch, index))
        picked = SAMPLINGS[self.sampling](len(clip), self.frames, random)
        window = clip[picked]
        if bool(random.random() < 0.5) and self.flip:
            window = window[:, :, ::-1]
        sample: Sample = {"frames": to_pixels(window)}
        if self._has_text:
            sample["text"] = entry.text or ""
        return sample

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def _checked(
        self, entries: list[Entry], on_clip: Callable[[int, int], None]
    ) -> tuple[list[Entry], list[Refusal]]:
        used, refused = [], []
        for done, entry in enumerate(entries):
            reason = self._refusal(entry)
            if reason:
                refused.append((entry.name, reason))
            else:
                used.append(entry)
            on_clip(done + 1, len(entries))
        return used, refused

    def _refusal(self, entry: Entry) -> str:
        """Why a clip cannot be used, or ""."""
        try:
            count = (
                len(self._read(entry, counting=True)) if self._reads_first else self.layout.num_frames(entry)
            )
        except MotionLoomError as error:
            return error.message
        needed = frames_needed(self.sampling, self.frames)
        return f"{count} frames, {needed} needed (sampling {self.sampling})" if count < needed else ""

    def _unusable(self, found: int) -> InputError:
        shown = "; ".join(f"{name} ({reason})" for name, reason in self.refused[:LISTED_IN_ERRORS])
        more = len(self.refused) - LISTED_IN_ERRORS
        said = shown + (f"; and {more} more" if more > 0 else "") if self.refused else "it is empty"
        return InputError(
            f'{len(self.refused)} of {found} clips of {self.layout.title}, split "{self.split}", in '
            f"{self.layout.folder} cannot be used: {said}",
            fix="restore them"
            + (", or set data.skip_bad=true to go on without them" if self._entries else ""),
        )

    def _own_notes(self) -> list[str]:
        said = [
            f"{count} of {len(self)} clips resampled from {rate:.6g} to {self.fps:.6g} frames per second"
            for rate, count in sorted(self._rates.items())
        ]
        official = self.layout.official_counts[self.split]
        if official and len(self) != official:
            said.append(
                f"{len(self)} clips; the complete {self.split} split of {self.layout.title} has {official}"
            )
        return said

    def _read(self, entry: Entry, counting: bool = False) -> npt.NDArray[np.uint8]:
        """The whole clip, prepared: uint8 (n, H, W, 3)."""
        kept = self._cache.get(entry.name)
        if kept is not None:
            self._cache.move_to_end(entry.name)
            return kept
        clip = self.layout.read(entry)
        if self.fps is not None:
            if counting and abs(clip.fps - self.fps) > 1e-6:
                self._rates[round(clip.fps, 3)] += 1
            clip = resample_fps(clip, self.fps)
        frames = prepare(clip.frames, self.protocol, self.width_px, self.height_px, self.fit)
        self._cache[entry.name] = frames
        self._cache_bytes += frames.nbytes
        while self._cache_bytes > self._max_cache_bytes:
            self._cache_bytes -= self._cache.popitem(last=False)[1].nbytes
        return frames

"""Scored clips => what a page can play: embedded, linked, or a sentence on why not."""

from __future__ import annotations

import base64
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from motionloom.durable import sha256_of
from motionloom.errors import MotionLoomError
from motionloom.metrics.scores import ClipScores
from motionloom.reporting.inputs import ScoreSet

Mode = Literal["auto", "embed", "link", "none"]
MAX_FILE_BYTES = 2_000_000  # "auto" links what is larger
MAX_EMBEDDED_BYTES = 24_000_000  # and everything after this much
PREVIEW_SIDE_PX = 512
MIME_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm"}
PLAYED_EVERYWHERE = frozenset({"h264", "vp8", "vp9", "av1"})


@dataclass(frozen=True)
class Media:
    """`src` of a video element, or None with the reason in `note`."""

    src: str | None
    note: str = ""


class Shelf:
    """Finds clips and decides how the page shows them.

    Args:
        mode: "auto" embeds small clips and links large ones, "embed" and "link" do one of them, "none" neither.
        page: where the page will lie; links are relative to its folder.
    """

    def __init__(self, mode: Mode, page: Path) -> None:
        self.mode, self.page = mode, page
        self.embedded_bytes = 0

    def show(self, clip: ClipScores, one: ScoreSet) -> Media:
        if self.mode == "none":
            return Media(None, "clips were left out")
        file = locate(clip, one)
        if file is None:
            return Media(None, f'"{clip.file}" is not there any more')
        if file.is_file() and sha256_of(file) != clip.sha256:
            return Media(None, f'"{clip.file}" was changed after it was scored')
        if self.mode == "link":
            return Media(self._link(file), "" if _plays(file) else "browsers may not play this file")
        try:
            return self._embedded(file)
        except (MotionLoomError, OSError) as problem:
            return Media(None, f"cannot show it: {problem}")

    def _embedded(self, file: Path) -> Media:
        plays = _plays(file)
        note = "" if plays else "re-encoded for this page"
        size = file.stat().st_size if plays else 0
        if self.mode == "auto" and (size > MAX_FILE_BYTES or self.embedded_bytes + size > MAX_EMBEDDED_BYTES):
            return Media(self._link(file), "linked, for it is large: keep the clips beside the page")
        content = file.read_bytes() if plays else preview(file)
        self.embedded_bytes += len(content)
        mime = MIME_TYPES[file.suffix.lower()] if plays else MIME_TYPES[".mp4"]
        return Media(f"data:{mime};base64,{base64.b64encode(content).decode()}", note)

    def _link(self, file: Path) -> str:
        try:
            path = Path(os.path.relpath(file.resolve(), self.page.absolute().parent.resolve()))
        except ValueError:  # another drive
            return file.resolve().as_uri()
        return quote(path.as_posix())


def locate(clip: ClipScores, one: ScoreSet) -> Path | None:
    """The clip where the scores name it, from here or from the folder of the scores."""
    named, inside, folder = Path(clip.file), Path(one.scores.clips_from), one.file.parent
    below = named.relative_to(inside) if named.is_relative_to(inside) else Path(named.name)
    places = (named, folder / named, folder / inside.name / below, folder / below)
    return next((path for path in places if path.exists()), None)


def _plays(file: Path) -> bool:
    """Whether every current browser plays it frame by frame: by its content, for names lie."""
    if file.suffix.lower() not in MIME_TYPES or not file.is_file():
        return False
    from motionloom.inspection import describe

    try:
        return describe(file).get("codec") in PLAYED_EVERYWHERE
    except MotionLoomError:
        return False


def preview(file: Path) -> bytes:
    """A clip of any readable kind as a small MP4 for looking at."""
    from motionloom.video.clip import Clip
    from motionloom.video.read import read_clip
    from motionloom.video.resize import fit_within, resize
    from motionloom.video.write import write_clip

    clip = read_clip(file)
    frames = resize(clip.frames, *fit_within(clip.width_px, clip.height_px, PREVIEW_SIDE_PX), "squash")
    with tempfile.TemporaryDirectory() as folder:
        return write_clip(Clip(frames, clip.fps), Path(folder, "preview.mp4"), crf=20).read_bytes()

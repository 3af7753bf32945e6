"""What a file says about the clip inside it: the settings that made it, and the facts its format cannot hold.

One JSON text travels in the MP4 `comment` tag, the GIF comment, the WebP EXIF description and a folder's
clip.json: the settings as they are, plus one reserved key with frame rate, frame count and size. GIF counts
time in hundredths of a second and merges equal frames, and H.264 pads odd sizes; with the facts, reading
gives back what was written.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from motionloom.errors import InputError
from motionloom.video.clip import MAX_FPS, Clip

FORMAT_VERSION = 1
FACTS_KEY = "motionloom_clip"
MAX_TEXT_CHARS = 1_000_000


@dataclass(frozen=True)
class ClipFacts:
    """The clip as it was before its file format rounded it."""

    fps: float
    num_frames: int
    height_px: int
    width_px: int


def embed(clip: Clip) -> str:
    """The JSON text to store inside a file. Raises InputError for settings that JSON cannot hold."""
    facts = ClipFacts(clip.fps, clip.num_frames, clip.height_px, clip.width_px)
    content = {**clip.settings, FACTS_KEY: {"format_version": FORMAT_VERSION, **asdict(facts)}}
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, default=_plain)
        text.encode("utf-8")  # a lone surrogate would fail only while writing
    except (TypeError, ValueError, RecursionError) as problem:
        raise InputError(
            f"the clip's settings cannot be written as JSON: {problem}",
            fix="keep to texts, finite numbers, lists and tables in clip.settings",
        ) from None
    if len(text) > MAX_TEXT_CHARS or "\x00" in text:
        raise InputError(
            f"the clip's settings have {len(text)} characters as JSON, at most {MAX_TEXT_CHARS} are allowed",
            fix="store large values in a file of their own and keep its name in the settings",
        )
    return text


def extract(text: str) -> tuple[dict[str, Any], ClipFacts] | None:
    """The settings and facts in a text that `embed` made; None for any other text (foreign, damaged, newer
    version).
    """
    if len(text) > MAX_TEXT_CHARS or FACTS_KEY not in text:
        return None
    try:
        content = json.loads(text)
        stored = content.pop(FACTS_KEY)
        sizes = [stored[name] for name in ("num_frames", "height_px", "width_px")]
        fps = stored["fps"]
        version = stored["format_version"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if version != FORMAT_VERSION or not all(type(size) is int and size > 0 for size in sizes):
        return None
    if type(fps) not in (int, float) or not 0 < fps <= MAX_FPS:
        return None
    return content, ClipFacts(float(fps), *sizes)


def _plain(value: object) -> object:
    """Values that have an obvious JSON form although json does not know them."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")

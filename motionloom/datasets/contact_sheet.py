"""A contact sheet: a row a clip, frames from first to last, the caption below."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from motionloom.durable import write_durably
from motionloom.errors import InputError
from motionloom.video.clip import Clip
from motionloom.video.resize import resize

COLUMNS = 8
TILE_PX = 96
LINE_PX = 11
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def write_contact_sheet(path: str | Path, rows: Sequence[tuple[str, Clip]]) -> Path:
    """Write a picture with one row for each (title, clip): COLUMNS frames, evenly over the clip.

    Raises InputError when there is no row, or the suffix is not .png or .jpg; ResourceError when it cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise InputError(f'cannot write contact sheet "{target}"', fix="use a name that ends in .png or .jpg")
    if not rows:
        raise InputError("there is no clip for a contact sheet", fix="check what was refused")
    sheet = Image.new("RGB", (COLUMNS * TILE_PX, sum(_height(title) for title, _ in rows)), "white")
    top = 0
    for title, clip in rows:
        sheet.paste(_row(title, clip), (0, top))
        top += _height(title)
    kind = SUFFIXES[target.suffix.lower()]
    return write_durably(target, lambda temporary: sheet.save(temporary, format=kind))


def _row(title: str, clip: Clip) -> Image.Image:
    picked = np.linspace(0, clip.num_frames - 1, COLUMNS).round().astype(int)
    tiles = resize(clip.frames[picked], TILE_PX, TILE_PX, "pad")
    row = Image.new("RGB", (COLUMNS * TILE_PX, _height(title)), "white")
    row.paste(Image.fromarray(np.concatenate(list(tiles), axis=1)), (0, 0))
    ImageDraw.Draw(row).text((2, TILE_PX + 1), "\n".join(_lines(title)), fill="black", spacing=0)
    return row


def _lines(title: str) -> list[str]:
    plain = "".join(char if char.isascii() and char.isprintable() else "?" for char in title)
    return textwrap.wrap(plain, COLUMNS * TILE_PX // 6)[:3] or [""]


def _height(title: str) -> int:
    return TILE_PX + LINE_PX * len(_lines(title)) + 6

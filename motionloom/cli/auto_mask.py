"""`--mask auto`, `auto:WORDS` and `auto:LEFT,TOP,RIGHT,BOTTOM`: a mask cut from the photo and written beside the clip."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

from motionloom.errors import InputError, StateError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]

MIDDLE = (0.1, 0.1, 0.9, 0.9)  # where a subject is looked for when nothing is said
_BOX = re.compile(r"[-+.\d\s]+(,[-+.\d\s]+)+")


def is_automatic(text: str) -> bool:
    return text == "auto" or text.startswith("auto:")


def write_auto_mask(asked: str, photo: Path, path: Path) -> str:
    """Write the mask of what is asked for as a PNG of the photo's size; return a sentence on how it was made.

    Raises:
        InputError: nothing was told apart. WeightsError: words were given, and the networks are not here.
        ConfigError: a box that is none. StateError: another mask of that name is there, perhaps corrected by hand.
    """
    from PIL import Image

    from motionloom.durable import write_durably
    from motionloom.video.picture import read_picture

    what = asked.removeprefix("auto").removeprefix(":").strip()
    mask, how = _cut(what, read_picture(photo))
    if not mask.any():
        raise InputError(
            f'told no subject apart in "{photo}" by {how}',
            fix="paint a mask, or say where: --mask auto:0.2,0.1,0.8,0.9",
        )
    png = io.BytesIO()
    picture_of_mask = Image.fromarray(mask)
    picture_of_mask.save(png, "PNG")
    if path.exists() and path.read_bytes() != png.getvalue():
        raise StateError(
            f'"{path}" is there and is another mask', fix=f"use it with --mask {path}, or move it away"
        )
    write_durably(path, lambda part: picture_of_mask.save(part, "PNG"))
    return f'"{path}" is the mask, cut by {how}: {mask.mean() / 2.55:.0f} % of the photo; look at it'


def _cut(what: str, picture: Pixels) -> tuple[Pixels, str]:
    """The mask (H, W), 0 or 255, of a picture (H, W, 3), and how it was cut."""
    from motionloom.cli.data import parse_box
    from motionloom.datasets.subject_masks import segment

    frames = picture[None]
    if not what:
        return segment(frames, MIDDLE)[0], "its colours against those of the edges"
    if _BOX.fullmatch(what):
        return segment(frames, parse_box(what))[0], "its colours in the box"
    from motionloom.datasets.named_subjects import load_named_subjects

    return load_named_subjects().masks(frames, what)[0], f'GroundingDINO and SAM from "{what}"'

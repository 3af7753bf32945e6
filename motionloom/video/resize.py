"""Frames in space: resize to an exact size, and sizes that models accept."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from motionloom.errors import InputError
from motionloom.video.clip import check_frames

Policy = Literal["crop", "pad", "squash"]
MAX_SIDE_PX = 16384


def resize(
    frames: npt.NDArray[np.uint8], width_px: int, height_px: int, policy: Policy = "crop"
) -> npt.NDArray[np.uint8]:
    """Resize uint8 frames (T, H, W, 3) to (T, height_px, width_px, 3) with Lanczos filtering.

    "crop" fills the new size and cuts what sticks out, evenly on both sides; "pad" shows the whole frame
    with black bars, evenly on both sides; "squash" stretches. Frames of the right size are returned as they
    are.
    Raises InputError for an unknown policy, a size below 1 or above 16384, or frames of another shape or
    dtype.
    """
    check_frames(frames)
    for name, size in (("width", width_px), ("height", height_px)):
        if not 1 <= size <= MAX_SIDE_PX:
            raise InputError(f"{name} is {size} px, expected 1 to {MAX_SIDE_PX}", fix="choose another size")
    if policy not in ("crop", "pad", "squash"):
        raise InputError(
            f'resize policy is "{policy}", expected crop, pad or squash', fix="choose one of the three"
        )
    old_height, old_width = frames.shape[1:3]
    if (old_width, old_height) == (width_px, height_px):
        return frames
    box = (0.0, 0.0, float(old_width), float(old_height))
    inner_width, inner_height = width_px, height_px
    if policy == "crop":
        box = _centred_box(old_width, old_height, width_px / height_px)
    elif policy == "pad":
        scale = min(width_px / old_width, height_px / old_height)
        inner_width = min(width_px, max(1, round(old_width * scale)))
        inner_height = min(height_px, max(1, round(old_height * scale)))
    resized = np.zeros((len(frames), height_px, width_px, 3), dtype=np.uint8)
    top, left = (height_px - inner_height) // 2, (width_px - inner_width) // 2
    window = resized[:, top : top + inner_height, left : left + inner_width]
    for target, frame in zip(window, frames, strict=True):
        picture = Image.fromarray(np.ascontiguousarray(frame))
        target[:] = np.asarray(picture.resize((inner_width, inner_height), Image.Resampling.LANCZOS, box=box))
    return resized


def fit_within(width_px: int, height_px: int, max_side_px: int) -> tuple[int, int]:
    """The largest (width, height) with the same shape, no side above `max_side_px`, never enlarged, both
    even.

    Sizes are rounded to the nearest even number, at least 2: H.264 with yuv420p stores only even sizes.
    """
    assert min(width_px, height_px) >= 1 and max_side_px >= 2
    scale = min(1.0, max_side_px / max(width_px, height_px))
    return _even(width_px * scale, width_px, max_side_px), _even(height_px * scale, height_px, max_side_px)


def _even(size: float, old_px: int, max_side_px: int) -> int:
    ceiling = min(old_px, max_side_px) // 2 * 2
    return max(2, min(2 * round(size / 2), ceiling))


def _centred_box(width: int, height: int, aspect: float) -> tuple[float, float, float, float]:
    """The largest centred (left, top, right, bottom) with this width / height, within the frame."""
    inner_width = min(float(width), height * aspect)
    inner_height = min(float(height), width / aspect)
    left, top = (width - inner_width) / 2, (height - inner_height) / 2
    return left, top, min(left + inner_width, float(width)), min(top + inner_height, float(height))

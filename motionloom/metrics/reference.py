"""A clip beside its reference: same frames, same size, or a reason why not."""

from __future__ import annotations

from motionloom.errors import InputError
from motionloom.metrics.base import Frames, Item


def aligned(item: Item) -> tuple[Frames, Frames]:
    """The clip's and the reference's frames, of one shape.

    Raises:
        InputError: sizes or frame counts differ. Nothing is resized or cut in silence: it would change the score.
    """
    assert item.reference is not None
    own, real = item.clip.frames, item.reference.frames
    if own.shape != real.shape:
        raise InputError(
            f"it has {len(own)} frames of {own.shape[2]}x{own.shape[1]} px, its reference "
            f"{len(real)} of {real.shape[2]}x{real.shape[1]} px",
            fix="write both with the same number of frames and the same size",
        )
    return own, real

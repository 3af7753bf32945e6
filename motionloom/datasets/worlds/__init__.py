"""Worlds: small scenes with known causes, rendered by ourselves, unlimited, with the truth beside every clip.

blocks/     CATER-GEN's look-alike: shapes that slide, rotate, are picked up, contain; captions in its grammar
pushing/    BAIR's look-alike: a gripper that pushes things on a table, seen by two cameras
write.py    a world => a folder in the data set's own layout: parallel, resumable, the same bytes from the same seed
measure.py  what a clip of `blocks` shows, found by tracking, against what its caption says
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from motionloom.errors import ConfigError

if TYPE_CHECKING:
    from motionloom.datasets.worlds.blocks.scene import Variant
    from motionloom.datasets.worlds.write import World

WORLDS = ("blocks", "pushing")


def world_of(
    name: str,
    count: int,
    test_count: int = 0,
    seed: int = 0,
    frames: int | None = None,
    size_px: int | None = None,
    fps: float = 8.0,
    variant: str = "v2",
) -> World:
    """A world by its name. Raises ConfigError for an unknown one, or settings it does not have."""
    if name == "blocks":
        from motionloom.datasets.worlds.blocks.folder import BlocksWorld

        if variant not in ("v1", "v2"):
            raise ConfigError(f'blocks has no variant "{variant}"', fix="use v1 or v2")
        kind = cast("Variant", variant)
        return BlocksWorld(count, test_count, seed, kind, frames or 16, size_px or 128, fps)
    if name == "pushing":
        from motionloom.datasets.worlds.pushing.folder import PushingWorld

        if size_px not in (None, 64):
            raise ConfigError(
                f"pushing at {size_px} px asked for, BAIR's form is 64 px", fix="leave --size out"
            )
        return PushingWorld(count, test_count, seed, frames or 30)
    raise ConfigError(f'there is no world "{name}"', fix=f"use one of {', '.join(WORLDS)}")

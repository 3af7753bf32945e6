"""The clips of a recipe, looked at before training starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from motionloom.datasets.clips import ClipFolder
    from motionloom.training.recipe import Recipe


def checked_clips(
    recipe: Recipe, frames: int | None = None, fps: float | None = None, masks: str | Path | None = None
) -> ClipFolder:
    """The plain folder that the recipe's `data` names, with a progress bar; see `ClipFolder`.

    Args:
        frames, fps: instead of those of `data`.
        masks: folder with a mask of every clip.

    Raises:
        InputError: clips cannot be used.
    """
    from motionloom.datasets.clips import ClipFolder
    from motionloom.training.progress import counted

    data = recipe.clip_data()
    with counted("checking clips") as on_clip:
        return ClipFolder(
            data.folder,
            frames or data.frames,
            fps or data.fps,
            (data.width_px, data.height_px),
            fit=data.fit,
            flip=data.flip,
            skip_bad=data.skip_bad,
            seed=recipe.seed,
            cache_mb=data.cache_mb,
            masks=masks,
            on_clip=on_clip,
        )

"""Which published data sets are known, and which one a folder is."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from motionloom.errors import ConfigError

if TYPE_CHECKING:
    from motionloom.datasets.layout import Layout

# name -> "module:class"; in the order in which a folder is tried
LAYOUTS: dict[str, str] = {
    "bair": "motionloom.datasets.bair:BairPushing",
    "landscape": "motionloom.datasets.frame_folders:Landscape",
    "natops": "motionloom.datasets.natops:Natops",
    "mug": "motionloom.datasets.mug:Mug",
    "cater": "motionloom.datasets.cater:CaterGen",
    "ucf101": "motionloom.datasets.ucf101:Ucf101",
    "csv": "motionloom.datasets.csv_clips:CsvClips",
    "webdataset": "motionloom.datasets.tar_shards:TarShards",
}


def layout_class(name: str) -> type[Layout]:
    """The layout of a name. Raises ConfigError when there is none."""
    if name not in LAYOUTS:
        raise ConfigError(
            f'there is no data set layout "{name}"', fix=f"use one of clips, {', '.join(LAYOUTS)}"
        )
    module, _, attribute = LAYOUTS[name].partition(":")
    cls: Any = getattr(importlib.import_module(module), attribute)
    return cast("type[Layout]", cls)


def open_layout(name: str, folder: str | Path, **options: Any) -> Layout:
    """A data set of a known layout; `options` are its own. Raises InputError when the folder does not have it."""
    return layout_class(name)(folder, **options)


def recognise(folder: str | Path) -> str | None:
    """The name of the layout a folder has; None when it is none of them (a plain folder of clips, perhaps)."""
    path = Path(folder)
    if not path.is_dir():
        return None
    return next((name for name in LAYOUTS if layout_class(name).root_in(path) is not None), None)

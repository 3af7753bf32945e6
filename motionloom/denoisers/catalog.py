"""The bases: models that animate. A base is one file with a subclass of `Base`, and one row of BASES.

No torch here: listing the bases is instant.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motionloom.denoisers.dynamicrafter.hub import CHECKPOINT, REPOSITORIES, fetch
from motionloom.denoisers.hub import (
    FETCH_MOTION,
    FETCH_SPATIAL,
    FETCH_WAN,
    MOTION_FILES,
    MOTION_REPOSITORY,
    SPATIAL_FILES,
    SPATIAL_REPOSITORY,
    WAN_FILES,
    WAN_REPOSITORY,
)
from motionloom.denoisers.pretrained import find_folder, is_cached, suggest
from motionloom.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from motionloom.denoisers.base import Base


@dataclass(frozen=True)
class Row:
    """One base as the catalog knows it.

    Attributes:
        about: what it is, in one line.
        loader: "module:function" that builds it.
        status: () => whether its weights are here: "shipped", "made on the spot", "cached" or what is missing.
    """

    about: str
    loader: str
    status: Callable[[], str]


def _shipped() -> str:
    from motionloom.zoo import MINI

    there = all((MINI / file).is_file() for file in ("codec.safetensors", "generator.safetensors"))
    return "shipped" if there else "weights missing"


def _made() -> str:
    return "made on the spot"


def _cached(*needs: tuple[str, tuple[str, ...], str]) -> Callable[[], str]:
    """A status: "cached", or the commands that fetch what is missing; needs are (repository, files, command)."""

    def status() -> str:
        missing = [fetch for repository, files, fetch in needs if not is_cached(repository, files)]
        return f"missing: {' && '.join(missing)}" if missing else "cached"

    return status


BASES: dict[str, Row] = {
    "mini": Row(
        "a small LaMD shipped with the package: any photo, any size, on a CPU, no download",
        "motionloom.denoisers.mini:load_mini",
        _shipped,
    ),
    "animatediff-v3": Row(
        "Stable Diffusion 1.5 with motion module v3; moves by MIVA adapters, prompts and text adapters, 512x320, 16 frames",
        "motionloom.denoisers.animatediff:load_animatediff",
        _cached(
            (SPATIAL_REPOSITORY, SPATIAL_FILES, FETCH_SPATIAL),
            (MOTION_REPOSITORY, MOTION_FILES, FETCH_MOTION),
        ),
    ),
    "wan2.1-t2v-1.3b": Row(
        "Wan 2.1, a diffusion transformer of 1.3 B parameters; moves by MIVA adapters, 832x480, 17 frames",
        "motionloom.denoisers.wan:load_wan",
        _cached((WAN_REPOSITORY, WAN_FILES, FETCH_WAN)),
    ),
    "dynamicrafter-512": Row(
        "DynamiCrafter, photo and text to video; also moved by weight arithmetic and text adapters, 512x320, 16 frames",
        "motionloom.denoisers.dynamicrafter.base:load_512",
        _cached((REPOSITORIES["dynamicrafter-512"], (CHECKPOINT,), fetch("dynamicrafter-512"))),
    ),
    "dynamicrafter-1024": Row(
        "the same at 1024x576",
        "motionloom.denoisers.dynamicrafter.base:load_1024",
        _cached((REPOSITORIES["dynamicrafter-1024"], (CHECKPOINT,), fetch("dynamicrafter-1024"))),
    ),
    "dynamicrafter-256": Row(
        "its first version, at 256x256",
        "motionloom.denoisers.dynamicrafter.base:load_256",
        _cached((REPOSITORIES["dynamicrafter-256"], (CHECKPOINT,), fetch("dynamicrafter-256"))),
    ),
    "tiny-animatediff": Row(
        "random weights of animatediff-v3's layout, for tests and dry runs",
        "motionloom.denoisers.animatediff:load_tiny",
        _made,
    ),
    "tiny-wan": Row(
        "random weights of wan2.1-t2v-1.3b's layout, for tests and dry runs",
        "motionloom.denoisers.wan:load_tiny",
        _made,
    ),
    "tiny-dynamicrafter": Row(
        "random weights of dynamicrafter-512's layout, for tests and dry runs",
        "motionloom.denoisers.dynamicrafter.base:load_tiny",
        _made,
    ),
}

#: "_class_name" of a folder's model_index.json -> "module:function" that loads it, called with the folder
FOLDERS: dict[str, str] = {
    "AnimateDiffPipeline": "motionloom.denoisers.animatediff:load_animatediff",
    "WanPipeline": "motionloom.denoisers.wan:load_wan",
    "DynamiCrafter": "motionloom.denoisers.dynamicrafter.base:load_dynamicrafter",
    "mini": "motionloom.denoisers.mini:load_mini",
    "lamd": "motionloom.denoisers.lamd:load_lamd",
}

#: what a folder without an index holds, told by its files
FILES: dict[str, tuple[str, ...]] = {
    "mini": ("codec.safetensors", "generator.safetensors"),
    "lamd": ("mcd_vae.safetensors", "dmg.safetensors"),
}


def load_base(name: str | os.PathLike[str], **options: Any) -> Base:
    """A base, ready to animate.

    Args:
        name: one of BASES, a folder that holds a model, or the id of one on the hub ("organisation/name"), whose
            weights must be in the cache already: nothing is downloaded.
        options: of the base, by name: device, dtype, revision, and those its loader documents; motion_degree and
            control where `merge` put experts beside it (merging/dial.py).

    Raises:
        ConfigError: there is no base of this name, or no such option.
        WeightsError: its weights are missing (the fix is the command that fetches them), damaged, or of a model
            that is no base; it is to be dialled and carries no experts.
    """
    given = os.fspath(name)
    dial: dict[str, Any] = {key: options.pop(key) for key in ("motion_degree", "control") if key in options}
    if given in BASES:
        if dial:
            raise _no_experts(given)
        return _load(BASES[given].loader, given, options)
    if not Path(given).is_dir() and given.count("/") != 1:
        raise ConfigError(f'there is no base "{given}"', fix=suggest(given, list(BASES), "bases"))
    folder = find_folder(given, revision=options.get("revision"))
    base = _load(FOLDERS[_kind_of(folder)], given, options, folder)
    base.name = folder.name if Path(given).is_dir() else given
    return _dialled(base, folder, dial)


def describe_bases() -> list[tuple[str, str, str]]:
    """(name, what it is, "shipped", "cached", "made on the spot" or how to get it) of every base."""
    return [(name, row.about, row.status()) for name, row in BASES.items()]


def _dialled(base: Base, folder: Path, dial: dict[str, Any]) -> Base:
    """With the experts that lie beside the base, where some do."""
    from motionloom.merging.dial import dialled

    return dialled(base, folder, dial)


def _no_experts(name: str) -> WeightsError:
    from motionloom.merging.dial import no_experts

    return no_experts(name)


def _load(loader: str, name: str, options: dict[str, Any], *folder: Path) -> Base:
    module, _, function = loader.partition(":")
    load = getattr(importlib.import_module(module), function)
    try:
        base: Base = load(*folder, **options)
    except TypeError:
        accepted = inspect.signature(load).parameters
        unknown = [option for option in options if option not in accepted]
        if not unknown or any(one.kind is one.VAR_KEYWORD for one in accepted.values()):
            raise
        raise ConfigError(f'{name} has no option "{unknown[0]}"', fix="leave it out") from None
    return base


def _kind_of(folder: Path) -> str:
    """What model a folder holds, from its files or its model_index.json."""
    for known, files in FILES.items():
        if all((folder / file).is_file() for file in files):
            return known
    index = folder / "model_index.json"
    try:
        kind = json.loads(index.read_bytes())["_class_name"]
    except FileNotFoundError:
        raise WeightsError(
            f'"{folder}" has no model_index.json, expected the folder of a diffusers pipeline',
            fix="give the folder that holds unet or transformer, and vae",
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise WeightsError(f'"{index}" is damaged ({problem})', fix="download it again") from None
    if kind not in FOLDERS:
        raise WeightsError(
            f'"{folder}" holds a {kind}, which is no base', fix=f"the kinds known are {', '.join(FOLDERS)}"
        )
    return str(kind)

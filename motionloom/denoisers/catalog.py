"""The bases: models that animate. A base is one file with a subclass of `Base`, and one row of BASES.

No torch here: listing the bases is instant.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from motionloom.errors import ConfigError

if TYPE_CHECKING:
    from motionloom.denoisers.base import Base


def _shipped() -> str:
    from motionloom.zoo import MINI

    there = all((MINI / file).is_file() for file in ("codec.safetensors", "generator.safetensors"))
    return "shipped" if there else "weights missing"


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


BASES: dict[str, Row] = {
    "mini": Row(
        "a small LaMD shipped with the package: any photo, any size, on a CPU, no download",
        "motionloom.denoisers.mini:load_mini",
        _shipped,
    ),
}


def load_base(name: str) -> Base:
    """A base, ready to animate.

    Raises:
        ConfigError: there is no base of this name.
        WeightsError: its weights are missing or damaged.
    """
    if name not in BASES:
        near = difflib.get_close_matches(name, BASES, 1, 0.5)
        raise ConfigError(
            f'there is no base "{name}"',
            fix=f'did you mean "{near[0]}"?' if near else f"use one of {', '.join(BASES)}",
        )
    module, _, function = BASES[name].loader.partition(":")
    base: Base = getattr(importlib.import_module(module), function)()
    return base


def describe_bases() -> list[tuple[str, str, str]]:
    """(name, what it is, "shipped" or what is missing) of every base."""
    return [(name, row.about, row.status()) for name, row in BASES.items()]

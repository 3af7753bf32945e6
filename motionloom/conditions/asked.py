"""What a user asks for: a motion, how much of it, where, and how that changes along the denoising steps."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from motionloom.durable import sha256_of
from motionloom.errors import ConfigError

if TYPE_CHECKING:
    from motionloom.adapters.adapter import Adapter

Weight = float | tuple[float, float]  # a number, or (at the first step, at the last step)
Name = Union[str, "os.PathLike[str]", "Adapter"]  # a motion word, an adapter file, an adapter
Motion = Name | tuple[Name, Weight]
ADAPTER_SUFFIX = ".safetensors"
LARGEST_WEIGHT = 4.0
DEGREES = {"right": 0.0, "up": 90.0, "left": 180.0, "down": 270.0}


@dataclass(frozen=True)
class Asked:
    """One motion asked for.

    Attributes:
        name: a motion word, or what the adapter is called.
        weight: 1 is the motion's usual strength; a pair runs linearly over the steps.
        region: (H, W), 0..1, the photo's size; None is everywhere.
        adapter: the adapter that makes the motion; None where the base knows the word itself.
        sha256: of the adapter's file; empty where it came from none.
        heading: where the motion goes, as typed: left, right, up, down or degrees counter-clockwise from right; empty
            leaves it to the base.
    """

    name: str
    weight: Weight = 1.0
    region: npt.NDArray[np.float32] | None = None
    adapter: Adapter | None = None
    sha256: str = ""
    heading: str = ""

    @property
    def said(self) -> str:
        """As it is typed, without its weight: what a clip's settings repeat."""
        return f"{self.name}@{self.heading}" if self.heading else self.name

    @property
    def direction(self) -> tuple[float, float] | None:
        """The heading as a unit vector (right, down)."""
        return _direction(self.heading) if self.heading else None

    def weight_at(self, progress: float) -> float:
        """The weight when `progress` (0 at the first step, 1 at the last) of the steps is done."""
        if isinstance(self.weight, tuple):
            first, last = self.weight
            return first + (last - first) * min(max(progress, 0.0), 1.0)
        return self.weight

    @property
    def largest_weight(self) -> float:
        return max(self.weight) if isinstance(self.weight, tuple) else self.weight

    def region_over(self, height: int, width: int) -> Tensor:
        """(height, width), 0..1."""
        from motionloom.motion.grid import resize_maps

        if self.region is None:
            return torch.ones(height, width)
        return resize_maps(torch.from_numpy(self.region)[None, None], height, width, "bilinear")[0, 0]


def read_asked(
    motions: Sequence[Motion], regions: Sequence[npt.NDArray[np.float32] | None], words: Sequence[str]
) -> list[Asked]:
    """Motions, each alone or as (motion, weight) or (motion, (first, last)), with a region each => what is asked.

    Args:
        motions: motion words, WORD@DIRECTION, paths of adapter files, or adapters.
        regions: one for each motion, (H, W) 0..1; None is everywhere.
        words: the motion words the base knows; a name among them is never taken for a file.

    Raises:
        ConfigError: a weight that is no number, negative, or far beyond what was trained; a word where the
            base knows none.
        WeightsError: an adapter file that is missing or damaged.
    """
    asked = []
    for motion, region in zip(motions, regions, strict=True):
        given, weight = motion if isinstance(motion, (tuple, list)) else (motion, 1.0)
        heading = ""
        if isinstance(given, str) and words and "@" in given and not given.endswith(ADAPTER_SUFFIX):
            given, _, heading = given.partition("@")
            _direction(heading)
        name, adapter, sha256 = _motion(given, words)
        asked.append(Asked(name, _weight(weight, name), region, adapter, sha256, heading))
    return asked


def _direction(heading: str) -> tuple[float, float]:
    """left, right, up, down, or degrees counter-clockwise from right => unit vector (right, down)."""
    if heading in DEGREES:
        angle = math.radians(DEGREES[heading])
    else:
        try:
            angle = math.radians(float(heading))
        except ValueError:
            angle = math.nan
    if not math.isfinite(angle):
        raise ConfigError(
            f'got the direction "{heading}", expected {", ".join(DEGREES)} or degrees',
            fix="for example clouds@left, or clouds@30 for 30 degrees above right",
        )
    return math.cos(angle), -math.sin(angle)


def _weight(weight: Any, name: str) -> Weight:
    ends = weight if isinstance(weight, (tuple, list)) else (weight,)
    if len(ends) not in (1, 2) or not all(
        isinstance(w, (int, float)) and 0 <= w <= LARGEST_WEIGHT for w in ends
    ):
        raise ConfigError(
            f"got the weight {weight!r} for {name}, expected a number or a pair of numbers in 0..{LARGEST_WEIGHT:g}",
            fix="1 is a motion's usual strength",
        )
    return float(ends[0]) if len(ends) == 1 else (float(ends[0]), float(ends[1]))


def _motion(given: Name, words: Sequence[str]) -> tuple[str, Adapter | None, str]:
    """(name, adapter, sha256 of its file) of a motion; a word has no adapter."""
    if not isinstance(given, (str, os.PathLike)):  # an adapter
        return given.motion or "adapter", given, ""
    file = Path(given)
    if isinstance(given, str) and (given in words or (file.suffix != ADAPTER_SUFFIX and words)):
        return given, None, ""
    if file.suffix != ADAPTER_SUFFIX:
        raise ConfigError(
            f'this base knows no motion words, got "{given}"',
            fix=f"give an adapter file, such as {file.name or 'motion'}{ADAPTER_SUFFIX}",
        )
    return file.name, _adapter(file), sha256_of(file)


def _adapter(file: Path) -> Adapter:
    """An adapter of any kind: it is the base that knows what to do with it."""
    from motionloom.adapters.adapter_file import load_adapter
    from motionloom.weights import read_metadata

    if read_metadata(file).get("motionloom.kind") == "text_adapter":
        from motionloom.adapters.text_adapter import TextAdapter

        return cast("Adapter", TextAdapter.load(file))
    return load_adapter(file)

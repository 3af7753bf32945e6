"""What a user asks for: a motion, how much of it, where, and how that changes along the denoising steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from motionloom.errors import ConfigError

Weight = float | tuple[float, float]  # a number, or (at the first step, at the last step)
LARGEST_WEIGHT = 4.0


@dataclass(frozen=True)
class Asked:
    """One motion asked for.

    Attributes:
        name: a motion word.
        weight: 1 is the motion's usual strength; a pair runs linearly over the steps.
        region: (H, W), 0..1, the photo's size; None is everywhere.
    """

    name: str
    weight: Weight = 1.0
    region: npt.NDArray[np.float32] | None = None

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


def read_asked(motions: Sequence[Any], regions: Sequence[npt.NDArray[np.float32] | None]) -> list[Asked]:
    """Names, (name, weight) pairs or (name, (first, last)) pairs, with a region each => what is asked.

    Raises:
        ConfigError: a weight that is no number, negative, or far beyond what was trained.
    """
    asked = []
    for motion, region in zip(motions, regions, strict=True):
        name, weight = (motion, 1.0) if isinstance(motion, str) else motion
        ends = weight if isinstance(weight, (tuple, list)) else (weight,)
        if len(ends) not in (1, 2) or not all(
            isinstance(w, (int, float)) and 0 <= w <= LARGEST_WEIGHT for w in ends
        ):
            raise ConfigError(
                f"got the weight {weight!r} for {name}, expected a number or a pair of numbers in 0..{LARGEST_WEIGHT:g}",
                fix="1 is a motion's usual strength",
            )
        asked.append(
            Asked(str(name), float(ends[0]) if len(ends) == 1 else (float(ends[0]), float(ends[1])), region)
        )
    return asked

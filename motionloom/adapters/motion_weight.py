"""How much, when and where a motion acts: one object, one broadcastable (frames, height, width) tensor per step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from motionloom.errors import ConfigError, InputError


@dataclass(frozen=True, eq=False)
class MotionWeight:
    """strength x curve over steps x curve over frames x region; they multiply.

    Attributes:
        strength: the motion's weight. The weights of all mounted motions should sum to 1.
        over_steps: values at equal distances from the first denoising step to the last, linear in between;
            (1, 0) fades out while denoising.
        over_frames: the same from the first frame to the last.
        region: (h, w) or (frames, h, w), 0..1, of any size: averaged to the grid of every layer.

    Where the weights of all motions are 0, the base acts alone; see `mounted` for its temporal attention.

    Raises:
        ConfigError: a strength or curve that is not finite, or an empty curve.
        InputError: a region that is not 2- or 3-dimensional or leaves 0..1.
    """

    strength: float = 1.0
    over_steps: Sequence[float] | None = None
    over_frames: Sequence[float] | None = None
    region: Tensor | None = None

    def __post_init__(self) -> None:
        for name, values in (("over_steps", self.over_steps), ("over_frames", self.over_frames)):
            if values is not None and (len(values) == 0 or not all(math.isfinite(v) for v in values)):
                raise ConfigError(
                    f"got the weight {name}={list(values)!r}, expected at least one finite number",
                    fix="for example (1, 0): all at the start, nothing at the end",
                )
        if not math.isfinite(self.strength):
            raise ConfigError(
                f"got the weight {self.strength}, expected a finite number", fix="1 is the usual strength"
            )
        region = self.region
        if region is not None and (region.ndim not in (2, 3) or region.min() < 0 or region.max() > 1):
            raise InputError(
                f"got a region of shape {tuple(region.shape)} with values {float(region.min()):g} to "
                f"{float(region.max()):g}, expected (h, w) or (frames, h, w) in 0..1",
                fix="give white (1) where the motion acts",
            )

    @property
    def varies(self) -> bool:
        """Whether it is more than a number."""
        return self.over_steps is not None or self.over_frames is not None or self.region is not None

    @property
    def is_one(self) -> bool:
        """Whether it is the number 1."""
        return self.strength == 1 and not self.varies

    def at(self, progress: float, frames: int, height: int, width: int) -> Tensor:
        """The weight on a layer's grid: float (frames or 1, height or 1, width or 1).

        Args:
            progress: 0 at the first denoising step, 1 at the last.
            frames, height, width: the grid.
        """
        value = torch.full((1, 1, 1), float(self.strength))
        if self.over_steps is not None:
            value = value * _along(self.over_steps, torch.tensor([progress]))[:, None, None]
        if self.over_frames is not None:
            value = value * _along(self.over_frames, torch.linspace(0, 1, frames))[:, None, None]
        if self.region is not None:
            value = value * _resized(self.region, frames, height, width)
        return value


def weights_at(
    weights: Sequence[MotionWeight],
    progress: float,
    frames: int,
    grid: tuple[int, int],
    normalise: bool = False,
) -> list[Tensor]:
    """The weights of motions side by side: as given; normalised, divided by their sum wherever that is positive."""
    values = [weight.at(progress, frames, *grid) for weight in weights]
    if not normalise:
        return values
    total = sum(values, torch.zeros(1, 1, 1))
    return [torch.where(total > 0, value / total.clamp(min=1e-6), value) for value in values]


def as_motion_weight(weight: float | tuple[float, float] | MotionWeight) -> MotionWeight:
    """A number is a strength; a pair is (first step, last step)."""
    if isinstance(weight, MotionWeight):
        return weight
    if isinstance(weight, tuple):
        return MotionWeight(over_steps=weight)
    return MotionWeight(float(weight))


def _along(values: Sequence[float], where: Tensor) -> Tensor:
    """Piecewise linear interpolation of equally spaced values at `where` in 0..1."""
    points = torch.tensor(list(values), dtype=torch.float32)
    position = where.clamp(0, 1) * (len(points) - 1)
    left = position.floor().long().clamp(max=max(len(points) - 2, 0))
    right = (left + 1).clamp(max=len(points) - 1)
    return torch.lerp(points[left], points[right], position - left)


def _resized(region: Tensor, frames: int, height: int, width: int) -> Tensor:
    """Averaged over the cells of a layer's grid; along time the nearest frame, for a layer may have fewer than the clip."""
    maps = region.float() if region.ndim == 3 else region.float()[None]
    if len(maps) > 1:
        maps = maps[torch.linspace(0, len(maps) - 1, frames).round().long()]
    return F.adaptive_avg_pool2d(maps[:, None], (height, width))[:, 0]

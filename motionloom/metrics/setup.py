"""What a metric is made with: the frames it sees of a clip, and the networks it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from motionloom.errors import InputError
from motionloom.metrics.networks.table import Networks

if TYPE_CHECKING:
    from motionloom.metrics.base import Item


@dataclass(frozen=True)
class Window:
    """Which frames of a clip are seen.

    Attributes:
        frames: how many; None is all, and then every clip must have as many as the others.
        of_references: "first", or "random" (StyleGAN-V), drawn from the reference's own content.
    """

    frames: int | None = 16
    of_references: Literal["first", "random"] = "first"

    def __str__(self) -> str:
        return f"{self.frames or 'all'}-{self.of_references}"

    def of(self, item: Item) -> npt.NDArray[np.uint8]:
        frames = item.clip.frames
        if self.frames is None:
            return frames
        if len(frames) < self.frames:
            raise InputError(
                f"it has {len(frames)} frames, {self.frames} are needed",
                fix="give longer clips, or --frames N",
            )
        start = 0
        if self.of_references == "random" and item.role == "reference":
            seed = np.frombuffer(np.ascontiguousarray(frames[:, ::8, ::8]).tobytes()[:65536], np.uint8)
            start = int(np.random.default_rng(seed).integers(0, len(frames) - self.frames + 1))
        return frames[start : start + self.frames]


@dataclass(frozen=True)
class Setup:
    """Attributes:

    window: of the distances between sets.
    small_sets: give Fréchet distances of fewer than 256 clips, too.
    networks: weights by name, loaded when first asked for.
    """

    window: Window = Window()
    small_sets: bool = False
    networks: Networks = field(default_factory=Networks)

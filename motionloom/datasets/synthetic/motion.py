"""The contract of a synthetic motion, and the regions a motion can be confined to.

A motion is three functions of place and time; most use one of them.

    flow(xy, tau)    where frame tau takes its colours from: backward flow, frame units (motionloom.motion)
    light(xy, tau)   how much brighter it is: natural logarithm of the gain
    paint(frame, tau) what appears that no warp of the photo can show: rain, sparks, smoke

tau runs from 0 (the photo: all three do nothing) to 1 (the last frame's end). `truth` says whether flow is the whole
story, so that a clip's flow may be used as ground truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

Picture = npt.NDArray[np.uint8]


class Motion(Protocol):
    """A motion with all its random choices made."""

    word: str
    truth: bool

    def flow(self, xy: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """(h, w, 2), (T,) => (T, h, w, 2)."""
        ...

    def light(self, xy: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """(h, w, 2), (T,) => (T, h, w)."""
        ...

    def paint(self, frame: Picture, tau: float) -> Picture:
        """A frame at any size => the frame with what appears in it."""
        ...


class Still:
    """The motion that does nothing; the others override what they do."""

    word = ""
    truth = True

    def flow(self, xy: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(tau), *xy.shape)

    def light(self, xy: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(tau), *xy.shape[:2])

    def paint(self, frame: Picture, tau: float) -> Picture:
        return frame


@dataclass(frozen=True)
class Region:
    """A soft region of the frame: everything, one side of a line, or an ellipse.

    Attributes:
        kind: "all", "side" or "ellipse".
        centre: a point of the line, or the ellipse's centre, frame units.
        angle: of the line's normal, or of the ellipse, radians.
        radii: of the ellipse, frame units.
        softness: width of the border, frame units.
        inverted: the region's complement.
    """

    kind: str = "all"
    centre: tuple[float, float] = (0.0, 0.0)
    angle: float = 0.0
    radii: tuple[float, float] = (0.3, 0.3)
    softness: float = 0.04
    inverted: bool = False

    def __call__(self, xy: torch.Tensor) -> torch.Tensor:
        """(h, w, 2) => (h, w), 0..1."""
        if self.kind == "all":
            return torch.ones(xy.shape[:2])
        x, y = (xy - torch.tensor(self.centre)).unbind(-1)
        along = x * np.cos(self.angle) + y * np.sin(self.angle)
        across = y * np.cos(self.angle) - x * np.sin(self.angle)
        if self.kind == "side":
            depth = along
        else:
            depth = (1 - ((along / self.radii[0]) ** 2 + (across / self.radii[1]) ** 2).sqrt()) * min(
                self.radii
            )
        mask = torch.sigmoid(depth / self.softness * 4)
        return 1 - mask if self.inverted else mask

    def complement(self) -> Region:
        from dataclasses import replace

        return replace(self, inverted=not self.inverted)


def random_region(rng: np.random.Generator) -> Region:
    """A side of a line through the middle part, or an ellipse, with a soft border."""
    softness = float(rng.uniform(0.02, 0.08))
    centre = tuple(float(v) for v in rng.uniform(-0.2, 0.2, 2))
    angle = float(rng.uniform(0, 2 * np.pi))
    if rng.random() < 0.6:
        if rng.random() < 0.5:
            angle = float(rng.integers(4) * np.pi / 2)
        return Region("side", centre, angle, softness=softness)  # type: ignore[arg-type]
    radii = tuple(float(v) for v in rng.uniform(0.2, 0.45, 2))
    return Region("ellipse", centre, angle, radii, softness, bool(rng.random() < 0.2))  # type: ignore[arg-type]


class SmoothNoise:
    """A random smooth function of place: a sum of a few plane waves, mean 0 and standard deviation about 1."""

    def __init__(self, rng: np.random.Generator, wavelength: float, waves: int = 6) -> None:
        turn = rng.uniform(0, 2 * np.pi, waves)
        length = 2 * np.pi / (wavelength * rng.uniform(0.7, 1.6, waves))
        self.wave = torch.tensor(
            np.stack([np.cos(turn), np.sin(turn)]) * length, dtype=torch.float32
        )  # (2, waves)
        self.phase = torch.tensor(rng.uniform(0, 2 * np.pi, waves), dtype=torch.float32)

    def __call__(self, xy: torch.Tensor) -> torch.Tensor:
        """(..., 2) => (...)."""
        waves = torch.cos(xy @ self.wave + self.phase)
        return waves.mean(-1) * float((2 * len(self.phase)) ** 0.5)

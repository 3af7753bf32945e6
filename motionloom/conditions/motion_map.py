"""The motion map: which motion happens where, how much of it, and how far it moves as one.

One channel per motion word over the latent grid; the value is the amplitude, 0 where the motion was not asked for and 1
for its usual strength. Four more channels say of a local motion how coherent it is and which way it goes, as far as that
is told. Several motions in several regions are one map and one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from motionloom.conditions.words import WORDS, find
from motionloom.motion.speeds import way

COHERENCE = slice(len(WORDS), len(WORDS) + 2)  # the coherence, and 1 where it is told
DIRECTION = slice(len(WORDS) + 2, len(WORDS) + 4)  # the direction, (0, 0) where it is not told
CHANNELS = len(WORDS) + 4


@dataclass(frozen=True)
class Heading:
    """How far a local motion moves as one, and where to (ours; LaMD's conditions are text and content alone).

    Attributes:
        coherence: length of the mean displacement over the mean length of the way, 0..1: 1 where everything goes one
            way, 0 where it goes to and fro; None leaves it to the network.
        direction: unit vector (right, down) the scene moves in; None leaves it to the network, which sees the photo.
    """

    coherence: float | None = None
    direction: tuple[float, float] | None = None


@dataclass(frozen=True)
class Part:
    """One motion of a map.

    Attributes:
        word: its motion word.
        amplitude: 1 is the word's usual strength.
        region: (height, width), 0..1.
        heading: of a local motion.
    """

    word: str
    amplitude: float
    region: Tensor
    heading: Heading = Heading()


def motion_map(parts: Sequence[Part], height: int, width: int) -> Tensor:
    """Motion words with amplitudes, regions and headings => the map.

    Args:
        parts: those of one word add up; headings are averaged where regions overlap.
        height, width: the latent grid.

    Returns:
        (CHANNELS, height, width).
    """
    maps = torch.zeros(CHANNELS, height, width)
    share = torch.zeros(height, width)
    for part in parts:
        maps[find(part.word)] += part.amplitude * part.region
        if part.amplitude == 0 or part.heading == Heading():
            continue
        share += part.region
        if part.heading.coherence is not None:
            maps[COHERENCE] += torch.tensor([part.heading.coherence, 1.0])[:, None, None] * part.region
        if part.heading.direction is not None:
            maps[DIRECTION] += torch.tensor(part.heading.direction)[:, None, None] * part.region
    maps[len(WORDS) :] /= share.clamp_min(1)
    return maps


def heading_of(local: Tensor, region: Tensor) -> Heading:
    """The heading of a local flow (T, 2, h, w), backward, inside a region (h, w) 0..1; unknown where it stands still."""
    mass = region.sum().clamp_min(1e-6)
    gone = float((way(local[None])[0] * region).sum() / mass)
    if gone < 1e-4:
        return Heading()
    mean = -(local[-1] * region).sum((1, 2)) / mass
    length = float(mean.norm())
    direction = (mean / max(length, 1e-9)).tolist()
    return Heading(min(length / gone, 1.0), (direction[0], direction[1]))

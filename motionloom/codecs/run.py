"""How a motion runs along a clip: once, or there and back in a loop without a seam."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Draw = Callable[[int], Tensor]  # number of a moment => its picture, (1, 3, H, W)


@dataclass(frozen=True)
class Times:
    """Where along the motion each drawn frame lies.

    Attributes:
        camera: (N,), tau of the camera path.
        local: (N,) long, which of `resolution` moments of the local motion.
        from_end: (N,), 1 where the local motion is counted back from its end, else 0.
        elapsed: (N,), how far from the photo, 0..1.
        resolution: moments the local motion is decoded at.
    """

    camera: Tensor
    local: Tensor
    from_end: Tensor
    elapsed: Tensor
    resolution: int


class Run(Protocol):
    """How a motion runs along a clip."""

    def times(self, num_frames: int) -> Times:
        """The moments that have to be drawn."""
        ...

    def frame(self, draw: Draw, index: int, num_frames: int) -> Tensor:
        """Frame `index` >= 1 of the clip, from the moments that `draw` draws: (1, 3, H, W)."""
        ...


class Once:
    """From the photo to the end of the motion."""

    def times(self, num_frames: int) -> Times:
        tau = torch.linspace(0, 1, num_frames) if num_frames > 1 else torch.zeros(1)
        return Times(tau, torch.arange(num_frames), torch.zeros(num_frames), tau, num_frames)

    def frame(self, draw: Draw, index: int, num_frames: int) -> Tensor:
        return draw(index)


@dataclass(frozen=True)
class Loop:
    """A clip that ends where it began: the camera goes out and back; what moves by itself fades into its own past.

    At phase p = t / T the local motion is drawn twice, p after the photo and 1 - p before it, and mixed by p: both ends
    of the clip show the photo (as cinemagraphs are looped; not in the paper).
    """

    def times(self, num_frames: int) -> Times:
        phase = torch.arange(num_frames) / num_frames
        camera = (1 - torch.cos(2 * torch.pi * phase)) / 2
        before = torch.cat([torch.zeros(num_frames), torch.ones(num_frames)])
        moments = torch.arange(num_frames).repeat(2)
        elapsed = torch.cat([phase, 1 - phase])
        return Times(camera.repeat(2), moments, before, elapsed, num_frames + 1)

    def frame(self, draw: Draw, index: int, num_frames: int) -> Tensor:
        return torch.lerp(draw(index), draw(num_frames + index), index / num_frames)

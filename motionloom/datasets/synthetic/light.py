"""Light that changes: a lamp or fire flickers over the picture or a part of it."""

from __future__ import annotations

import math

import numpy as np
import torch

from motionloom.datasets.synthetic.motion import Motion, SmoothNoise, Still


class Flicker(Still):
    """A smooth random brightness curve, stronger in some places; the flow is exactly zero."""

    def __init__(self, word: str, rng: np.random.Generator, depth: float) -> None:
        self.word = word
        self.depth = depth
        self.beat = torch.tensor(2 * math.pi * np.array([1.0, 2.0, 3.0]), dtype=torch.float32)
        self.phase = torch.tensor(rng.uniform(0, 2 * math.pi, 3), dtype=torch.float32)
        self.share = torch.tensor(rng.dirichlet([2.0, 2.0, 1.0]), dtype=torch.float32)
        self.place = SmoothNoise(rng, 0.9)

    def light(self, xy: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        turned = tau[:, None] * self.beat + self.phase
        curve = (self.share * (torch.sin(turned) - torch.sin(self.phase))).sum(-1)  # (T,)
        return self.depth * curve[:, None, None] * (1 + 0.35 * self.place(xy)).clamp_min(0.1)


def sample_flicker(word: str, rng: np.random.Generator, amplitude: float) -> Motion:
    return Flicker(word, rng, 0.35 * amplitude)

"""Motions inside the picture: drifting sky, flowing water, waves, things that sway."""

from __future__ import annotations

import math

import numpy as np
import torch

from motionloom.datasets.synthetic.motion import Motion, SmoothNoise, Still


class Drift(Still):
    """A layer that moves one way while it slowly changes shape: sky-drift (any heading) and flowing-water (downhill)."""

    def __init__(
        self, word: str, rng: np.random.Generator, speed: float, heading: float, turbulence: float
    ) -> None:
        self.word = word
        self.velocity = speed * torch.tensor([math.cos(heading), math.sin(heading)], dtype=torch.float32)
        self.turbulence = turbulence * speed
        self.swirl = (SmoothNoise(rng, 0.5), SmoothNoise(rng, 0.5))
        self.pulse = SmoothNoise(rng, 0.8)

    def flow(self, xy: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        swirl = torch.stack([noise(xy) for noise in self.swirl], -1) * self.turbulence
        steady = (self.velocity * (1 + 0.25 * self.pulse(xy))[..., None] + swirl)[None]
        return -tau[:, None, None, None] * steady


class Waves(Still):
    """Travelling waves: what floats goes up and down and a little to and fro."""

    def __init__(self, word: str, rng: np.random.Generator, height: float) -> None:
        self.word = word
        heading = rng.uniform(0, 2 * math.pi)
        spread = heading + rng.normal(0, 0.35, 4)
        length = rng.uniform(0.2, 0.5, 4)
        k = 2 * math.pi / length
        self.wave = torch.tensor(
            np.stack([np.cos(spread), np.sin(spread)]) * k, dtype=torch.float32
        )  # (2, 4)
        self.beat = torch.tensor(
            rng.uniform(1.0, 2.0) * 2 * math.pi * np.sqrt(0.35 / length), dtype=torch.float32
        )
        self.phase = torch.tensor(rng.uniform(0, 2 * math.pi, 4), dtype=torch.float32)
        self.height = torch.tensor(height * length / length.sum(), dtype=torch.float32)

    def flow(self, xy: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        phase = (xy @ self.wave + self.phase)[None]  # (1, h, w, 4)
        turned = phase - tau[:, None, None, None] * self.beat
        up = (self.height * (torch.sin(turned) - torch.sin(phase))).sum(-1)
        along = 0.4 * (self.height * (torch.cos(turned) - torch.cos(phase))).sum(-1)
        return torch.stack([along, up], -1)


class Sway(Still):
    """Leaves and grass in the wind: neighbours move together, mostly sideways."""

    def __init__(self, word: str, rng: np.random.Generator, reach: float) -> None:
        self.word = word
        heading = rng.normal(0, 0.3)
        self.reach = reach * torch.tensor([math.cos(heading), math.sin(heading)], dtype=torch.float32)
        self.beat = 2 * math.pi * rng.uniform(0.8, 1.8)
        self.lag, self.strength = SmoothNoise(rng, 0.5), SmoothNoise(rng, 0.3)

    def flow(self, xy: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        lag = 1.2 * self.lag(xy)[None]
        swing = torch.sin(self.beat * tau[:, None, None] + lag) - torch.sin(lag)
        return (swing * (1 + 0.4 * self.strength(xy)).clamp_min(0))[..., None] * self.reach


def sample_sky_drift(word: str, rng: np.random.Generator, amplitude: float) -> Motion:
    heading = rng.choice([0.0, math.pi]) + rng.normal(0, 0.25)
    return Drift(word, rng, 0.08 * amplitude, heading, 0.25)


def sample_flowing_water(word: str, rng: np.random.Generator, amplitude: float) -> Motion:
    return Drift(word, rng, 0.10 * amplitude, math.pi / 2 + rng.normal(0, 0.3), 0.35)


def sample_waves(word: str, rng: np.random.Generator, amplitude: float) -> Motion:
    return Waves(word, rng, 0.03 * amplitude)


def sample_sway(word: str, rng: np.random.Generator, amplitude: float) -> Motion:
    return Sway(word, rng, 0.012 * amplitude)

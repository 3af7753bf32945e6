"""Several motions from one denoiser, as a denoiser: by one map, or by a sum of guidances.

`MapWeave` tells the network everything at once; it was trained so, and it is the default. `GuidanceWeave` asks it about
each motion alone and adds the differences, for motions that never occurred together in training:

    v = v_0 + sum_k w_k m_k (v_k - v_0)

with m_k the motion's region on the latent grid, v_0 the answer to stillness, and w_k its weight or, where the latent is
scaled afterwards (`MiniBase.as_asked`), 1. It costs one call more than there are motions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from motionloom.conditions.asked import Asked
from motionloom.conditions.motion_map import Heading, Part, motion_map
from motionloom.conditions.words import WORDS, Word, find
from motionloom.denoisers.base import PredictionType
from motionloom.denoisers.map_generator import MapGenerator, Told
from motionloom.errors import ConfigError


@dataclass(frozen=True)
class MapWeave:
    """The motions asked for as one motion map; weights may change with the steps. An adapter, mounted on the generator, is
    told by the word that carries it.
    """

    generator: MapGenerator
    asked: Sequence[Asked]

    @property
    def prediction_type(self) -> PredictionType:
        """That of the generator."""
        return self.generator.prediction_type

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Told) -> Tensor:
        """See `Denoiser`; the condition is what the generator was told of the photo."""
        maps = _map(self.asked, 1 - float(timestep.flatten()[0]) / 1000, latents, condition)
        velocity: Tensor = self.generator(latents, timestep, condition.with_map(maps))
        return velocity


@dataclass(frozen=True)
class GuidanceWeave:
    """The sum at the top of the file; each motion is asked for at its usual strength, everywhere, with its own heading.

    Raises:
        ConfigError: an adapter among them; mounted, it acts in every call.
    """

    generator: MapGenerator
    asked: Sequence[Asked]

    def __post_init__(self) -> None:
        for one in self.asked:
            if one.adapter is not None:
                raise ConfigError(
                    f'a sum of guidances knows words alone, got the adapter "{one.name}"',
                    fix="use `MapWeave`",
                )

    @property
    def prediction_type(self) -> PredictionType:
        """That of the generator."""
        return self.generator.prediction_type

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Told) -> Tensor:
        """See `Denoiser`."""
        progress = 1 - float(timestep.flatten()[0]) / 1000
        h, w = latents.shape[-2:]
        still = self.generator(latents, timestep, condition.with_map(_map([], progress, latents, condition)))
        total: Tensor = still
        for one in self.asked:
            usual = _map([replace(one, weight=1.0, region=None)], progress, latents, condition)
            alone = self.generator(latents, timestep, condition.with_map(usual))
            total = total + _amplitude(one, progress) * one.region_over(h, w) * (alone - still)
        return total


def _map(asked: Sequence[Asked], progress: float, latents: Tensor, told: Told) -> Tensor:
    """A motion map for every sample: (B, CHANNELS, h, w)."""
    h, w = latents.shape[-2:]
    drawn = told.headings is not None
    told_in = shares(asked, h, w)
    maps = [
        motion_map(
            [
                Part(word_of(one).name, _amplitude(one, progress), region, _heading(one, told, sample))
                for one, region in zip(asked, told_in, strict=True)
            ],
            h,
            w,
        )
        for sample in range(len(latents) if drawn else 1)
    ]
    return torch.stack(maps).to(latents).expand(len(latents), -1, -1, -1)


def word_of(one: Asked) -> Word:
    """The word a motion is told by: its own, or that which carries its adapter.

    Raises:
        ConfigError: there is no such word.
    """
    return WORDS[find(one.name if one.adapter is None else one.adapter.settings.word or "")]


def shares(asked: Sequence[Asked], height: int, width: int) -> list[Tensor]:
    """Where each motion acts, (height, width), 0..1: its region. Adapters of fixed weight divide a place among them in
    proportion to their weights: together they act at their usual strength, and are scaled afterwards.
    """
    total, covered = _adapters_over(asked, height, width)
    regions = [one.region_over(height, width) for one in asked]
    return [
        (one.weight_at(0) * region / total.clamp_min(1e-9) * covered).clamp(0, 1) if _divides(one) else region
        for one, region in zip(asked, regions, strict=True)
    ]


def strength_of(one: Asked, asked: Sequence[Asked], height: int, width: int) -> Tensor:
    """How strongly a motion acts in its share of a place: its weight, or the mean weight of the adapters there."""
    if not _divides(one):
        return torch.full((height, width), one.weight_at(1.0))
    total, covered = _adapters_over(asked, height, width)
    return total / covered.clamp_min(1e-9)


def _divides(one: Asked) -> bool:
    return one.adapter is not None and scales_exactly(one)


def _adapters_over(asked: Sequence[Asked], height: int, width: int) -> tuple[Tensor, Tensor]:
    """At every place the sum of the adapters' weights, and how far their regions cover it, 0..1."""
    total, covered = torch.zeros(2, height, width)
    for one in asked:
        if _divides(one):
            region = one.region_over(height, width)
            total, covered = total + one.weight_at(0) * region, covered + region
    return total, covered.clamp(max=1)


def _amplitude(one: Asked, progress: float) -> float:
    """What the network is told: of a local motion of fixed weight the usual strength, for its latent is linear and can be
    scaled exactly afterwards (`MiniBase.as_asked`); networks answer weak weights too strongly.
    """
    return 1.0 if scales_exactly(one) else one.weight_at(progress)


def scales_exactly(one: Asked) -> bool:
    """Whether a motion's strength is a factor of the latent."""
    return word_of(one).kind == "local" and not isinstance(one.weight, tuple) and one.weight > 0


def _heading(one: Asked, told: Told, sample: int) -> Heading:
    """The direction asked for goes before the one drawn."""
    among = None if one.adapter is None else one.adapter.headings
    drawn = told.heading(sample, word_of(one).name, among)
    return drawn if one.direction is None else replace(drawn, direction=one.direction)

"""The motion map: words, regions, and how far a motion moves as one."""

from __future__ import annotations

import math

import pytest
import torch

from motionloom.conditions.motion_map import (
    CHANNELS,
    COHERENCE,
    DIRECTION,
    Heading,
    Part,
    heading_of,
    motion_map,
)
from motionloom.conditions.words import INDEX, WORDS

ONE = torch.ones(4, 6)
HALF = torch.cat([torch.ones(4, 3), torch.zeros(4, 3)], 1)


def test_parts_of_one_word_add_up_and_nothing_asked_is_zero() -> None:
    assert not motion_map([], 4, 6).any()
    maps = motion_map([Part("sea", 0.5, ONE), Part("sea", 0.25, HALF)], 4, 6)
    assert maps.shape == (CHANNELS, 4, 6)
    assert torch.equal(maps[INDEX["sea"]], 0.5 + 0.25 * HALF)
    assert not maps[len(WORDS) :].any()  # no heading told


def test_a_heading_stands_in_its_own_region_and_overlaps_are_averaged() -> None:
    heading = Heading(0.8, (0.0, 1.0))
    maps = motion_map([Part("waterfall", 1.0, HALF, heading)], 4, 6)
    assert torch.equal(maps[COHERENCE], torch.stack([0.8 * HALF, HALF]))
    assert torch.equal(maps[DIRECTION], torch.stack([0 * HALF, HALF]))
    both = motion_map([Part("sea", 1.0, ONE, Heading(0.2)), Part("clouds", 1.0, ONE, Heading(0.6))], 4, 6)
    assert torch.allclose(both[COHERENCE][0], torch.full((4, 6), 0.4))
    assert torch.equal(both[COHERENCE][1], ONE)
    assert not motion_map([Part("sea", 0.0, ONE, heading)], 4, 6)[len(WORDS) :].any()


def test_at_a_soft_edge_a_heading_fades_with_its_motion() -> None:
    maps = motion_map([Part("waterfall", 1.0, 0.25 * HALF, Heading(0.8, (0.0, 1.0)))], 4, 6)
    assert torch.allclose(maps[COHERENCE], 0.25 * torch.stack([0.8 * HALF, HALF]))
    assert torch.allclose(maps[DIRECTION], 0.25 * torch.stack([0 * HALF, HALF]))


def test_heading_of_a_drift_is_one_and_of_a_pendulum_zero() -> None:
    tau = torch.linspace(0, 1, 16)[:, None, None, None]
    drift = tau * torch.tensor([-0.1, 0.0])[:, None, None].expand(2, 4, 6)  # backward: the scene goes right
    heading = heading_of(drift, ONE)
    assert heading.coherence == pytest.approx(1.0, abs=1e-5) and heading.direction == pytest.approx(
        (1.0, 0.0)
    )
    pendulum = torch.sin(2 * math.pi * tau) * torch.tensor([0.1, 0.0])[:, None, None].expand(2, 4, 6)
    assert heading_of(pendulum, ONE).coherence == pytest.approx(0.0, abs=1e-5)
    apart = drift * torch.where(HALF > 0, 1.0, -1.0)
    assert heading_of(apart, ONE).coherence == pytest.approx(0.0, abs=1e-5)
    assert heading_of(apart, HALF).coherence == pytest.approx(1.0, abs=1e-5)
    assert heading_of(0 * drift, ONE) == Heading()


def test_the_coherence_is_the_mean_displacement_over_the_mean_way() -> None:
    """c = |sum_x m d_T| / sum_x m sum_t |d_t - d_(t-1)|: the same bits as the formula written out."""
    generator = torch.Generator().manual_seed(0)
    local, region = torch.randn(16, 2, 4, 6, generator=generator), torch.rand(4, 6, generator=generator)
    ways = local.diff(dim=0).square().sum(1).sqrt().sum(0)
    displacement = -(local[-1] * region).sum((1, 2)) / region.sum()
    heading = heading_of(local, region)
    assert heading.coherence == float(displacement.norm()) / float((ways * region).sum() / region.sum())
    assert heading.direction == tuple((displacement / float(displacement.norm())).tolist())

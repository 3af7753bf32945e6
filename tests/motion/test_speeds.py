"""Speeds matched by rank."""

from __future__ import annotations

import torch

from motionloom.motion.speeds import LEVELS, MOST, gain, quantiles, way


def test_the_way_is_the_length_of_all_steps() -> None:
    local = torch.zeros(1, 3, 2, 1, 2)
    local[0, :, 0, 0, 0] = torch.tensor([0.0, 3.0, 0.0])  # there and back
    local[0, 1:, :, 0, 1] = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    assert torch.equal(way(local), torch.tensor([[[6.0, 5.0]]]))


def test_matched_speeds_have_the_real_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    generated = 0.1 + torch.rand(1, 64, 64, generator=generator).sort(-1).values  # smooth along a row
    real = torch.cat([torch.zeros(1024), 0.5 * torch.rand(3072, generator=generator)])
    factor = gain(generated, quantiles(generated), quantiles(real))
    matched = (factor * generated).flatten().sort().values
    assert factor.shape == generated.shape and 0 <= factor.min() and factor.max() <= MOST
    assert (matched - real.sort().values).abs().mean() < 0.02


def test_equal_distributions_change_nothing_but_by_their_coarseness() -> None:
    ways = torch.linspace(0.1, 1, 256).reshape(1, 16, 16)
    levels = quantiles(ways)
    assert levels.shape == (LEVELS,)
    assert (gain(ways, levels, levels) - 1).abs().max() < 1e-3

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
    assert factor.shape == generated.shape and factor.min() >= 0 and factor.max() <= MOST
    assert (matched - real.sort().values).abs().mean() < 0.02


def test_equal_distributions_change_nothing_but_by_their_coarseness() -> None:
    ways = torch.linspace(0.1, 1, 256).reshape(1, 16, 16)
    levels = quantiles(ways)
    assert levels.shape == (LEVELS,)
    assert (gain(ways, levels, levels) - 1).abs().max() < 1e-3


def test_the_dial_of_a_local_motion_is_exact() -> None:
    """Half the weight is half the flow, in its region alone; the camera's channels are not touched."""
    import numpy as np

    from motionloom.conditions.asked import Asked
    from motionloom.denoisers.mini import load_mini

    base = load_mini()
    latents = torch.randn(2, base.codec.motion.channels, 4, 6, generator=torch.Generator().manual_seed(0))
    left = np.zeros((4, 6), np.float32)
    left[:, :3] = 1

    def local(weight: float) -> torch.Tensor:
        moved = base.as_asked(latents, [Asked("sway", weight, left), Asked("pan-left", 0.3)])
        assert torch.equal(moved[:, :2], latents[:, :2])
        return base.codec.motion.decode(moved).local

    once, half = local(1.0), local(0.5)
    assert torch.allclose(half[..., :3], 0.5 * once[..., :3], atol=1e-6) and once[..., :3].abs().max() > 0
    assert torch.equal(half[..., 3:], once[..., 3:])

"""Theory of the zero-terminal-SNR sampler; reference numbers are in tests/parity/dynamicrafter."""

from __future__ import annotations

import pytest
import torch

from motionloom.errors import ConfigError
from motionloom.sampling.rescaled_guidance import rescaled
from motionloom.sampling.zero_terminal_snr import (
    BETA_END,
    BETA_START,
    ZeroTerminalSNRDDIM,
    dynamic_scale,
    zero_terminal_snr_alphas,
)


def test_the_shift_moves_the_last_signal_level_to_zero_and_leaves_the_first() -> None:
    """sqrt(abar) is shifted and scaled (arXiv 2305.08891, Algorithm 1): 0 at the end, as it was at 0."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, 1000, dtype=torch.float64).square()
    plain, shifted = (1 - betas).cumprod(0).sqrt(), zero_terminal_snr_alphas().sqrt()
    assert shifted[-1] == 0
    assert float(shifted[0]) == pytest.approx((1 - BETA_START) ** 0.5, abs=1e-15)
    slope = shifted.diff() / plain.diff()
    assert torch.allclose(slope, slope[:1].expand_as(slope), rtol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_no_step_count_gives_nan(eta: float) -> None:
    x, v = torch.randn(1, 4, 2, 2, 2), torch.randn(1, 4, 2, 2, 2)
    for count in range(2, 101):
        scheduler = ZeroTerminalSNRDDIM(0.7, eta)
        scheduler.set_timesteps(count)
        assert len(scheduler.timesteps) == count
        assert scheduler.timesteps[0] == 999 and scheduler.timesteps[-1] >= 0
        for at in (*scheduler.timesteps[:2], scheduler.timesteps[-1]):
            x_next, x0 = scheduler.step(v, at, x)
            assert x_next.isfinite().all() and x0.isfinite().all(), (count, int(at))


def test_the_true_velocity_leads_back_to_x0() -> None:
    """With the exact v of one known x0, deterministic steps stay on its path: x_t = sqrt(abar) x0 + sqrt(1-abar) e."""
    x0, e = torch.randn(2, 1, 4, 3, 2, 2, dtype=torch.float64)
    scheduler = ZeroTerminalSNRDDIM(eta=0.0)
    scheduler.set_timesteps(7)
    x = e
    for at in scheduler.timesteps:
        a = float(scheduler.alphas_cumprod[at])
        x, told = scheduler.step(a**0.5 * e - (1 - a) ** 0.5 * x0, at, x)
        assert torch.allclose(told, x0, atol=1e-12)
    a = float(scheduler.alphas_cumprod[0])
    assert torch.allclose(x, a**0.5 * x0 + (1 - a) ** 0.5 * e, atol=1e-12)


def test_ancestral_steps_keep_unit_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    scheduler = ZeroTerminalSNRDDIM(eta=1.0)
    scheduler.set_timesteps(10)
    x0, x = torch.zeros(1, 100_000), torch.randn(1, 100_000, generator=generator)
    for at in scheduler.timesteps[:-1]:
        a = float(scheduler.alphas_cumprod[at])
        v = (a / (1 - a)) ** 0.5 * x if a > 0 else torch.zeros_like(x)  # the velocity when x0 = 0
        then = float(scheduler.alphas_cumprod[scheduler._next(int(at))])
        x, told = scheduler.step(v, at, x, generator=generator)
        assert torch.allclose(told, x0, atol=1e-5)
        if a > 0:
            assert float(x.var()) == pytest.approx(1 - then, rel=0.03)


@pytest.mark.parametrize(("base", "released"), [(0.7, 0.985714), (0.3, 0.966667)])
def test_dynamic_rescale_is_undone_up_to_the_last_timestep(base: float, released: float) -> None:
    scale = dynamic_scale(base)
    assert (scale[400:] == base).all() and scale[0] == 1
    for unscale, expected in (("released", released), ("exact", 1.0)):
        scheduler = ZeroTerminalSNRDDIM(base, 0.0, unscale)
        scheduler.set_timesteps(50)
        product = 1.0
        for at in scheduler.timesteps:
            factor = scheduler._scale_of_next(int(at), scheduler._next(int(at))) / float(scale[at])
            assert factor == 1 or at < 420
            product *= factor
        assert base * product == pytest.approx(expected, abs=1e-6)


def test_guidance_rescale() -> None:
    full, guided = torch.randn(3, 4, 5), 5 * torch.randn(3, 4, 5)
    assert torch.equal(rescaled(full, guided, 0.0), guided)
    assert torch.allclose(rescaled(full, guided, 1.0).std(dim=(1, 2)), full.std(dim=(1, 2)))


def test_sampling_may_start_below_the_end() -> None:
    scheduler = ZeroTerminalSNRDDIM(start=940)
    scheduler.set_timesteps(50)
    assert scheduler.timesteps[:2].tolist() == [939, 920] and scheduler.timesteps[-1] == 18


def test_refusals() -> None:
    for wrong in ({"base_scale": 0.0}, {"eta": -1.0}, {"start": 1001}):
        with pytest.raises(ConfigError, match="expected base_scale"):
            ZeroTerminalSNRDDIM(**wrong)
    with pytest.raises(ConfigError, match="1001 steps for 1000 timesteps"):
        ZeroTerminalSNRDDIM().set_timesteps(1001)

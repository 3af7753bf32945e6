"""Experts along the steps: when they switch, that one network equals two, and that it comes back bit for bit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from motionloom.denoisers.base import Denoiser
from motionloom.errors import ConfigError, WeightsError
from motionloom.sampling.experts import (
    Experts,
    Schedule,
    Switched,
    TwoNetworks,
    late_weight,
    noise_level,
    scale_at,
)
from motionloom.sampling.loop import sample
from motionloom.sampling.schedules import rectified_flow

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


class Toy(nn.Module):
    """A denoiser of two layers that counts and remembers its calls."""

    prediction_type = "flow"

    def __init__(self, width: int = 24, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
            self.first.weight[0, :4] = torch.tensor([0.0, -0.0, 1e-30, -2.0])
        self.to(dtype)
        self.seen: list[Tensor] = []

    def forward(self, latents: Tensor, timestep: Tensor, condition: Any) -> Tensor:
        self.seen.append(self.first.weight.detach().clone())
        return self.second(torch.tanh(self.first(latents.to(self.first.weight.dtype)))).to(latents.dtype)


def difference(network: nn.Module, density: float, std: float = 0.01) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    drawn = {}
    for name, parameter in network.named_parameters():
        step = std * torch.randn(parameter.shape, generator=generator)
        keep = torch.rand(parameter.shape, generator=generator) < density
        drawn[name] = (step * keep).to(parameter.dtype)
    return drawn


def bits(network: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone().view(torch.uint8) for tensor in network.state_dict().values()]


def late(network: nn.Module, step: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: late_weight(parameter.detach(), step[name]) for name, parameter in network.named_parameters()
    }


# --- when ---------------------------------------------------------------------------------------------------


def released_timesteps(count: int) -> list[int]:
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(count)
    return [int(t) for t in scheduler.timesteps]


@pytest.mark.parametrize(
    ("steps", "early", "later"), [(50, 25, 25), (20, 10, 10), (25, 13, 12), (30, 15, 15)]
)
def test_released_switch(steps: int, early: int, later: int) -> None:
    shares = [Schedule(0.5).late_share(t) for t in released_timesteps(steps)]
    assert shares == [0.0] * early + [1.0] * later


def test_boundaries() -> None:
    timesteps = released_timesteps(50)
    assert all(Schedule(-0.001).late_share(t) == 0 for t in timesteps)  # T = -1: the early expert alone
    assert all(Schedule(1.0).late_share(t) == 1 for t in timesteps)
    assert Schedule(0.5).late_share(500) == 1.0  # the release: >
    assert Schedule(0.5, early_at_boundary=True).late_share(500) == 0.0  # Wan 2.2: >=


def test_blends_are_monotone_and_meet_in_the_middle() -> None:
    for blend in ("linear", "cosine"):
        schedule = Schedule(0.5, blend, width=0.4)  # type: ignore[arg-type]
        shares = [schedule.late_share(t) for t in range(1000, -1, -10)]
        assert shares[0] == 0 and shares[-1] == 1 and shares == sorted(shares)
        assert schedule.late_share(500) == pytest.approx(0.5)
    assert Schedule(0.5, "cosine", 0.4).late_share(600) == pytest.approx(0.5 - 0.5 * 0.5**0.5)


def test_noise_levels() -> None:
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    level = noise_level(scheduler)
    assert level(0) < 0.05 and level(999) > 0.99
    assert level(499) == pytest.approx(float((1 - scheduler.alphas_cumprod[499]) ** 0.5))
    assert noise_level(rectified_flow())(250.0) == 0.25
    assert Schedule(0.9, level=level).late_share(999) == 0 and Schedule(0.9, level=level).late_share(100) == 1


def test_adapter_weight_along_the_steps() -> None:
    assert [scale_at(Schedule(0.5), t, -0.1875, 1.25) for t in (900, 500)] == [-0.1875, 1.25]
    assert scale_at(Schedule(0.5, "linear"), 500, 0.0, 1.0) == pytest.approx(0.5)


# --- one network is two -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", [1.0, 0.3])
def test_one_network_equals_two_bit_for_bit(dtype: torch.dtype, density: float) -> None:
    one, first, second = (Toy(dtype=dtype) for _ in range(3))
    step, before = difference(one, density), bits(one)
    second.load_state_dict(late(one, step))
    noise = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(2))

    def sampled(denoiser: Denoiser) -> Tensor:
        return sample(denoiser, rectified_flow(), noise, None, 6, None)

    expected = sampled(TwoNetworks(first, second, Schedule(0.5)))
    with Experts(one, step, Schedule(0.5)) as experts:
        assert torch.equal(sampled(Switched(one, experts)), expected)
    assert all(torch.equal(a, b) for a, b in zip(bits(one), before, strict=True))
    changed = [not torch.equal(a, b) for a, b in zip(one.seen, one.seen[1:], strict=False)]
    assert sum(changed) == 1  # one switch
    for own, other in zip(one.seen, [*first.seen, *second.seen], strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("blend", ["hard", "linear", "cosine"])
def test_the_network_comes_back_bit_for_bit(dtype: torch.dtype, blend: Any) -> None:
    network = Toy(dtype=dtype)
    step, before = difference(network, 1.0, std=0.3), bits(network)
    with pytest.raises(KeyboardInterrupt), Experts(network, step, Schedule(0.5, blend, 0.6)) as experts:
        for timestep in (900, 700, 600, 500, 450, 600, 100, 900, 300):
            experts.at(timestep)
        assert not all(torch.equal(a, b) for a, b in zip(bits(network), before, strict=True))
        raise KeyboardInterrupt  # also when a run is stopped
    assert all(torch.equal(a, b) for a, b in zip(bits(network), before, strict=True))


def test_a_blend_is_between_the_experts() -> None:
    network = Toy()
    start, step = network.first.weight.detach().clone(), difference(network, 1.0)
    with Experts(network, step, Schedule(0.5, "linear", 0.4)) as experts:
        experts.at(550)
        assert torch.allclose(network.first.weight, start + 0.375 * step["first.weight"], atol=1e-4)


# --- what it costs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "density", "std"),
    [
        (torch.float32, 1.0, 0.01),
        (torch.float32, 0.51, 0.01),
        (torch.float16, 1.0, 0.01),
        (torch.float16, 0.51, 0.01),
        (torch.bfloat16, 1.0, 0.01),
        (torch.bfloat16, 0.51, 0.01),
    ],
)
def test_memory_is_below_0_7_of_a_model(dtype: torch.dtype, density: float, std: float) -> None:
    network = Toy(256, dtype)
    with Experts(network, difference(network, density, std), Schedule(0.5)) as experts:
        experts.at(100)
        print(f"\n{dtype} density {density}: {experts.extra_share:.3f} of a model")
        assert 0.3 < experts.extra_share < 0.7


def test_switching_is_a_small_part_of_a_run() -> None:
    """A switch touches each weight a few times; a step multiplies with each a thousand times and more."""
    network = Toy(512)
    latents = torch.randn(4, 1024, 512)
    experts = Experts(network, difference(network, 1.0), Schedule(0.5))
    started = time.process_time()
    with torch.no_grad():
        for _ in range(3):
            network(latents, torch.zeros(4), None)
    run = (time.process_time() - started) / 3 * 50
    started = time.process_time()
    with experts:
        experts.at(100)
    assert time.process_time() - started <= 0.02 * run


# --- refusals -----------------------------------------------------------------------------------------------


def test_refusals() -> None:
    network = Toy()
    with pytest.raises(WeightsError, match=r"holds 1 tensors the network lacks \(third.weight\)"):
        Experts(network, {"third.weight": torch.zeros(1)}, Schedule())
    with pytest.raises(WeightsError, match=r'"first.bias" has the shape \[24\] in the network and \[2\]'):
        Experts(network, {"first.bias": torch.zeros(2)}, Schedule())
    with pytest.raises(WeightsError, match="holds nothing"):
        Experts(network, {}, Schedule())
    with pytest.raises(ConfigError, match='no blend "soft"'):
        Schedule(blend="soft")  # type: ignore[arg-type]


@dataclass
class Constant:
    value: float
    prediction_type: str = "flow"
    calls: list[float] = field(default_factory=list)

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Any) -> Tensor:
        self.calls.append(float(timestep.flatten()[0]))
        return torch.full_like(latents, self.value)


def test_two_networks_with_wans_boundary() -> None:
    high, low = Constant(1.0), Constant(2.0)
    pair = TwoNetworks(high, low, Schedule(0.9, early_at_boundary=True))  # type: ignore[arg-type]
    for timestep in (1000.0, 900.0, 899.0, 10.0):
        pair(torch.zeros(2, 3), torch.full((2,), timestep), None)
    assert high.calls == [1000.0, 900.0] and low.calls == [899.0, 10.0]


def test_weights_of_any_strides_come_back() -> None:
    network = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    step = {"weight": 0.3 * torch.randn(8, 8, 3, 3, generator=torch.Generator().manual_seed(0))}
    before = network.weight.detach().clone()
    with Experts(network, step, Schedule(0.5)) as experts:
        experts.at(0)
        assert torch.equal(network.weight, late_weight(before, step["weight"]))
    assert torch.equal(network.weight, before)

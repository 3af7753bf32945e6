"""Frame 0: never stepped, seen clean by the denoiser at every step, and the source of the final statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from motionloom.denoisers.base import PredictionType
from motionloom.sampling.first_frame import HeldFrames, adain
from motionloom.sampling.loop import sample
from motionloom.sampling.schedules import ancestral, ddim, rectified_flow, stable_diffusion, unipc


class Toy:
    """A denoiser that mixes the frames, and keeps what it saw."""

    def __init__(self, prediction_type: PredictionType) -> None:
        self.prediction_type = prediction_type
        self.seen: list[Tensor] = []

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Any = None) -> Tensor:
        self.seen.append(latents)
        return 0.7 * latents + 0.1 * latents.mean(2, keepdim=True)


SCHEDULERS: dict[str, tuple[Callable[[], Any], PredictionType]] = {
    "ddim": (lambda: ddim(stable_diffusion()), "epsilon"),
    "ancestral": (lambda: ancestral(stable_diffusion()), "epsilon"),
    "unipc": (lambda: unipc(stable_diffusion()), "epsilon"),
    "flow": (lambda: rectified_flow(5.0), "flow"),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("held", [(0,), (0, 3)])
def test_held_frames_are_what_they_were_after_50_steps(name: str, held: tuple[int, ...]) -> None:
    make, prediction_type = SCHEDULERS[name]
    start = torch.randn(2, 4, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    denoiser = Toy(prediction_type)
    end = sample(denoiser, HeldFrames(make(), held), start, None, 50, torch.Generator().manual_seed(1))
    assert len(denoiser.seen) >= 50
    for seen in (*denoiser.seen, end):
        assert torch.equal(seen[:, :, held], start[:, :, held])
    free = [frame for frame in range(6) if frame not in held]
    assert not torch.isclose(end[:, :, free], start[:, :, free]).any(0).all()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_other_frames_are_stepped_as_if_alone(name: str) -> None:
    make, prediction_type = SCHEDULERS[name]
    start = torch.randn(1, 4, 5, 4, 4, generator=torch.Generator().manual_seed(0))

    class Alone(Toy):
        def __call__(self, latents: Tensor, timestep: Tensor, condition: Any = None) -> Tensor:
            whole = torch.cat([start[:, :, :1], latents], 2) if latents.shape[2] == 4 else latents
            return super().__call__(whole, timestep)[:, :, -latents.shape[2] :]

    held = sample(Toy(prediction_type), HeldFrames(make()), start, None, 7, torch.Generator().manual_seed(1))
    alone = sample(Alone(prediction_type), make(), start[:, :, 1:], None, 7, torch.Generator().manual_seed(1))
    assert torch.equal(held[:, :, 1:], alone)


def test_fifty_steps_visit_981_to_1() -> None:
    scheduler = HeldFrames(ddim(stable_diffusion()))
    scheduler.set_timesteps(50)
    assert scheduler.timesteps.tolist() == list(range(981, 0, -20))
    assert float(scheduler.alphas_cumprod[975].sqrt()) == pytest.approx(0.0787138, abs=1e-6)
    linear = stable_diffusion("linear")
    assert float(linear.alphas_cumprod[975].sqrt()) == pytest.approx(0.0459, abs=1e-4)


def test_ddim_is_that_of_diffusers() -> None:
    """Leading spacing, offset 1, abar = 1 before the first timestep, eta 0, no clipping."""
    from diffusers import DDIMScheduler

    stock = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=True, steps_offset=1, timestep_spacing="leading",
    )  # fmt: skip
    start = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    ours, theirs = (
        sample(Toy("epsilon"), scheduler, start, None, 50, None)
        for scheduler in (ddim(stable_diffusion()), stock)
    )
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_wan_visits_shifted_noise_levels() -> None:
    """sigma = 5 s / (1 + 4 s) for s = 1, .98, ..., .02, then 0."""
    scheduler = rectified_flow(5.0)
    scheduler.set_timesteps(50)
    s = torch.linspace(1, 0.02, 50)
    expected = torch.cat([5 * s / (1 + 4 * s), torch.zeros(1)])
    assert torch.allclose(scheduler.sigmas, expected, atol=1e-6)
    assert torch.allclose(scheduler.timesteps, 1000 * expected[:-1], atol=1e-3)


def test_adain_gives_the_statistics_of_frame_0() -> None:
    latents = torch.randn(2, 4, 6, 9, 7, generator=torch.Generator().manual_seed(0))
    latents *= torch.rand(2, 4, 6, 1, 1) + 0.5
    matched = adain(latents)
    assert torch.equal(matched[:, :, 0], latents[:, :, 0])
    for statistic in (torch.mean, torch.std):
        got, want = statistic(matched, (-2, -1)), statistic(latents[:, :, :1], (-2, -1))
        assert torch.allclose(got, want.expand_as(got), atol=1e-6)


def test_adain_changes_scale_and_offset_alone_and_twice_is_once() -> None:
    latents = torch.randn(1, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    matched = adain(latents)
    first, second = latents[0, 0, 2].flatten(), matched[0, 0, 2].flatten()
    assert torch.corrcoef(torch.stack([first, second]))[0, 1].item() == pytest.approx(1.0, abs=1e-6)
    assert torch.allclose(adain(matched), matched, atol=1e-6)
    flat = torch.ones(1, 1, 3, 4, 4)  # no variance to divide by
    assert torch.allclose(adain(flat), flat)

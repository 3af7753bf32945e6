"""One loop for every scheduler; guidance as a denoiser; one seed per sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from motionloom.denoisers.base import MotionCondition, PredictionType
from motionloom.errors import ConfigError, NumericError
from motionloom.sampling.guidance import ClassifierFreeGuidance
from motionloom.sampling.loop import sample
from motionloom.sampling.schedules import (
    ancestral,
    ddim,
    dpm_plus_plus,
    ldm_linear,
    rectified_flow,
    rounded_grid,
    unipc,
)
from motionloom.start_noise.gaussian import Gaussian, one_generator_per_sample


@dataclass
class Linear:
    """A denoiser that answers with a tenth of its input, and remembers when it was asked."""

    prediction_type: PredictionType = "epsilon"
    times: list[float] = field(default_factory=list)

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Any) -> Tensor:
        assert timestep.shape == (len(latents),)
        self.times.append(float(timestep[0]))
        return 0.1 * latents


SCHEDULERS = {
    "ancestral": ancestral,
    "ancestral-rounded": lambda: ancestral(grid=rounded_grid),
    "ddim": ddim,
    "dpm++": dpm_plus_plus,
    "unipc": unipc,
    "flow": rectified_flow,
    "v": lambda: ddim(ldm_linear("v_prediction"), eta=0.5),
}
TYPES: dict[str, PredictionType] = {"flow": "flow", "v": "v_prediction"}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_and_batches_of_any_size(name: str) -> None:
    scheduler, denoiser = SCHEDULERS[name](), Linear(TYPES.get(name, "epsilon"))  # type: ignore[operator]
    ticks: list[tuple[int, int]] = []
    noise = Gaussian()(None, (3, 3, 4, 4), one_generator_per_sample(7, 3))
    generators = one_generator_per_sample(70, 3)
    together = sample(denoiser, scheduler, noise, None, 10, generators, lambda i, n: ticks.append((i, n)))
    assert together.shape == noise.shape
    assert ticks == [(i, 10) for i in range(1, 11)]
    assert denoiser.times == sorted(denoiser.times, reverse=True) and len(set(denoiser.times)) == 10

    alone = sample(denoiser, scheduler, noise[1:2], None, 10, one_generator_per_sample(71, 1))
    torch.testing.assert_close(alone, together[1:2])


def test_start_noise_does_not_depend_on_the_batch() -> None:
    many = Gaussian()(None, (4, 2, 3), one_generator_per_sample(0, 4))
    one = Gaussian()(torch.zeros(1, 2, 3), (1, 2, 3), one_generator_per_sample(2, 1))
    assert torch.equal(many[2:3], one)
    shared = Gaussian()(None, (4, 2, 3), torch.Generator().manual_seed(0))
    assert torch.equal(shared[0], many[0]) and not torch.equal(shared[1], many[1])


def test_mismatched_prediction_and_nan_are_errors() -> None:
    with pytest.raises(ConfigError, match="predicts flow"):
        sample(Linear("flow"), ddim(), torch.zeros(1, 3, 2, 2), None, 2, None)
    with pytest.raises(ConfigError, match="predicts epsilon"):
        sample(Linear(), rectified_flow(), torch.zeros(1, 3, 2, 2), None, 2, None)
    with pytest.raises(NumericError, match="NaN"):
        sample(Linear(), ddim(), torch.full((1, 3, 2, 2), float("nan")), None, 2, None)


@dataclass
class Told:
    """Answers 100 if nothing is told, 10 more for the picture, 1 more for the text."""

    prediction_type: PredictionType = "epsilon"
    calls: int = 0

    def __call__(self, latents: Tensor, timestep: Tensor, condition: MotionCondition) -> Tensor:
        self.calls += 1
        mask = condition.tokens_mask
        assert condition.tokens is not None
        image, text = (True, True) if mask is None else (bool(mask[0, 0]), bool(mask[0, 1]))
        return torch.full_like(latents, 100.0 + 10 * image + 1 * text)


@pytest.mark.parametrize(
    ("text", "image", "calls"), [(1.0, 1.0, 1), (3.0, 1.0, 2), (1.0, 2.0, 3), (4.0, 4.0, 2), (3.0, 2.0, 3)]
)
def test_guidance_scales_are_independent(text: float, image: float, calls: int) -> None:
    denoiser = Told()
    guided = ClassifierFreeGuidance(denoiser, text, image)
    condition = MotionCondition(torch.zeros(1, 2, 4), num_content_tokens=1)
    out = guided(torch.zeros(1, 3, 2, 2), torch.tensor([500]), condition)
    assert out.flatten()[0].item() == pytest.approx(100 + 10 * image + 1 * text)
    assert denoiser.calls == calls and guided.prediction_type == "epsilon"


def test_guidance_acts_inside_its_interval() -> None:
    guided = ClassifierFreeGuidance(Told(), text_scale=3.0, interval=(200, 800))
    condition = MotionCondition(torch.zeros(1, 2, 4), num_content_tokens=1)
    answers = [guided(torch.zeros(1, 1), torch.tensor([t]), condition).item() for t in (199, 200, 799, 800)]
    assert answers == [111, 113, 113, 111]

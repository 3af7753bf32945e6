"""Known places of a latent are held: exactly at the end, at the right noise level on the way, for every solver."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from motionloom.denoisers.base import PredictionType
from motionloom.sampling.inpaint import HeldPlaces
from motionloom.sampling.loop import sample
from motionloom.sampling.schedules import ancestral, ddim, dpm_plus_plus, rectified_flow, unipc

KNOWN = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LEFT_HELD = torch.cat([torch.zeros(1, 1, 4, 2), torch.ones(1, 1, 4, 2)], -1)


class Oracle:
    """Predicts as if everything were `target`; records what it sees."""

    def __init__(self, target: Tensor, prediction_type: PredictionType, scheduler: Any) -> None:
        self.target, self.prediction_type, self.scheduler = target, prediction_type, scheduler
        self.seen: list[tuple[float, Tensor]] = []

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Any) -> Tensor:
        t = float(timestep[0])
        self.seen.append((t, latents))
        if self.prediction_type == "flow":
            return (latents - self.target) / (t / 1000)
        abar = self.scheduler.alphas_cumprod[round(t)]
        return (latents - abar.sqrt() * self.target) / (1 - abar).sqrt()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (ancestral, "epsilon"),
        (ddim, "epsilon"),
        (dpm_plus_plus, "epsilon"),
        (unipc, "epsilon"),
        (rectified_flow, "flow"),
    ],
)
def test_known_places_are_known_and_the_others_sampled(make: Any, kind: PredictionType) -> None:
    solver = make()
    held = HeldPlaces(solver, KNOWN, LEFT_HELD, kind)
    oracle = Oracle(torch.full_like(KNOWN, 0.7), kind, solver)
    noise = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    found = sample(oracle, held, noise, None, 8, torch.Generator().manual_seed(2))
    assert torch.equal(found[..., :2], KNOWN[..., :2])
    assert torch.allclose(found[..., 2:], torch.tensor(0.7), atol=0.02)
    for t, seen in oracle.seen[1:]:
        if kind == "flow":
            signal, level = 1 - t / 1000, t / 1000
        else:
            abar = float(solver.alphas_cumprod[round(t)])
            signal, level = abar**0.5, (1 - abar) ** 0.5
        assert torch.allclose(seen[..., :2], (signal * KNOWN + level * noise)[..., :2], atol=1e-5)


def test_a_region_of_one_is_the_solver_itself() -> None:
    noise = torch.randn(1, 3, 4, 4)
    plain, held = (
        sample(Oracle(KNOWN, "flow", None), scheduler, noise, None, 5, None)
        for scheduler in (
            rectified_flow(),
            HeldPlaces(rectified_flow(), KNOWN, torch.ones(1, 1, 4, 4), "flow"),
        )
    )
    assert torch.equal(plain, held)

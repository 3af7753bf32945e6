"""Schedules against closed forms: the respaced posterior, the paper's grids, and exact solutions."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from motionloom.errors import ConfigError
from motionloom.sampling.schedules import (
    ancestral,
    ddim,
    ddpm_linear,
    describe,
    dpm_plus_plus,
    from_description,
    ldm_linear,
    leading_grid,
    rectified_flow,
    rounded_grid,
    unipc,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers


def test_processes() -> None:
    ldm, ddpm = ldm_linear().betas.double(), ddpm_linear().betas.double()
    torch.testing.assert_close(ldm.sqrt().diff(), ldm.sqrt().diff().mean().expand(999), rtol=0, atol=1e-7)
    assert ldm[0].item() == pytest.approx(0.0015) and ldm[-1].item() == pytest.approx(0.0195)
    torch.testing.assert_close(ddpm.diff(), ddpm.diff().mean().expand(999), rtol=0, atol=1e-8)
    assert ddpm[0].item() == pytest.approx(1e-4) and ddpm[-1].item() == pytest.approx(0.02)


def test_both_grids_of_200_steps() -> None:
    assert leading_grid(1000, 200) == list(range(1, 1000, 5))  # 1, 6, ..., 996
    spread = rounded_grid(1000, 200)
    assert spread[0] == 0 and spread[-1] == 999 and len(set(spread)) == 200
    assert set(np.diff(spread)) == {5, 6}
    for num_steps in (1, 3, 999, 1000):
        grid = leading_grid(1000, num_steps)
        assert len(grid) == num_steps and grid[0] >= 0 and grid[-1] < 1000


@pytest.mark.parametrize("grid", [leading_grid, rounded_grid])
@pytest.mark.parametrize("process", [ldm_linear, ddpm_linear])
def test_ddim_with_eta_1_is_the_respaced_posterior(grid: object, process: object) -> None:
    """Mean and variance of q(x_s | x_t, x_0) with beta'_i = 1 - abar_i / abar_{i-1}, to 1e-6."""
    solver = ancestral(process(), grid)  # type: ignore[operator,arg-type]
    solver.set_timesteps(200)
    timesteps = solver.timesteps.flip(0)
    abar = solver.alphas_cumprod.double()[timesteps]
    before = torch.cat([torch.ones(1).double(), abar[:-1]])
    beta = 1 - abar / before
    coefficient_x0 = before.sqrt() * beta / (1 - abar)
    coefficient_xt = (1 - beta).sqrt() * (1 - before) / (1 - abar)
    variance = beta * (1 - before) / (1 - abar)

    x_t, x_0 = torch.tensor([0.7, -1.3]).double(), torch.tensor([-0.4, 0.9]).double()
    for i, t in enumerate(timesteps):
        epsilon = ((x_t - abar[i].sqrt() * x_0) / (1 - abar[i]).sqrt()).float()
        many = torch.Generator().manual_seed(i)
        stepped = solver.step(epsilon, t, x_t.float(), generator=many, return_dict=False)[0]
        drawn = (
            torch.randn(2, generator=torch.Generator().manual_seed(i)) if variance[i] > 0 else torch.zeros(2)
        )
        expected = coefficient_x0[i] * x_0 + coefficient_xt[i] * x_t + variance[i].sqrt() * drawn
        torch.testing.assert_close(stepped.double(), expected, atol=2e-6, rtol=1e-6)


def exact_epsilon(x_t: Tensor, abar: Tensor, std: float) -> Tensor:
    """The best prediction where the data are N(0, std^2)."""
    return x_t * (1 - abar).sqrt() / (abar * std**2 + 1 - abar)


def solve(solver: object, num_steps: int, x: Tensor, std: float) -> Tensor:
    solver.set_timesteps(num_steps)  # type: ignore[attr-defined]
    abars = ldm_linear().alphas_cumprod.double()
    for t in solver.timesteps:  # type: ignore[attr-defined]
        x = solver.step(exact_epsilon(x, abars[int(t)], std), t, x, return_dict=False)[0]  # type: ignore[attr-defined]
    return x


def relative_error(make: Any, num_steps: int) -> float:
    """For N(0, std^2) the probability flow only rescales: x_0 = x_T std / sqrt(abar_T std^2 + 1 - abar_T)."""
    solver, std, x = make(), 0.5, torch.tensor([[1.0, -2.0]]).double()
    solver.set_timesteps(num_steps)
    abar = float(ldm_linear().alphas_cumprod[int(solver.timesteps[0])])
    expected = x * std / (abar * std**2 + 1 - abar) ** 0.5
    return float((solve(solver, num_steps, x, std) / expected - 1).abs().max())


@pytest.mark.parametrize("make", [dpm_plus_plus, unipc])
def test_fast_solvers_find_the_exact_solution_in_20_steps(make: Any) -> None:
    assert relative_error(make, 20) < 0.02


def test_ddim_is_of_first_order() -> None:
    errors = [relative_error(ddim, num_steps) for num_steps in (50, 100, 200)]
    assert errors[2] < 0.03
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2.0, rel=0.15)


def test_ancestral_samples_have_the_variance_of_the_data() -> None:
    """x_s is linear in x_t, so the variance follows exactly, without drawing; at K = T it is the data's."""

    def final_std(num_steps: int, std: float) -> float:
        solver = ancestral(grid=rounded_grid)
        solver.set_timesteps(num_steps)
        variance = torch.ones(1).double()
        for t in solver.timesteps:
            abar, before = solver.alphas_cumprod[t].double(), solver._abar(solver._previous[int(t)])
            noise = (1 - before) / (1 - abar) * (1 - abar / before)
            gain = drift(solver, t, abar, std)
            variance = gain**2 * variance + noise
        return float(variance.sqrt())

    def drift(solver: Any, t: Tensor, abar: Tensor, std: float) -> Tensor:
        """How much of x_t is left in the mean of x_s: the step of +1 and of -1 with the same noise."""
        one = torch.ones(1).double()
        up, down = (
            solver.step(
                exact_epsilon(x, abar, std), t, x, torch.Generator().manual_seed(0), return_dict=False
            )[0]
            for x in (one, -one)
        )
        return (up - down) / 2

    assert final_std(1000, 0.5) == pytest.approx(0.5, rel=0.02)
    assert final_std(200, 0.5) == pytest.approx(0.5, rel=0.06)


def test_v_prediction_and_epsilon_agree() -> None:
    solvers = ddim(ldm_linear()), ddim(ldm_linear("v_prediction"))
    x_t, x_0 = torch.randn(8), torch.randn(8)
    results = []
    for solver in solvers:
        solver.set_timesteps(50)
        t = solver.timesteps[10]
        abar = solver.alphas_cumprod[t]
        epsilon = (x_t - abar.sqrt() * x_0) / (1 - abar).sqrt()
        v = abar.sqrt() * epsilon - (1 - abar).sqrt() * x_0
        prediction = epsilon if solver is solvers[0] else v
        results.append(solver.step(prediction, t, x_t, return_dict=False)[0])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_rectified_flow_is_exact_on_straight_paths(shift: float) -> None:
    flow = rectified_flow(shift)
    flow.set_timesteps(4)
    assert flow.timesteps[0] == 1000 and flow.sigmas[-1] == 0
    if shift == 1.0:
        assert flow.sigmas.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    x_0, epsilon = torch.randn(5), torch.randn(5)
    x = epsilon.clone()
    for t in flow.timesteps:
        x = flow.step(epsilon - x_0, t, x, return_dict=False)[0]
    torch.testing.assert_close(x, x_0)


def test_descriptions_rebuild_the_process() -> None:
    for process in (ldm_linear("v_prediction"), ddpm_linear()):
        rebuilt = from_description(json.loads(json.dumps(describe(process))))
        torch.testing.assert_close(rebuilt.alphas_cumprod, process.alphas_cumprod)
        assert rebuilt.config["prediction_type"] == process.config["prediction_type"]
    assert from_description(describe(rectified_flow(3.0))).config["shift"] == 3.0
    with pytest.raises(ConfigError, match="noise process"):
        from_description({"process": "quantum"})


def test_step_counts_are_checked() -> None:
    with pytest.raises(ConfigError, match="1001 steps"):
        ancestral().set_timesteps(1001)
    with pytest.raises(ConfigError, match="eta"):
        ddim(eta=1.5)

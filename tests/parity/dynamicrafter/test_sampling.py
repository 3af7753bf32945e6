"""The sampler against the official code: tables, 42 single steps, one whole trajectory."""

from __future__ import annotations

from pathlib import Path

import torch

from motionloom.sampling.rescaled_guidance import RescaledGuidance, rescaled
from motionloom.sampling.zero_terminal_snr import ZeroTerminalSNRDDIM, dynamic_scale, zero_terminal_snr_alphas
from tests.parity.golden import read_case

HERE = Path(__file__).parent


def test_tables_and_timesteps() -> None:
    case = read_case(HERE, "ddim_step")
    case.check("alphas_cumprod", zero_terminal_snr_alphas().float(), case.tensors["alphas_cumprod"], 1e-7)
    for base in (0.7, 0.3):
        case.check(
            f"scale {base}", dynamic_scale(base).float(), case.tensors[f"scale_arr_{base}"][:1000], 1e-7
        )
    for count, expected in case.manifest["schedule"]["timesteps_descending"].items():
        scheduler = ZeroTerminalSNRDDIM()
        scheduler.set_timesteps(int(count))
        assert scheduler.timesteps.tolist() == expected


def test_single_steps() -> None:
    case = read_case(HERE, "ddim_step")
    limits = case.manifest["verification"]["suggested_tolerance"]
    for one in case.manifest["cases"]:
        t = {k.split(".")[1]: v for k, v in case.tensors.items() if k.startswith(one["id"] + ".")}
        if "guidance_scale" in one:
            full, nothing = t["v_cond"], t["v_uncond"]
            guided = rescaled(
                full, nothing + one["guidance_scale"] * (full - nothing), one["guidance_rescale"]
            )
            case.check(f"{one['id']} guided v", guided, t["v"], limits["max_abs"])
        scheduler = ZeroTerminalSNRDDIM(one["base_scale"], one["eta"])
        scheduler.set_timesteps(one["steps"])
        x_prev, x0 = scheduler.step(t["v"], one["t"], t["x"], noise=t.get("noise"))
        rounding = one["eta"] == 1.0 and one["t"] == 999
        case.check(
            f"{one['id']} x_prev", x_prev, t["x_prev"], limits["max_abs_eta1_t999" if rounding else "max_abs"]
        )
        case.check(f"{one['id']} x0", x0, t["pred_x0"], limits["max_abs"])


class _Linear:
    prediction_type = "v_prediction"

    def __init__(self, matrix: torch.Tensor, offset: torch.Tensor) -> None:
        self.matrix, self.offset = matrix, offset

    def __call__(self, x: torch.Tensor, t: torch.Tensor, condition: _Told) -> torch.Tensor:
        drift = condition.amount * (1 + t[0] / 1000) * self.offset
        return torch.einsum("ij,bjfhw->bifhw", self.matrix, x) + drift[None, :, None, None, None]


class _Told:
    def __init__(self, amount: float) -> None:
        self.amount = amount

    def dropped(self, **_: object) -> _Told:
        return _Told(-0.6)


def test_trajectory() -> None:
    case = read_case(HERE, "sampler_trace")
    t, settings = case.tensors, case.manifest["settings"]
    scheduler = ZeroTerminalSNRDDIM(settings["base_scale"], settings["eta"])
    scheduler.set_timesteps(settings["steps"])
    guided = RescaledGuidance(
        _Linear(t["A"], t["d"]), settings["guidance_scale"], settings["guidance_rescale"]
    )
    x, xs, x0s = t["x_T"], [], []
    for at in scheduler.timesteps:
        x, x0 = scheduler.step(guided(x, at.expand(len(x)), _Told(1.0)), at, x)
        xs.append(x)
        x0s.append(x0)
    case.check("x of all steps", torch.stack(xs), t["x"])
    case.check("x0 of all steps", torch.stack(x0s), t["pred_x0"])

"""Noise schedules and solvers, as diffusers scheduler objects.

A *process* says how training noises latents (`ldm_linear`, `ddpm_linear`); a *solver* is built from a process
and walks back (`ancestral`, `ddim`, `dpm_plus_plus`, `unipc`). `rectified_flow` is both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from motionloom.errors import ConfigError

NUM_TRAIN_TIMESTEPS = 1000

_DDIM: Any = DDIMScheduler  # the annotations of diffusers' schedulers contradict their own use
_FlowMatchEuler: Any = FlowMatchEulerDiscreteScheduler
Grid = Callable[[int, int], list[int]]  # (training timesteps T, steps K) -> K ascending timesteps in [0, T)


def ldm_linear(prediction_type: str = "epsilon", beta_end: float = 0.0195) -> DDPMScheduler:
    """The "linear" of latent diffusion: linear in sqrt(beta) from .0015 to .0195; LaMD's default."""
    betas = {"beta_start": 0.0015, "beta_end": beta_end, "beta_schedule": "scaled_linear"}
    return _process(betas, prediction_type)


def ddpm_linear(prediction_type: str = "epsilon") -> DDPMScheduler:
    """The "linear" of DDPM: beta from 1e-4 to .02."""
    return _process({"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}, prediction_type)


def stable_diffusion(beta_schedule: str = "scaled_linear") -> DDPMScheduler:
    """Stable Diffusion 1.5's: linear in sqrt(beta) from .00085 to .012; AnimateDiff's own is "linear" in beta."""
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": beta_schedule}
    return _process(betas, "epsilon")


def leading_grid(num_train_timesteps: int, num_steps: int) -> list[int]:
    """1, 1 + c, 1 + 2c, ... with c = T / K: latent diffusion's 1, 6, ..., 996 for 200 steps.

    Where K does not divide T the strides differ by one, so that the grid still reaches the noise.
    """
    offset = 0 if num_steps == num_train_timesteps else 1
    return [offset + index * num_train_timesteps // num_steps for index in range(num_steps)]


def rounded_grid(num_train_timesteps: int, num_steps: int) -> list[int]:
    """K points from 0 to T - 1, rounded: improved-diffusion's respacing; strides differ by one."""
    return [int(point) for point in np.linspace(0, num_train_timesteps - 1, num_steps).round()]


class GridDDIM(_DDIM):  # type: ignore[misc]
    """DDIM (arXiv 2010.02502) on any grid of timesteps, with eta as a property of the solver.

    The stock scheduler takes t - T // K for the predecessor of t, which on a grid of uneven strides is not
    the timestep the next step is taken from. Here it is.

    Attributes:
        grid: which timesteps are visited.
        eta: 0 is deterministic; 1 has the variance of the respaced ancestral sampler.
    """

    grid: Grid
    eta: float

    @classmethod
    def of(cls, process: DDPMScheduler, grid: Grid, eta: float) -> GridDDIM:
        """The solver of a process. No x0 clipping: latents have no fixed range."""
        if not 0.0 <= eta <= 1.0:
            raise ConfigError(f"eta is {eta}, expected 0 (deterministic) to 1", fix="set eta to 1")
        solver: GridDDIM = _built(cls, **_noise_of(process), clip_sample=False)
        solver.grid, solver.eta = grid, eta
        return solver

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose K timesteps, and for each its predecessor; before the first lies the clean latent."""
        if not 0 < num_inference_steps <= self.config.num_train_timesteps:
            raise ConfigError(
                f"got {num_inference_steps} steps, expected 1 to {self.config.num_train_timesteps}",
                fix="ask for 200 steps, the paper's number",
            )
        ascending = self.grid(self.config.num_train_timesteps, num_inference_steps)
        self.num_inference_steps = num_inference_steps
        self._previous = dict(zip(ascending, [-1, *ascending[:-1]], strict=True))
        self.timesteps = torch.tensor(ascending[::-1], device=device)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """x_t -> x_s, Eq. 12 with sigma of Eq. 16, s being the grid's predecessor of t."""
        t = int(timestep)
        abar_t, abar_s = self._abar(t), self._abar(self._previous[t])
        x_t = sample.float()
        x_0, epsilon = self._split(model_output.float(), x_t, abar_t)

        variance = self.eta**2 * (1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)
        x_s = abar_s**0.5 * x_0 + max(1 - abar_s - variance, 0.0) ** 0.5 * epsilon
        if variance > 0:
            x_s = x_s + variance**0.5 * randn_tensor(x_s.shape, generator=generator, device=x_s.device)
        x_s = x_s.to(sample.dtype)
        return {"prev_sample": x_s, "pred_original_sample": x_0} if return_dict else (x_s, x_0)

    def _abar(self, timestep: int) -> float:
        return float(self.alphas_cumprod[timestep]) if timestep >= 0 else 1.0

    def _split(self, prediction: Tensor, x_t: Tensor, abar_t: float) -> tuple[Tensor, Tensor]:
        """(x_0, epsilon) from whatever was predicted; x_t = sqrt(abar) x_0 + sqrt(1 - abar) epsilon."""
        alpha, sigma = abar_t**0.5, (1 - abar_t) ** 0.5
        if self.config.prediction_type == "v_prediction":
            return alpha * x_t - sigma * prediction, sigma * x_t + alpha * prediction
        assert self.config.prediction_type == "epsilon"
        return (x_t - sigma * prediction) / alpha, prediction


def ancestral(process: DDPMScheduler | None = None, grid: Grid = leading_grid) -> GridDDIM:
    """LaMD's sampler: ancestral on a grid S, beta'_i = 1 - abar_{S_i} / abar_{S_{i-1}}, as DDIM eta 1."""
    return GridDDIM.of(process or ldm_linear(), grid, eta=1.0)


def ddim(process: DDPMScheduler | None = None, grid: Grid = leading_grid, eta: float = 0.0) -> GridDDIM:
    """DDIM; deterministic at eta 0."""
    return GridDDIM.of(process or ldm_linear(), grid, eta)


def dpm_plus_plus(process: DDPMScheduler | None = None) -> DPMSolverMultistepScheduler:
    """DPM-Solver++(2M), evenly spaced in log SNR: 10 to 20 steps instead of 200.

    Evenly spaced in time, 20 steps end with one long step that loses 14 % of the scale of N(0, .5^2) data;
    in log SNR, 0.6 %.
    """
    noise = _noise_of(process or ldm_linear())
    solver: DPMSolverMultistepScheduler = _built(
        DPMSolverMultistepScheduler, **noise, algorithm_type="dpmsolver++", use_lu_lambdas=True
    )
    return solver


def unipc(process: DDPMScheduler | None = None) -> UniPCMultistepScheduler:
    """UniPC of order 2, evenly spaced in log SNR as `dpm_plus_plus`: 10 to 20 steps instead of 200."""
    noise = _noise_of(process or ldm_linear())
    solver: UniPCMultistepScheduler = _built(UniPCMultistepScheduler, **noise, use_exponential_sigmas=True)
    return solver


class RectifiedFlow(_FlowMatchEuler):  # type: ignore[misc]
    """Euler steps along x_sigma = (1 - sigma) x_0 + sigma epsilon, sigma from 1 to 1/K evenly, then 0.

    The stock spacing ends at sigma = 1/1000, so that its last step moves nothing.
    """

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose K noise levels; `shift` bends them towards noise."""
        sigmas = np.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps).tolist()
        super().set_timesteps(sigmas=sigmas, device=device)


def rectified_flow(shift: float = 1.0) -> RectifiedFlow:
    """Rectified flow; timesteps are 1000 sigma."""
    solver: RectifiedFlow = _built(RectifiedFlow, num_train_timesteps=NUM_TRAIN_TIMESTEPS, shift=shift)
    return solver


def describe(scheduler: DDPMScheduler | RectifiedFlow) -> dict[str, Any]:
    """What a weights file keeps of its process, as JSON values; `from_description` reads it."""
    if isinstance(scheduler, RectifiedFlow):
        return {"process": "rectified_flow", "shift": scheduler.config["shift"]}
    return {"process": "diffusion"} | _noise_of(scheduler)


def from_description(values: Mapping[str, Any]) -> DDPMScheduler | RectifiedFlow:
    """The process a weights file was trained with.

    Raises:
        ConfigError: if the kind of process is unknown.
    """
    rest = {name: value for name, value in values.items() if name != "process"}
    kind = values.get("process")
    if kind == "rectified_flow":
        return rectified_flow(**rest)
    if kind == "diffusion":
        process: DDPMScheduler = _built(DDPMScheduler, **rest, clip_sample=False)
        return process
    raise ConfigError(
        f"the noise process is '{kind}', expected 'diffusion' or 'rectified_flow'",
        fix="update motionloom, or export the model again",
    )


def _process(betas: dict[str, Any], prediction_type: str) -> DDPMScheduler:
    process: DDPMScheduler = _built(
        DDPMScheduler,
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        **betas,
        prediction_type=prediction_type,
        clip_sample=False,
    )
    return process


def _noise_of(process: DDPMScheduler) -> dict[str, Any]:
    """What a solver must share with the process it reverses."""
    config: dict[str, Any] = dict(process.config)
    shared = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    return {name: config[name] for name in (*shared, "prediction_type", "rescale_betas_zero_snr")}


def _built(scheduler: Callable[..., Any], **config: Any) -> Any:
    """Schedulers are built by keyword here, once: their constructors carry no types."""
    return scheduler(**config)

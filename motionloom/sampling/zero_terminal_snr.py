"""DynamiCrafter's sampler: v-prediction DDIM on a schedule that ends in pure noise, with dynamic rescaling.

The schedule is Stable Diffusion's, shifted so that the last signal level is exactly zero (arXiv 2305.08891,
Algorithm 1). diffusers' own DDIM step is not enough here: with eta 1 it takes the root of a rounding error at the
first step (NaN for 39 of the step counts 2..100), and where the steps do not divide 1000 it steps to other
timesteps than it visits next.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from motionloom.errors import ConfigError

NUM_TRAIN_TIMESTEPS = 1000
RESCALED_TIMESTEPS = 400  # below this timestep the dynamic rescale of x0 changes
BETA_START, BETA_END = 0.00085, 0.012
Unscale = Literal["released", "exact"]

_DDIM: Any = DDIMScheduler  # the annotations of diffusers' schedulers contradict their own use


def zero_terminal_snr_alphas() -> Tensor:
    """alpha_bar of timesteps 0..999, float64 (1000,): Stable Diffusion's, with alpha_bar[999] = 0 exactly."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, NUM_TRAIN_TIMESTEPS, dtype=torch.float64) ** 2
    signal = (1 - betas).cumprod(0).sqrt()
    shifted: Tensor = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])).square()
    return shifted


def dynamic_scale(base_scale: float) -> Tensor:
    """s(t) of timesteps 0..999, float64 (1000,): training multiplies x0 by it, sampling by a ratio of two.

    From 1 at t = 0 linearly to base_scale at t = 399, and base_scale from there on: 0.7 for the 512 model, 0.3
    for the 1024 model. 1 rescales nothing.
    """
    falling = torch.linspace(1.0, base_scale, RESCALED_TIMESTEPS, dtype=torch.float64)
    return torch.cat([falling, falling.new_full((NUM_TRAIN_TIMESTEPS - RESCALED_TIMESTEPS,), base_scale)])


class ZeroTerminalSNRDDIM(_DDIM):  # type: ignore[misc]
    """DDIM (arXiv 2010.02502, Eq. 12) for v-prediction on the zero-terminal-SNR schedule, trailing timesteps.

        x0 = sqrt(a) x - sqrt(1-a) v,   e = sqrt(a) v + sqrt(1-a) x          a = alpha_bar(t), p = alpha_bar(t')
        x0 <- x0 s(t') / s(t)                                                dynamic rescale
        x' = sqrt(p) x0 + sqrt(max(0, 1 - p - sigma^2)) e + sigma n,   sigma^2 = eta^2 (1-p)/(1-a) (1 - a/p)

    The last step goes to p = alpha_bar(0) and still adds noise, as released.

    Args:
        base_scale: end of the dynamic rescale, see `dynamic_scale`.
        eta: 1 is ancestral sampling (the release), 0 deterministic.
        start: M, 1000 or less: the first timestep is M - 1. CIL (arXiv 2406.15735) starts at 940, where less of the
            picture leaks into the motion.
        unscale: "released" leaves the result scaled by s of the last timestep (0.986 for the 512 model and
            50 steps); "exact" undoes all of the dynamic rescale.
    """

    def __init__(
        self,
        base_scale: float = 1.0,
        eta: float = 1.0,
        unscale: Unscale = "released",
        start: int = NUM_TRAIN_TIMESTEPS,
    ) -> None:
        if not 0 < base_scale <= 1 or eta < 0 or not 1 <= start <= NUM_TRAIN_TIMESTEPS:
            raise ConfigError(
                f"got base_scale {base_scale:g}, eta {eta:g} and start {start}, expected base_scale in (0, 1], eta of at "
                f"least 0 and start in 1..{NUM_TRAIN_TIMESTEPS}",
                fix="0.7, 1 and 1000 are those of the 512 model",
            )
        super().__init__(
            num_train_timesteps=NUM_TRAIN_TIMESTEPS,
            beta_start=BETA_START,
            beta_end=BETA_END,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            set_alpha_to_one=False,
            clip_sample=False,
        )
        self.alphas_cumprod = zero_terminal_snr_alphas()
        self.scale = dynamic_scale(base_scale)
        self.eta, self.unscale, self.start = eta, unscale, start

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """K timesteps, descending from M - 1: round(M - i M / K) - 1.

        Raises:
            ConfigError: more steps than timesteps.
        """
        if num_inference_steps > self.start:
            raise ConfigError(
                f"got {num_inference_steps} steps for {self.start} timesteps",
                fix=f"ask for {self.start} steps or fewer",
            )
        steps = self.start - np.arange(num_inference_steps) * (self.start / num_inference_steps)
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.from_numpy(np.round(steps).astype(np.int64) - 1).to(device)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise: Tensor | None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """(x' of the next timestep, the rescaled x0). `noise` replaces the draw from `generator`."""
        x, v, at = sample, model_output, int(timestep)
        then = self._next(at)
        a, p = float(self.alphas_cumprod[at]), float(self.alphas_cumprod[max(then, 0)])
        sigma = (self.eta if eta is None else eta) * ((1 - p) / (1 - a) * (1 - a / p)) ** 0.5

        x0 = a**0.5 * x - (1 - a) ** 0.5 * v
        e = a**0.5 * v + (1 - a) ** 0.5 * x
        x0 = x0 * (self._scale_of_next(at, then) / float(self.scale[at]))
        x_next = p**0.5 * x0 + max(0.0, 1 - p - sigma**2) ** 0.5 * e
        if sigma > 0:
            x_next = x_next + sigma * (_noise(x, generator) if noise is None else noise)
        return x_next, x0

    def _next(self, at: int) -> int:
        """The timestep visited after this one; -1 after the last."""
        places = (self.timesteps == at).nonzero()
        assert len(places) == 1, f"timestep {at} is not one of {self.timesteps.tolist()}"
        place = int(places[0]) + 1
        return int(self.timesteps[place]) if place < len(self.timesteps) else -1

    def _scale_of_next(self, at: int, then: int) -> float:
        if then >= 0:
            return float(self.scale[then])
        return 1.0 if self.unscale == "exact" else float(self.scale[at])


def _noise(like: Tensor, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
    from diffusers.utils.torch_utils import randn_tensor

    drawn: Tensor = randn_tensor(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return drawn

"""Part of a latent is known: elsewhere it is sampled, there it is held, at every step at that step's noise level."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from motionloom.adapters.proxy_mask import level_at
from motionloom.denoisers.base import PredictionType


class HeldPlaces:
    """A scheduler around a scheduler: after each step the known places are put back, noised to the step's level.

        z_s = m step(z_t) + (1 - m) (alpha_s known + sigma_s epsilon)          RePaint, arXiv 2201.09865, Eq. 8

    epsilon is the start noise, so that a deterministic solver stays one. The denoiser sees the known places at every step
    and fits the others to them; after the last step the known places are `known`, exactly. Everything else is the
    scheduler's own. One object samples one latent.

    Args:
        scheduler: a diffusers scheduler whose start noise has unit variance.
        known: (B, ...), clean latents.
        region: broadcasts to `known`, 0..1: 1 is sampled, 0 is held.
        prediction_type: of the denoiser, which tells what a timestep means.
    """

    def __init__(
        self, scheduler: Any, known: Tensor, region: Tensor, prediction_type: PredictionType
    ) -> None:
        self.scheduler, self.known, self.region = scheduler, known, region
        self.prediction_type: PredictionType = prediction_type
        self._epsilon: Tensor | None = None
        self._steps = 0

    def __getattr__(self, name: str) -> Any:
        if name == "scheduler":
            raise AttributeError(name)
        return getattr(self.scheduler, name)

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """One step of the scheduler, then the known places at the level it has reached."""
        takes = inspect.signature(self.scheduler.step).parameters
        options = {"generator": generator} if "generator" in takes else {}
        stepped = self.scheduler.step(model_output, timestep, sample, return_dict=False, **options)[0]
        if self._epsilon is None:
            self._epsilon = sample
        self._steps += 1
        latents = torch.lerp(self._known_at(self._steps).to(stepped), stepped, self.region.to(stepped))
        return {"prev_sample": latents} if return_dict else (latents,)

    def _known_at(self, step: int) -> Tensor:
        """The known latents as noisy as before step `step`; clean after the last."""
        timesteps = self.scheduler.timesteps
        if step == len(timesteps):
            return self.known
        assert self._epsilon is not None
        level = level_at(self.scheduler, float(timesteps[step]), self.prediction_type)
        return level.signal * self.known + level.noise * self._epsilon

"""What ties a clip to its photo while it is denoised: frame 0 stays the clean latent, and lends its statistics."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

ADAIN_EPSILON = 1e-8  # added to the variances


class HeldFrames:
    """A scheduler around a scheduler: some frames are never stepped, and stay what they start as, bit for bit.

    The denoiser therefore sees the clean latent there at every step (MIVA, inference). Everything but stepping and
    scaling is the scheduler's own.

    Args:
        scheduler: a diffusers scheduler whose start noise has unit variance.
        held: numbers of the frames, on axis 2 of (B, C, F, h, w).
    """

    def __init__(self, scheduler: Any, held: Sequence[int] = (0,)) -> None:
        assert float(getattr(scheduler, "init_noise_sigma", 1.0)) == 1.0, "held frames would be scaled"
        self.scheduler = scheduler
        self.held = tuple(held)

    def __getattr__(self, name: str) -> Any:
        if name == "scheduler":
            raise AttributeError(name)
        return getattr(self.scheduler, name)

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor:
        """As the scheduler does, for the frames that are stepped."""
        if not hasattr(self.scheduler, "scale_model_input"):  # flow schedulers have none
            return sample
        free = self._free(sample)
        return self._put(sample, self.scheduler.scale_model_input(sample[:, :, free], timestep))

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """One step of the scheduler for the other frames."""
        free = self._free(sample)
        takes = inspect.signature(self.scheduler.step).parameters
        options = {"generator": generator} if generator is not None and "generator" in takes else {}
        stepped = self.scheduler.step(
            model_output[:, :, free], timestep, sample[:, :, free], return_dict=False, **options
        )[0]
        latents = self._put(sample, stepped)
        return {"prev_sample": latents} if return_dict else (latents,)

    def _free(self, sample: Tensor) -> list[int]:
        return [frame for frame in range(sample.shape[2]) if frame not in self.held]

    def _put(self, sample: Tensor, stepped: Tensor) -> Tensor:
        latents = sample.clone()
        latents[:, :, self._free(sample)] = stepped.to(latents)
        return latents


def adain(latents: Tensor, epsilon: float = ADAIN_EPSILON) -> Tensor:
    """Frames 1.. with the mean and standard deviation of frame 0, per sample, frame and channel over the places.

    Adaptive instance normalisation (arXiv 1703.06868), as MIVA applies it once, after the last step; LAMP applies it at
    every step. Unbiased variance + epsilon on both sides.

    Args:
        latents: (B, C, F, h, w).
    """
    variance, mean = torch.var_mean(latents, dim=(-2, -1), keepdim=True)
    std = (variance + epsilon).sqrt()
    matched = (latents - mean) / std * std[:, :, :1] + mean[:, :, :1]
    return torch.cat([latents[:, :, :1], matched[:, :, 1:]], dim=2)

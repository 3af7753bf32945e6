"""How training noises latents at a given timestep, for bases whose process is fixed: one class a family."""

from __future__ import annotations

from typing import Protocol

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from motionloom.training.objectives.generator import Noised

NUM_LEVELS = 1000


class Noising(Protocol):
    """Clean latents <=> noisy ones, at any of the levels training visits.

    Attributes:
        timesteps: (NUM_LEVELS,), those training visits, all equally often.
    """

    timesteps: Tensor

    def noised(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Noised:
        """Latents and noise (B, C, F, h, w) at timesteps (B,), with the base's target and the loss's weight."""
        ...

    def clean(self, noisy: Tensor, prediction: Tensor, timestep: Tensor) -> Tensor:
        """The clean latents that a prediction for noisy ones (B, C, F, h, w) at timesteps (B,) implies."""
        ...


class EpsilonNoising:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps; the target is eps; t uniform in 0..999, all weigh alike."""

    def __init__(self, process: DDPMScheduler) -> None:
        self.abar: Tensor = process.alphas_cumprod
        self.timesteps = torch.arange(len(self.abar))

    def noised(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Noised:
        """See `Noising`."""
        alpha, sigma = self._levels(latents, timestep)
        return Noised(
            alpha * latents + sigma * noise, timestep, noise, torch.ones_like(timestep, dtype=torch.float32)
        )

    def clean(self, noisy: Tensor, prediction: Tensor, timestep: Tensor) -> Tensor:
        """See `Noising`."""
        alpha, sigma = self._levels(noisy, timestep)
        return (noisy - sigma * prediction) / alpha

    def _levels(self, like: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """(sqrt(abar), sqrt(1 - abar)), each (B, 1, 1, 1, 1)."""
        abar = self.abar.to(like.device)[timestep.to(like.device)].view(-1, 1, 1, 1, 1)
        return abar.sqrt(), (1 - abar).sqrt()


class FlowNoising:
    """x_s = (1 - sigma) x_0 + sigma eps; the target is eps - x_0; sigma uniform among 1000 shifted levels.

    sigma' = shift sigma / (1 + (shift - 1) sigma) with sigma = 1, .999, ..., .001; the timestep is 1000 sigma'. The loss
    weighs the middle most: y(t) = exp(-2 ((t - 500) / 1000)^2) less its minimum, with mean 1 over the levels (as the
    official code trains on Wan).
    """

    def __init__(self, shift: float) -> None:
        sigma = torch.linspace(1, 0, NUM_LEVELS + 1, dtype=torch.float64)[:-1]
        self.sigmas = (shift * sigma / (1 + (shift - 1) * sigma)).float()
        bell = torch.exp(-2 * ((1000 * self.sigmas - 500) / 1000) ** 2)
        bell = bell - bell.min()
        self.weights = bell / bell.mean()
        self.timesteps = 1000 * self.sigmas

    def noised(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Noised:
        """See `Noising`."""
        sigma = (timestep / 1000).to(latents).view(-1, 1, 1, 1, 1)
        nearest = (self.sigmas.to(timestep.device) - timestep[:, None] / 1000).abs().argmin(dim=1)
        weight = self.weights.to(timestep.device)[nearest]
        return Noised((1 - sigma) * latents + sigma * noise, timestep, noise - latents, weight)

    def clean(self, noisy: Tensor, prediction: Tensor, timestep: Tensor) -> Tensor:
        """See `Noising`."""
        return noisy - (timestep / 1000).to(noisy).view(-1, 1, 1, 1, 1) * prediction

"""Trains the motion generator on latents of a frozen autoencoder (LaMD, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from motionloom.codecs.base import Gaussian
from motionloom.codecs.mcd_vae import MotionContentAutoencoder
from motionloom.denoisers.base import MotionCondition, PredictionType
from motionloom.denoisers.motion_generator import Hint, MotionGenerator
from motionloom.errors import ConfigError
from motionloom.sampling.loop import sample
from motionloom.sampling.schedules import describe, dpm_plus_plus, rectified_flow
from motionloom.training.objectives.autoencoder import as_grid

PREVIEW_STEPS = 20
HINTED = 0.5  # of the samples are told their end, and independently the motion before
PREVIOUS_NOISE = 0.3  # at most, standard deviation of what is added to the motion before


@dataclass(frozen=True)
class Noised:
    """One draw of training noise.

    Attributes:
        latents: (B, ...), what the denoiser sees.
        timestep: (B,), 0..1000.
        target: (B, ...), what it should say.
        weight: (B,), of the squared error.
    """

    latents: Tensor
    timestep: Tensor
    target: Tensor
    weight: Tensor


class Target(Protocol):
    """What the denoiser learns to predict, and how training noises latents.

    Attributes:
        prediction_type: of the denoiser.
    """

    prediction_type: PredictionType

    def noised(self, latents: Tensor, generator: torch.Generator) -> Noised:
        """Draw times and noise for clean latents (B, ...)."""
        ...

    def solver(self) -> Any:
        """A diffusers scheduler that samples in few steps."""
        ...

    def description(self) -> dict[str, Any]:
        """The process as `sampling.schedules.describe` writes it."""
        ...


class EpsilonTarget:
    """The noise, the paper's target: E ||epsilon - e_theta(sqrt(abar) z + sqrt(1 - abar) epsilon, t)||^2.

    Args:
        process: a diffusers scheduler with `alphas_cumprod`, such as `ldm_linear()`.
        min_snr: gamma of min-SNR weighting (arXiv 2303.09556), usually 5; None weighs all times alike.
    """

    prediction_type: PredictionType = "epsilon"

    def __init__(self, process: DDPMScheduler, min_snr: float | None = None) -> None:
        expected = process.config["prediction_type"]
        if expected != self.prediction_type:
            raise ConfigError(
                f"the noise process is set up for {expected}, the target is {self.prediction_type}",
                fix=f"build it with prediction_type='{self.prediction_type}'",
            )
        self.process, self.min_snr = process, min_snr
        self.abar: Tensor = process.alphas_cumprod

    def noised(self, latents: Tensor, generator: torch.Generator) -> Noised:
        """See `Target`; times are uniform."""
        timestep = torch.randint(
            len(self.abar), (len(latents),), generator=generator, device=generator.device
        ).to(latents.device)
        epsilon = _randn(latents, generator)
        abar = self.abar.to(latents.device)[timestep]
        alpha, sigma = _per_sample(abar.sqrt(), latents), _per_sample((1 - abar).sqrt(), latents)
        target = self._target(alpha, sigma, latents, epsilon)
        return Noised(alpha * latents + sigma * epsilon, timestep, target, self._weight(abar / (1 - abar)))

    def solver(self) -> Any:
        """DPM-Solver++."""
        return dpm_plus_plus(self.process)

    def description(self) -> dict[str, Any]:
        """See `Target`."""
        return describe(self.process)

    def _target(self, alpha: Tensor, sigma: Tensor, latents: Tensor, epsilon: Tensor) -> Tensor:
        return epsilon

    def _weight(self, snr: Tensor) -> Tensor:
        return torch.ones_like(snr) if self.min_snr is None else snr.clamp(max=self.min_snr) / snr


class VelocityTarget(EpsilonTarget):
    """v = alpha epsilon - sigma z (arXiv 2202.00512)."""

    prediction_type: PredictionType = "v_prediction"

    def _target(self, alpha: Tensor, sigma: Tensor, latents: Tensor, epsilon: Tensor) -> Tensor:
        return alpha * epsilon - sigma * latents

    def _weight(self, snr: Tensor) -> Tensor:
        return torch.ones_like(snr) if self.min_snr is None else snr.clamp(max=self.min_snr) / (snr + 1)


@dataclass(frozen=True)
class FlowTarget:
    """epsilon - z on the straight path (1 - sigma) z + sigma epsilon (rectified flow); timestep = 1000 sigma.

    Attributes:
        logit_normal: draw sigma = sigmoid(n), n ~ N(0, 1), which prefers the middle (arXiv 2403.03206);
            otherwise uniformly.
        shift: of the sampler's noise levels.
    """

    logit_normal: bool = True
    shift: float = 1.0
    prediction_type: PredictionType = "flow"

    def noised(self, latents: Tensor, generator: torch.Generator) -> Noised:
        """See `Target`."""
        draw = torch.randn if self.logit_normal else torch.rand
        drawn = draw(len(latents), generator=generator, device=generator.device).to(latents.device)
        level = drawn.sigmoid() if self.logit_normal else drawn
        epsilon, sigma = _randn(latents, generator), _per_sample(level, latents)
        noisy = (1 - sigma) * latents + sigma * epsilon
        return Noised(noisy, 1000 * level, epsilon - latents, torch.ones_like(level))

    def solver(self) -> Any:
        """Euler steps."""
        return rectified_flow(self.shift)

    def description(self) -> dict[str, Any]:
        """See `Target`."""
        return describe(rectified_flow(self.shift))


class GeneratorObjective:
    """An `Objective` on cached latents.

    Batches: {"mean", "logvar": (B, d, h, w) of the posterior before normalisation, "first_frame":
    (B, 3, H, W), -1..1, and optionally "text_ids": (B, n); for a generator that reads hints "last_frame": (B, 3, H, W)
    uint8, and "previous_mean", "previous_logvar": (B, d, h, w) of the piece before}. Each hint is missing half of the time,
    and the motion before is a little noisy, since a chain hands on motions that were sampled (both ours).

    Args:
        generator: what is trained; its prediction type is the target's.
        codec: the autoencoder that made the cache; frozen here.
        target: noise, velocity or flow.
        drop_text: probability that a sample's text is hidden, for guidance; 0 in the paper, .1 usually.
        drop_image: the same for the picture, independently.
        facts: metadata for the exported file.

    Raises:
        ConfigError: if generator and target disagree.
    """

    def __init__(
        self,
        generator: MotionGenerator,
        codec: MotionContentAutoencoder,
        target: Target,
        drop_text: float = 0.0,
        drop_image: float = 0.0,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        if generator.prediction_type != target.prediction_type:
            raise ConfigError(
                f"the generator predicts {generator.prediction_type}, the target is {target.prediction_type}",
                fix=f"build the generator with prediction_type='{target.prediction_type}'",
            )
        self.generator, self.target = generator, target
        self.codec = codec.requires_grad_(
            False
        ).eval()  # not among the networks: nothing may put it in training
        self.drop_text, self.drop_image = drop_text, drop_image
        self.facts = dict(facts or {})
        self.networks: dict[str, nn.Module] = {"generator": generator}
        self.ema_networks: tuple[str, ...] = ("generator",)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """See `Objective`: "generator"; a logits head that nothing reads is left out."""
        named = self.generator.named_parameters()
        return {"generator": [param for name, param in named if not name.startswith("text.logits.")]}

    def losses(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        """See `Objective`: the weighted squared error of one draw of noise per sample."""
        latents = self._latents(batch, generator)
        noised = self.target.noised(latents, generator)
        condition = self._condition(batch, generator).dropped(
            text=_coin(self.drop_text, latents, generator), image=_coin(self.drop_image, latents, generator)
        )
        prediction = self.generator(noised.latents, noised.timestep, condition)
        error = (prediction.float() - noised.target).square().flatten(1).mean(dim=1)  # (B,)
        numbers = {"mse": float(error.detach().mean()), "latent_std": float(latents.std())}
        yield "generator", (noised.weight * error).mean(), numbers

    @torch.no_grad()
    def preview(self, batch: dict[str, Tensor], generator: torch.Generator) -> npt.NDArray[np.uint8]:
        """The clips as their latents decode above, generated ones below: uint8 (L, 2 H, B W, 3)."""
        first_frame = batch["first_frame"]
        latents = self.codec.normalise(batch["mean"].float())
        drawn = sample(
            self.generator,
            self.target.solver(),
            _randn(latents, generator),
            self._condition(batch),
            PREVIEW_STEPS,
            generator,
        )
        return as_grid([self.codec.decode(rows, first_frame) for rows in (latents, drawn)])

    def export(self, folder: Path) -> None:
        """See `Objective`: `dmg.safetensors`, and `mcd_vae.safetensors` beside it: a whole model."""
        self.generator.save(folder / "dmg.safetensors", self.target.description(), self.facts)
        self.codec.save(folder / "mcd_vae.safetensors")

    @torch.no_grad()
    def _latents(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Samples, not means: the generator must meet the scale the codec gives it."""
        posterior = Gaussian(batch["mean"].float(), batch["logvar"].float())
        return self.codec.normalise(posterior.sample(generator))

    def _condition(
        self, batch: dict[str, Tensor], generator: torch.Generator | None = None
    ) -> MotionCondition:
        """What a batch tells; `generator` draws which hints are missing, without it none is."""
        with torch.no_grad():
            f_x0 = self.codec.content(batch["first_frame"]).f_x0
            end, previous = self._end(batch, generator), self._previous(batch, generator)
        return self.generator.condition(f_x0, batch.get("text_ids"), end, previous)

    def _end(self, batch: dict[str, Tensor], generator: torch.Generator | None) -> Hint | None:
        if self.generator.end is None:
            return None
        last_frame = batch["last_frame"].to(batch["first_frame"]).div(127.5).sub(1)
        return _hint(self.codec.content(last_frame).f_x0, generator)

    def _previous(self, batch: dict[str, Tensor], generator: torch.Generator | None) -> Hint | None:
        if not self.generator.config.previous:
            return None
        posterior = Gaussian(batch["previous_mean"].float(), batch["previous_logvar"].float())
        if generator is None:
            return Hint.of(self.codec.normalise(posterior.mean))
        z = self.codec.normalise(posterior.sample(generator))
        level = PREVIOUS_NOISE * torch.rand(len(z), generator=generator, device=generator.device).to(z.device)
        return _hint(z + _per_sample(level, z) * _randn(z, generator), generator)


def _hint(value: Tensor, generator: torch.Generator | None) -> Hint:
    """Given to every sample, or, where something draws, to some."""
    return Hint.of(value) if generator is None else Hint(value, _coin(HINTED, value, generator))


def _coin(probability: float, like: Tensor, generator: torch.Generator) -> Tensor:
    """(B,) bool, True with this probability."""
    drawn = torch.rand(len(like), generator=generator, device=generator.device)
    return (drawn < probability).to(like.device)


def _randn(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=generator.device).to(like.device)


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, ...), for arithmetic with `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))

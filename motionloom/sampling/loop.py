"""The sampling loop: one for every scheduler, every denoiser, every method."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from motionloom.denoisers.base import Denoiser
from motionloom.errors import ConfigError, NumericError

SCHEDULER_NAMES = {"epsilon": "epsilon", "v_prediction": "v_prediction", "flow": "flow_prediction"}


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    scheduler: Any,
    latents: Tensor,
    condition: Any,
    num_steps: int,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Noise => latents.

    Args:
        denoiser: predicts what the scheduler steps with.
        scheduler: a diffusers scheduler object; its timesteps are set here.
        latents: (B, ...), start noise of unit variance.
        condition: what the denoiser is told, handed through.
        num_steps: K, the number of steps.
        generator: randomness of stochastic schedulers; one per sample makes every sample independent of
            its batch.
        on_step: called as on_step(i, n) after step i of n, i = 1..n.

    Returns:
        Clean latents of the shape of `latents`.

    Raises:
        ConfigError: if denoiser and scheduler disagree on what is predicted.
        NumericError: if the result is not finite.
    """
    _check_prediction_type(denoiser, scheduler)
    with warnings.catch_warnings():  # diffusers turns tensors into arrays in a way numpy is about to drop
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        scheduler.set_timesteps(num_steps, device=latents.device)
    if hasattr(scheduler, "set_begin_index"):  # where timesteps repeat, a search would start in the middle
        scheduler.set_begin_index(0)
    options = _step_options(scheduler, generator)
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)

    for index, timestep in enumerate(scheduler.timesteps):
        scaled = latents
        if hasattr(scheduler, "scale_model_input"):  # flow schedulers have none
            scaled = scheduler.scale_model_input(latents, timestep)
        prediction = denoiser(scaled, timestep.expand(len(latents)), condition)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False, **options)[0]
        if on_step is not None:
            on_step(index + 1, len(scheduler.timesteps))

    if not torch.isfinite(latents).all():
        raise NumericError(
            f"sampling ended in NaN or infinite latents after {len(scheduler.timesteps)} steps",
            fix="use float32 or bfloat16, or check the weights with `motionloom inspect`",
        )
    return latents


def _step_options(
    scheduler: Any, generator: torch.Generator | Sequence[torch.Generator] | None
) -> dict[str, Any]:
    """The keyword arguments this scheduler's step takes, out of those we have."""
    taken = inspect.signature(scheduler.step).parameters
    offered = {
        "generator": list(generator) if isinstance(generator, Sequence) else generator,
        "eta": getattr(scheduler, "eta", None),
    }
    return {name: value for name, value in offered.items() if name in taken and value is not None}


def _check_prediction_type(denoiser: Denoiser, scheduler: Any) -> None:
    expected = scheduler.config.get("prediction_type", "flow_prediction")  # flow schedulers do not say it
    if SCHEDULER_NAMES[denoiser.prediction_type] != expected:
        raise ConfigError(
            f"the denoiser predicts {denoiser.prediction_type}, the scheduler expects {expected}",
            fix="build the scheduler with the denoiser's prediction type",
        )

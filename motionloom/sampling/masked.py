"""Masked MIVA as one `Denoiser` (section 3.4.3): subject masks are denoised beside the video at a few steps, and bias the
others.

    with mounted(network, [(masked_adapter, 1.0)]):
        denoiser = MaskedDenoiser(text_free_network, context_of(network), masks, scheduler, num_steps)
        sample(denoiser, ...)

The loop sees an ordinary denoiser of the video.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from motionloom.adapters.context import MotionContext
from motionloom.adapters.proxy_mask import advanced, confidences, level_at, split_prediction
from motionloom.denoisers.base import Denoiser, PredictionType
from motionloom.errors import ConfigError, InputError

MASK_STEPS = 10  # the masks' own grid; the paper computes masks at the first 8 of them
COMPUTED = 8


@dataclass(frozen=True)
class SubjectMasks:
    """The subjects in the photo, and how their masks become latents and pictures again.

    Attributes:
        pictures: K masks of the photo, (1, 3, H, W), -1..1: white is the subject.
        latents: their clean latents, (1, C, 1, h, w) each.
        start: a clean latent, the clip's latent shape and a generator => start latents, as for the video.
        decode: latents (1, C, F, h, w) and the first picture => pixels (1, 3, T, H, W), or of the latents' own size.
    """

    pictures: list[Tensor]
    latents: list[Tensor]
    start: Callable[[Tensor, tuple[int, ...], torch.Generator], Tensor]
    decode: Callable[[Tensor, Tensor], Tensor]


def mask_steps(num_steps: int, released: bool = False) -> list[int]:
    """Which steps compute masks: of 50, 0, 5, ..., 35, the paper's eight; `released` adds 40, the official code's ninth."""
    stride = max(1, num_steps // MASK_STEPS)
    count = COMPUTED + released
    return list(range(0, num_steps, stride))[:count]


class MaskedDenoiser:
    """Predicts the video; keeps, denoises and decodes the masks on its own. One object denoises one clip.

    At a mask step the network sees [video ; S^1 ; ... ; S^K], and each mask latent takes one step to the next mask step's
    noise level. What it claims the masks will be biases attention from the next step on; between mask steps the
    video passes alone under the biases kept.

    Args:
        denoiser: of the network, under mounted adapters of which K are masked.
        context: of the network.
        masks: of the K subjects, in mounting order.
        scheduler: a fresh one of the video's kind, for its noise levels.
        num_steps: of the video.
        released: as the official code: nine mask steps, and what a mask step predicts waits for the next one, so that the
            first five of 50 steps are unbiased. The paper says "subsequent time steps".

    Raises:
        InputError: another number of masks than of masked adapters.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        context: MotionContext,
        masks: SubjectMasks,
        scheduler: Any,
        num_steps: int,
        released: bool = False,
    ) -> None:
        if len(masks.latents) != context.num_masked or len(masks.pictures) != context.num_masked:
            raise InputError(
                f"got {len(masks.latents)} subject masks for {context.num_masked} masked adapters",
                fix="give one mask for each",
            )
        scheduler.set_timesteps(num_steps)
        self.denoiser, self.context, self.masks, self.scheduler = denoiser, context, masks, scheduler
        self.timesteps = [float(t) for t in scheduler.timesteps]
        self.steps = mask_steps(len(self.timesteps), released)
        self.stride = self.steps[1] - self.steps[0] if len(self.steps) > 1 else 1
        self.latents: list[Tensor] = []  # K of (1, C, F, h, w)
        self.index = 0
        self._delay = self.stride if released else 1
        self._due: dict[int, Tensor] = {}  # step -> masks that bias from it on
        context.show_masks(None)

    @property
    def prediction_type(self) -> PredictionType:
        return self.denoiser.prediction_type

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Any) -> Tensor:
        """See `Denoiser`: latents (1, C, F, h, w) of the video, frame 0 clean."""
        if len(latents) != 1:
            raise ConfigError(f"got {len(latents)} clips, masks are sampled for one", fix="sample one by one")
        if self.index >= len(self.timesteps):
            raise ConfigError("a masked denoiser denoises one clip", fix="make a new one for the next")
        step, self.index = self.index, self.index + 1
        self.context.at(step / max(1, len(self.timesteps) - 1))
        if step in self._due:
            self.context.show_masks(self._due.pop(step))
        if step not in self.steps:
            return self.denoiser(latents, timestep, condition)
        if not self.latents:
            generator = torch.Generator().manual_seed(_seed_of(latents))
            shape = tuple(latents.shape)
            self.latents = [self.masks.start(clean, shape, generator) for clean in self.masks.latents]
        with self.context.with_masks():
            prediction = self._joint(latents, timestep, condition)
        self._due[step + self._delay] = self._advance(step, prediction[1:])
        return prediction[0]

    def _joint(self, latents: Tensor, timestep: Tensor, condition: Any) -> list[Tensor]:
        """Predictions of the video and of every mask, from one call."""
        modalities = [latents, *(mask.to(latents) for mask in self.latents)]
        if self.context.modalities_axis == 2:
            whole = self.denoiser(torch.cat(modalities, dim=2), timestep, condition)
            return list(whole.chunk(len(modalities), dim=2))
        whole = self.denoiser(torch.cat(modalities), timestep.repeat(len(modalities)), condition)
        return list(whole.chunk(len(modalities)))

    def _advance(self, step: int, predictions: list[Tensor]) -> Tensor:
        """Move every mask latent to the next mask step's level; return what the masks will be: (1, K, F, h, w)."""
        kind = self.prediction_type
        now = level_at(self.scheduler, self.timesteps[step], kind)
        later = self.timesteps[min(step + self.stride, len(self.timesteps) - 1)]
        then = level_at(self.scheduler, later, kind)
        shown = []
        for k, (z, prediction) in enumerate(zip(self.latents, predictions, strict=True)):
            x0 = split_prediction(z, prediction, now, kind)[0]
            pixels = self.masks.decode(_keeping_first(z, x0), self.masks.pictures[k])
            shown.append(confidences(pixels, (z.shape[-2], z.shape[-1]), z.shape[2]))
            self.latents[k] = _keeping_first(z, advanced(z, prediction, now, then, kind))
        return torch.stack(shown, dim=1)


def _keeping_first(clean: Tensor, frames: Tensor) -> Tensor:
    """Frame 0 of `clean`, the others of `frames`."""
    return torch.cat([clean[:, :, :1], frames[:, :, 1:]], dim=2)


def _seed_of(latents: Tensor) -> int:
    """The masks' noise is another draw of the clip's own seed, told by the video's start latents."""
    return zlib.crc32(latents.detach().cpu().float().numpy().tobytes())

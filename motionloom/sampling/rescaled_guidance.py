"""Classifier-free guidance whose result keeps the contrast of the unguided answer (arXiv 2305.08891, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from motionloom.denoisers.base import Denoiser, Droppable, PredictionType


@dataclass(frozen=True)
class RescaledGuidance:
    """out = e(0) + g (e - e(0));  out <- r out std(e) / std(out) + (1 - r) out, std over each sample.

    It is a `Denoiser` itself. e(0) is told neither text nor picture (`Droppable`).

    Attributes:
        denoiser: what is guided.
        scale: g; 1 leaves out guidance and the second call. 7.5 in DynamiCrafter's release.
        rescale: r, 0..1: 0 is plain guidance, 0.7 the release's.
    """

    denoiser: Denoiser
    scale: float = 7.5
    rescale: float = 0.7

    @property
    def prediction_type(self) -> PredictionType:
        """That of the guided denoiser."""
        return self.denoiser.prediction_type

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Droppable) -> Tensor:
        """See `Denoiser`."""
        full = self.denoiser(latents, timestep, condition)
        if self.scale == 1.0:
            return full
        nothing = self.denoiser(latents, timestep, condition.dropped(text=True, image=True))
        return rescaled(full, nothing + self.scale * (full - nothing), self.rescale)


def rescaled(full: Tensor, guided: Tensor, rescale: float) -> Tensor:
    """Bring the standard deviation of each guided sample (B, ...) a share of the way back to that of `full`."""
    axes = tuple(range(1, full.ndim))
    contrast = full.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return rescale * contrast * guided + (1 - rescale) * guided

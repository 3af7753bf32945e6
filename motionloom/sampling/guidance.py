"""Guidance: a denoiser made from a denoiser and its answers to reduced conditions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from motionloom.denoisers.base import Denoiser, Droppable, PredictionType


@dataclass(frozen=True)
class ClassifierFreeGuidance:
    """Classifier-free guidance on picture and text with a scale for each (arXiv 2211.09800, Eq. 3).

    e = e(0, 0) + s_image (e(I, 0) - e(0, 0)) + s_text (e(I, T) - e(I, 0))

    A scale of 1 leaves its part as trained; terms that cancel are not computed. The denoiser must have been
    trained with conditions dropped. It is a `Denoiser` itself, for any `Droppable` condition.

    Attributes:
        denoiser: what is guided.
        text_scale: s_text, 1 or more.
        image_scale: s_image, 1 or more.
        interval: timesteps [low, high) in which guidance acts; outside, the denoiser answers alone.
    """

    denoiser: Denoiser
    text_scale: float = 1.0
    image_scale: float = 1.0
    interval: tuple[float, float] = (0.0, float("inf"))

    @property
    def prediction_type(self) -> PredictionType:
        """That of the guided denoiser."""
        return self.denoiser.prediction_type

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Droppable) -> Tensor:
        """See `Denoiser`; all samples share one timestep."""
        low, high = self.interval
        full = self.denoiser(latents, timestep, condition)
        acts = low <= float(timestep.flatten()[0]) < high
        if not acts or self.text_scale == self.image_scale == 1.0:
            return full
        if self.text_scale == self.image_scale:
            nothing = self.denoiser(latents, timestep, condition.dropped(text=True, image=True))
            return nothing + self.text_scale * (full - nothing)
        image_only = self.denoiser(latents, timestep, condition.dropped(text=True))
        guided = image_only + self.text_scale * (full - image_only)
        if self.image_scale == 1.0:
            return guided
        nothing = self.denoiser(latents, timestep, condition.dropped(text=True, image=True))
        return guided + (self.image_scale - 1.0) * (image_only - nothing)

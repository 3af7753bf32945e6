"""The contract of every codec: pixels <=> latents, and the Gaussian bottleneck they share.

*Pixels* are float in -1..1: a clip (B, 3, T, H, W), a picture (B, 3, H, W).
*Latents* are what a denoiser works on: roughly zero mean and unit variance per channel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Codec(ABC):
    """Maps clips to latents and back.

    A codec is fixed while anything else is trained on its latents: `encode` and `decode` read no global
    randomness, and the same clip gives the same latents on every call.

    Image and video autoencoders give latents with a time axis and may ignore `first_frame` in `decode`.
    Motion autoencoders give latents without one, (B, d, h, w): what stands still is read from `first_frame`.
    """

    @abstractmethod
    def encode(self, frames: Tensor) -> Tensor:
        """Pixels => latents.

        Args:
            frames: (B, 3, T, H, W), float -1..1.

        Returns:
            Latents of shape (B, *latent_shape(T, H, W)), unit scale; the mean of the posterior where the
            codec is variational.

        Raises:
            InputError: if T, H or W is a size this codec cannot take.
        """

    @abstractmethod
    def decode(self, latents: Tensor, first_frame: Tensor) -> Tensor:
        """Latents => pixels.

        Args:
            latents: (B, *latent_shape(T, H, W)), unit scale.
            first_frame: (B, 3, H, W), float -1..1: the picture that moves.

        Returns:
            (B, 3, T, H, W); trained to lie in -1..1 but not clamped.

        Raises:
            InputError: if the latents do not fit the first frame.
        """

    @abstractmethod
    def latent_shape(self, num_frames: int, height_px: int, width_px: int) -> tuple[int, ...]:
        """The shape, without batch, of the latents of a clip of this size.

        Raises:
            InputError: if the codec cannot take a clip of this size; the message names the sizes it can.
        """


@dataclass(frozen=True)
class Gaussian:
    """A diagonal normal distribution, q(z|x): the bottleneck of a variational codec.

    Attributes:
        mean: (B, d, h, w).
        logvar: (B, d, h, w), natural logarithm of the variance; clamp it before building one.
    """

    mean: Tensor
    logvar: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """z = mean + sigma epsilon, epsilon ~ N(0, I) drawn from `generator` on the generator's device."""
        device = self.mean.device if generator is None else generator.device
        epsilon = torch.randn(self.mean.shape, generator=generator, device=device, dtype=torch.float32)
        return self.mean + torch.exp(0.5 * self.logvar) * epsilon.to(self.mean)

    def kl(self) -> Tensor:
        """KL(q || N(0, I)) of every entry, in nats: (B, d, h, w), never negative."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar)

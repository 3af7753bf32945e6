"""A picture autoencoder as codec: every frame on its own (Stable Diffusion's, through diffusers)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from motionloom.codecs.base import Codec, Gaussian
from motionloom.errors import InputError


class ImageAutoencoder(Codec):
    """Pixels <=> latents (B, C, T, H / f, W / f), scaled to unit variance by the autoencoder's own factor.

    Args:
        network: a diffusers `AutoencoderKL`, on any device and in any precision; pixels and latents stay
            float32 on the caller's device. It works frame by frame, so memory does not grow with T.
    """

    def __init__(self, network: Any) -> None:
        self.network = network.eval().requires_grad_(False)
        self.factor = 2 ** (len(network.config.block_out_channels) - 1)  # pixels per place, along each side
        self.scale = float(network.config.scaling_factor)

    def latent_shape(self, num_frames: int, height_px: int, width_px: int) -> tuple[int, ...]:
        """(C, T, H / f, W / f)."""
        if height_px % self.factor or width_px % self.factor:
            raise InputError(
                f"got frames of {width_px} x {height_px} px, expected multiples of {self.factor}",
                fix="resize the frames",
            )
        channels = int(self.network.config.latent_channels)
        return (channels, num_frames, height_px // self.factor, width_px // self.factor)

    @torch.no_grad()
    def encode(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See `Codec`; with a generator (on the CPU) a sample of the posterior instead of its mean."""
        self.latent_shape(*frames.shape[2:])
        return torch.stack([self._encode(frame, generator) for frame in frames.unbind(2)], dim=2)

    @torch.no_grad()
    def posterior(self, frames: Tensor) -> Gaussian:
        """Pixels (B, 3, T, H, W) => the distribution of their latents (B, C, T, H / f, W / f), for caching."""
        self.latent_shape(*frames.shape[2:])
        pictures = [frame.to(self.network.device, self.network.dtype) for frame in frames.unbind(2)]
        drawn_from = [self.network.encode(picture).latent_dist for picture in pictures]
        mean = torch.stack([one.mean for one in drawn_from], dim=2).to(frames)
        logvar = torch.stack([one.logvar for one in drawn_from], dim=2).to(frames)
        return Gaussian(mean * self.scale, logvar + 2 * math.log(self.scale))

    @torch.no_grad()
    def decode(
        self, latents: Tensor, first_frame: Tensor, progress: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """See `Codec`; frame 0 is the photo itself, which the autoencoder would blur.

        Args:
            latents: (B, C, T, h, w).
            first_frame: (B, 3, H, W), -1..1.
            progress: called with (frames done, frames in all).
        """
        count = latents.shape[2]
        frames = [first_frame]
        for index in range(1, count):
            scaled = (latents[:, :, index] / self.scale).to(self.network.device, self.network.dtype)
            frames.append(self.network.decode(scaled).sample.to(first_frame))
            if progress is not None:
                progress(index + 1, count)
        return torch.stack(frames, dim=2)

    def _encode(self, frame: Tensor, generator: torch.Generator | None) -> Tensor:
        posterior = self.network.encode(frame.to(self.network.device, self.network.dtype)).latent_dist
        latent: Tensor = posterior.mean.to(frame)
        if generator is not None:
            noise = torch.randn(latent.shape, generator=generator)
            latent = latent + posterior.std.to(frame) * noise.to(frame)
        return latent * self.scale

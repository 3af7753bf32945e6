"""Wan's causal video autoencoder as codec, through diffusers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from motionloom.codecs.base import Codec, Gaussian
from motionloom.errors import InputError


class WanAutoencoder(Codec):
    """Pixels <=> latents (B, C, 1 + (T - 1) / 4, H / 8, W / 8), shifted and scaled to unit variance per channel.

    It is causal: latent frame 0 holds frame 0 alone, every further one four frames. So the latent of a photo is that of
    a clip that starts with it.

    Args:
        network: a diffusers `AutoencoderKLWan`, on any device and in any precision; pixels and latents stay
            float32 on the caller's device.
    """

    def __init__(self, network: Any) -> None:
        self.network = network.eval().requires_grad_(False)
        self.factor = int(network.config.scale_factor_spatial)
        self.frames_per_latent = int(network.config.scale_factor_temporal)
        self.mean = torch.tensor(network.config.latents_mean)[:, None, None, None]
        self.std = torch.tensor(network.config.latents_std)[:, None, None, None]

    def latent_shape(self, num_frames: int, height_px: int, width_px: int) -> tuple[int, ...]:
        """(C, 1 + (T - 1) / 4, H / 8, W / 8)."""
        if height_px % self.factor or width_px % self.factor:
            raise InputError(
                f"got frames of {width_px} x {height_px} px, expected multiples of {self.factor}",
                fix="resize the frames",
            )
        groups, rest = divmod(num_frames - 1, self.frames_per_latent)
        if rest:
            raise InputError(
                f"got {num_frames} frames, expected one more than a multiple of {self.frames_per_latent}",
                fix=f"take {groups * self.frames_per_latent + 1} or {(groups + 1) * self.frames_per_latent + 1}",
            )
        return (int(self.network.config.z_dim), 1 + groups, height_px // self.factor, width_px // self.factor)

    @torch.no_grad()
    def encode(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See `Codec`; with a generator (on the CPU) a sample of the posterior instead of its mean."""
        self.latent_shape(*frames.shape[2:])
        posterior = self.network.encode(frames.to(self.network.device, self.network.dtype)).latent_dist
        latents: Tensor = posterior.mean.to(frames)
        if generator is not None:
            noise = torch.randn(latents.shape, generator=generator)
            latents = latents + posterior.std.to(frames) * noise.to(frames)
        return (latents - self.mean.to(frames)) / self.std.to(frames)

    @torch.no_grad()
    def posterior(self, frames: Tensor) -> Gaussian:
        """Pixels (B, 3, T, H, W) => the distribution of their latents (B, C, f, h, w), for caching."""
        self.latent_shape(*frames.shape[2:])
        drawn_from = self.network.encode(frames.to(self.network.device, self.network.dtype)).latent_dist
        mean, logvar = drawn_from.mean.to(frames), drawn_from.logvar.to(frames)
        std = self.std.to(frames)
        return Gaussian((mean - self.mean.to(frames)) / std, logvar - 2 * std.log())

    @torch.no_grad()
    def decode(
        self, latents: Tensor, first_frame: Tensor, progress: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """See `Codec`; frame 0 is the photo itself, which the autoencoder would blur.

        Args:
            latents: (B, C, f, h, w).
            first_frame: (B, 3, H, W), -1..1.
            progress: called with (frames done, frames in all), once.
        """
        unscaled = latents * self.std.to(latents) + self.mean.to(latents)
        frames: Tensor = self.network.decode(unscaled.to(self.network.device, self.network.dtype)).sample
        frames = frames.to(first_frame)
        frames[:, :, 0] = first_frame
        if progress is not None:
            progress(frames.shape[2], frames.shape[2])
        return frames

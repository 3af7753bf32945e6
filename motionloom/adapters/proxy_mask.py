"""The masks that M-MIVA biases attention by, read off its own prediction (section 3.4.1).

noisy mask latents, prediction => x0 in one step => pixels, decoded or fitted => confidences on the latent grid
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from motionloom.denoisers.base import PredictionType

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Level:
    """A noise level: z = signal x0 + noise eps."""

    signal: float
    noise: float


def level_at(scheduler: Any, timestep: float, prediction_type: PredictionType) -> Level:
    """The level of a scheduler's timestep: 1 - sigma and sigma for flow matching, with sigma = t / 1000; else sqrt(abar_t)
    and sqrt(1 - abar_t).
    """
    if prediction_type == "flow":
        sigma = timestep / float(scheduler.config.num_train_timesteps)
        return Level(1 - sigma, sigma)
    abar = float(scheduler.alphas_cumprod[round(timestep)])
    return Level(math.sqrt(abar), math.sqrt(1 - abar))


def split_prediction(
    z: Tensor, prediction: Tensor, level: Level, prediction_type: PredictionType
) -> tuple[Tensor, Tensor]:
    """(x0, eps) that a prediction at a noise level claims z is made of.

    epsilon: x0 = (z - noise eps) / signal. v: x0 = signal z - noise v. flow, v = eps - x0: x0 = z - sigma v.
    """
    if prediction_type == "epsilon":
        return (z - level.noise * prediction) / level.signal, prediction
    if prediction_type == "flow":
        return z - level.noise * prediction, z + level.signal * prediction
    return level.signal * z - level.noise * prediction, level.noise * z + level.signal * prediction


def advanced(
    z: Tensor, prediction: Tensor, now: Level, then: Level, prediction_type: PredictionType
) -> Tensor:
    """z at another noise level, deterministically: one DDIM step, or one Euler step of flow matching."""
    x0, eps = split_prediction(z, prediction, now, prediction_type)
    return then.signal * x0 + then.noise * eps


def fitted_pixels(latents: Tensor, picture: Tensor) -> Tensor:
    """Masks as pictures of the latents' own size, without a decoder (ours): grey = w z + b at every place, w and b fitted by
    least squares to frame 0, whose picture is known.

    Args:
        latents: (1, C, F, h, w), frame 0 clean.
        picture: (1, 3, H, W) of frame 0, -1..1.

    Returns:
        (1, 3, F, h, w), -1..1. Directions that frame 0 does not show have weight 0.
    """
    size = (latents.shape[-2], latents.shape[-1])
    grey = F.adaptive_avg_pool2d(picture.float().mean(1), size).flatten()
    rows = F.pad(latents[0].float().flatten(2).permute(1, 2, 0), (0, 1), value=1.0)  # (F, h w, C + 1)
    fitted = rows @ (torch.linalg.pinv(rows[0]) @ grey.to(rows))
    pixels = torch.unflatten(fitted, 1, size).clamp(-1, 1)
    return pixels.expand(1, 3, -1, -1, -1)


def confidences(pixels: Tensor, grid: tuple[int, int], latent_frames: int | None = None) -> Tensor:
    """Decoded masks => confidences on the latent grid.

    Args:
        pixels: (B, 3, T, H, W), -1..1.
        grid: (h, w) of the latents.
        latent_frames: F, where the codec joins frames in time: frame 0 stays, the others are averaged in equal groups.

    Returns:
        (B, F, h, w), 0..1: grey, each frame stretched to its own extremes (a frame of one grey stays as it is), averaged
        over the cells. Not thresholded.
    """
    levels = (pixels / 2 + 0.5).clamp(0, 1)
    low, high = (extreme(levels, dim=(1, 3, 4), keepdim=True) for extreme in (torch.amin, torch.amax))
    flat = high - low < 1 / 255
    stretched = torch.where(flat, levels, (levels - low) / (high - low).clamp(min=1 / 255))
    grey = torch.einsum("bcthw,c->bthw", stretched, stretched.new_tensor(LUMA))
    s = F.adaptive_avg_pool2d(grey, grid).clamp(0, 1)
    return s if latent_frames is None else in_latent_time(s, latent_frames)


def in_latent_time(s: Tensor, latent_frames: int) -> Tensor:
    """(B, T, h, w) => (B, F, h, w), for T = 1 + n (F - 1): frame 0, and averages of n frames each."""
    if s.shape[1] == latent_frames:
        return s
    rest = torch.unflatten(s[:, 1:], 1, (latent_frames - 1, -1)).mean(2)
    return torch.cat([s[:, :1], rest], dim=1)


def ground_truth_probability(iteration: int, iterations: int) -> float:
    """How often training shows true masks instead of predicted ones (section 3.4.2): 1 at the start, 0 at the end, a cosine
    between.
    """
    return 0.5 * (1 + math.cos(math.pi * iteration / iterations))

"""The tokens that tell a video network what the picture shows: CLIP's, resampled to a few for each frame.

DynamiCrafter (arXiv 2310.12190, section 3.2): all tokens of CLIP's image encoder, before its last norm, go through a
learned resampler that answers with 16 tokens for each of 16 frames.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from motionloom.denoisers.dynamicrafter.unet import IMAGE_TOKENS_PER_FRAME

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ImageTokens:
    """Pictures => tokens.

    Args:
        encoder: transformers `CLIPVisionModel`.
        resampler: diffusers `IPAdapterPlusImageProjection`.
    """

    def __init__(self, encoder: Any, resampler: Any) -> None:
        self.encoder, self.resampler = encoder, resampler

    def __call__(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W), -1..1 => (B, 16 x 16, width) in frame order, on the pictures' device and in float32."""
        parameter = next(self.encoder.parameters())
        pixels = clip_pixels(pictures, self.encoder.config.image_size).to(parameter)
        with torch.no_grad():
            seen = self.encoder(
                pixel_values=pixels
            ).last_hidden_state  # (B, 1 + patches, d), before the last norm
        tokens: Tensor = self.resampler(seen)
        return tokens.to(pictures)


def clip_pixels(pictures: Tensor, side_px: int = 224) -> Tensor:
    """(B, 3, H, W), -1..1 => CLIP's input (B, 3, side, side): the whole picture, squeezed to a square, not cropped."""
    squeezed = (squeeze(pictures.float(), side_px) + 1) / 2
    mean, std = (squeezed.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (squeezed - mean) / std


def squeeze(pictures: Tensor, side_px: int) -> Tensor:
    """(B, 3, H, W) => (B, 3, side, side): a Gaussian blur of sigma (n / side - 1) / 2 along an axis of n pixels, then
    bicubic with aligned corners. The release's rule, shared by Stable Video Diffusion, bit for bit.
    """
    blurred = pictures
    for axis in (3, 2):
        kernel = _gaussian(pictures.shape[axis] / side_px).to(pictures)
        shape = [len(kernel) if dim == axis else 1 for dim in range(4)]
        half = len(kernel) // 2
        around = (half, half, 0, 0) if axis == 3 else (0, 0, half, half)
        weights = kernel.reshape(shape).expand(pictures.shape[1], -1, -1, -1)
        blurred = F.conv2d(F.pad(blurred, around, mode="reflect"), weights, groups=pictures.shape[1])
    return F.interpolate(blurred, size=(side_px, side_px), mode="bicubic", align_corners=True)


def _gaussian(shrink: float) -> Tensor:
    """An odd kernel about four sigma long."""
    sigma = max((shrink - 1) / 2, 0.001)
    length = int(max(4 * sigma, 3)) // 2 * 2 + 1
    places = torch.arange(length, dtype=torch.float32) - length // 2
    kernel = torch.exp(-places.square() / (2 * torch.tensor(sigma).square()))
    return kernel / kernel.sum()


def for_frames(tokens: Tensor, num_frames: int) -> Tensor:
    """Tokens of the trained frames (B, 16 n, width) => of any number of frames (B, 16 F, width).

    Our policy, for the release knows its own number alone: each frame takes the tokens of the trained frame that is
    nearest in time, the first and last frame those of the first and last.
    """
    batch, _, width = tokens.shape
    framed = tokens.reshape(batch, -1, IMAGE_TOKENS_PER_FRAME, width)
    places = torch.linspace(0, framed.shape[1] - 1, num_frames).round().long().to(tokens.device)
    return framed[:, places].flatten(1, 2)

"""The tokens that tell a video network what the picture shows: CLIP's, resampled to a few for each frame.

DynamiCrafter (arXiv 2310.12190, section 3.2): all tokens of CLIP's image encoder, before its last norm, go through a
learned resampler that answers with 16 tokens for each of 16 frames.
"""

from __future__ import annotations

from typing import Any

import torch
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
    """(B, 3, H, W), -1..1 => CLIP's input (B, 3, side, side): the whole picture, squeezed to a square, not cropped.

    Blurred before it is made smaller, then bicubic with aligned corners, as the release does (and Stable Video
    Diffusion, whose function this calls).
    """
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
        _resize_with_antialiasing,
    )

    squeezed = (_resize_with_antialiasing(pictures.float(), (side_px, side_px)) + 1) / 2
    mean, std = (squeezed.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    normalised: Tensor = (squeezed - mean) / std
    return normalised


def for_frames(tokens: Tensor, num_frames: int) -> Tensor:
    """Tokens of the trained frames (B, 16 n, width) => of any number of frames (B, 16 F, width).

    Our policy, for the release knows its own number alone: each frame takes the tokens of the trained frame that is
    nearest in time, the first and last frame those of the first and last.
    """
    framed = tokens.unflatten(1, (-1, IMAGE_TOKENS_PER_FRAME))
    places = torch.linspace(0, framed.shape[1] - 1, num_frames).round().long().to(tokens.device)
    return framed[:, places].flatten(1, 2)

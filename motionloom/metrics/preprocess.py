"""Pictures as the published metrics feed them to their networks: float (N, 3, H, W), 0..255 in, as torch and PIL do it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Mode = Literal["bilinear", "bicubic"]


def shorter_side(pixels: Tensor, side_px: int, mode: Mode, antialias: bool = False) -> Tensor:
    """The shorter side becomes `side_px`, the longer is cut to an integer; bicubic overshoot is kept."""
    height, width = pixels.shape[-2:]
    size = (
        (side_px, int(side_px * width / height))
        if height <= width
        else (int(side_px * height / width), side_px)
    )
    return F.interpolate(pixels, size, mode=mode, align_corners=False, antialias=antialias)


def squashed(pixels: Tensor, side_px: int, mode: Mode, antialias: bool = False) -> Tensor:
    return F.interpolate(pixels, (side_px, side_px), mode=mode, align_corners=False, antialias=antialias)


def centre_crop(pixels: Tensor, side_px: int) -> Tensor:
    top, left = (round((size - side_px) / 2) for size in pixels.shape[-2:])
    return pixels[..., top : top + side_px, left : left + side_px]


def normalised(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """0..255 => (x / 255 - mean) / std."""
    shift, scale = (torch.tensor(values).view(3, 1, 1).to(pixels) for values in (mean, std))
    return (pixels / 255 - shift) / scale


def picture_shorter_side(picture: npt.NDArray[np.uint8], side_px: int) -> Tensor:
    """PIL's bicubic, always antialiased and rounded: uint8 (H, W, 3) => float (1, 3, h, w), 0..255."""
    height, width = picture.shape[:2]
    scale = side_px / min(height, width)
    size = (side_px, int(scale * height)) if width <= height else (int(scale * width), side_px)
    return _resized(picture, size)


def picture_squashed(picture: npt.NDArray[np.uint8], side_px: int) -> Tensor:
    return _resized(picture, (side_px, side_px))


def _resized(picture: npt.NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    small = Image.fromarray(np.ascontiguousarray(picture)).resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)[None].float()

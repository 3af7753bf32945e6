"""Keeping a warped frame as sharp as the photo: sampling between pixels blurs, so the finest band is raised again."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST_BOOST = 1.0
_LAPLACE = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]


def laplacian(grey: Tensor) -> Tensor:
    """(B, 1, H, W) => the Laplacian, borders left out."""
    return F.conv2d(grey, _LAPLACE.to(grey))


def sharpness(picture: Tensor) -> float:
    """Variance of the Laplacian of the grey picture (1, 3, H, W), on its own scale."""
    return float(laplacian(picture.mean(1, keepdim=True)).var())


def as_sharp_as(frame: Tensor, target: float) -> Tensor:
    """The frame with its finest band raised until the variance of its Laplacian is `target`, at most doubled.

    The boost g solves var(L + g M) = target, L and M being the Laplacians of the frame and of its finest band.

    Args:
        frame: (1, 3, H, W).
        target: of `sharpness`; a frame that reaches it is returned as it is.
    """
    band = frame - _blur(frame)
    of_frame, of_band = (laplacian(x.mean(1, keepdim=True)) for x in (frame, band))
    variance = float(of_frame.var())
    if variance >= target or variance == 0:
        return frame
    a, b = float(of_band.var()), float(((of_frame - of_frame.mean()) * (of_band - of_band.mean())).mean())
    boost = (-b + (b * b + a * (target - variance)) ** 0.5) / max(a, 1e-12)
    raised: Tensor = frame + min(boost, LARGEST_BOOST) * band
    return raised


def _blur(picture: Tensor) -> Tensor:
    """Binomial 3 x 3, mirrored at the border."""
    tap = torch.tensor([0.25, 0.5, 0.25]).to(picture)
    kernel = torch.outer(tap, tap).expand(picture.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(picture, (1, 1, 1, 1), mode="reflect"), kernel, groups=picture.shape[1])

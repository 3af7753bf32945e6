"""Optical flow for metrics, in pixels: an estimator is a callable, and these are the numbers made of its fields.

Flow is forward: what is at x in the first frame is at x + flow(x) in the second.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from motionloom.errors import ResourceError
from motionloom.metrics.base import as_pixels
from motionloom.motion.warp import warp

Frame = npt.NDArray[np.uint8]  # (H, W, 3)


class FlowEstimator(Protocol):
    """Attributes: `name` goes into scores.json."""

    name: str

    def __call__(self, first: Frame, second: Frame) -> Tensor:
        """Two frames => float (H, W, 2), pixels, (x, y)."""
        ...


class DISFlow:
    """Dense inverse search (Kroeger et al. 2016) by OpenCV, medium preset: within 0.1 px on known pans.

    Raises:
        ResourceError: OpenCV is not installed.
    """

    name = "dis"

    def __init__(self) -> None:
        try:
            import cv2
        except ImportError:
            raise ResourceError("OpenCV is not installed", fix="pip install 'motionloom[metrics]'") from None
        self._cv2: Any = cv2
        self._dis: Any = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]

    def __call__(self, first: Frame, second: Frame) -> Tensor:
        grey = [self._cv2.cvtColor(frame, self._cv2.COLOR_RGB2GRAY) for frame in (first, second)]
        return torch.from_numpy(self._dis.calc(*grey, None))


class LucasKanadeFlow:
    """Pyramidal, iterated Lucas-Kanade (Bouguet 2000) on every pixel, in torch: the last resort without OpenCV."""

    name = "lucas-kanade"
    window_px, iterations, smallest_px = 9, 5, 24

    def __call__(self, first: Frame, second: Frame) -> Tensor:
        a, b = (as_pixels(frame[None]).mean(1, keepdim=True) for frame in (first, second))
        pyramid = [(a, b)]
        while min(pyramid[-1][0].shape[-2:]) >= 2 * self.smallest_px:
            pyramid.append(tuple(F.avg_pool2d(level, 2, ceil_mode=True) for level in pyramid[-1]))  # type: ignore[arg-type]
        flow = torch.zeros(1, *pyramid[-1][0].shape[-2:], 2)
        for small_a, small_b in reversed(pyramid):
            flow = self._refine(small_a, small_b, _enlarge(flow, *small_a.shape[-2:]))
        return flow[0]

    def _refine(self, a: Tensor, b: Tensor, flow: Tensor) -> Tensor:
        """Solve  sum grad grad^T  step = sum grad (a - b(x + flow))  in a window around every pixel."""
        gx, gy = _gradient(a)
        xx, xy, yy = (self._sum(p) for p in (gx * gx, gx * gy, gy * gy))
        damping = 1e-2 * (xx + yy) + 1.0  # flat windows keep the flow they have
        determinant = (xx + damping) * (yy + damping) - xy * xy
        for _ in range(self.iterations):
            error = a - warp_px(b, flow)
            ex, ey = self._sum(gx * error), self._sum(gy * error)
            step_x = ((yy + damping) * ex - xy * ey) / determinant
            step_y = ((xx + damping) * ey - xy * ex) / determinant
            step = torch.cat([step_x, step_y], 1).permute(0, 2, 3, 1).clamp(-1, 1)
            flow = flow + step
            flow = F.avg_pool2d(F.pad(flow.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate"), 3, 1)
            flow = flow.permute(0, 2, 3, 1)
        return flow

    def _sum(self, x: Tensor) -> Tensor:
        half = self.window_px // 2
        across = F.avg_pool2d(F.pad(x, (half,) * 4, mode="reflect"), (1, self.window_px), 1)
        return F.avg_pool2d(across, (self.window_px, 1), 1)


def _gradient(x: Tensor) -> tuple[Tensor, Tensor]:
    wide = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]) / 2, (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]) / 2


def _enlarge(flow: Tensor, height: int, width: int) -> Tensor:
    old_height, old_width = flow.shape[1:3]
    larger = F.interpolate(flow.permute(0, 3, 1, 2), (height, width), mode="bilinear", align_corners=False)
    return larger.permute(0, 2, 3, 1) * torch.tensor([width / old_width, height / old_height])


def warp_px(picture: Tensor, flow: Tensor) -> Tensor:
    """What lies at x + flow(x): picture (B, C, H, W), flow (B, H, W, 2) in pixels => (B, C, H, W), bilinear."""
    height, width = picture.shape[-2:]
    return warp(picture, flow / (height * width) ** 0.5, "bilinear")


def magnitude(flow: Tensor) -> Tensor:
    """(..., 2) => (...), pixels."""
    return flow.square().sum(-1).sqrt()


def top_mean(numbers: Tensor, share: float = 0.05) -> float:
    """The mean of the largest `share`, int(share x count) of them and at least one."""
    flat = numbers.flatten()
    return float(flat.topk(max(1, int(share * flat.numel()))).values.mean())


def unreliable(forward: Tensor, backward: Tensor) -> Tensor:
    """Where following the flow there and back does not come home: bool (H, W). (Sundaram et al. 2010, eq. 5.)"""
    back = warp_px(backward.permute(2, 0, 1)[None], forward[None])[0].permute(1, 2, 0)
    error = (forward + back).square().sum(-1)
    return error > 0.01 * (forward.square().sum(-1) + back.square().sum(-1)) + 0.5

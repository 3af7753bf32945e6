"""A photo and some motions => a clip with its true flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from motionloom.datasets.synthetic.motion import Motion, Picture, Region
from motionloom.motion.grid import places

Part = tuple[Motion, Region]  # a motion and where it happens


@dataclass(frozen=True)
class SyntheticClip:
    """A rendered clip.

    Attributes:
        frames: uint8 (T, H, W, 3); frame 0 is the photo's crop.
        flow: float32 (T, H, W, 2) backward flow in frame units, or None where no flow tells the whole story.
        words: the motion words, in the order of the parts.
    """

    frames: Picture
    flow: npt.NDArray[np.float32] | None
    words: tuple[str, ...]


def times(num_frames: int) -> torch.Tensor:
    """tau of each frame: 0 for the first, 1 for the last."""
    return torch.linspace(0, 1, num_frames)


def total_flow(parts: Sequence[Part], xy: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    """Backward flow of all parts, each in its region, added up: (T, h, w, 2)."""
    flow = torch.zeros(len(tau), *xy.shape)
    for motion, region in parts:
        flow = flow + region(xy)[None, ..., None] * motion.flow(xy, tau)
    return flow


def total_light(parts: Sequence[Part], xy: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    """Logarithm of the gain of all parts, (T, h, w)."""
    return sum(
        (region(xy) * motion.light(xy, tau) for motion, region in parts), torch.zeros(len(tau), *xy.shape[:2])
    )


def render(
    canvas: torch.Tensor,
    view: tuple[float, float, float, float],
    parts: Sequence[Part],
    num_frames: int,
    height_px: int,
    width_px: int,
) -> SyntheticClip:
    """Animate a crop of a photo; the camera may look beyond the crop, where the photo goes on.

    Args:
        canvas: the whole photo, float32 (3, H, W), 0..1.
        view: the crop's (left, top, width, height) in photo pixels.
        parts: what moves where.
        num_frames: T >= 1.
        height_px, width_px: size of the clip.
    """
    xy, tau = places(height_px, width_px), times(num_frames)
    flow, light = total_flow(parts, xy, tau), total_light(parts, xy, tau)
    frames = (_look(canvas, view, xy + flow) * light.exp()[:, None]).clamp(0, 1)
    pictures = (frames.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    for motion, _ in parts:
        pictures = np.stack([motion.paint(p, float(t)) for p, t in zip(pictures, tau, strict=True)])
    truth = all(motion.truth for motion, _ in parts)
    return SyntheticClip(pictures, flow.numpy() if truth else None, tuple(motion.word for motion, _ in parts))


def _look(
    canvas: torch.Tensor, view: tuple[float, float, float, float], source: torch.Tensor
) -> torch.Tensor:
    """Colours of the photo at places given in the crop's frame units: (T, h, w, 2) => (T, 3, h, w)."""
    left, top, width, height = view
    unit_px = (width * height) ** 0.5
    photo_height, photo_width = canvas.shape[-2:]
    centre = torch.tensor([left + width / 2, top + height / 2])
    pixels = source * unit_px + centre
    grid = pixels * torch.tensor([2 / photo_width, 2 / photo_height]) - 1
    blur = max(
        1.0, unit_px / (source.shape[1] * source.shape[2]) ** 0.5
    )  # shrink first, so that sampling does not alias
    if blur > 1.2:
        size = (max(8, round(photo_height / blur)), max(8, round(photo_width / blur)))
        canvas = F.interpolate(canvas[None], size, mode="bilinear", antialias=True)[0]
    return F.grid_sample(
        canvas[None].expand(len(source), -1, -1, -1),
        grid,
        mode="bicubic",
        padding_mode="reflection",
        align_corners=False,
    )

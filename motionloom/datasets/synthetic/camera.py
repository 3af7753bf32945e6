"""Camera motions: pans, zooms, turns (exactly affine) and a dolly whose near things move more than far ones.

Words name what the camera does: pan-left turns the camera left, so the scene moves right. rotate-left turns the picture
counter-clockwise. At amplitude 1 a pan travels 15 % of the frame, a zoom scales by 12 %, a turn is 7 degrees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from motionloom.datasets.synthetic.motion import Motion, SmoothNoise, Still
from motionloom.motion.camera_path import displacement, similarity

PAN = 0.15  # frame units a clip at amplitude 1
ZOOM = math.log(1.12)
TURN = math.radians(7.0)

#: rates (motionloom.motion.camera_path) of each word at amplitude 1. Backward: the source moves with the camera.
RATES = {
    "pan-left": similarity((-PAN, 0.0), 0.0, 0.0),
    "pan-right": similarity((PAN, 0.0), 0.0, 0.0),
    "pan-up": similarity((0.0, -PAN), 0.0, 0.0),
    "pan-down": similarity((0.0, PAN), 0.0, 0.0),
    "zoom-in": similarity((0.0, 0.0), -ZOOM, 0.0),
    "zoom-out": similarity((0.0, 0.0), ZOOM, 0.0),
    "rotate-left": similarity((0.0, 0.0), 0.0, TURN),
    "rotate-right": similarity((0.0, 0.0), 0.0, -TURN),
}


class Camera(Still):
    """A camera path at constant speed."""

    def __init__(self, word: str, amplitude: float = 1.0) -> None:
        self.word = word
        self.rates = RATES[word] * amplitude

    def flow(self, xy: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        return displacement(self.rates, tau, xy)


@dataclass
class Dolly(Still):
    """Moving into the picture over an imagined depth: the lower part and random patches are nearer."""

    amplitude: float
    depth: SmoothNoise
    word: str = "dolly-in"

    def flow(self, xy: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        nearness = (0.9 + 1.2 * xy[..., 1] + 0.25 * self.depth(xy)).clamp(0.3, 1.8)
        rate = -ZOOM * self.amplitude * nearness
        return (torch.expm1(tau[:, None, None] * rate))[..., None] * xy


def sample_camera(word: str, rng: np.random.Generator, amplitude: float) -> Motion:
    return Camera(word, amplitude)


def sample_dolly(word: str, rng: np.random.Generator, amplitude: float) -> Motion:
    return Dolly(amplitude, SmoothNoise(rng, 0.6))

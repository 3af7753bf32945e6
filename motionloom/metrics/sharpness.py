"""Sharpness over time: do frames blur away from the first?"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from motionloom.metrics.base import Item, Measured, Metric, Value, as_pixels
from motionloom.motion.sharpness import sharpness


class Sharpness(Metric):
    """Variance of the Laplacian of the grey frame (levels squared), its mean, and the last frame's over the first's.

    Noise is sharp too: read it beside flickering.
    """

    name = "sharpness"
    measured_as = "sharpness/1"
    min_frames = 1
    gives: ClassVar = {
        "sharpness": Value("variance of the Laplacian, mean over frames", "levels^2", "none"),
        "sharpness/kept": Value("the last frame's over the first frame's", "ratio", "none"),
    }

    def measure(self, item: Item) -> Measured:
        curve = [sharpness(as_pixels(frame[None])) for frame in item.clip.frames]
        kept = curve[-1] / curve[0] if curve[0] else np.nan
        return Measured({"sharpness": float(np.mean(curve)), "sharpness/kept": kept}, {"sharpness": curve})

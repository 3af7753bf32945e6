"""Temporal flickering: how much neighbouring pixels in time differ (VBench, arXiv 2311.17982, temporal flickering).

Meant for scenes that should stand still: on a moving clip it punishes the motion.
"""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np

from motionloom.metrics.base import Item, Measured, Metric, Value


class TemporalFlickering(Metric):
    """(255 - mean |x_{t+1} - x_t|) / 255; a frozen clip scores 1. Frames with 0..255 levels."""

    name = "temporal_flickering"
    measured_as = "temporal_flickering/1"
    gives: ClassVar = {
        "temporal_flickering": Value("VBench temporal_flickering, without its filter of static clips")
    }

    def measure(self, item: Item) -> Measured:
        frames = item.clip.frames
        steps = [
            float(np.abs(later.astype(np.int16) - earlier).mean())
            for earlier, later in itertools.pairwise(frames)
        ]
        curve = [(255 - step) / 255 for step in steps]
        return Measured({self.name: float(np.mean(curve))}, {self.name: curve})

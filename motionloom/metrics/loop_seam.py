"""Loop seam: how much the jump from the last frame back to the first exceeds a usual step."""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np

from motionloom.metrics.base import Item, Measured, Metric, Value


class LoopSeam(Metric):
    """Mean |x_0 - x_{T-1}|, in levels and over the median step. 1 cannot be told from any other step of the clip;
    undefined for a frozen clip.
    """

    name = "loop_seam"
    measured_as = "loop_seam/1"
    min_frames = 3
    gives: ClassVar = {
        "loop_seam": Value("ours: |x_0 - x_T-1| over the clip's median step", "steps", "lower"),
        "loop_seam/levels": Value("ours: mean |x_0 - x_T-1|, 8 bit", "levels", "lower"),
    }

    def measure(self, item: Item) -> Measured:
        frames = item.clip.frames.astype(np.int16)
        steps = [float(np.abs(b - a).mean()) for a, b in itertools.pairwise(frames)]
        seam, usual = float(np.abs(frames[0] - frames[-1]).mean()), float(np.median(steps))
        return Measured({"loop_seam": seam / usual if usual else np.nan, "loop_seam/levels": seam})

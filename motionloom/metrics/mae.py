"""Mean absolute error against the reference clip."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from motionloom.metrics.base import Item, Measured, Metric, Value
from motionloom.metrics.psnr import mean_squared_errors
from motionloom.metrics.reference import aligned


class MAE(Metric):
    """Mean |difference| and mean squared difference of 8-bit levels over all pixels and channels."""

    name = "mae"
    measured_as = "mae/1"
    needs = frozenset({"reference"})
    min_frames = 1
    gives: ClassVar = {
        "mae": Value("mean absolute difference, 8 bit", "levels", "lower"),
        "mae/mse": Value("mean squared difference, 8 bit", "levels^2", "lower"),
    }

    def measure(self, item: Item) -> Measured:
        own, real = aligned(item)
        curve = [
            float(np.abs(a.astype(np.int16) - b).mean(dtype=np.float64))
            for a, b in zip(own, real, strict=True)
        ]
        squared = float(mean_squared_errors(own, real).mean())
        return Measured({"mae": float(np.mean(curve)), "mae/mse": squared}, {"mae": curve})

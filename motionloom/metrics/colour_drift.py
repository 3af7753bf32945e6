"""Exposure and colour drift: the picture's light and colours should not creep away from frame 0."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from motionloom.metrics.base import Item, Measured, Metric, Value


class ColourDrift(Metric):
    """Largest departure from frame 0 over the clip, of the mean luma (BT.601) and of colourfulness
    (Hasler and Süsstrunk 2003, eq. for M^(3)).
    """

    name = "colour_drift"
    measured_as = "colour_drift/1"
    gives: ClassVar = {
        "colour_drift": Value("ours: max over frames of |colourfulness - that of frame 0|", "", "lower"),
        "colour_drift/exposure": Value(
            "ours: max over frames of |mean luma - that of frame 0|", "levels", "lower"
        ),
    }

    def measure(self, item: Item) -> Measured:
        luma = [float((frame @ np.array([0.299, 0.587, 0.114])).mean()) for frame in item.clip.frames]
        colour = [colourfulness(frame) for frame in item.clip.frames]
        return Measured(
            {
                "colour_drift": float(np.abs(np.array(colour) - colour[0]).max()),
                "colour_drift/exposure": float(np.abs(np.array(luma) - luma[0]).max()),
            },
            {"colour_drift/colourfulness": colour, "colour_drift/luma": luma},
        )


def colourfulness(frame: npt.NDArray[np.uint8]) -> float:
    """uint8 (H, W, 3) => 0 for grey, about 110 for extremely colourful."""
    red, green, blue = np.moveaxis(frame.astype(np.float64), -1, 0)
    across, along = red - green, (red + green) / 2 - blue
    return float(np.hypot(across.std(), along.std()) + 0.3 * np.hypot(across.mean(), along.mean()))

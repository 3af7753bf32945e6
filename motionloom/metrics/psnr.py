"""Peak signal-to-noise ratio against the reference clip, frame by frame at the same size."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from motionloom.metrics.base import Frames, Item, Measured, Metric, Value
from motionloom.metrics.reference import aligned

PEAK = 255.0


def mean_squared_errors(frames: Frames, reference: Frames) -> npt.NDArray[np.float64]:
    """uint8 (T, H, W, 3) twice => (T,), in squared levels; frame by frame, for clips are large."""
    return np.array(
        [
            np.square(a.astype(np.float32) - b).mean(dtype=np.float64)
            for a, b in zip(frames, reference, strict=True)
        ]
    )


def decibels(mean_squared_error: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Infinite where the error is zero."""
    with np.errstate(divide="ignore"):
        ratio: npt.NDArray[np.float64] = 10 * np.log10(PEAK**2 / mean_squared_error)
    return ratio


class PSNR(Metric):
    """Three conventions that differ by decibels on one clip: of the pooled error, the median of frames, and the mean
    of frames with equal frames counted as 100 dB, as the public common-metrics code does.
    """

    name = "psnr"
    measured_as = "psnr/1"
    needs = frozenset({"reference"})
    min_frames = 1
    gives: ClassVar = {
        "psnr": Value("PSNR of the error pooled over the clip, 8 bit", "dB"),
        "psnr/median_of_frames": Value("median over frames of the frame's PSNR", "dB"),
        "psnr/mean_of_frames": Value("mean over frames, an equal frame counts as 100 dB (compat)", "dB"),
    }

    def measure(self, item: Item) -> Measured:
        errors = mean_squared_errors(*aligned(item))
        frames = decibels(errors)
        return Measured(
            {
                "psnr": float(decibels(errors.mean())),
                "psnr/median_of_frames": float(np.median(frames)),
                "psnr/mean_of_frames": float(np.minimum(frames, 100.0).mean()),
            },
            {"psnr": frames.tolist()},
        )

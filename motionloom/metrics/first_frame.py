"""First-frame fidelity: is frame 0 the picture that was given, and how far do later frames leave it?"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from motionloom.metrics.base import Item, Measured, Metric, Value, as_pixels
from motionloom.metrics.psnr import decibels, mean_squared_errors
from motionloom.metrics.ssim import WINDOW_PX, ssim_rgb_g11
from motionloom.video.resize import resize


class FirstFrame(Metric):
    """The input picture (scaled and centre-cropped to the clip's size) against frame 0 and against every frame."""

    name = "first_frame"
    measured_as = "first_frame/1"
    needs = frozenset({"picture"})
    min_frames = 1
    gives: ClassVar = {
        "first_frame": Value("PSNR of frame 0 against the input picture, 8 bit", "dB"),
        "first_frame/ssim": Value("SSIM rgb_g11 of frame 0 against the input picture"),
        "first_frame/exact": Value(
            "clips whose frame 0 is the picture bit for bit", "fraction", boolean=True
        ),
        "first_frame/all_frames_ssim": Value("mean over frames of SSIM against the picture", "", "none"),
    }

    def measure(self, item: Item) -> Measured:
        frames = item.clip.frames
        picture = fitted(item)
        error = mean_squared_errors(frames[:1], picture[None])
        values = {
            "first_frame": float(decibels(error)[0]),
            "first_frame/exact": float(np.array_equal(frames[0], picture)),
        }
        if min(picture.shape[:2]) < WINDOW_PX:
            return Measured(values)
        target = as_pixels(picture[None])
        curve = [float(ssim_rgb_g11(as_pixels(frame[None]), target)) for frame in frames]
        values |= {"first_frame/ssim": curve[0], "first_frame/all_frames_ssim": sum(curve) / len(curve)}
        return Measured(values, {"first_frame/ssim": curve})


def fitted(item: Item) -> npt.NDArray[np.uint8]:
    """The picture at the clip's size: uint8 (H, W, 3)."""
    assert item.picture is not None
    picture: npt.NDArray[np.uint8] = resize(
        item.picture[None], item.clip.width_px, item.clip.height_px, "crop"
    )[0]
    return picture

"""Motion smoothness (VBench, arXiv 2311.17982): can a frame interpolation network guess every second frame?"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from motionloom.metrics.base import Item, Measured, Metric, Value, as_pixels
from motionloom.metrics.setup import Setup

Interpolator = Callable[[Tensor, Tensor], Tensor]  # (1, 3, H, W), 0..1, twice -> the frame half-way


class MotionSmoothness(Metric):
    """(255 - mean |x^_{2k+1} - x_{2k+1}|) / 255, x^ guessed from x_{2k} and x_{2k+2}.

    The release casts the guess to bytes without rounding, half a level too dark on average: the value of that name.
    `/clean` rounds. The last frame of an even number is not looked at.
    """

    name = "motion_smoothness"
    measured_as = "motion_smoothness/2"
    min_frames = 3
    gives: ClassVar = {
        "motion_smoothness": Value("VBench motion_smoothness, guess floored (compat)"),
        "motion_smoothness/clean": Value("VBench motion_smoothness, guess rounded (clean)"),
    }

    def __init__(self, interpolator: Interpolator, device: str = "cpu") -> None:
        self.interpolator, self.device = interpolator, device

    @classmethod
    def made(cls, setup: Setup) -> MotionSmoothness:
        return cls(setup.networks.load("amt-s"), setup.networks.device)

    def measure(self, item: Item) -> Measured:
        frames = item.clip.frames
        floored, rounded = [], []
        for k in range(0, len(frames) - 2, 2):
            before, now, after = (as_pixels(frames[k + i][None]).to(self.device) for i in (0, 1, 2))
            guess = self.interpolator(before / 255, after / 255).clamp(0, 1) * 255
            # what is a whole level up to float rounding stays that level
            floored.append(_score(torch.floor(guess + 1e-3), now))
            rounded.append(_score(torch.floor(guess + 0.5 + 1e-3), now))
        values = {
            self.name: sum(floored) / len(floored),
            f"{self.name}/clean": sum(rounded) / len(rounded),
        }
        return Measured(values, {self.name: floored})


def _score(guess: Tensor, frame: Tensor) -> float:
    return (255 - float((guess - frame).abs().double().mean())) / 255

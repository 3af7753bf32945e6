"""Frozen and black frames: what a frame rate conversion or a failed decoder leaves behind."""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np

from motionloom.metrics.base import Item, Measured, Metric, Value

SAME_LEVELS = 0.1  # mean |difference|; an encoder's copy of a frame stays below
BLACK_LEVELS = 8.0  # mean level


class FrozenFrames(Metric):
    """The share of steps on which nothing changes, and the share of black frames."""

    name = "frozen_frames"
    measured_as = "frozen_frames/1"
    gives: ClassVar = {
        "frozen_frames": Value(
            f"ours: steps with mean |difference| <= {SAME_LEVELS:g} levels", "fraction", "lower"
        ),
        "frozen_frames/black": Value(
            f"ours: frames with mean level <= {BLACK_LEVELS:g}", "fraction", "lower"
        ),
    }

    def measure(self, item: Item) -> Measured:
        frames = item.clip.frames
        steps = [float(np.abs(b.astype(np.int16) - a).mean()) for a, b in itertools.pairwise(frames)]
        levels = [float(frame.mean()) for frame in frames]
        return Measured(
            {
                "frozen_frames": float(np.mean(np.array(steps) <= SAME_LEVELS)),
                "frozen_frames/black": float(np.mean(np.array(levels) <= BLACK_LEVELS)),
            }
        )

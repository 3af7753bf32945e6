"""Dynamic degree (VBench, arXiv 2311.17982): the share of clips that move, by RAFT."""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np

from motionloom.metrics.base import Item, Measured, Metric, Value
from motionloom.metrics.flow import magnitude, top_mean
from motionloom.metrics.flow_raft import RaftFlow
from motionloom.metrics.setup import Setup

THRESHOLD_PX = 6.0  # at a short side of 256, between frames about 1/8 s apart
CLEAN_PX_PER_SECOND = 8 * THRESHOLD_PX


class DynamicDegree(Metric):
    """Mean of the largest 5 % of flow between neighbours, after taking every round(fps / 8)-th frame.

    The release counts pairs above 6 min(H, W) / 256 px and calls a clip of n such frames dynamic from round(4 n / 16)
    pairs on: so the fps in the file decides, and a clip of two frames is always dynamic. `/clean` takes the flow a
    second, on the frame without its padding, and asks for a quarter of the pairs, at least one.
    """

    name = "dynamic_degree"
    measured_as = "dynamic_degree/1"
    gives: ClassVar = {
        "dynamic_degree": Value("VBench dynamic_degree (compat)", "fraction", "none", True),
        "dynamic_degree/clean": Value(
            "VBench's flow a second, 48 px/s at 256 px (clean)", "fraction", "none", True
        ),
        "dynamic_degree/top5_px_per_second_at_256": Value("RAFT, mean of the largest 5 %", "px/s", "none"),
    }

    def __init__(self, flow: RaftFlow) -> None:
        self.flow = flow

    @classmethod
    def made(cls, setup: Setup) -> DynamicDegree:
        return cls(RaftFlow(setup.networks.load("raft"), setup.networks.device))

    def measure(self, item: Item) -> Measured:
        interval = max(1, round(item.clip.fps / 8))
        frames = item.clip.frames[::interval]
        short = min(frames.shape[1:3])
        fields = [self.flow(a, b) for a, b in itertools.pairwise(frames)]
        padded = np.array([top_mean(magnitude(field.padded)) for field in fields])
        rate = np.array([top_mean(magnitude(field.inside)) for field in fields])
        rate *= item.clip.fps / interval * 256 / short
        return Measured(
            {
                self.name: float(is_dynamic(padded, len(frames), short)),
                f"{self.name}/clean": float((rate > CLEAN_PX_PER_SECOND).sum() >= max(1, len(rate) / 4)),
                f"{self.name}/top5_px_per_second_at_256": float(rate.mean()) if len(rate) else np.nan,
            },
            {self.name: padded.tolist()},
        )


def is_dynamic(top5_px: np.ndarray[tuple[int], np.dtype[np.float64]], num_frames: int, short_px: int) -> bool:
    """The release's rule, with Python's rounding of halves to even."""
    return int((top5_px > THRESHOLD_PX * short_px / 256).sum()) >= round(4 * num_frames / 16)

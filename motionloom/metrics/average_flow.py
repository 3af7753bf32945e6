"""Average flow (EvalCrafter, arXiv 2310.11440): how much a clip moves, by RAFT."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

from motionloom.metrics.base import Item, Measured, Metric, Value
from motionloom.metrics.flow import magnitude
from motionloom.metrics.flow_raft import RaftFlow
from motionloom.metrics.setup import Setup


class AverageFlow(Metric):
    """Mean length of the flow between neighbours, on the padded field: pixels a frame, so twice the resolution or half
    the frame rate doubles it. `/clean` is a second, at a short side of 256 px, without the padding.
    """

    name = "average_flow"
    measured_as = "average_flow/1"
    gives: ClassVar = {
        "average_flow": Value("EvalCrafter flow score (compat)", "px", "none"),
        "average_flow/clean": Value("EvalCrafter flow score, a second at 256 px (clean)", "px/s", "none"),
    }

    def __init__(self, flow: RaftFlow) -> None:
        self.flow = flow

    @classmethod
    def made(cls, setup: Setup) -> AverageFlow:
        return cls(RaftFlow(setup.networks.load("raft"), setup.networks.device))

    def measure(self, item: Item) -> Measured:
        frames = item.clip.frames
        fields = [self.flow(a, b) for a, b in pairwise(frames)]
        curve = [float(magnitude(field.padded).mean()) for field in fields]
        inside = sum(float(magnitude(field.inside).mean()) for field in fields) / len(fields)
        clean = inside * item.clip.fps * 256 / min(frames.shape[1:3])
        values = {self.name: sum(curve) / len(curve), f"{self.name}/clean": clean}
        return Measured(values, {self.name: curve})

"""How a clip moves, by classical optical flow: amount, smoothness, camera. Needs no weights.

Stand-ins with names of their own: none of these numbers is VBench's or EvalCrafter's, whose flow is RAFT's.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from motionloom.metrics.base import Frames, Item, Measured, Metric, Value, as_pixels
from motionloom.metrics.flow import (
    DISFlow,
    FlowEstimator,
    LucasKanadeFlow,
    magnitude,
    top_mean,
    unreliable,
    warp_px,
)

DYNAMIC_PX_PER_SECOND = 48.0  # at a short side of 256: VBench's 6 px at its 8 frames a second
DYNAMIC_SHARE = 0.25  # of the steps
TOO_UNRELIABLE = 0.5  # of the pixels: then the flow means nothing and its values are "undefined"
GRID_STEP_PX = 8  # of the camera fit


@dataclass(frozen=True)
class _Step:
    """One pair of frames. Rates are a second."""

    average_px: float
    top_px: float
    unreliable: float
    warp_error: float
    camera: tuple[
        float, float, float, float
    ]  # pan, tilt (% of the short side / s), zoom (% / s), roll (degrees / s)


class FlowMotion(Metric):
    """The values of one estimator; a subclass names it."""

    min_frames = 3
    estimator: FlowEstimator

    def __init__(self, estimator: FlowEstimator) -> None:
        self.estimator, self.measured_as = estimator, f"{self.name}/1"

    def measure(self, item: Item) -> Measured:
        frames, fps = item.clip.frames, item.clip.fps
        steps = [self._step(a, b, fps) for a, b in itertools.pairwise(frames)]
        to_256 = 256 / min(frames.shape[1:3])
        average = np.array([step.average_px for step in steps])
        top_rate = np.array([step.top_px for step in steps]) * fps * to_256
        lost = float(np.mean([step.unreliable for step in steps]))
        pan, tilt, zoom, roll = np.mean([step.camera for step in steps], axis=0).tolist()
        values = {
            "": float(average.mean()),
            "/px_per_second_at_256": float(average.mean() * fps * to_256),
            "/top5_px_per_second_at_256": float(top_rate.mean()),
            "/dynamic": float(np.mean(top_rate > DYNAMIC_PX_PER_SECOND) >= DYNAMIC_SHARE),
            "/warp_error": float(np.mean([step.warp_error for step in steps])),
            "/pan_right": pan,
            "/tilt_up": tilt,
            "/zoom_in": zoom,
            "/roll_left": roll,
        }
        if lost > TOO_UNRELIABLE:
            values = dict.fromkeys(values, np.nan)
        values |= {"/unreliable": lost, "/smoothness": self._smoothness(frames)}
        return Measured(
            {self.name + key: value for key, value in values.items()}, {self.name: average.tolist()}
        )

    def _step(self, first: Frames, second: Frames, fps: float) -> _Step:
        forward, backward = self.estimator(first, second), self.estimator(second, first)
        lost = unreliable(forward, backward)
        size = magnitude(forward)
        moved = warp_px(as_pixels(second[None]), forward[None])[0]
        error = (moved - as_pixels(first[None])[0]).abs().mean(0)
        kept = error[~lost]
        return _Step(
            float(size.mean()),
            top_mean(size),
            float(lost.float().mean()),
            float(kept.mean()) if kept.numel() else float("nan"),
            camera_of(forward, ~lost, fps),
        )

    def _smoothness(self, frames: Frames) -> float:
        """VBench's motion smoothness with flow as the interpolator: every odd frame from its neighbours."""
        errors = []
        for k in range(0, len(frames) - 2, 2):
            middle = between(frames[k], frames[k + 2], self.estimator)
            errors.append(float((middle - as_pixels(frames[k + 1][None])[0]).abs().mean()))
        return (255 - float(np.mean(errors))) / 255


def between(first: Frames, second: Frames, estimator: FlowEstimator) -> Tensor:
    """The frame half-way: both neighbours warped half-way and averaged. float (3, H, W), 0..255."""
    forward, backward = estimator(first, second), estimator(second, first)
    from_first = warp_px(as_pixels(first[None]), backward[None] / 2)
    from_second = warp_px(as_pixels(second[None]), forward[None] / 2)
    return (from_first[0] + from_second[0]) / 2


def camera_of(flow: Tensor, trusted: Tensor, fps: float) -> tuple[float, float, float, float]:
    """The camera's motion from the scene's, by a robust fit of  flow = shift + [[zoom, -turn], [turn, zoom]] x.

    Iterated least squares with Cauchy weights, so that what moves by itself has little say.

    Returns:
        pan to the right and tilt up in % of the short side a second (the scene moves left, down), zoom in % a second,
        and roll to the left in degrees a second (the scene turns clockwise). NaN where no flow can be trusted.
    """
    height, width = flow.shape[:2]
    ys, xs = torch.meshgrid(
        torch.arange(GRID_STEP_PX // 2, height, GRID_STEP_PX),
        torch.arange(GRID_STEP_PX // 2, width, GRID_STEP_PX),
        indexing="ij",
    )
    keep = trusted[ys, xs].flatten()
    if int(keep.sum()) < 8:
        return (float("nan"),) * 4
    x = (xs.flatten()[keep] - (width - 1) / 2).double().numpy()
    y = (ys.flatten()[keep] - (height - 1) / 2).double().numpy()
    field = flow[ys, xs].flatten(0, 1)[keep].double().numpy()
    one, zero = np.ones_like(x), np.zeros_like(x)
    rows = np.concatenate([np.stack([one, zero, x, -y], 1), np.stack([zero, one, y, x], 1)])
    target = np.concatenate([field[:, 0], field[:, 1]])
    weight = np.ones_like(target)
    for _ in range(10):
        weighted = rows * weight[:, None]  # sums, not BLAS: the same bits whatever the memory's alignment
        gram = (weighted[:, :, None] * rows[:, None, :]).sum(0)
        fit = np.linalg.solve(gram, (weighted * target[:, None]).sum(0))
        off = np.square((rows * fit).sum(1) - target).reshape(2, -1).sum(0)
        weight = np.tile(1 / (1 + off / max(float(np.median(off)), 1e-4)), 2)
    shift_x, shift_y, zoom, turn = fit.tolist()
    percent = 100 * fps / min(height, width)
    return -shift_x * percent, shift_y * percent, 100 * fps * zoom, float(np.degrees(turn)) * fps


def _values(name: str, flow: str) -> Mapping[str, Value]:
    by = f"ours, {flow} flow: "
    return {
        name: Value(by + "mean flow between neighbours", "px", "none"),
        f"{name}/px_per_second_at_256": Value(by + "mean flow at a short side of 256 px", "px/s", "none"),
        f"{name}/top5_px_per_second_at_256": Value(by + "largest 5 % of flow, 256 px", "px/s", "none"),
        f"{name}/dynamic": Value(
            by + "top 5 % above 48 px/s on a quarter of steps", "fraction", "none", True
        ),
        f"{name}/warp_error": Value(by + "mean |frame - next frame warped back|", "levels", "lower"),
        f"{name}/smoothness": Value(by + "odd frames from their neighbours, 1 - MAE/255"),
        f"{name}/pan_right": Value(by + "camera pan, short sides", "%/s", "none"),
        f"{name}/tilt_up": Value(by + "camera tilt, short sides", "%/s", "none"),
        f"{name}/zoom_in": Value(by + "camera zoom", "%/s", "none"),
        f"{name}/roll_left": Value(by + "camera roll", "degrees/s", "none"),
        f"{name}/unreliable": Value(by + "pixels whose flow does not come home", "fraction", "none"),
    }


class MotionByDIS(FlowMotion):
    """By OpenCV's dense inverse search. Raises ResourceError without OpenCV."""

    name = "motion_dis"
    gives: ClassVar = _values("motion_dis", "DIS")

    def __init__(self) -> None:
        super().__init__(DISFlow())


class MotionByLucasKanade(FlowMotion):
    """By Lucas-Kanade in torch, where OpenCV is missing: slower and less exact."""

    name = "motion_lk"
    gives: ClassVar = _values("motion_lk", "Lucas-Kanade")

    def __init__(self) -> None:
        super().__init__(LucasKanadeFlow())

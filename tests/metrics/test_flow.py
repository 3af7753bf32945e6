"""Classical flow on known motion: pans, zooms, turns; light is no motion; noise has none that can be known."""

from __future__ import annotations

import numpy as np
import pytest

from motionloom.metrics.flow import DISFlow, FlowEstimator, LucasKanadeFlow, top_mean
from motionloom.metrics.flow_motion import FlowMotion, MotionByDIS, MotionByLucasKanade
from motionloom.video.clip import Clip
from tests.metrics.making import noise_clip, pan, roll, stream, zoom

ESTIMATORS: tuple[FlowEstimator, ...] = (DISFlow(), LucasKanadeFlow())
METRICS: tuple[FlowMotion, ...] = (MotionByDIS(), MotionByLucasKanade())


@pytest.mark.parametrize("flow", ESTIMATORS, ids=lambda flow: flow.name)
@pytest.mark.parametrize("step", [(2.0, 0.0), (0.0, -1.5), (3.0, 2.0)])
def test_a_pan_is_measured_within_a_tenth_of_a_pixel(flow: FlowEstimator, step: tuple[float, float]) -> None:
    frames = pan(*step, frames=2).frames
    inside = flow(frames[0], frames[1])[16:-16, 16:-16]
    assert inside.mean((0, 1)).tolist() == pytest.approx(step, abs=0.1)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_camera_is_read_with_its_sign(metric: FlowMotion) -> None:
    name, side = metric.name, 80
    found = metric([pan(-2, 1, frames=3, side=side)])
    # 2 px a frame, 8 frames a second, of 80 px
    assert found[f"{name}/pan_right"] == pytest.approx(20, abs=0.8)
    assert found[f"{name}/tilt_up"] == pytest.approx(10, abs=0.8)
    assert abs(found[f"{name}/zoom_in"]) < 0.8 and abs(found[f"{name}/roll_left"]) < 0.5
    assert metric([zoom(1.02, frames=3, side=side)])[f"{name}/zoom_in"] == pytest.approx(16, abs=1.6)
    assert metric([roll(1.0, frames=3, side=side)])[f"{name}/roll_left"] == pytest.approx(8, abs=0.8)


def test_amount_and_rate() -> None:
    slow, fast = (MotionByDIS()([pan(2, 0, frames=4, fps=fps)]) for fps in (8.0, 24.0))
    assert slow["motion_dis"] == pytest.approx(2, abs=0.1) == fast["motion_dis"]
    assert slow["motion_dis/px_per_second_at_256"] == pytest.approx(32, abs=1.6)
    assert fast["motion_dis/px_per_second_at_256"] == pytest.approx(96, abs=4.8)
    assert (slow["motion_dis/dynamic"], fast["motion_dis/dynamic"]) == (0, 1)


def test_light_and_faint_noise_are_no_motion() -> None:
    still = pan(0, 0, frames=3).frames
    lit = still.astype(np.int16)
    lit[1:] += 10
    found = MotionByDIS()([Clip(np.clip(lit, 0, 255).astype(np.uint8), 8.0)])
    assert found["motion_dis"] < 0.02
    noisy = np.clip(still + stream("faint").normal(0, 5, still.shape), 0, 255).astype(np.uint8)
    assert MotionByDIS()([Clip(noisy, 8.0)])["motion_dis"] < 0.12


def test_pure_noise_is_undefined() -> None:
    found = MotionByDIS()([noise_clip(frames=3, side=128)])
    assert np.isnan(found["motion_dis"]) and np.isnan(found["motion_dis/pan_right"])
    assert found["motion_dis/unreliable"] > 0.5


def test_smoothness_of_a_pan_beats_a_jerk() -> None:
    even = pan(2, 0, frames=5)
    jerk = Clip(even.frames[[0, 0, 2, 2, 4]], 8.0)
    smooth = MotionByDIS()([even])["motion_dis/smoothness"]
    assert smooth > 0.99 > MotionByDIS()([jerk])["motion_dis/smoothness"]
    assert MotionByDIS()([Clip(even.frames[[0, 0, 0]], 8.0)])["motion_dis/smoothness"] == 1


def test_top_share() -> None:
    import torch

    assert top_mean(torch.arange(100.0), 0.05) == 97
    assert top_mean(torch.tensor([1.0, 3.0]), 0.05) == 3

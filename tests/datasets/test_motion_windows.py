"""Optical flow of windows: matched directly, and chained from frame to frame."""

from __future__ import annotations

import numpy as np
import pytest

from motionloom.datasets.motion_windows import SIZE_PX, backward_flow, streamed_flow

pytest.importorskip("cv2")


def moving(step_px: int, count: int = 8) -> np.ndarray:
    """A window onto a smooth random scene that moves right by `step_px` a frame."""
    import cv2

    noise = np.random.default_rng(0).uniform(0, 255, (SIZE_PX, 4 * SIZE_PX, 3)).astype(np.float32)
    scene = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), np.zeros(1), 0, 255, cv2.NORM_MINMAX).astype(
        np.uint8
    )
    starts = [3 * SIZE_PX - SIZE_PX // 2 - step_px * index for index in range(count)]
    return np.stack([scene[:, start : start + SIZE_PX] for start in starts])


def test_both_flows_of_a_slow_drift_are_its_displacement() -> None:
    frames, middle = moving(2), np.s_[:, 8:-8, 12:-8]
    for flow in (backward_flow(frames), streamed_flow(frames)):
        assert flow.shape == (8, 32, 32, 2) and flow.dtype == np.float32
        assert np.abs(flow[0]).max() == 0
        expected = -2 * np.arange(8)[:, None, None] / SIZE_PX  # backward
        assert np.abs(flow[middle][..., 0] - expected).max() < 0.01
        assert np.abs(flow[middle][..., 1]).max() < 0.01


def test_only_the_chain_keeps_up_with_what_moves_fast() -> None:
    frames = moving(7, 16)  # 105 px in all: most of the picture of frame 0 has gone
    there = np.s_[-1, 8:-8, 8:-8, 0]
    expected = -7 * 15 / SIZE_PX
    chained, direct = (float(np.median(flow(frames)[there])) for flow in (streamed_flow, backward_flow))
    assert abs(chained - expected) < 0.1 * abs(expected)
    assert abs(direct - expected) > 0.5 * abs(expected)

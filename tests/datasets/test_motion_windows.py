"""Optical flow of windows: matched directly, and chained from frame to frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from motionloom.datasets.motion_windows import (
    NUM_FRAMES,
    SIZE_PX,
    Window,
    backward_flow,
    cut_windows,
    read_index,
    streamed_flow,
)
from motionloom.errors import InputError
from motionloom.video.clip import Clip
from motionloom.video.write import write_clip

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


def clip_folder(tmp_path: Path, **lengths: int) -> Path:
    """Clips of 12 frames a second under <group>/<group>.mp4."""
    for group, count in lengths.items():
        (tmp_path / "clips" / group).mkdir(parents=True)
        frames = np.random.default_rng(1).integers(0, 255, (count, 36, 48, 3), np.uint8)
        write_clip(Clip(frames, fps=12.0), tmp_path / "clips" / group / f"{group}.mp4")
    return tmp_path / "clips"


def test_what_is_held_out_in_time_is_never_trained_on(tmp_path: Path) -> None:
    clips = clip_folder(tmp_path, fire=50, short=33, dogs=40, sea=40)
    words = {"fire": "fire", "short": "clouds", "sea": "sea"}
    out = cut_windows(clips, tmp_path / "w", words, ["sea"], {"": 8}, held_out_end=0.4)
    windows = read_index(out)

    def shown(name: str, held_out: str) -> list[Window]:
        return [w for w in windows if w.clip == f"{name}/{name}" and w.held_out == held_out]

    def last(window: Window) -> int:
        return window.start + round(window.step * (NUM_FRAMES - 1))

    for name, cut in (("fire", 30), ("short", 17)):  # 33 frames: 17 to train on leave 16, one window
        trained, ends = shown(name, ""), shown(name, "end")
        assert (len(trained), len(ends)) == (8, 2)
        assert all(last(window) < cut for window in trained)
        assert all(window.start >= cut for window in ends)
    assert len(shown("sea", "clip")) == 8 and not shown("sea", "") and not shown("sea", "end")
    assert len(shown("dogs", "")) == 8 and not shown(
        "dogs", "end"
    )  # without a word it serves the decoder alone
    assert max(last(window) for window in shown("dogs", "")) > 24


def test_a_clip_too_short_to_hold_its_end_out_is_named(tmp_path: Path) -> None:
    clips = clip_folder(tmp_path, fire=24)
    with pytest.raises(InputError, match=r"fire\.mp4.* has 8 frames to cut windows from"):
        cut_windows(clips, tmp_path / "w", {"fire": "fire"}, [], {"": 1}, held_out_end=0.4)
    assert not (tmp_path / "w" / "index.json").exists()

"""Metrics without weights, on clips whose answer is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from motionloom.errors import InputError
from motionloom.metrics.base import Item
from motionloom.metrics.colour_drift import ColourDrift, colourfulness
from motionloom.metrics.diversity import Diversity
from motionloom.metrics.first_frame import FirstFrame
from motionloom.metrics.frozen_frames import FrozenFrames
from motionloom.metrics.loop_seam import LoopSeam
from motionloom.metrics.sharpness import Sharpness
from motionloom.metrics.temporal_flickering import TemporalFlickering
from motionloom.video.clip import Clip
from tests.metrics.making import noise_clip, pan


def ramp(step: int, frames: int = 5) -> Clip:
    levels = np.arange(frames)[:, None, None, None] * step + np.full((1, 16, 16, 3), 40)
    return Clip(levels.astype(np.uint8), 8.0)


def test_flickering_of_a_ramp_is_its_step() -> None:
    assert TemporalFlickering()([ramp(5)]) == {"temporal_flickering": pytest.approx(1 - 5 / 255, abs=1e-8)}
    assert TemporalFlickering()([ramp(0)])["temporal_flickering"] == 1
    assert TemporalFlickering()([ramp(0), ramp(10)])["temporal_flickering"] == pytest.approx(1 - 5 / 255)


def test_flickering_is_the_releases_formula() -> None:
    frames = noise_clip().frames.astype(np.float64)
    differences = [np.abs(a - b).mean() for a, b in itertools.pairwise(frames)]
    expected = (255.0 - np.mean(differences).item()) / 255.0
    assert TemporalFlickering()([noise_clip()])["temporal_flickering"] == pytest.approx(expected, abs=1e-8)


def test_one_frame_is_refused_not_nan() -> None:
    with pytest.raises(InputError, match="it has 1 frames, temporal_flickering needs at least 2"):
        TemporalFlickering()([ramp(0, frames=1)])


def test_loop_seam_counts_steps() -> None:
    triangle = np.array([0, 10, 20, 30, 20, 10])[:, None, None, None] * np.ones((1, 16, 16, 3))
    found = LoopSeam()([Clip(triangle.astype(np.uint8), 8.0)])
    assert found == {"loop_seam": pytest.approx(1), "loop_seam/levels": pytest.approx(10)}
    assert LoopSeam()([ramp(10)])["loop_seam"] == pytest.approx(4)
    assert np.isnan(LoopSeam()([ramp(0)])["loop_seam"])


def test_frozen_and_black_frames() -> None:
    clip = pan(2, 0, frames=5)
    frames = clip.frames.copy()
    frames[2] = frames[1]
    frames[4] = 0
    found = FrozenFrames()([Clip(frames, 8.0)])
    assert found == {"frozen_frames": 0.25, "frozen_frames/black": 0.2}


def test_sharpness_falls_with_blur_and_is_kept_by_a_pan() -> None:
    import cv2

    clip = pan(2, 1)
    blurred = Clip(
        np.stack([cv2.blur(frame, (1 + 2 * i, 1 + 2 * i)) for i, frame in enumerate(clip.frames)]), 8.0
    )
    assert Sharpness()([clip])["sharpness/kept"] == pytest.approx(1, abs=0.25)
    assert Sharpness()([blurred])["sharpness/kept"] < 0.3


def test_colour_drift_of_known_changes() -> None:
    found = ColourDrift()([ramp(5)])
    assert found["colour_drift/exposure"] == pytest.approx(20)
    assert found["colour_drift"] == pytest.approx(0, abs=1e-9)
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 200
    assert colourfulness(red) == pytest.approx(0.3 * np.hypot(200, 100))


def test_first_frame_exact_shifted_and_noisy() -> None:
    clip = pan(3, 0)
    picture = clip.frames[0]
    found = FirstFrame()([Item(clip, picture=picture)])
    assert found["first_frame"] == np.inf and found["first_frame/exact"] == 1
    assert found["first_frame/ssim"] == pytest.approx(1)
    assert found["first_frame/all_frames_ssim"] < 0.9
    off = np.clip(picture.astype(int) + 10, 0, 255).astype(np.uint8)
    clear = (picture < 246).all()
    worse = FirstFrame()([Item(clip, picture=off)])
    assert worse["first_frame/exact"] == 0
    assert worse["first_frame"] == pytest.approx(20 * np.log10(25.5), abs=0.01 if clear else 0.5)
    with pytest.raises(InputError, match="it has no picture, which first_frame needs"):
        FirstFrame()([clip])


def test_diversity_is_within_a_picture_only() -> None:
    flat = [Clip(np.full((4, 32, 32, 3), level, np.uint8), 8.0) for level in (10, 30, 200)]
    items = [
        Item(flat[0], "a", cluster="x"),
        Item(flat[1], "b", cluster="x"),
        Item(flat[2], "c", cluster="y"),
    ]
    assert Diversity()(items) == {"diversity": pytest.approx(20)}
    assert Diversity()(items[::-1]) == Diversity()(items)
    assert Diversity()(items[1:]) == {}
    same = [Item(flat[0], str(i), cluster="x") for i in range(3)]
    assert Diversity()(same) == {"diversity": 0}

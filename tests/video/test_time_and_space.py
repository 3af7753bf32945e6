"""Resampling and resizing follow their rules exactly."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from motionloom.errors import InputError
from motionloom.video.clip import Clip
from motionloom.video.resample import nearest_indices, rate_fraction, resample_fps, take_window
from motionloom.video.resize import Policy, fit_within, resize
from tests.video.making_clips import numbered_frames, numbers_of, smooth_frames


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (29.97, Fraction(30000, 1001)),
        (30000 / 1001, Fraction(30000, 1001)),
        (23.976, Fraction(24000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (119.88, Fraction(120000, 1001)),
        (24, Fraction(24)),
        (25, Fraction(25)),
        (30, Fraction(30)),
        (12.5, Fraction(25, 2)),
        (1 / 3, Fraction(1, 3)),
        (0.0001, Fraction(1, 1001)),
    ],
)
def test_rates_are_exact(fps: float, expected: Fraction) -> None:
    assert rate_fraction(fps) == expected


@pytest.mark.parametrize(
    ("num_frames", "source", "wanted", "expected"),
    [
        (8, 24, 8, [0, 3, 6]),  # 2.67 frames round to 3
        (6, 24, 16, [0, 1, 3, 4]),  # 1.5 and 4.5 are ties: the earlier frame
        (3, 8, 24, [0, 0, 1, 1, 1, 2, 2, 2, 2]),
        (6, 59.94, 29.97, [0, 2, 4]),
        (5, 29.99, 30, [0, 1, 2, 3, 4]),  # a camera's rate: nothing is doubled
        (1, 8, 0.5, [0]),
        (4, 10, 1000, sorted([*range(4)] * 100)),
    ],
)
def test_nearest_frame_in_time(num_frames: int, source: float, wanted: float, expected: list[int]) -> None:
    indices = nearest_indices(num_frames, rate_fraction(source) / rate_fraction(wanted)).tolist()
    if wanted == 1000:
        assert len(indices) == 400 and indices[0] == 0 and indices[-1] == 3 and indices == sorted(indices)
    else:
        assert indices == expected


@pytest.mark.parametrize("wanted", [1, 7, 8, 16, 23.976, 24, 25, 50])
def test_duration_and_first_frame_stay(wanted: float) -> None:
    clip = Clip(numbered_frames(20), 8)
    again = resample_fps(clip, wanted)
    assert again.fps == wanted
    assert abs(again.duration_seconds - clip.duration_seconds) <= 0.5 / wanted + 1e-9
    assert numbers_of(again.frames)[0] == 0
    for j, number in enumerate(numbers_of(again.frames)):
        assert abs(number / 8 - j / wanted) <= 0.5 / 8 + 1e-4 or number == 19


def test_resampling_is_said_and_the_same_rate_is_no_change() -> None:
    clip = Clip(numbered_frames(8), 24, {"seed": 1})
    assert resample_fps(clip, 24) is clip
    again = resample_fps(clip, 8)
    assert again.settings["notes"] == ["resampled from 24 to 8 frames per second, 8 to 3 frames"]
    assert again.settings["seed"] == 1 and clip.settings == {"seed": 1}
    nearly = resample_fps(Clip(numbered_frames(8), 29.97), 30000 / 1001)
    assert nearly.fps == 30000 / 1001 and nearly.num_frames == 8 and nearly.settings == {}


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1001])
def test_impossible_rates(fps: float) -> None:
    with pytest.raises(InputError, match="fps is"):
        resample_fps(Clip(numbered_frames(2), 8), fps)


def test_window_is_half_open() -> None:
    clip = Clip(numbered_frames(8), 8, {"seed": 1})
    window = take_window(clip, 2, 3)
    assert numbers_of(window.frames) == [2, 3, 4] and (window.fps, window.settings) == (8, {"seed": 1})
    assert take_window(clip, 0, 8).num_frames == 8
    for start, count in ((-1, 3), (6, 3), (0, 9), (2, 0)):
        with pytest.raises(InputError, match="were asked for, the clip has frames 0 to 8"):
            take_window(clip, start, count)


@pytest.mark.parametrize("policy", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(64, 32), (30, 50), (1, 1), (7, 33)])
def test_resize_gives_the_size(policy: Policy, size: tuple[int, int]) -> None:
    resized = resize(smooth_frames(2, 48, 64), *size, policy)
    assert resized.shape == (2, size[1], size[0], 3) and resized.dtype == np.uint8


def stripes() -> np.ndarray:
    """20 x 40: red left quarter, green middle half, blue right quarter."""
    frame = np.zeros((1, 20, 40, 3), np.uint8)
    frame[:, :, :10, 0], frame[:, :, 10:30, 1], frame[:, :, 30:, 2] = 255, 255, 255
    return frame


def test_crop_keeps_the_centre() -> None:
    resized = resize(stripes(), 10, 10, "crop")
    assert resized[..., 1].min() > 200 and resized[..., 0].max() < 60 and resized[..., 2].max() < 60
    tall = resize(stripes().swapaxes(1, 2), 10, 10, "crop")
    assert tall[..., 1].min() > 200


def test_pad_shows_everything_between_even_bars() -> None:
    resized = resize(stripes(), 40, 40, "pad")
    assert resized[0, :10].max() == 0 and resized[0, 30:].max() == 0
    assert np.array_equal(resized[:, 10:30], stripes())
    narrow = resize(stripes(), 80, 20, "pad")
    assert (
        narrow[0, :, :20].max() == 0
        and narrow[0, :, 60:].max() == 0
        and np.array_equal(narrow[:, :, 20:60], stripes())
    )


def test_squash_keeps_proportions_of_the_stripes() -> None:
    resized = resize(stripes(), 40, 5, "squash")
    assert resized[0, 2, 4, 0] > 200 and resized[0, 2, 20, 1] > 200 and resized[0, 2, 36, 2] > 200


def test_resize_does_not_shift_or_alias() -> None:
    """A centred symmetric picture stays symmetric; a fine grid becomes its mean."""
    x = np.abs(np.arange(64) - 31.5)
    frame = np.repeat(np.repeat((x * 8).astype(np.uint8)[None, None, :, None], 64, 1), 3, 3)
    small = resize(frame, 16, 16, "squash")[0, :, :, 0].astype(int)
    assert np.abs(small - small[:, ::-1]).max() <= 1
    grid = np.zeros((1, 64, 64, 3), np.uint8)
    grid[:, :, ::2] = 200
    inner = resize(grid, 16, 16, "squash")[:, :, 2:-2].astype(int)
    assert np.abs(inner - 100).max() <= 2


def test_right_size_is_untouched() -> None:
    frames = smooth_frames(2)
    assert resize(frames, 64, 48, "crop") is frames


@pytest.mark.parametrize(("width", "height"), [(0, 8), (8, 0), (-2, 8), (8, 20000)])
def test_impossible_sizes(width: int, height: int) -> None:
    with pytest.raises(InputError, match="expected 1 to 16384"):
        resize(smooth_frames(1), width, height)


def test_unknown_policy_and_wrong_frames() -> None:
    with pytest.raises(InputError, match='"stretch", expected crop, pad or squash'):
        resize(smooth_frames(1), 8, 8, "stretch")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="float64"):
        resize(np.zeros((1, 4, 4, 3)), 8, 8)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480, 256), (256, 192)),
        ((480, 640, 256), (192, 256)),
        ((100, 50, 256), (100, 50)),
        ((101, 51, 256), (100, 50)),
        ((1920, 1080, 512), (512, 288)),
        ((1000, 3, 100), (100, 2)),
        ((1, 1, 256), (2, 2)),
        ((255, 255, 255), (254, 254)),
    ],
)
def test_fit_within(size: tuple[int, int, int], expected: tuple[int, int]) -> None:
    assert fit_within(*size) == expected


def test_fit_within_is_always_even_and_inside() -> None:
    for width in range(2, 300, 7):
        for height in range(2, 300, 11):
            fitted = fit_within(width, height, 128)
            assert all(side % 2 == 0 and 2 <= side <= 128 for side in fitted)
            assert fitted[0] <= width and fitted[1] <= height

"""Camera clips for adapters: they move as their word says, by as much as they say, and stay on the photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motionloom.cli import main
from motionloom.datasets.synthetic.camera_set import REACH, TRAVEL, CameraSet, write_camera_clips
from motionloom.errors import ConfigError
from motionloom.video.read import read_clip, read_settings


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Red grows to the right and green downwards, so that a colour tells a place; there is no blue."""
    folder = tmp_path / "photos"
    folder.mkdir()
    y, x = np.mgrid[0:240, 0:320]
    picture = np.stack([60 + x * 180 // 320, 60 + y * 180 // 240, np.zeros_like(x)], axis=-1)
    for name in "ab":
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def mean_place(frame: np.ndarray) -> tuple[float, float]:
    """(x, y) of the photo, in pixels, in the middle of the frame."""
    red, green = frame.astype(float)[..., 0].mean(), frame.astype(float)[..., 1].mean()
    return (red - 60) * 320 / 180, (green - 60) * 240 / 180


def spread(frame: np.ndarray) -> float:
    """Photo pixels from the left to the right edge."""
    columns = frame.astype(float)[..., 0].mean(axis=0)
    return (columns[-1] - columns[0]) * 320 / 180


@pytest.mark.parametrize("word", REACH)
def test_clips_move_as_far_as_they_say(word: str, photos: Path, tmp_path: Path) -> None:
    what = CameraSet(word, crops=2, num_frames=5, size_px=(96, 64))
    written = write_camera_clips(photos, tmp_path / "clips", what)
    assert [path.name for path in written] == ["a_0.mp4", "a_1.mp4", "b_0.mp4", "b_1.mp4"]
    for path in written:
        frames, travel = read_clip(path).frames, read_settings(path)["travel"]
        assert TRAVEL[0] <= travel <= TRAVEL[1] and path.with_suffix(".txt").read_text() == word + "\n"
        (x0, y0), (x1, y1) = mean_place(frames[0]), mean_place(frames[-1])
        width = spread(frames[0]) * 96 / 95
        if word.startswith("zoom"):
            grown = spread(frames[0]) / spread(frames[-1])
            assert grown == pytest.approx(1 + travel if word == "zoom-in" else 1 / (1 + travel), abs=0.02)
            assert abs(x1 - x0) < 2 and abs(y1 - y0) < 2
            continue
        wanted = {
            "pan-left": (-travel * width, 0.0),
            "pan-right": (travel * width, 0.0),
            "pan-up": (0.0, -travel * width * 64 / 96),
            "pan-down": (0.0, travel * width * 64 / 96),
        }[word]
        assert (x1 - x0, y1 - y0) == pytest.approx(wanted, abs=2.0)


def test_the_same_seed_gives_the_same_clips(photos: Path, tmp_path: Path) -> None:
    what = CameraSet("pan-left", crops=1, num_frames=3, size_px=(64, 64))
    first, again = (write_camera_clips(photos, tmp_path / name, what)[0].read_bytes() for name in "xy")
    assert first == again


def test_the_command_and_its_refusals(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "data",
        "camera",
        str(photos),
        "-o",
        "clips",
        "--size",
        "64x64",
        "--frames",
        "2",
        "--crops",
        "1",
    ]
    assert main([*command, "--motion", "zoom-in"]) == 0
    assert sorted(path.name for path in Path("clips").glob("*.mp4")) == ["a_0.mp4", "b_0.mp4"]
    assert main([*command, "--motion", "zoom"]) == 2
    assert 'no camera motion "zoom"' in capsys.readouterr().err
    with pytest.raises(ConfigError, match="even sides"):
        CameraSet("pan-left", size_px=(33, 64))

"""Synthetic motion: what is rendered moves by the flow that is returned, and repeats from its seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from motionloom.datasets.synthetic import MOTIONS, Region, draw_motion, random_region, render, write_clips
from motionloom.datasets.synthetic.render import times
from motionloom.errors import ConfigError, InputError
from motionloom.motion.grid import places
from motionloom.motion.warp import warp
from motionloom.video.read import read_clip

SCENE = {  # where the scene moves, on screen (x right, y down)
    "pan-left": (1, 0),
    "pan-right": (-1, 0),
    "pan-up": (0, 1),
    "pan-down": (0, -1),
}


@pytest.fixture(scope="module")
def canvas() -> torch.Tensor:
    torch.manual_seed(0)
    rough = torch.rand(1, 3, 12, 16)
    return torch.nn.functional.interpolate(rough, (96, 128), mode="bicubic").clamp(0, 1)[0]


@pytest.mark.parametrize("word", MOTIONS)
def test_every_motion_starts_at_the_photo_and_then_moves(word: str, canvas: torch.Tensor) -> None:
    view = (24.0, 8.0, 80.0, 80.0)
    still = render(canvas, view, [], 1, 48, 48).frames[0]
    clip = render(canvas, view, [(draw_motion(word, np.random.default_rng(0)), Region())], 8, 48, 48)
    assert clip.words == (word,)
    assert np.array_equal(clip.frames[0], still)
    assert np.abs(clip.frames.astype(int)[1:] - still).max(axis=(1, 2, 3)).max() > 8


@pytest.mark.parametrize("word", [word for word, (_, _) in MOTIONS.items() if word != "flicker"])
def test_the_flow_that_is_returned_is_the_motion(word: str, canvas: torch.Tensor) -> None:
    motion = draw_motion(word, np.random.default_rng(1), 0.4)
    clip = render(canvas, (24.0, 8.0, 80.0, 80.0), [(motion, Region())], 4, 64, 64)
    assert (clip.flow is None) == (not motion.truth)
    if clip.flow is None:
        return
    assert np.abs(clip.flow[0]).max() < 1e-6
    first = torch.from_numpy(clip.frames[0].copy()).permute(2, 0, 1)[None].float()
    warped = warp(first, torch.from_numpy(clip.flow[-1:]))[0].permute(1, 2, 0).numpy()
    inside = slice(14, 50)  # away from what the camera reveals
    last = clip.frames[-1].astype(float)
    error = np.abs(warped - last)[inside, inside].mean()
    assert error < 0.35 * max(np.abs(first[0].permute(1, 2, 0).numpy() - last)[inside, inside].mean(), 3)


@pytest.mark.parametrize(("word", "direction"), SCENE.items())
def test_words_name_what_the_camera_does(word: str, direction: tuple[int, int]) -> None:
    flow = -draw_motion(word, np.random.default_rng(0)).flow(places(8, 8), times(3))[-1].mean((0, 1))
    assert torch.allclose(flow / flow.norm(), torch.tensor(direction, dtype=torch.float32), atol=1e-4)


def test_zoom_in_grows_and_rotate_left_turns_counter_clockwise() -> None:
    right = torch.tensor([[[0.3, 0.0]]])  # a place right of the middle
    rng = np.random.default_rng(0)
    assert (
        -draw_motion("zoom-in", rng).flow(right, torch.ones(1))[0, 0, 0, 0] > 0
    )  # what was there went outwards
    assert -draw_motion("rotate-left", rng).flow(right, torch.ones(1))[0, 0, 0, 1] < 0  # and upwards


def test_a_region_confines_its_motion(canvas: torch.Tensor) -> None:
    region = Region("side", (0.0, 0.0), 0.0, softness=0.02)  # the right half
    clip = render(
        canvas,
        (24.0, 8.0, 80.0, 80.0),
        [(draw_motion("pan-up", np.random.default_rng(0)), region)],
        4,
        64,
        64,
    )
    assert clip.flow is not None
    assert np.abs(clip.flow[-1, :, :26]).max() < 1e-2 < 0.1 < np.abs(clip.flow[-1, :, 40:]).max()


def test_a_region_and_its_complement_cover_everything_once() -> None:
    xy = places(32, 32)
    for seed in range(20):
        region = random_region(np.random.default_rng(seed))
        assert torch.allclose(region(xy) + region.complement()(xy), torch.ones(32, 32), atol=1e-6)


@pytest.fixture
def photos(tmp_path: Path, canvas: torch.Tensor) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray((canvas.permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(folder / "a.png")
    return folder


def test_clips_are_written_with_word_and_flow_and_repeat_bit_for_bit(photos: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    words = ["zoom-in", "rain"]
    one = write_clips(
        photos, tmp_path / "one", 3, words, frames=4, size_px=32, progress=lambda *at: seen.append(at)
    )
    two = write_clips(photos, tmp_path / "two", 3, words, frames=4, size_px=32)
    assert [path.name for path in one] == ["00000_zoom-in.mp4", "00001_rain.mp4", "00002_zoom-in.mp4"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert one[1].with_suffix(".txt").read_text() == "rain\n"
    assert not one[1].with_suffix(".flow.npz").exists()
    flow = np.load(one[0].with_suffix(".flow.npz"))["flow"]
    assert flow.shape == (4, 8, 8, 2) and flow.dtype == np.float16
    clip = read_clip(one[0])
    assert clip.frames.shape == (4, 32, 32, 3) and clip.fps == 8 and clip.settings["motion"] == "zoom-in"


def test_a_clip_depends_on_its_number_alone(photos: Path, tmp_path: Path) -> None:
    many = write_clips(photos, tmp_path / "many", 2, ["sway"], frames=3, size_px=32)
    few = write_clips(photos, tmp_path / "few", 1, ["sway"], frames=3, size_px=32)
    assert many[0].read_bytes() == few[0].read_bytes() != many[1].read_bytes()


def test_an_unknown_word_is_named_with_the_nearest(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'no synthetic motion "zoomin".*did you mean "zoom-in"'):
        write_clips(photos, tmp_path / "out", 1, ["zoomin"])
    assert not (tmp_path / "out").exists()


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no photos in"):
        write_clips(tmp_path, tmp_path / "out", 1)

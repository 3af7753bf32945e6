"""`transfer`: the motion of a clip on another picture, with the shipped model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import motionloom as ml
from motionloom.cli import main
from motionloom.datasets.motion_windows import backward_flow
from motionloom.denoisers.base import Base
from motionloom.errors import ConfigError, InputError
from motionloom.video.clip import Clip
from motionloom.video.read import read_settings

Frames = npt.NDArray[np.uint8]


def texture(seed: int, height: int = 128, width: int = 128) -> Frames:
    """Blobs of many sizes, so that flow can be measured everywhere."""
    rng = np.random.default_rng(seed)
    layers = [rng.integers(0, 255, (height // s, width // s, 3), dtype=np.uint8) for s in (2, 4, 8, 16)]
    grown = [np.asarray(Image.fromarray(layer).resize((width, height)), float) for layer in layers]
    return np.clip(sum(grown) / 4, 0, 255).astype(np.uint8)  # type: ignore[call-overload, no-any-return]


def sliding(pixels_a_frame: int, num_frames: int = 16) -> Clip:
    """The scene moves right: what is at x in frame 0 is at x + t pixels_a_frame in frame t."""
    wide = texture(1, 128, 128 + 15 * abs(pixels_a_frame))
    start = wide.shape[1] - 128 if pixels_a_frame > 0 else 0
    lefts = [start - t * pixels_a_frame for t in range(num_frames)]
    return Clip(np.stack([wide[:, left : left + 128] for left in lefts]), 8.0)


@pytest.fixture(scope="module")
def base() -> Base:
    return ml.load_base("mini")


def mean_flow(frames: Frames) -> npt.NDArray[np.float32]:
    """Backward flow of the last frame to the first over the inner half of the picture, pixels: (2,)."""
    side = (frames.shape[1] * frames.shape[2]) ** 0.5
    inner: npt.NDArray[np.float32] = backward_flow(frames)[-1, 8:24, 8:24].mean((0, 1)) * side
    return inner


def test_the_photo_moves_as_the_clip_does(base: Base) -> None:
    source, photo = sliding(1), texture(2)
    moved = ml.transfer(base, source, photo)
    assert moved.frames.shape == (16, 128, 128, 3)
    assert np.array_equal(moved.frames[0], photo)
    assert mean_flow(source.frames)[0] == pytest.approx(-15, abs=1)
    assert mean_flow(moved.frames)[0] == pytest.approx(-15, abs=2)
    assert abs(mean_flow(moved.frames)[1]) < 1.5


def test_strength_scales_the_way(base: Base) -> None:
    half = ml.transfer(base, sliding(1), texture(2), strength=0.5)
    assert mean_flow(half.frames)[0] == pytest.approx(-7.5, abs=1.5)


@pytest.mark.parametrize("strength", [1.0, 0.0])
def test_a_still_source_or_no_strength_gives_a_still_clip(base: Base, strength: float) -> None:
    source = sliding(0) if strength else sliding(2)
    moved = ml.transfer(base, source, texture(2), strength=strength, frames=4)
    assert all(np.array_equal(frame, moved.frames[0]) for frame in moved.frames)


def test_outside_the_mask_nothing_moves(base: Base) -> None:
    mask = np.zeros((128, 128), np.float32)
    mask[:, 72:] = 1
    frames = ml.transfer(base, sliding(1), texture(2), mask=mask, frames=3).frames.astype(int)
    moved = np.abs(frames[2] - frames[0])
    assert moved[:, :48].mean() < 0.5 and moved[:, 88:].mean() > 5


def test_a_loop_comes_back(base: Base) -> None:
    frames = ml.transfer(base, sliding(1), texture(2), loop=True, frames=8).frames.astype(int)
    steps = [np.abs(a - b).mean() for a, b in zip(frames, [*frames[1:], frames[0]], strict=True)]
    assert steps[-1] < 1.5 * max(steps[:-1])
    assert max(steps) > 3


def test_any_shape_of_photo_takes_any_clip(base: Base) -> None:
    moved = ml.transfer(base, sliding(1), texture(3, 60, 97), frames=2)
    assert moved.frames.shape == (2, 60, 97, 3)


def test_a_short_clip_is_refused_with_what_fits(base: Base) -> None:
    with pytest.raises(InputError, match=r"0\.88 s of motion after second 0, 16 frames") as caught:
        ml.transfer(base, sliding(1, 8), texture(2))
    assert caught.value.fix == "--frames 8"
    assert ml.transfer(base, sliding(1, 8), texture(2), frames=8).num_frames == 8
    with pytest.raises(InputError, match="begin earlier"):
        ml.transfer(base, sliding(1, 8), texture(2), start_seconds=3.0)


def test_what_cannot_be_is_refused(base: Base) -> None:
    with pytest.raises(ConfigError, match="has no motion latent"):
        ml.transfer(cast("Base", SimpleNamespace(name="wan")), sliding(1), texture(2))
    with pytest.raises(ConfigError, match="the strength -1"):
        ml.transfer(base, sliding(1), texture(2), strength=-1.0)
    with pytest.raises(InputError, match="a mask of shape"):
        ml.transfer(base, sliding(1), texture(2), mask=np.zeros((3, 3)))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sliding(1).save("source.mp4")
    Image.fromarray(texture(2)).save("photo.png")
    told = ["transfer", "--motion-from", "source.mp4", "--onto", "photo.png", "--frames", "3"]
    assert main([*told, "--strength", "0.5", "-o", "out.mp4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 3
    settings = read_settings("out.mp4")
    assert (settings["motion_from"], settings["photo"]) == ("source.mp4", "photo.png")
    assert settings["strength"] == 0.5 and len(settings["motion_from_sha256"]) == 64
    assert main([*told, "-o", "source.mp4"]) == 2
    assert "overwrite" in capsys.readouterr().err
    assert main(["transfer", "--onto", "photo.png"]) == 2
    assert main(["transfer", "--motion-from", "none.mp4", "--onto", "photo.png"]) == 2
    assert "none.mp4" in capsys.readouterr().err

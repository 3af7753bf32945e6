"""The main job, as a user runs it: photo in, clip out, with the shipped model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import motionloom as ml
from motionloom.cli import main
from motionloom.conditions.words import WORDS
from motionloom.denoisers.mini import MiniBase
from motionloom.video.read import read_clip, read_settings

QUICK = ["--frames", "4", "--steps", "2"]


@pytest.fixture(scope="module")
def base() -> MiniBase:
    return ml.load_base("mini")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    rows, columns = np.mgrid[0:60, 0:81]
    pattern = np.stack([rows * 4 % 256, columns * 3 % 256, (rows * columns) % 256], -1).astype(np.uint8)
    Image.fromarray(pattern).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_frame_0_is_the_photo(base: MiniBase, photo: Path) -> None:
    clip = ml.generate(base, photo, [("pan-left", 1.0)], frames=4, steps=2)
    assert clip.frames.shape == (4, 60, 81, 3) and clip.fps == base.fps
    assert np.array_equal(clip.frames[0], ml.read_picture(photo))
    assert not np.array_equal(clip.frames[3], clip.frames[0])


def test_the_same_seed_is_the_same_clip_and_another_is_another(base: MiniBase, photo: Path) -> None:
    one, two, other = (
        ml.generate(base, photo, ["clouds"], frames=3, steps=3, seed=s).frames for s in (1, 1, 2)
    )
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_no_motion_asked_picks_one_and_says_which(base: MiniBase, photo: Path) -> None:
    clip = ml.generate(base, photo, frames=2, steps=1)
    assert clip.settings["motions"] == [["zoom-in", 1.0]]


@pytest.mark.parametrize("word", [word.name for word in WORDS])
def test_every_motion_moves_something(base: MiniBase, photo: Path, word: str) -> None:
    clip = ml.generate(base, photo, [(word, 1.5)], frames=3, steps=4)
    assert np.abs(clip.frames[2].astype(int) - clip.frames[0]).mean() > 0.2


def test_a_mask_confines_its_motion(base: MiniBase, photo: Path) -> None:
    mask = np.zeros((60, 81), np.float32)
    mask[:, 50:] = 1
    clip = ml.generate(base, photo, [("pan-up", 1.0)], masks=[mask], frames=3, steps=4)
    moved = np.abs(clip.frames[2].astype(int) - clip.frames[0])
    assert moved[:, :36].mean() < 2.0 and moved[:, 56:].mean() > 4 * moved[:, :36].mean()


def test_weight_0_leaves_the_photo_still(base: MiniBase, photo: Path) -> None:
    clip = ml.generate(base, photo, [("zoom-in", 0.0)], frames=3, steps=2)
    assert np.array_equal(clip.frames[2], clip.frames[0])


def test_a_curve_over_the_steps_is_between_its_ends(base: MiniBase, photo: Path) -> None:
    full, curve = (
        ml.generate(base, photo, [("pan-left", w)], frames=2, steps=6).frames[1] for w in (1.0, (1.0, 0.0))
    )
    assert not np.array_equal(full, curve)


def test_overscan_shows_the_middle_of_the_photo(base: MiniBase, photo: Path) -> None:
    clip = ml.generate(base, photo, [("pan-left", 1.0)], frames=3, steps=4, overscan=True)
    _, height, width, _ = clip.frames.shape
    top, left = (60 - height) // 2, (81 - width) // 2
    assert height < 60 and width < 81 and height % 2 == width % 2 == 0
    assert np.array_equal(clip.frames[0], ml.read_picture(photo)[top : top + height, left : left + width])


def test_any_shape_of_photo_works(base: MiniBase) -> None:
    for height, width in ((16, 16), (17, 95), (120, 31)):
        picture = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
        assert ml.generate(base, picture, frames=2, steps=1).frames.shape == (2, height, width, 3)


def test_the_command_writes_a_clip_that_repeats_bit_for_bit(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["animate", str(photo), "--motion", "pan-left:0.8", "--motion", "clouds", "--seed", "3", *QUICK]
    assert main([*told, "-o", "one.mp4"]) == 0
    assert Path(capsys.readouterr().out.strip()) == Path("one.mp4").absolute()
    settings = read_settings("one.mp4")
    assert settings["motions"] == [["pan-left", 0.8], ["clouds", 1.0]] and settings["seed"] == 3
    assert main(["animate", "--from", "one.mp4", "-o", "two.mp4"]) == 0
    assert Path("one.mp4").read_bytes() == Path("two.mp4").read_bytes()
    assert main(["animate", "--from", "one.mp4", "--seed", "4", "-o", "three.mp4"]) == 0
    assert Path("one.mp4").read_bytes() != Path("three.mp4").read_bytes()


@pytest.mark.parametrize("suffix", [".gif", ".webp", ""])
def test_other_formats(photo: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["animate", str(photo), "-o", f"clip{suffix}", *QUICK]) == 0
    assert read_clip(f"clip{suffix}").frames.shape[0] == 4


def test_json_says_everything(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["animate", str(photo), "--loop", "--size", "64x48", "--json", *QUICK]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["width_px"], facts["height_px"], facts["frames"]) == (64, 48, 4)
    assert facts["settings"]["loop"] is True and re.fullmatch(
        "[0-9a-f]{64}", facts["settings"]["photo_sha256"]
    )


def test_motions_and_bases_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["motions"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == len(WORDS) >= 14
    assert sum(word.learned for word in WORDS) >= 4
    assert main(["bases"]) == 0
    assert "mini" in capsys.readouterr().out


def test_making_the_motion_does_not_depend_on_the_number_of_frames(base: MiniBase, photo: Path) -> None:
    """The latent has no time axis: 4 and 7 frames come from the same latent, and share every other frame."""
    few, many = (
        ml.generate(base, photo, [("pan-left", 1.0)], frames=count, steps=3).frames for count in (4, 7)
    )
    assert base.codec.latent_shape(16, 60, 81) == base.codec.latent_shape(128, 60, 81)
    assert np.abs(few.astype(int) - many[::2]).max() <= 2

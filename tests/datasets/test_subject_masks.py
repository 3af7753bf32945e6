"""First masks find a subject that moves or lies in a box, and say where they find none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from motionloom.cli import main
from motionloom.datasets.subject_masks import segment
from motionloom.errors import InputError
from motionloom.video.clip import Clip
from motionloom.video.read import read_clip

Frames = npt.NDArray[np.uint8]


def disc(moves: bool = True, frames: int = 10, seed: int = 0) -> tuple[Frames, npt.NDArray[np.bool_]]:
    """A reddish disc before a grainy bluish-green background, and where it is."""
    rng = np.random.default_rng(seed)
    ground = np.clip(rng.normal((60, 110, 100), 18, (96, 128, 3)), 0, 255)
    y, x = np.mgrid[0:96, 0:128]
    clip, truth = [], []
    for t in range(frames):
        where = (x - 30 - (7 * t if moves else 20)) ** 2 + (y - 50) ** 2 < 20**2
        skin = np.clip(rng.normal((190, 80, 60), 15, ground.shape), 0, 255)
        clip.append(np.where(where[..., None], skin, ground + rng.normal(0, 3, ground.shape)))
        truth.append(where)
    return np.clip(np.stack(clip), 0, 255).astype(np.uint8), np.stack(truth)


def overlap(mask: Frames, truth: npt.NDArray[np.bool_]) -> float:
    """Intersection over union."""
    found = mask > 127
    return float((found & truth).sum() / (found | truth).sum())


def test_what_moves_is_found() -> None:
    frames, truth = disc()
    assert overlap(segment(frames), truth) > 0.85


def test_what_lies_in_a_box_is_found() -> None:
    frames, truth = disc(moves=False)
    assert overlap(segment(frames, (0.15, 0.2, 0.65, 0.85)), truth) > 0.85


def test_a_still_clip_needs_a_box() -> None:
    frames = np.repeat(disc(moves=False, frames=1)[0], 6, axis=0)
    with pytest.raises(InputError, match="nothing moves"):
        segment(frames)


def test_the_command_writes_masks_that_fit_and_says_what_it_could_not_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from motionloom.datasets.clips import ClipFolder

    clips = tmp_path / "clips"
    frames, truth = disc()
    Clip(frames, 8.0).save(clips / "a.mp4")
    assert main(["data", "mask", str(clips), "-o", "masks", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["how"] == "motion and colour" and facts["masks"][0]["clip"] == "a.mp4"
    assert overlap(read_clip(Path("masks/a.mp4")).frames[..., 0], truth) > 0.8
    assert len(ClipFolder(clips, 8, 8.0, 64, masks="masks")) == 1

    Clip(np.full_like(frames, 90), 8.0).save(clips / "still.mp4")
    assert main(["data", "mask", str(clips), "-o", "masks", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["refused"][0] == {
        "clip": "still.mp4",
        "reason": "nothing moves in it",
    }
    assert main(["data", "mask", str(clips), "-o", "masks", "--box", "0.5,0,0.2,1"]) == 2
    assert main(["data", "mask", str(clips), "-o", "masks", "--box", "middle"]) == 2

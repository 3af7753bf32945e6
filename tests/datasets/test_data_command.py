"""`motionloom data synth --world` and `data inspect` on published data sets, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from motionloom.cli import main
from tests.datasets import official_layouts as make

Captured = pytest.CaptureFixture[str]


def test_a_world_is_written_and_inspected(tmp_path: Path, capsys: Captured) -> None:
    words = "data synth --world blocks -o w -n 2 --test-count 1 --frames 3 --size 32 --json"
    assert main(words.split()) == 0
    assert json.loads(capsys.readouterr().out) == {
        "folder": "w",
        "world": "blocks",
        "train_clips": 2,
        "test_clips": 1,
    }
    assert main(["data", "inspect", "w", "--json", "--sheet", "sheet.png"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["layout"] == "CATER-GEN"
    train = facts["splits"]["train"]
    assert (train["clips"], train["official_clips"], train["captions"]) == (2, 24000, 2)
    assert (
        train["sizes"] == {"32x32": 2}
        and train["frames_per_second"] == {"8": 2}
        and train["refused_clips"] == 0
    )
    with Image.open("sheet.png") as sheet:
        assert sheet.width == 8 * 96 and sheet.height > 3 * 96


def test_a_quarter_more_test_clips(tmp_path: Path, capsys: Captured) -> None:
    assert main(["data", "synth", "--world", "pushing", "-o", "w", "-n", "4", "--frames", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test_clips"] == 1
    assert sorted(path.name for path in tmp_path.rglob("*.tfrecords")) == [
        "traj_0_to_0.tfrecords",
        "traj_0_to_3.tfrecords",
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("data synth -o w", "expected either a folder of photos or --world NAME"),
        ("data synth photos --world blocks -o w", "expected either a folder of photos or --world NAME"),
        ("data synth --world marbles -o w", 'there is no world "marbles"'),
        ("data synth --world blocks --variant v9 -o w", 'blocks has no variant "v9"'),
        ("data synth --world pushing --size 128 -o w", "pushing at 128 px"),
    ],
)
def test_wrong_wishes_end_with_2(words: str, told: str, capsys: Captured) -> None:
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("error[config]") and told in said and "Traceback" not in said


def test_refused_clips_are_told_with_reasons(tmp_path: Path, capsys: Captured) -> None:
    make.make_bair(tmp_path / "bair", {"train/traj_0_to_3": 2, "test/traj_0_to_0": 1}, 3)
    path = tmp_path / "bair/softmotion30_44k/test/traj_0_to_0.tfrecords"
    path.write_bytes(path.read_bytes()[:-20] + bytes(20))
    assert main(["data", "inspect", "bair", "--all"]) == 0
    said = capsys.readouterr().out
    assert "BAIR robot pushing" in said and "2 of 4 trajectories found" in said
    assert "its checksum does not match" in said


def test_a_plain_folder_gets_a_sheet_too(tmp_path: Path, capsys: Captured) -> None:
    make.save_avi(tmp_path / "clips/a.avi", make.grey_frames(range(9)))
    assert main(["data", "inspect", ".", "--sheet", "s.jpg", "--json"]) == 0
    assert (
        Path(json.loads(capsys.readouterr().out)["sheet"]).name == "s.jpg"
        and Path("s.jpg").stat().st_size > 500
    )
    assert main(["data", "inspect", ".", "--sheet", "s.tiff"]) == 2

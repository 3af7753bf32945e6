"""Every official layout: recognised, read, split as the papers split, and refused with a reason where it is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from motionloom.datasets.bair import BairPushing
from motionloom.datasets.cater import CaterGen
from motionloom.datasets.csv_clips import CsvClips
from motionloom.datasets.frame_folders import Landscape
from motionloom.datasets.layouts import LAYOUTS, open_layout, recognise
from motionloom.datasets.mug import EXPRESSIONS, SUBJECTS, Mug
from motionloom.datasets.natops import GESTURES, TEST_SUBJECTS, TRAIN_SUBJECTS, Natops, read_segmentation
from motionloom.datasets.survey import survey
from motionloom.datasets.tar_shards import TarShards
from motionloom.datasets.ucf101 import Ucf101, class_words
from motionloom.errors import ConfigError, InputError
from motionloom.video.clip import Clip
from tests.datasets import official_layouts as make

CAPTION = "the cone is sliding to the first quadrant."


def levels(clip: Clip) -> list[int]:
    """The grey of each frame."""
    return [round(float(value)) for value in clip.frames.mean((1, 2, 3))]


def webdataset(root: Path) -> Path:
    make.save_avi(root.parent / "one.avi", make.grey_frames(range(18)))
    video = (root.parent / "one.avi").read_bytes()
    make.make_tar(root / "shard-000.tar", {"a/1.avi": video, "a/1.txt": b"a caption\n", "2.json": b"{}"})
    return root


MADE: dict[str, Callable[[Path], Path]] = {
    "bair": lambda root: make.make_bair(root, {"train/traj_0_to_1": 2, "test/traj_0_to_0": 1}),
    "landscape": lambda root: make.make_landscape(root, {"sky_train/A/A_1": 33}),
    "natops": lambda root: make.make_natops(root, (3,), (1,)),
    "mug": lambda root: make.make_mug(root, {"008/anger/take000": 3}),
    "cater": lambda root: make.make_cater(root, {"train": [CAPTION], "test": [CAPTION]}, 20),
    "ucf101": lambda root: make.make_ucf101(root, {"Diving/v_Diving_g01_c01.avi": "train"}),
    "csv": lambda root: make.make_webvid(root, {"7": "a bird"}),
    "webdataset": webdataset,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_is_recognised_opened_and_surveyed(name: str, tmp_path: Path) -> None:
    folder = MADE[name](tmp_path / "set")
    assert recognise(folder) == name
    facts = survey(open_layout(name, folder), read_all=True)
    train = facts["splits"]["train"]
    assert train["clips"] >= 1 and train["clips_read"] == train["clips"] and train["frames"]["least"] >= 1
    json.dumps(facts)


def test_a_plain_folder_is_none_of_them(tmp_path: Path) -> None:
    make.save_avi(tmp_path / "clips/a.avi", make.grey_frames(range(3)))
    (tmp_path / "notes.csv").write_text("day,weather\n1,rain\n")
    assert recognise(tmp_path) is None and recognise(tmp_path / "absent") is None
    with pytest.raises(InputError, match="is not NATOPS: expected segmentation.txt"):
        open_layout("natops", tmp_path)
    with pytest.raises(ConfigError, match='no data set layout "kinetics"'):
        open_layout("kinetics", tmp_path)


def test_unknown_split(tmp_path: Path) -> None:
    layout = BairPushing(MADE["bair"](tmp_path))
    with pytest.raises(ConfigError, match='no split "validation"'):
        layout.contents("validation")


# BAIR


def test_bair_frames_states_and_order(tmp_path: Path) -> None:
    names = {"train/traj_256_to_257": 2, "train/traj_0_to_1": 2, "test/traj_0_to_0": 1}
    layout = BairPushing(make.make_bair(tmp_path, names))
    entries = layout.contents("train").entries
    assert [entry.name for entry in entries] == [
        f"train/traj_{part}.tfrecords[{n}]" for part in ("0_to_1", "256_to_257") for n in (0, 1)
    ]
    assert levels(layout.read(entries[1])) == [110 + t for t in range(30)]
    assert layout.frames(entries[1], "image_main")[5, 0, 0].tolist() == [255 - 115] * 3
    actions, positions = layout.states(entries[3])
    assert actions.shape == (30, 4) and positions[7].tolist() == [7, 1, 0]
    assert layout.protocol("test").sampling == "first" and layout.protocol("train").sampling == "window"


def test_bair_holds_out_as_cinn(tmp_path: Path) -> None:
    layout = BairPushing(make.make_bair(tmp_path, {"train/traj_0_to_0": 1, "train/traj_256_to_511": 2}, 2))
    held, kept = layout.contents("val-cinn"), layout.contents("train-cinn")
    assert [entry.name for entry in kept.entries] == ["train/traj_0_to_0.tfrecords[0]"]
    assert len(held.entries) == 2 and held.refused == [
        ("train/traj_256_to_511.tfrecords", "2 of 256 trajectories found")
    ]


def test_bair_damage_is_named(tmp_path: Path) -> None:
    layout = BairPushing(make.make_bair(tmp_path, {"train/traj_0_to_2": 3}, 2))
    path = tmp_path / "softmotion30_44k/train/traj_0_to_2.tfrecords"
    whole = path.read_bytes()
    third = len(whole) // 3
    path.write_bytes(whole[: third + 5000] + b"!" + whole[third + 5001 :])
    entries = layout.contents("train").entries
    assert len(entries) == 3 and levels(layout.read(entries[2])) == [20, 21]
    with pytest.raises(InputError, match=r"record at byte \d+ of .*traj_0_to_2.tfrecords.* checksum"):
        layout.read(entries[1])
    path.write_bytes(whole[:-10])
    contents = layout.contents("train")
    assert len(contents.entries) == 2
    assert contents.refused[0][1] == "2 of 3 trajectories found: truncated within record 2"
    with pytest.raises(InputError, match="no frames of view image_up"):
        layout.frames(contents.entries[0], "image_up")


# Landscape


def test_landscape_is_cut_into_chunks(tmp_path: Path) -> None:
    lengths = {"sky_train/A/A_1": 70, "sky_train/A/A_2": 10, "sky_train/B/B_1": 32, "sky_test/C/C_1": 32}
    layout = Landscape(make.make_landscape(tmp_path, lengths))
    contents = layout.contents("train")
    assert [entry.name for entry in contents.entries] == [
        "sky_train/A/A_1@1",
        "sky_train/A/A_1@33",
        "sky_train/B/B_1@1",
    ]
    assert levels(layout.read(contents.entries[1])) == list(range(33, 65))
    assert contents.notes == ["16 frames of 3 pieces fill no whole clip of 32 frames"]
    assert len(Landscape(tmp_path, chunk=10).contents("train").entries) == 7 + 1 + 3


def test_landscape_refuses_gaps_and_broken_frames(tmp_path: Path) -> None:
    layout = Landscape(make.make_landscape(tmp_path, {"sky_train/A/A_1": 64, "sky_train/B/B_1": 32}))
    (tmp_path / "sky_train/A/A_1/A_frames_00000040.jpg").unlink()
    broken = tmp_path / "sky_train/B/B_1/B_frames_00000003.jpg"
    broken.write_bytes(broken.read_bytes()[:50])
    contents = layout.contents("train")
    assert contents.refused == [("sky_train/A/A_1", "frame 40 is missing")]
    with pytest.raises(InputError, match="B_frames_00000003"):
        layout.read(contents.entries[0])


# NATOPS


def test_natops_splits_are_lfdm_s() -> None:
    assert sorted((*TRAIN_SUBJECTS, *TEST_SUBJECTS)) == list(range(1, 21)) and len(GESTURES) == 24
    counts = Natops.official_counts
    assert counts["train"] == 24 * 10 * 20 and counts["test-lfdm"] == 24 * 9 * 20


def test_natops_repetitions(tmp_path: Path) -> None:
    layout = Natops(make.make_natops(tmp_path, (1, 3), (2,)))
    entries = layout.contents("train").entries
    assert len(entries) == 20 and entries[4].name == "gesture02/g02s03.avi[5]"
    assert entries[4].text == "All Clear" and entries[4].subject == "s03"
    clip = layout.read(entries[4])
    assert clip.fps == 20 and clip.frames.shape == (3, 240, 320, 3)
    np.testing.assert_allclose(levels(clip), [13, 14, 15], atol=1)  # frames 14 to 16, counted from 1
    assert len(layout.contents("test").entries) == 20 and layout.contents("test-lfdm").entries == []


def test_natops_missing_segments_are_named(tmp_path: Path) -> None:
    layout = Natops(make.make_natops(tmp_path, (3,), (1,)))
    path = tmp_path / "segmentation.txt"
    lines = path.read_text().splitlines()
    start = lines.index("// Subject 3")
    path.write_text("\n".join(lines[: start + 2] + lines[start + 3 :]))
    assert layout.contents("train").refused == [
        ("gesture01/g01s03.avi", "segmentation.txt has 19 of 20 repetitions")
    ]
    path.write_text("\n".join([*lines[: start + 2], "1:9,2", *lines[start + 3 :]]))
    with pytest.raises(InputError, match=f"line {start + 3}: unexpected '1:9,2'"):
        read_segmentation(path)
    path.write_text("\n".join([*lines[: start + 2], "1:900,905", *lines[start + 3 :]]))
    with pytest.raises(InputError, match=r"frames 900 to 905 of a video of 61"):
        layout.read(layout.contents("train").entries[0])
    path.unlink()
    with pytest.raises(InputError, match=r"cannot read .*segmentation.txt"):
        layout.contents("train")


# MUG


def test_mug_subjects_and_sessions(tmp_path: Path) -> None:
    takes = {"008/anger/take000": 3, "008/fear/take001": 2, "001/neutral/take000": 2}
    layout = Mug(
        make.make_mug(tmp_path, {**takes, "049/session0/sadness/take002": 4, "049/session1/fear/take000": 2})
    )
    assert [(e.name, e.text, e.subject) for e in layout.contents("train").entries] == [
        ("008/anger/take000", "anger", "008"),
        ("008/fear/take001", "fear", "008"),
    ]
    test = layout.contents("test")
    assert [entry.name for entry in test.entries] == ["001/neutral/take000", "049/session0/sadness/take002"]
    assert levels(layout.read(test.entries[1])) == [10, 20, 30, 40]
    assert "24 of 26 subjects are not there" in test.notes[0]
    assert len(EXPRESSIONS) == 7 and not set(SUBJECTS["train"]) & set(SUBJECTS["test"])
    assert [len(set(subjects)) for subjects in SUBJECTS.values()] == [26, 26]


def test_mug_empty_take_is_refused(tmp_path: Path) -> None:
    layout = Mug(make.make_mug(tmp_path, {"008/anger/take000": 3}))
    (tmp_path / "008/anger/take001").mkdir()
    assert layout.contents("train").refused == [("008/anger/take001", "no frames")]


# CATER-GEN


def test_cater_captions_and_refusals(tmp_path: Path) -> None:
    layout = CaterGen(make.make_cater(tmp_path, {"train": [CAPTION] * 5, "test": [CAPTION]}, 20))
    contents = layout.contents("train")
    assert len(contents.entries) == 5 and contents.entries[0].text == CAPTION and contents.refused == []
    listed = json.loads((tmp_path / "train_ambiguous.json").read_text())
    listed["0"]["caption"] = "the pyramid is rotating."
    del listed["1"]["caption"]
    listed["2"]["video"] = "videos/gone.avi"
    listed["3"]["video"] = "../../etc/passwd"
    (tmp_path / "train_ambiguous.json").write_text(json.dumps(listed))
    refused = dict(layout.contents("train").refused)
    assert refused["videos/CATER_new_train000000.avi"] == 'unknown caption word "pyramid"'
    assert refused["videos/CATER_new_train000001.avi"] == "it has no caption"
    assert refused["videos/gone.avi"] == "the video is not there"
    assert refused["train_ambiguous.json[3]"] == '"../../etc/passwd" lies outside the folder'
    assert refused["videos/CATER_new_train000002.avi"] == "no caption names it"
    assert layout.protocol("train").sampling == "speed-3-6"
    (tmp_path / "train_ambiguous.json").write_text("[]")
    with pytest.raises(InputError, match="no list of captions"):
        layout.contents("train")


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    layout = CaterGen(make.make_cater(tmp_path, {"train": [CAPTION] * 2, "test": []}, 20))
    (tmp_path / "videos/CATER_new_train000001.avi").write_bytes(b"")
    facts = survey(layout)["splits"]["train"]
    assert facts["clips"] == 2 and facts["refused_clips"] == 1
    assert "empty" in facts["refused"]["videos/CATER_new_train000001.avi"]


# UCF101, tables, tars


def test_ucf101_lists(tmp_path: Path) -> None:
    videos = {"ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi": "train", "YoYo/v_YoYo_g01_c02.avi": "test"}
    layout = Ucf101(make.make_ucf101(tmp_path, videos))
    entry = layout.contents("train").entries[0]
    assert (entry.text, entry.subject) == ("apply eye makeup", "g08")
    assert len(layout.contents("test").entries) == 1 and len(layout.contents("all").entries) == 2
    with pytest.raises(InputError, match="trainlist02.txt"):
        layout.contents("train2")
    (tmp_path / "UCF-101/YoYo/v_YoYo_g01_c02.avi").unlink()
    assert layout.contents("test").refused == [("YoYo/v_YoYo_g01_c02.avi", "the video is not there")]
    assert class_words("TaiChi") == "tai chi" and class_words("HandstandPushups") == "handstand pushups"


def test_tables_of_captions(tmp_path: Path) -> None:
    layout = CsvClips(make.make_webvid(tmp_path, {"7": "a  bird,\tflying", "8": ""}))
    (tmp_path / "own_val.csv").write_text(
        "path,caption\nvideos/000001_000050/7.mp4,one\n../x.mp4,two\n,three\n"
    )
    train, val = layout.contents("train"), layout.contents("val")
    assert [(e.name, e.text) for e in train.entries] == [("videos/000001_000050/7.mp4", "a bird, flying")]
    assert train.refused == [("videos/000001_000050/8.mp4", "it has no caption")]
    assert [entry.text for entry in val.entries] == ["one"]
    assert [reason for _, reason in val.refused] == [
        '"../x.mp4" lies outside the folder',
        "it names no video",
    ]


def test_tars_are_read_in_place(tmp_path: Path) -> None:
    layout = TarShards(webdataset(tmp_path / "set"))
    contents = layout.contents("train")
    assert [(e.name, e.text) for e in contents.entries] == [("shard-000.tar:a/1", "a caption")]
    assert contents.refused == [("shard-000.tar:2", "it has no video")]
    np.testing.assert_allclose(levels(layout.read(contents.entries[0])), range(18), atol=1)
    shard = tmp_path / "set/shard-000.tar"
    make.make_tar(
        tmp_path / "set/shard-001.tar", {"3.mp4": b"no video", "3.txt": b"x", "4.mp4": b"", "4.json": b"{"}
    )
    contents = layout.contents("train")
    assert ("shard-001.tar:4", 'its ".json" is damaged') in contents.refused
    with pytest.raises(InputError, match=r'cannot read clip "shard-001.tar:3"'):
        layout.read(contents.entries[1])
    shard.write_bytes(shard.read_bytes()[:1500])
    assert layout.contents("train").refused[0][0] == "shard-000.tar"

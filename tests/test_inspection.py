"""`inspect` tells what a file is from its header, whatever its name says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from motionloom.errors import InputError, UserError, WeightsError
from motionloom.inspection import describe, describe_clips


def write_weights(path: Path, metadata: dict[str, str], cut_bytes: int = 0) -> Path:
    header = {
        "__metadata__": metadata,
        "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
    }
    text = json.dumps(header).encode()
    path.write_bytes((len(text).to_bytes(8, "little") + text + bytes(32))[: -cut_bytes or None])
    return path


def write_video(path: Path, frames: int = 3) -> Path:
    import av
    import numpy as np

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def test_weights() -> None:
    facts = describe(write_weights(Path("a.safetensors"), {"motionloom.kind": "adapter", "ranks": "[4, 8]"}))
    assert facts["kind"] == "weights: adapter"
    assert (facts["tensors"], facts["parameters"]) == (2, 10)
    assert facts["parameters_by_dtype"] == {"float32": 6, "float16": 4}
    assert facts["metadata"] == {"motionloom.kind": "adapter", "ranks": [4, 8]}


def test_weights_under_another_name() -> None:
    assert describe(write_weights(Path("a.bin"), {}))["kind"] == "weights"


def test_damaged_weights() -> None:
    with pytest.raises(WeightsError, match="cut"):
        describe(write_weights(Path("cut.safetensors"), {}, cut_bytes=5))


def test_clip() -> None:
    facts = describe(write_video(Path("a.mp4")))
    assert facts["kind"] == "clip"
    assert (facts["width_px"], facts["height_px"], facts["fps"], facts["frames"]) == (64, 48, 8.0, 3)
    assert facts["settings"].startswith("none")


def test_a_playlist_in_disguise_opens_no_other_file() -> None:
    write_video(Path("secret.mp4"))
    Path("a.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(InputError, match="playlist"):
        describe("a.mp4")


@pytest.mark.parametrize(("suffix", "frames"), [("png", 1), ("jpg", 1), ("webp", 1), ("gif", 3)])
def test_pictures(suffix: str, frames: int) -> None:
    pictures = [Image.new("RGB", (32, 24), (shade, 0, 0)) for shade in (10, 120, 240)]
    path = Path(f"a.{suffix}")
    if frames == 1:
        pictures[0].save(path)
    else:
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=250)
    facts = describe(path)
    assert facts["kind"] == ("picture" if frames == 1 else "clip")
    assert (facts["width_px"], facts["height_px"], facts["frames"]) == (32, 24, frames)
    assert facts.get("fps") == (None if frames == 1 else 4.0)


def test_a_pickle_is_named_and_never_opened() -> None:
    for name, content in (("a.pt", b"PK\x03\x04rest"), ("b.ckpt", b"\x80\x02rest")):
        Path(name).write_bytes(content)
        facts = describe(name)
        assert facts["kind"] == "checkpoint or archive" and "not opened" in facts["note"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.safetensors", b"", "empty"),
        ("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "Git-LFS"),
        ("page.mp4", b"<!doctype html><html>", "web page"),
        ("noise.xyz", b"\0\1\2\3" * 50, "nothing MotionLoom knows"),
        ("bad.json", b"{", "damaged"),
        ("bad.png", b"\x89PNG\r\n\x1a\nnot really", "cannot read picture"),
        ("bad.mp4", b"\0\0\0\x18ftypisom" + bytes(50), "cannot read clip"),
    ],
)
def test_what_cannot_be_inspected_is_named_with_its_reason(name: str, content: bytes, said: str) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        describe(name)
    assert name in caught.value.message


def test_a_missing_file() -> None:
    with pytest.raises(InputError, match="no such file"):
        describe("gone.mp4")


def test_run_folder() -> None:
    run = Path("run")
    (run / "checkpoints" / "step-10").mkdir(parents=True)
    (run / "recipe.yaml").write_text("steps: 10\n")
    (run / "log.jsonl").write_text('{"step": 9}\n{"step": 10}\n{"ste')  # cut short by a crash
    facts = describe(run)
    assert facts["kind"] == "run folder"
    assert facts["recipe"] == {"steps": 10}
    assert facts["checkpoints"] == ["step-10"]
    assert facts["last_log_entry"] == {"step": 10}


def test_a_folder_of_nothing() -> None:
    Path("empty").mkdir()
    with pytest.raises(InputError, match="no folder of ours"):
        describe("empty")


def test_describe_clips_drops_nothing_in_silence() -> None:
    clips = Path("data/clips")
    clips.mkdir(parents=True)
    write_video(clips / "a.mp4")
    (clips / "a.txt").write_text("waves\n")
    (clips / "b.mp4").write_bytes(b"")
    facts = describe_clips("data")
    assert [(one["clip"], one["frames"], one["caption"]) for one in facts["used"]] == [
        ("clips/a.mp4", 3, "waves")
    ]
    assert [one["clip"] for one in facts["refused"]] == ["clips/b.mp4"] and "empty" in facts["refused"][0][
        "reason"
    ]
    assert describe("data")["kind"] == "clip folder"


def test_a_listing_cannot_name_files_elsewhere() -> None:
    Path("data").mkdir()
    write_video(Path("data/a.mp4"))
    listing = Path("data/metadata.jsonl")
    listing.write_text('{"file_name": "a.mp4"}\n')
    assert [one["clip"] for one in describe_clips("data")["used"]] == ["a.mp4"]
    for line in ('{"file_name": "../photo.mp4"}', '{"text": "no name"}', "broken"):
        listing.write_text(line)
        with pytest.raises(InputError, match="in the folder"):
            describe_clips("data")


def test_our_own_clips_tell_their_settings() -> None:
    import numpy as np

    from motionloom.video.clip import Clip

    clip = Clip(np.zeros((3, 48, 64, 3), np.uint8), 8.0, {"seed": 7})
    for name in ("a.mp4", "a.gif", "a.webp", "frames"):
        facts = describe(clip.save(name))
        assert facts["kind"] == "clip" and facts["settings"]["seed"] == 7, name


def test_describe_clips_of_an_empty_folder() -> None:
    with pytest.raises(InputError, match="no clips"):
        describe_clips(".")


def test_pictures_need_no_torch() -> None:
    import subprocess

    Image.new("RGB", (8, 8)).save("a.png")
    code = "import sys, motionloom.inspection as i; i.describe('a.png'); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert done.stdout.strip() == "False"

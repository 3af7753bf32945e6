"""`motionloom evaluate` as a user meets it: scores.json, bad clips by name, resume, several processes, comparison."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import motionloom as ml
from motionloom.cli import main
from motionloom.errors import InputError
from motionloom.metrics.cache import Cache
from motionloom.metrics.scores import load_scores
from motionloom.video.clip import Clip
from tests.metrics.making import noise_clip, pan

FAST = "temporal_flickering,frozen_frames,loop_seam,psnr"


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """clips/ with four pans, real/ with the same re-encoded, images/ with first frames."""
    for name in ("clips", "real", "images"):
        (tmp_path / name).mkdir()
    for i in range(4):
        clip = pan(1 + i / 2, 0, frames=5, side=32)
        clip.save(tmp_path / "clips" / f"c{i}.mp4")
        clip.save(tmp_path / "real" / f"c{i}.mp4", crf=30)
        Image.fromarray(clip.frames[0]).save(tmp_path / "images" / f"c{i}.png")
    return tmp_path


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["evaluate", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_default_scores_everything_that_needs_no_weights(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run("clips", "--references", "real", "--images", "images", capsys=capsys)
    assert code == 0, err
    scores = load_scores("scores.json")
    assert not scores.partial and scores.num_references == 4
    for name in ("temporal_flickering", "motion_dis", "first_frame", "psnr", "ssim", "fd_random3d/kernel"):
        assert name in scores.summary and name in out
    assert scores.summary["psnr"].num_used == 4 and scores.summary["psnr"].num_clusters == 4
    assert len(scores.clips) == 4 and scores.clips[0].picture == "images/c0.png"
    assert len(scores.clips[0].curves["psnr"]) == 5
    assert {one.metric for one in scores.left_out} == {"diversity", "fd_random3d"}
    assert "left out: diversity" in out and "torch" in scores.versions


def test_bad_clips_are_named_and_the_rest_is_scored(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (folders / "clips" / "c0.mp4").read_bytes()
    (folders / "clips" / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folders / "clips" / "notes.mp4").write_text("correct horse battery staple\n")
    noise_clip(frames=1).save(folders / "clips" / "single.gif")
    pan(1, 0, frames=5, side=48).save(folders / "clips" / "large.mp4")
    code, out, err = run("clips", "--metrics", "temporal_flickering,loop_seam", capsys=capsys)
    assert code == 2 and "error[partial]" in err and "4 clips failed" in err
    scores = load_scores("scores.json")
    reasons = {Path(one.file).name: one.reason for one in scores.failures}
    assert set(reasons) == {"cut.mp4", "notes.mp4", "single.gif", "large.mp4"}
    assert "plain text" in reasons["notes.mp4"] and "has 1 frame" in reasons["single.gif"]
    assert "48x48 px, most clips are 32x32" in reasons["large.mp4"]
    assert scores.partial and scores.summary["loop_seam"].num_used == 4
    assert scores.summary["loop_seam"].num_expected == 8
    assert any(
        "4 of 8 clips" in text or "5 of 8 clips" in text for text in scores.summary["loop_seam"].warnings
    )
    assert "failed: clips/notes.mp4: it is plain text" in out  # the file is named once
    assert "left out" not in err  # nothing that was asked for
    code, _, _ = run("clips", "--metrics", "loop_seam", "--sizes", "any", capsys=capsys)
    assert load_scores("scores.json").summary["loop_seam"].num_used == 5


def test_equal_work_gives_equal_bytes_and_is_not_done_twice(folders: Path) -> None:
    first = ml.evaluate("clips", references="real", metrics=FAST.split(","), out="a.json", cache="kept")
    again = ml.evaluate("clips", references="real", metrics=FAST.split(","), out="b.json", cache="kept")
    fresh = ml.evaluate("clips", references="real", metrics=FAST.split(","), out="c.json", cache="other")
    assert (first.num_measured, again.num_measured, fresh.num_measured) == (16, 0, 16)
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes() == Path("c.json").read_bytes()
    assert first["psnr"] == first.record.summary["psnr"].value and first["psnr"] > 20


def test_results_follow_content_not_names(folders: Path) -> None:
    metrics = ["temporal_flickering", "psnr"]
    ml.evaluate("clips", references="real", metrics=metrics, cache="kept")
    (folders / "clips" / "c0.mp4").rename(folders / "clips" / "c9.mp4")
    (folders / "real" / "c0.mp4").rename(folders / "real" / "c9.mp4")
    assert ml.evaluate("clips", references="real", metrics=metrics, cache="kept").num_measured == 0
    pan(4, 0, frames=5, side=32).save(folders / "real" / "c9.mp4")
    assert ml.evaluate("clips", references="real", metrics=metrics, cache="kept").num_measured == 1


def test_a_damaged_result_is_measured_again(folders: Path) -> None:
    first = ml.evaluate("clips", metrics=["loop_seam"], cache="kept", out="a.json")
    for file in list(Path("kept").rglob("*.safetensors"))[:2]:
        file.write_bytes(file.read_bytes()[:-7])
    again = ml.evaluate("clips", metrics=["loop_seam"], cache="kept", out="b.json")
    assert again.num_measured == 2 and again == first


@pytest.mark.slow
def test_two_processes_give_the_same_bytes(folders: Path) -> None:
    metrics = ["temporal_flickering", "psnr", "motion_dis", "fd_random3d"]
    one = ml.evaluate("clips", references="real", metrics=metrics, frames=5, out="one.json")
    two = ml.evaluate("clips", references="real", metrics=metrics, frames=5, out="two.json", workers=2)
    assert two.num_measured == one.num_measured == 20
    assert Path("one.json").read_bytes() == Path("two.json").read_bytes()


def test_stopped_in_the_middle_and_called_again(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = Cache.write, []

    def stop_after_five(self: Cache, key: str, measured: Any) -> None:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(key)
        write(self, key, measured)

    metrics = ["temporal_flickering", "loop_seam", "motion_dis"]
    monkeypatch.setattr(Cache, "write", stop_after_five)
    with pytest.raises(KeyboardInterrupt):
        ml.evaluate("clips", metrics=metrics, out="out.json")
    assert not Path("out.json").exists()
    monkeypatch.setattr(Cache, "write", write)
    assert ml.evaluate("clips", metrics=metrics, out="out.json").num_measured == 7
    ml.evaluate("clips", metrics=metrics, out="whole.json", cache="fresh")
    assert Path("out.json").read_bytes() == Path("whole.json").read_bytes()


@pytest.mark.slow
def test_killed_and_started_again_ends_with_the_same_bytes(folders: Path) -> None:
    for i in range(12):
        pan(1 + i / 8, 0, frames=8, side=64).save(folders / "many" / f"m{i}.mp4")
    words = [
        sys.executable,
        "-m",
        "motionloom",
        "evaluate",
        "many",
        "--metrics",
        "motion_dis,loop_seam",
        "-o",
    ]
    where = {"cwd": folders, "env": {**os.environ, "PYTHONPATH": str(Path(ml.__file__).parents[1])}}
    process = subprocess.Popen([*words, "out.json", "--json"], stdout=subprocess.DEVNULL, **where)  # type: ignore[call-overload]
    deadline = time.monotonic() + 60
    while len(list(folders.glob("out.cache/*/*.safetensors"))) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folders / "out.json").exists()
    finished = len(list(folders.glob("out.cache/*/*.safetensors")))
    done = ml.evaluate("many", metrics=["motion_dis", "loop_seam"], out="out.json")
    assert 6 <= finished < 24 and done.num_measured == 24 - finished
    ml.evaluate("many", metrics=["motion_dis", "loop_seam"], out="whole.json")
    assert Path("out.json").read_bytes() == Path("whole.json").read_bytes()


def test_missing_partners_are_listed_never_guessed(folders: Path) -> None:
    (folders / "real" / "c1.mp4").unlink()
    with pytest.raises(InputError, match="psnr: no real clip of the same name for c1"):
        ml.evaluate("clips", references="real", metrics=["psnr"])
    (folders / "images" / "c2.png").unlink()
    with pytest.raises(InputError, match="has no picture, or several, for c2"):
        ml.evaluate("clips", images="images", metrics=["first_frame"])
    default = ml.evaluate("clips", references="real", out=None)
    assert "psnr" in {one.metric for one in default.record.left_out} and not default.record.partial


def test_a_manifest_carries_everything(folders: Path) -> None:
    lines = [
        {"video": f"clips/c{i}.mp4", "id": f"m{i}", "image": f"images/c{i}.png", "reference": f"real/c{i}.mp4",
         "prompt": "water" if i < 2 else "fire", "seed": i, "fps": 16, "class": "ab"[i % 2], "subject": "s"}
        for i in range(4)
    ]  # fmt: skip
    Path("manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = ml.evaluate("manifest.jsonl", metrics=["psnr", "first_frame", "diversity"])
    first = done.record.clips[0]
    assert (first.id, first.fps, first.seed, first.class_name, first.cluster) == ("m0", 16, 0, "a", "water")
    assert done.record.summary["psnr"].num_clusters == 2 and done["diversity"] > 0
    Path("manifest.jsonl").write_text('{"video": "clips/c0.mp4", "promt": "x"}')
    with pytest.raises(InputError, match="line 1: promt"):
        ml.evaluate("manifest.jsonl")


def test_our_own_clips_name_their_photo(folders: Path) -> None:
    from motionloom.durable import sha256_of

    photo = folders / "clips" / "photo.png"
    clip = pan(1, 0, frames=5, side=32)
    Image.fromarray(clip.frames[0]).save(photo)
    settings: dict[str, Any] = {"photo": "photo.png", "photo_sha256": sha256_of(photo)}
    for i in range(4):
        Clip(pan(1 + i, 0, frames=5, side=32).frames, 8.0, settings).save(folders / "clips" / f"c{i}.mp4")
    done = ml.evaluate("clips", metrics=["first_frame", "diversity"])
    assert done.record.summary["first_frame"].num_clusters == 1 and done["diversity"] > 1


def test_a_metric_without_weights_is_left_out_by_name(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(
        "clips", "--references", "real", "--metrics", "fvd,psnr", "--weights", "nowhere", capsys=capsys
    )
    assert code == 2 and "left out: fvd" in err and "left out: fvd: I3D" in out
    scores = load_scores("scores.json")
    assert set(scores.summary) == {"psnr", "psnr/median_of_frames", "psnr/mean_of_frames"}


def test_networks_are_recorded(folders: Path) -> None:
    import torch

    from motionloom.metrics.networks.convert import add_weights
    from tests.metrics.test_consistency import clip_model

    clip_model().save_pretrained(folders / "weights" / "clip-vit-base-patch32")
    done = ml.evaluate("clips", metrics=["background_consistency"], weights="weights")
    (used,) = done.record.weights
    assert used.name == "clip-vit-base-patch32" and used.licence == "MIT" and len(used.sha256) == 64
    assert 0 < float(done["background_consistency"]) <= 1
    head = folders / "head.pth"
    torch.save({"weight": torch.ones(1, 768), "bias": torch.zeros(1)}, head)
    assert main(["evaluate", "--add-weights", f"laion-aesthetic={head}", "--weights", "weights"]) == 0
    assert add_weights("laion-aesthetic", head, folders / "weights").is_file()


def test_compare_and_list(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ml.evaluate("clips", references="real", metrics=["psnr"], out="a.json")
    for i in range(4):
        clip = pan(1 + i / 2, 0, frames=5, side=32)
        worse = np.clip(
            clip.frames.astype(int) + np.random.default_rng(i).normal(0, 20, clip.frames.shape), 0, 255
        )
        Clip(worse.astype(np.uint8), 8.0).save(folders / "clips" / f"c{i}.mp4")
    ml.evaluate("clips", references="real", metrics=["psnr"], out="b.json")
    code, out, _ = run("--compare", "a.json", "b.json", "--json", capsys=capsys)
    found = json.loads(out)
    assert code == 0 and found["values"][0]["mean_difference"] < -3 and found["num_pairs"] == 4
    code, out, _ = run("--compare", "a.json", "b.json", capsys=capsys)
    assert "Cliff's delta" in out
    code, out, _ = run("--list", capsys=capsys)
    assert code == 0 and "fvd_videogpt" in out and "vbench-i2v" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "expected a folder of clips"),
        (["."], "no clip in it"),
        (["clips", "--metrics", "pnsr"], "did you mean 'psnr'"),
        (["clips", "--protocol", "bai"], "did you mean 'bair'"),
        (["clips", "--plugin", "amt-s"], "expected NETWORK=MODULE:CALLABLE"),
        ([], "no clips given"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "clips" in words:
        noise_clip(frames=3).save("clips/a.mp4")
    code, _, err = run(*words, capsys=capsys)
    assert code == 2 and said in err and "Traceback" not in err

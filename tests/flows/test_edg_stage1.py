"""Stage 1 as a user runs it: train, stop and resume, animate with the adapter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motionloom.cli import main
from motionloom.video.clip import Clip
from motionloom.video.read import read_clip
from motionloom.weights import load_weights

RECIPE = str(Path(__file__).parents[2] / "recipes/edg/stage1.yaml")
SMALL = [
    "stage.base=tiny-dynamicrafter",
    "stage.strides=[1,2]",
    "stage.gradient_checkpointing=false",
    "data.folder=data",
    "data.frames=3",
    "data.fps=8",
    "data.size_px=32",
    "data.num_workers=0",
    "batch_size=2",
    "accumulation=1",
    "learning_rate=1e-3",
    "precision=fp32",
    "sample_every=20",
    "log_every=5",
]


def run(*arguments: str) -> int:
    return main(list(arguments))


@pytest.fixture()
def clips() -> None:
    for number, words in enumerate(("right", "left")):
        frames = np.full((8, 32, 32, 3), 30, np.uint8)
        for t in range(8):
            place = 3 * t if number == 0 else 24 - 3 * t
            frames[t, 8:20, place : place + 8] = 220
        Path("data/clips").mkdir(parents=True, exist_ok=True)
        Clip(frames, 8.0).save(f"data/clips/{number}.mp4")
        Path(f"data/clips/{number}.txt").write_text(f"a square moves {words}")


def test_train_resume_animate(clips: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", RECIPE, *SMALL, "stage.trained=adapter", "steps=12", "--run-dir", "stopped") == 0
    assert run("train", RECIPE, *SMALL, "stage.trained=adapter", "steps=20", "--run-dir", "stopped") == 0
    assert run("train", RECIPE, *SMALL, "stage.trained=adapter", "steps=20", "--run-dir", "whole") == 0
    adapter = "final/text_adapter.safetensors"
    resumed, whole = (load_weights(Path(folder, adapter))[0] for folder in ("stopped", "whole"))
    assert all(np.array_equal(resumed[name].numpy(), whole[name].numpy()) for name in whole)
    log = [json.loads(line) for line in Path("whole/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "stage1" in line.get("losses", {})] == [5, 10, 15, 20]

    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save("photo.png")
    asked = [
        "animate",
        "photo.png",
        "--base",
        "tiny-dynamicrafter",
        "--prompt",
        "a square moves right",
        "--steps",
        "2",
    ]
    assert run(*asked, "--frames", "4", "-o", "plain.mp4") == 0
    assert run(*asked, "--frames", "4", "--motion", f"whole/{adapter}:0.8", "-o", "told.mp4") == 0
    assert not np.array_equal(read_clip("plain.mp4").frames, read_clip("told.mp4").frames)
    assert run(*asked, "--frames", "4", "--motion", "lively:0.5", "-o", "lively.webp") == 0
    capsys.readouterr()
    assert run("inspect", f"whole/{adapter}", "--json") == 0
    assert "text_adapter" in capsys.readouterr().out


def test_more_than_the_adapter_is_exported_as_a_base(clips: None) -> None:
    import motionloom as ml

    assert run("train", RECIPE, *SMALL, "stage.trained=temporal", "steps=2", "--run-dir", "run") == 0
    base = ml.load_base("run/final/model")
    assert base.parts.unet.text_adapter is not None
    plain = ml.load_base("tiny-dynamicrafter").parts.unet.state_dict()
    tuned = base.parts.unet.state_dict()
    moved = [name for name in plain if not np.array_equal(plain[name].numpy(), tuned[name].numpy())]
    assert moved and all("temp_attentions" in name or "transformer_in" in name for name in moved)


def test_clips_without_captions_are_refused(clips: None, capsys: pytest.CaptureFixture[str]) -> None:
    for caption in Path("data/clips").glob("*.txt"):
        caption.unlink()
    assert run("train", RECIPE, *SMALL, "--run-dir", "run") == 2
    assert "caption" in capsys.readouterr().err
    assert run("train", RECIPE, *SMALL, "data.fps=null", "--run-dir", "run") == 2
    assert "data.fps" in capsys.readouterr().err

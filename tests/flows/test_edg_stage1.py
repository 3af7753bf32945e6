"""Stage 1 as a user runs it: train, stop and resume, animate with the adapter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from motionloom.cli import main
from motionloom.video.clip import Clip
from motionloom.video.read import read_clip
from motionloom.weights import load_weights

RECIPES = Path(__file__).parents[2] / "recipes/edg"
RECIPE, ON_ANIMATEDIFF = str(RECIPES / "stage1.yaml"), str(RECIPES / "stage1_animatediff.yaml")
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
SMALL_ANIMATEDIFF = [
    *(one for one in SMALL if not one.startswith(("stage.base", "data.size_px", "stage.strides"))),
    "stage.base=tiny-animatediff",
    "stage.windows=2",
    "stage.cache=latents",
    "data.size_px=64",
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


def test_animatediff_trains_resumes_and_animates(
    clips: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from motionloom.conditions.clip_text import TextTokens

    texts: list[str] = []
    read = TextTokens.__call__
    monkeypatch.setattr(TextTokens, "__call__", lambda self, given: texts.extend(given) or read(self, given))
    train = ["train", ON_ANIMATEDIFF, *SMALL_ANIMATEDIFF, "sample_every=6"]
    assert run(*train, "steps=3", "--run-dir", "stopped") == 0
    assert sorted(texts) == ["", "a square moves left", "a square moves right"], "captions are encoded once"
    assert run(*train, "steps=6", "--run-dir", "stopped") == 0
    assert run(*train, "steps=6", "--run-dir", "whole") == 0
    assert texts[3:] == ["", ""], "and kept with the windows"
    adapter = "final/text_adapter.safetensors"
    resumed, whole = (load_weights(Path(folder, adapter))[0] for folder in ("stopped", "whole"))
    assert all(np.array_equal(resumed[name].numpy(), whole[name].numpy()) for name in whole)
    assert len(list(Path("whole/samples").iterdir())) == 1 and not Path("whole/final/model").exists()

    capsys.readouterr()
    assert run(*train, "steps=6", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    trained = sum(tensor.numel() for tensor in whole.values())
    assert plan["parameters"]["adapter"]["trained"] == trained and plan["clips"]["used"] == 2
    assert plan["time"]["flop_per_step"] and plan["memory_bytes"]["activations"], plan["memory_bytes"]["how"]

    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save("photo.png")
    asked = ["animate", "photo.png", "--base", "tiny-animatediff", "--prompt", "a square moves right"]
    asked += ["--steps", "2", "--frames", "4", "--base-option", "beta_schedule=linear"]
    assert run(*asked, "-o", "plain.mp4") == 0
    assert run(*asked, "--motion", f"whole/{adapter}:0", "-o", "zero.mp4") == 0
    assert run(*asked, "--motion", f"whole/{adapter}", "-o", "told.mp4") == 0
    plain, zero, told = (read_clip(f"{name}.mp4").frames for name in ("plain", "zero", "told"))
    assert np.array_equal(plain, zero) and not np.array_equal(plain, told)
    capsys.readouterr()
    assert run(*asked[:-2], "--motion", f"whole/{adapter}", "-o", "told.mp4") == 0
    assert "trained with beta_schedule=linear" in capsys.readouterr().err


def test_animatediff_with_tuned_motion_modules_is_exported_as_a_base(clips: None) -> None:
    import motionloom as ml

    more = ["stage.trained=temporal", "stage.windows=1", "steps=2", "--run-dir", "run"]
    assert run("train", ON_ANIMATEDIFF, *SMALL_ANIMATEDIFF, *more) == 0
    base, plain = ml.load_base("run/final/model"), ml.load_base("tiny-animatediff")
    tuned, before = base.denoiser.network.state_dict(), plain.denoiser.network.state_dict()
    moved = [name for name in before if not torch.equal(before[name], tuned[name])]
    assert moved and all("motion_modules" in name for name in moved)
    assert torch.equal(base.text(["a dog"]), plain.text(["a dog"])), "it reads prompts as before"
    photo = np.full((64, 64, 3), 90, np.uint8)
    ways = {"prompt": "a dog", "frames": 3, "steps": 1, "size": "64x64"}
    clip = ml.generate(base, photo, ["run/final/text_adapter.safetensors"], **ways)
    assert not np.array_equal(clip.frames, ml.generate(plain, photo, **ways).frames)


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

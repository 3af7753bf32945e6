"""`train` end to end: both LaMD stages on tiny clips, the forecast, and what a caller gets back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from motionloom.codecs.mcd_vae import MotionContentAutoencoder
from motionloom.denoisers.motion_generator import MotionGenerator
from motionloom.errors import ConfigError, InputError, StateError, WeightsError
from motionloom.train import train
from motionloom.training.recipe import load_recipe
from motionloom.video.clip import Clip
from motionloom.video.read import read_clip

RECIPES = Path(__file__).parents[2] / "recipes/lamd"
CODEC = {"motion_base": 8, "content_base": 8}


def make_clips(folder: Path, count: int = 4) -> Path:
    """Squares that move right, with captions."""
    for number in range(count):
        frames = np.full((10, 16, 16, 3), 40, dtype=np.uint8)
        for t, frame in enumerate(frames):
            frame[4 : 8 + number, t : t + 4] = 200
        (folder / "clips").mkdir(parents=True, exist_ok=True)
        Clip(frames, 8.0).save(folder / f"clips/{number}.mp4")
        (folder / f"clips/{number}.txt").write_text(f"square {'ab'[number % 2]}")
    return folder


def autoencoder_recipe(data: Path, **changes: Any) -> dict[str, Any]:
    adversary = {"start_step": 2, "base": 4, "cap": 8}
    values: dict[str, Any] = {
        "stage": {"kind": "lamd-autoencoder", "codec": CODEC, "adversary": adversary},
        "data": {"folder": str(data), "frames": 8, "size_px": 16},
        "steps": 3,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "sample_every": 3,
        "log_every": 1,
        "precision": "bf16",
    }
    return values | changes


def generator_recipe(data: Path, codec: Path, cache: Path, **changes: Any) -> dict[str, Any]:
    stage = {
        "kind": "lamd-generator",
        "codec_weights": str(codec),
        "codec": CODEC,
        "cache": str(cache),
        "windows": 2,
        "unet": {"base": 8, "multipliers": [1, 2], "res_blocks": 1, "attention_levels": [1], "heads": 2},
        "text": {"positions": 6, "depth": 1, "heads": 2},
        "drop_text": 0.1,
    }
    values: dict[str, Any] = {
        "stage": stage,
        "data": {"folder": str(data), "frames": 8, "size_px": 16},
        "steps": 4,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "ema_decay": 0.9,
        "sample_every": 4,
        "log_every": 2,
    }
    return values | changes


def test_both_stages_from_clips_to_weights(tmp_path: Path) -> None:
    data = make_clips(tmp_path / "data")
    first = train(autoencoder_recipe(data), tmp_path / "first", progress=False)
    assert first.steps == 3 and first.clips_used == 4 and first.clips_refused == []
    assert first.final == tmp_path / "first/final"
    codec = first.final / "mcd_vae.safetensors"
    assert MotionContentAutoencoder.load(codec).config.motion_base == 8
    assert {"loss_autoencoder", "loss_discriminator", "l1"} <= set(first.numbers)
    assert read_clip(tmp_path / "first/samples/step-000003.mp4").num_frames == 8
    json.dumps(first.to_json(), allow_nan=False)

    recipe = generator_recipe(data, codec, tmp_path / "cache")
    second = train(recipe, tmp_path / "second", progress=False)
    assert second.clips_used == 8  # two windows of each clip
    assert second.final is not None
    generator, _ = MotionGenerator.load(second.final / "dmg.safetensors")
    assert generator.config.words == ("a", "b", "square")
    assert (tmp_path / "second/samples/step-000004.mp4").exists()

    again = train(recipe | {"steps": 6}, tmp_path / "second", progress=False)
    assert (again.resumed_from, again.steps) == (4, 6)

    train(autoencoder_recipe(data, seed=1), tmp_path / "other", progress=False)
    other = generator_recipe(data, tmp_path / "other/final/mcd_vae.safetensors", tmp_path / "cache")
    with pytest.raises(StateError, match="codec_sha256") as caught:
        train(other, tmp_path / "third", progress=False)
    assert "rebuild" in caught.value.fix

    wide = recipe["stage"] | {"codec": CODEC | {"content_base": 16}}
    with pytest.raises(ConfigError, match="the recipe says"):
        train(recipe | {"stage": wide}, tmp_path / "fourth", progress=False)
    with pytest.raises(WeightsError, match="no autoencoder at"):
        train(generator_recipe(data, tmp_path / "none", tmp_path / "c2"), tmp_path / "fifth", progress=False)


def test_a_resumed_autoencoder_has_the_same_bits(tmp_path: Path) -> None:
    """The real networks in bf16, stopped just before and just after the adversary joins in."""
    recipe = autoencoder_recipe(make_clips(tmp_path / "data"), sample_every=None, steps=4)
    train(recipe, tmp_path / "whole", progress=False)
    for steps in (1, 2, 3, 4):
        train(recipe | {"steps": steps}, tmp_path / "parts", progress=False)
    for name in ("networks", "optimizers", "randomness"):
        whole, parts = (
            (tmp_path / run / f"checkpoints/step-000004/{name}.safetensors").read_bytes()
            for run in ("whole", "parts")
        )
        assert whole == parts


def test_measured_latent_scale(tmp_path: Path) -> None:
    """z_norm: std is measured on the cache and exported with the generator."""
    data, scaled = make_clips(tmp_path / "data"), {**CODEC, "z_norm": "std"}
    recipe = autoencoder_recipe(data, stage={"kind": "lamd-autoencoder", "codec": scaled}, sample_every=None)
    first = train(recipe, tmp_path / "first", progress=False)
    assert first.final is not None
    generator = generator_recipe(data, first.final / "mcd_vae.safetensors", tmp_path / "cache")
    generator["stage"]["codec"] = scaled
    second = train(generator, tmp_path / "second", progress=False)
    assert second.final is not None
    codec = MotionContentAutoencoder.load(second.final / "mcd_vae.safetensors")
    assert not bool((codec.state_dict()["latent_norm.std"] == 1).any())


def test_bad_clips_stop_training_or_are_reported(tmp_path: Path) -> None:
    data = make_clips(tmp_path / "data", 3)
    (data / "clips/1.mp4").write_bytes(b"not a clip")
    recipe = autoencoder_recipe(data, sample_every=None)
    with pytest.raises(InputError, match=r"1 of 3 clips .*clips/1\.mp4"):
        train(recipe, tmp_path / "run", progress=False)
    tolerant = recipe | {"data": recipe["data"] | {"skip_bad": True}}
    result = train(tolerant, tmp_path / "run", progress=False)
    assert result.clips_used == 2
    assert [entry["name"] for entry in result.clips_refused] == ["clips/1.mp4"]
    events = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert any(e.get("event") == "clip_refused" and "clips/1.mp4" in e["message"] for e in events)

    plan = train(recipe, dry_run=True).to_json()
    assert plan["clips"]["used"] == 2 and plan["clips"]["stops_training"] is True
    assert plan["clips"]["refused"][0]["name"] == "clips/1.mp4"


def test_forecast_measures_a_small_run_and_writes_nothing(tmp_path: Path) -> None:
    data = make_clips(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    plan = train(autoencoder_recipe(data, steps=100), dry_run=True).to_json()
    assert sorted(tmp_path.rglob("*")) == before
    assert plan["steps"] == 100 and plan["samples"] == 200 and plan["epochs"] == 50
    assert plan["time"]["how"].startswith("the second of two real steps")
    assert plan["time"]["total_seconds"] == pytest.approx(100 * plan["time"]["seconds_per_step"])
    memory = plan["memory_bytes"]
    trained = sum(part["trained"] for part in plan["parameters"].values())
    assert memory["gradients"] == 4 * trained and memory["optimizer"] == 8 * trained
    assert memory["activations"] > 1e6
    json.dumps(plan, allow_nan=False)


@pytest.mark.parametrize(
    ("name", "part", "parameters"),
    [
        ("bair_autoencoder", "codec", 164_596_553),
        pytest.param("landscape_autoencoder", "codec", 175_267_529, marks=pytest.mark.slow),
        pytest.param("natops_autoencoder", "codec", 148_746_281, marks=pytest.mark.slow),
        pytest.param("bair_generator", "generator", 241_462_851, marks=pytest.mark.slow),
    ],
)
def test_paper_sizes_are_forecast_without_data_or_memory(name: str, part: str, parameters: int) -> None:
    plan = train(RECIPES / f"{name}.yaml", dry_run=True).to_json()
    assert plan["parameters"][part]["total"] == parameters
    assert plan["clips"]["used"] == 0 and "docs/datasets.md" in plan["clips"]["problem"]
    assert plan["memory_bytes"]["activations"] > 2**30
    assert plan["time"]["total_seconds"] > 0
    json.dumps(plan, allow_nan=False)


def test_run_folder_is_named_after_the_recipe(tmp_path: Path) -> None:
    recipe = autoencoder_recipe(make_clips(tmp_path / "data"), steps=1, sample_every=None)
    path = tmp_path / "squares.yaml"
    path.write_text(load_recipe(recipe).to_yaml())
    result = train(path, overrides=["log_every=1"], progress=False)
    assert result.run_dir == Path("runs/squares")
    assert train(path, progress=False).resumed_from == 1

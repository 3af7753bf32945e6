"""A LaMD that learns where a clip is to end and how the piece before it moved, from clips to a chained, looping base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import motionloom as ml
from motionloom.codecs.mcd_vae import MCDVAEConfig, MotionContentAutoencoder
from motionloom.datasets.consecutive import Consecutive
from motionloom.datasets.latent_cache import LatentCache
from motionloom.denoisers.lamd import LamdBase
from motionloom.train import train
from motionloom.training.recipe import load_recipe
from motionloom.video.clip import Clip

CODEC = {"motion_base": 4, "content_base": 8}


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """Clips of 2 * 8 - 1 frames in which the brightness counts the frames, and a fresh autoencoder."""
    (tmp_path / "clips").mkdir()
    for number in range(3):
        frames = np.arange(15, dtype=np.uint8)[:, None, None, None] * 10 + number
        Clip(np.broadcast_to(frames, (15, 16, 16, 3)).copy(), 8.0).save(tmp_path / f"clips/{number}.mp4")
    torch.manual_seed(0)
    config = MCDVAEConfig(num_frames=8, size_px=(16, 16), **CODEC)
    MotionContentAutoencoder(config).eval().save(tmp_path / "mcd_vae.safetensors")
    unet = {"base": 8, "multipliers": [1, 2], "res_blocks": 1, "attention_levels": [1], "heads": 2}
    stage = {
        "kind": "lamd-generator",
        "codec_weights": str(tmp_path / "mcd_vae.safetensors"),
        "codec": CODEC,
        "cache": str(tmp_path / "cache"),
        "unet": unet,
        "end_channels": 3,
        "previous": True,
        "target": "flow",
    }
    data = {"folder": str(tmp_path), "frames": 8, "size_px": 16}
    return {
        "stage": stage,
        "data": data,
        "steps": 2,
        "batch_size": 3,
        "learning_rate": 1e-3,
        "sample_every": 2,
    }


def test_from_clips_to_a_base_that_loops_and_chains(recipe: dict[str, Any], tmp_path: Path) -> None:
    done = train(recipe, tmp_path / "run", progress=False)
    base = ml.load_base(done.final)  # type: ignore[arg-type]
    assert isinstance(base, LamdBase)
    assert base.denoiser.config.end_channels == 3 and base.denoiser.config.previous
    photo = np.full((16, 16, 3), 90, np.uint8)
    clip = ml.generate(base, photo, frames=20, loop=True, steps=2)
    assert clip.num_frames == 20 and "notes" not in clip.settings

    told = load_recipe(recipe)
    cache = LatentCache(tmp_path / "cache", told.stage._identity(told))  # type: ignore[attr-defined]
    sample = cache.at(0, 0)
    first, last = sample["first_frame"].mean().add(1).mul(127.5), sample["last_frame"].float().mean()
    assert first == pytest.approx(70, abs=2) and last == pytest.approx(140, abs=2)  # frames 7 and 14
    assert sample["previous_mean"].shape == sample["mean"].shape == (3, 4, 4)
    assert not torch.equal(sample["previous_mean"], sample["mean"])


def test_the_piece_before_ends_where_the_piece_begins(recipe: dict[str, Any]) -> None:
    told = load_recipe(recipe)
    clips = told.stage.clips(told)
    assert isinstance(clips, Consecutive)
    sample = clips.at(0, 1)
    assert sample["before"].shape == sample["frames"].shape == (3, 8, 16, 16)
    assert torch.equal(sample["before"][:, -1], sample["frames"][:, 0])


def test_a_hint_is_missing_half_of_the_time(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    told = load_recipe(recipe)
    objective = told.stage.objective(told)
    batch = told.stage.example_batch(told, 64)
    assert batch is not None
    seen: dict[str, Any] = {}
    condition = objective.generator.condition  # type: ignore[attr-defined]

    def spied(f_x0: Any, text_ids: Any, end: Any, previous: Any) -> Any:
        seen.update(end=end, previous=previous)
        return condition(f_x0, text_ids, end, previous)

    monkeypatch.setattr(objective.generator, "condition", spied)  # type: ignore[attr-defined]
    list(objective.losses(batch, 0, torch.Generator().manual_seed(0)))
    for hint in seen.values():
        assert 16 <= int(hint.given.sum()) <= 48
    assert not torch.equal(seen["end"].given, seen["previous"].given)
    objective._condition(batch)  # type: ignore[attr-defined]
    assert seen["end"].given.all() and seen["previous"].given.all()

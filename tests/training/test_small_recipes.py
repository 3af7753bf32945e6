"""LaMD's small recipes: valid, fitting pairs, on worlds they can read, with the sizes their first lines say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from motionloom.training.recipe import load_recipe
from motionloom.video.clip import Clip

SMALL = Path(__file__).parents[2] / "recipes/lamd/small"
RECIPES = sorted(SMALL.glob("*.yaml"))
ABLATIONS = (  # Tab. 12: (d_t, d)
    *([f"stage.codec.latent_channels={d}"] for d in (1, 2, 3, 4)),
    ["stage.codec.latent_channels=2", "stage.codec.latent_frames=2"],
)


def objective_of(path: Path, *overrides: str) -> Any:
    recipe = load_recipe(path, overrides)
    with torch.device("meta"):
        return recipe.stage.objective(recipe, dry_run=True)


def millions(model: nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def test_there_is_a_pair_for_every_world() -> None:
    names = {path.stem for path in RECIPES}
    pairs = {
        f"{world}_{stage}"
        for world in ("pushing", "blocks", "motions")
        for stage in ("autoencoder", "generator")
    }
    assert names == pairs | {"long_generator"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is_and_how_its_data_is_made(path: Path) -> None:
    recipe, text = load_recipe(path), path.read_text()
    assert (
        re.search(r"^# Data: motionloom data synth .* -o (\S+)$", text, re.MULTILINE)[1]
        == recipe.clip_data().folder
    )  # type: ignore[index]
    objective = objective_of(path)
    stated = re.search(r"([\d.]+)M parameters", text)
    if stated is not None:
        assert millions(objective.codec) == pytest.approx(float(stated[1]), abs=0.05)
    batch = recipe.stage.example_batch(recipe, 2)
    assert batch is not None and all(len(values) == 2 for values in batch.values())


@pytest.mark.parametrize("name", ["pushing", "blocks", "motions", "long"])
def test_a_generator_reads_the_autoencoder_of_its_world(name: str) -> None:
    second = load_recipe(SMALL / f"{name}_generator.yaml")
    first = load_recipe(SMALL / f"{'pushing' if name == 'long' else name}_autoencoder.yaml")
    stages = [recipe.stage.model_dump() for recipe in (first, second)]
    assert stages[0]["codec"] == stages[1]["codec"]
    assert (first.clip_data().frames, first.clip_data().size_px) == (16, 64)
    assert (second.clip_data().frames, second.clip_data().size_px) == (16, 64)
    assert "runs/small_" in stages[1]["codec_weights"]


@pytest.mark.parametrize("overrides", ABLATIONS, ids=lambda overrides: overrides[-1])
def test_the_capacity_ablation_changes_the_latent_alone(overrides: list[str]) -> None:
    plain, changed = (
        objective_of(SMALL / "pushing_autoencoder.yaml", *more).codec for more in ([], overrides)
    )
    expected = {"stage.codec.latent_frames=2": 4}.get(overrides[-1]) or int(overrides[-1][-1])
    assert changed.config.latent_depth == expected
    assert changed.content_encoder.state_dict().keys() == plain.content_encoder.state_dict().keys()
    assert millions(changed) == pytest.approx(millions(plain), rel=0.2)


def test_the_long_generator_reads_both_hints() -> None:
    config = objective_of(SMALL / "long_generator.yaml").generator.config
    assert config.previous and config.end_channels == 16
    assert config.unet.concat_channels == 32 + (16 + 1) + (3 + 1)


def test_an_autoencoder_trains_on_the_squares_its_recipe_asks_for(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (16, 64, 64, 3), np.uint8)
    Clip(frames, 8.0).save(tmp_path / "one.mp4")
    told = ["data.layout=clips", f"data.folder={tmp_path}"]
    for asked, side in ((32, 32), ("null", 64)):
        recipe = load_recipe(SMALL / "blocks_autoencoder.yaml", [*told, f"stage.crop_px={asked}"])
        sample, planned = recipe.stage.dataset(recipe)[0], recipe.stage.example_batch(recipe, 1)
        assert sample["frames"].shape == (3, 16, side, side)
        assert planned is not None and planned["frames"].shape[1:] == sample["frames"].shape


def test_every_option_of_a_recipes_codec_reaches_the_codec() -> None:
    """A key of the recipe that is read and then dropped would train something else without a word."""
    asked = ("stage.codec.output=frames", "stage.codec.motion_input=change")
    for overrides, expected in (((), ("blend", "clip")), (asked, ("frames", "change"))):
        recipe: Any = load_recipe(SMALL / "blocks_autoencoder.yaml", overrides)
        config = recipe.stage.codec.config(recipe)
        assert (config.output.name, config.motion_input) == expected
        written = json.loads(config.to_json())
        assert {
            key: written[key] for key in recipe.stage.codec.model_dump()
        } == recipe.stage.codec.model_dump()

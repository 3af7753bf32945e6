"""Protocols: which frames and which part of the picture; samples that depend on (seed, epoch, index) alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from motionloom.datasets.bair import BairPushing
from motionloom.datasets.cater import CaterGen
from motionloom.datasets.mug import Mug
from motionloom.datasets.natops import Natops
from motionloom.datasets.protocol import SAMPLINGS, Protocol, frames_needed, prepare
from motionloom.datasets.published_clips import PublishedClips
from motionloom.errors import ConfigError, InputError
from motionloom.training.recipe import load_recipe
from tests.datasets import official_layouts as make

RECIPES = Path(__file__).parents[2] / "recipes/lamd"


@pytest.mark.parametrize("name", SAMPLINGS)
def test_samplings_are_in_order_and_within(name: str) -> None:
    rng = np.random.default_rng(0)
    for count in (16, 17, 31, 100):
        for _ in range(30):
            if count >= frames_needed(name, 16):
                picked = SAMPLINGS[name](count, 16, rng)
                assert picked.shape == (16,) and (np.diff(picked) >= 0).all()
                assert picked[0] >= 0 and picked[-1] < count


def test_samplings_are_the_papers() -> None:
    rng = np.random.default_rng(0)
    assert SAMPLINGS["uniform"](31, 4, rng).tolist() == [0, 10, 20, 30]
    assert SAMPLINGS["uniform"](3, 5, rng).tolist() == [0, 1, 2, 2, 2]
    assert SAMPLINGS["first"](30, 3, rng).tolist() == [0, 1, 2]
    assert {int(SAMPLINGS["window"](30, 16, rng)[0]) for _ in range(300)} == set(range(15))
    assert all(SAMPLINGS["sorted-random"](40, 8, rng)[0] == 0 for _ in range(20))
    strides = {int(np.diff(SAMPLINGS["speed-3-6"](301, 16, rng))[0]) for _ in range(200)}
    assert strides == {3, 4, 5, 6}
    assert SAMPLINGS["speed-3-6"](20, 16, rng)[-8:].tolist() == [19] * 8  # padded with the last


def test_natops_box_and_letter_box() -> None:
    frames = np.zeros((1, 240, 320, 3), np.uint8)
    frames[:, 10:239, 30:290] = 200
    made = prepare(frames, Natops.protocol(Natops.__new__(Natops), "train"), 128, 128, "pad")
    lit = made[0, :, :, 0] > 100
    assert lit.any(1).sum() == 113 and lit.any(0).sum() == 128  # 260 x 229 => 128 x 113
    assert set(np.unique(made)) == {0, 200}


def test_area_averages() -> None:
    rows = np.zeros((1, 64, 64, 3), np.uint8)
    rows[:, ::2] = 200
    made = prepare(rows, Protocol("first", area=True), 32, 32, "pad")
    assert (made == 100).all()


def test_samples_depend_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    layout = BairPushing(make.make_bair(tmp_path, {"train/traj_0_to_1": 2, "test/traj_0_to_0": 1}))
    one, two = (PublishedClips(layout, "train", 16, (64, 64), seed=1) for _ in range(2))
    two.at(5, 1)
    assert torch.equal(one.at(3, 1)["frames"], two.at(3, 1)["frames"])
    starts = set()
    for epoch in range(80):
        frames = one.at(epoch, 1)["frames"]
        grey = ((frames[0, :, 0, 0] + 1) * 127.5).round().int()
        assert torch.equal(grey.diff(), torch.ones(15, dtype=torch.int))
        starts.add(int(grey[0]) - 10)
    assert starts == set(range(15))
    test = PublishedClips(layout, "test", 16, (64, 64), cache_mb=0)
    assert ((test.at(9, 0)["frames"][0, :, 0, 0] + 1) * 127.5 - 100).round().tolist() == list(range(16))
    assert one.notes == ("2 clips; the complete train split of BAIR robot pushing has 43264",)


def test_captions_mirrors_and_padding(tmp_path: Path) -> None:
    layout = Mug(make.make_mug(tmp_path, {"001/anger/take000": 3}))
    clips = PublishedClips(layout, "test", 5, (16, 16), fit="pad", flip=True)
    sample = clips.at(0, 0)
    assert sample["text"] == "anger" and sample["frames"].shape == (3, 5, 16, 16)
    middle = ((sample["frames"][0, :, 8, 8] + 1) * 127.5).round().tolist()
    assert middle == [10, 20, 30, 30, 30]


def test_what_cannot_be_used_stops_training(tmp_path: Path) -> None:
    caption = "the cone is rotating."
    make.make_cater(tmp_path, {"train": [caption] * 2, "test": []}, 20)
    make.save_avi(tmp_path / "videos/CATER_new_train000001.avi", make.grey_frames(range(16)), 24)
    layout = CaterGen(tmp_path)
    with pytest.raises(InputError) as caught:
        PublishedClips(layout, "train", 16, (32, 32))
    assert (
        "1 of 2 clips of CATER-GEN" in caught.value.message and "16 frames, 17 needed" in caught.value.message
    )
    clips = PublishedClips(layout, "train", 16, (32, 32), skip_bad=True)
    assert len(clips) == 1 and clips.refused[0][0] == "videos/CATER_new_train000001.avi"
    assert len(PublishedClips(layout, "train", 16, (32, 32), sampling="uniform")) == 2
    with pytest.raises(InputError, match="it is empty"):
        PublishedClips(layout, "test", 16, (32, 32))
    with pytest.raises(ConfigError, match='no sampling "fast"'):
        PublishedClips(layout, "train", 16, (32, 32), sampling="fast")


def test_a_damaged_record_is_left_out_at_the_start_and_not_met_in_the_middle(tmp_path: Path) -> None:
    make.make_bair(tmp_path, {"train/traj_0_to_2": 3})
    file = next(tmp_path.rglob("traj_0_to_2.tfrecords"))
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF  # in the second of three records
    file.write_bytes(damaged)
    clips = PublishedClips(BairPushing(tmp_path), "train", 16, (64, 64), skip_bad=True)
    assert len(clips) == 2 and len(clips.refused) == 1
    assert "traj_0_to_2.tfrecords" in clips.refused[0][0]
    assert all(clips.at(0, index)["frames"].shape == (3, 16, 64, 64) for index in range(2))


def test_rates_are_resampled_and_said(tmp_path: Path) -> None:
    layout = BairPushing(make.make_bair(tmp_path, {"train/traj_0_to_0": 1}))
    clips = PublishedClips(layout, "train", 15, (64, 64), fps=5.0)
    assert clips.notes[0] == "1 of 1 clips resampled from 10 to 5 frames per second"
    grey = ((clips.at(0, 0)["frames"][0, :, 0, 0] + 1) * 127.5).round()
    assert grey.tolist() == list(range(0, 30, 2))


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*_autoencoder.yaml")), ids=lambda path: path.stem)
def test_recipes_name_their_layout(path: Path) -> None:
    data = load_recipe(path).clip_data()
    assert data.layout == path.stem.partition("_")[0] and data.split == "train"


def test_a_stage_reads_the_layout_its_recipe_names(tmp_path: Path) -> None:
    make.make_mug(tmp_path, {"008/anger/take000": 4, "008/fear/take000": 5})
    recipe = load_recipe(
        RECIPES / "mug_autoencoder.yaml", [f"data.folder={tmp_path}", "data.size_px=16", "data.frames=4"]
    )
    dataset = recipe.stage.dataset(recipe)
    assert len(dataset) == 2 and dataset.at(0, 0)["frames"].shape == (3, 4, 16, 16)
    assert dataset.at(0, 1)["text"] == "fear"
    with pytest.raises(ConfigError, match="expected clips or one of bair"):
        load_recipe(recipe, ["data.layout=kinetics"])
    with pytest.raises(ConfigError, match="give their layout"):
        load_recipe(recipe, ["data.layout=clips", "data.split=test"])
    with pytest.raises(ConfigError, match="captions belongs to layout: cater, got layout: mug"):
        load_recipe(recipe, ["data.captions=explicit"])


def test_a_recipe_chooses_captions_and_camera(tmp_path: Path) -> None:
    make.make_cater(tmp_path / "cater", {"train": ["the cone is rotating."], "test": []}, 20)
    (tmp_path / "cater/train_explicit.json").write_text(
        json.dumps(
            {
                "0": {
                    "video": "videos/CATER_new_train000000.avi",
                    "caption": "the small gold metal cone is rotating.",
                }
            }
        )
    )
    make.make_bair(tmp_path / "bair", {"train/traj_0_to_0": 1})
    for name, asked in (("cater", "captions=explicit"), ("bair", "view=image_main")):
        told = [f"data.layout={name}", f"data.folder={tmp_path / name}", f"data.{asked}"]
        recipe = load_recipe(
            RECIPES / f"{name}_autoencoder.yaml", [*told, "data.size_px=64", "data.frames=16"]
        )
        plain = load_recipe(recipe, [f"data.{asked.partition('=')[0]}=null"])
        one, other = (this.stage.dataset(this).at(0, 0) for this in (recipe, plain))
        if name == "cater":
            assert (one["text"], other["text"]) == (
                "the small gold metal cone is rotating.",
                "the cone is rotating.",
            )
        else:
            assert not torch.equal(one["frames"], other["frames"])


def test_latents_of_one_camera_are_not_taken_for_those_of_the_other(tmp_path: Path) -> None:
    """A latent cache is told by everything in `data` that a sample depends on, and by nothing else."""
    make.make_bair(tmp_path, {"train/traj_0_to_0": 1})
    (tmp_path / "codec").write_bytes(b"")
    told = [f"data.folder={tmp_path}", f"stage.codec_weights={tmp_path / 'codec'}"]
    recipe = load_recipe(RECIPES / "small/pushing_generator.yaml", told)

    def identity(asked: str) -> object:
        changed = load_recipe(recipe, [asked])
        return changed.stage._identity(changed)  # type: ignore[attr-defined]

    whole = identity("data.split=train")
    for asked in ("view=image_main", "sampling=first", "frames=8", "fps=5", "fit=pad", "flip=true"):
        assert identity(f"data.{asked}") != whole, asked
    for asked in ("num_workers=2", "cache_mb=1"):
        assert identity(f"data.{asked}") == whole, asked

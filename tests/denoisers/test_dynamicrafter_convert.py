"""Sizes of the released model, and official checkpoints => folder => networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from motionloom.adapters.text_adapter import TextAdapter
from motionloom.cli import main
from motionloom.denoisers.dynamicrafter import checkpoint as official_checkpoint
from motionloom.denoisers.dynamicrafter.checkpoint import (
    convert_dynamicrafter,
    load_checkpoint,
    part_tensors,
    recognise,
)
from motionloom.denoisers.dynamicrafter.folder import is_model, read_folder
from motionloom.denoisers.dynamicrafter.official import BUFFERS, UNUSED, part_of
from motionloom.denoisers.dynamicrafter.parts import RELEASED, DynamiCrafterConfig, Parts, build, planned
from motionloom.errors import InputError, WeightsError
from motionloom.inspection import describe
from motionloom.merging.checkpoint import open_checkpoint
from tests.denoisers.official_names import SMALL, small_checkpoint

KEY_LIST = Path(__file__).parents[1] / "parity" / "dynamicrafter" / "key_list.json"
KEYS = json.loads(KEY_LIST.read_text())
SIZES = {"unet": 1_438_854_980, "vae": 83_653_863, "image_projection": 48_787_456}


def on_meta(shapes: list[list[object]]) -> dict[str, Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape, *_ in shapes}


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.fixture(scope="module")
def full() -> Parts:
    with torch.device("meta"):
        return build(DynamiCrafterConfig())


def test_sizes_of_the_released_model(full: Parts) -> None:
    for name, size in SIZES.items():
        assert count(getattr(full, name)) == size
    adapter = TextAdapter.of(full.unet.to("meta"))
    assert len(adapter.layers) == 17
    assert count(adapter) == 30_181_056
    with torch.device("meta"):
        gated = build(RELEASED["dynamicrafter-256"])
    assert count(gated.unet) == SIZES["unet"] + 16


def test_all_2520_official_tensors_have_one_place() -> None:
    official = on_meta(KEYS["keys"])
    assert len(official) == 2520
    assert sum(t.numel() for k, t in official.items() if k not in BUFFERS) == 2_609_129_005
    tensors = part_tensors(official, DynamiCrafterConfig(), "the key list")
    planned(DynamiCrafterConfig(), tensors, "the key list")
    read = [key for key in official if part_of(key)]
    assert sorted(set(official) - set(read)) == sorted(BUFFERS | UNUSED)
    assert len(read) == 2520 - 22
    sizes = {part: sum(t.numel() for t in getattr(n, "stored", n).values()) for part, n in tensors.items()}
    assert sum(sizes.values()) == sum(official[key].numel() for key in read)


def test_2560_with_the_text_adapter() -> None:
    manifest = json.loads((KEY_LIST.parents[1] / "edg" / "adapter_forward.json").read_text())
    official = on_meta(KEYS["keys"]) | on_meta(manifest["full_size_adapter_keys"])
    assert len(official) == 2560
    planned(DynamiCrafterConfig(), part_tensors(official, DynamiCrafterConfig(), "it"), "it")


# --- a small checkpoint under the official names -----------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> dict[str, Tensor]:
    return small_checkpoint()


WRAPPERS = {
    "lightning": lambda tensors: {"state_dict": tensors, "global_step": 7},
    "deepspeed": lambda tensors: {"module": {f"_forward_module.{k}": v for k, v in tensors.items()}},
    "distributed": lambda tensors: {"state_dict": {f"module.{k}": v for k, v in tensors.items()}},
    "plain": dict,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapping_gives_the_same_tensors(wrapper: str, small: dict[str, Tensor]) -> None:
    torch.save(WRAPPERS[wrapper](small), "model.ckpt")
    with open_checkpoint("model.ckpt") as opened:
        found = part_tensors(opened, SMALL, wrapper)
        expected = part_tensors(small, SMALL, wrapper)
        for part, tensors in expected.items():
            assert set(found[part]) == set(tensors)
            assert all(torch.equal(found[part][name], tensors[name]) for name in tensors)


def test_a_checkpoint_becomes_a_folder_of_shards(
    small: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motionloom.denoisers.dynamicrafter.folder.SHARD_BYTES", 1 << 20)
    torch.save({"state_dict": small}, "model.ckpt")
    convert_dynamicrafter("model.ckpt", "out", SMALL)
    assert is_model(Path("out"))
    assert len(list(Path("out/unet").glob("*.safetensors"))) > 3
    config, parts = read_folder(Path("out"))
    assert config == SMALL
    told = describe("out")
    assert told["model"] == "DynamiCrafter" and told["parameters"]["unet"] == count(parts.unet)
    _, direct = load_checkpoint("model.ckpt", SMALL)
    for name, network in parts.named().items():
        other = direct.named()[name].state_dict()
        assert all(torch.equal(value, other[key]) for key, value in network.state_dict().items())
    in_proj = small["cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"]
    key_projection = parts.text_encoder.state_dict()["encoder.layers.0.self_attn.k_proj.weight"]
    assert torch.equal(key_projection, in_proj[16:32])


def test_other_sizes_through_the_command_line(small: dict[str, Tensor]) -> None:
    """Convert a checkpoint of sizes that were never released, and animate with it."""
    torch.save({"state_dict": small}, "model.ckpt")
    Path("like").mkdir()
    index = {"_class_name": "DynamiCrafter", "config": SMALL.model_dump(mode="json")}
    Path("like/model_index.json").write_text(json.dumps(index))
    assert main(["convert", "model.ckpt", "-o", "out", "--like", "nowhere"]) == 2 and not Path("out").exists()
    assert main(["convert", "model.ckpt", "-o", "out", "--like", "like"]) == 0
    Image.new("RGB", (64, 64), "teal").save("photo.png")
    words = "animate photo.png --base out --prompt waves --frames 3 --steps 2 -o clip.mp4"
    assert main(words.split()) == 0 and Path("clip.mp4").is_file()


def test_strict_and_nothing_half_written(small: dict[str, Tensor]) -> None:
    key, other = "image_proj_model.proj_out.bias", "image_proj_model.norm_out.bias"
    cases = {
        "1 missing.*1 mis-shaped": {k: v for k, v in small.items() if k != key} | {other: torch.zeros(3)},
        "belong to no part": small | {"what.is.this": torch.zeros(1)},
        "became": small | {"first_stage_model.odd.weight": torch.zeros(1)},
    }
    for told, tensors in cases.items():
        torch.save({"state_dict": tensors}, "bad.ckpt")
        with pytest.raises(WeightsError, match=told):
            convert_dynamicrafter("bad.ckpt", "out", SMALL)
        assert not Path("out").exists()
    torch.save({"state_dict": small}, "model.ckpt")
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("mine")
    with pytest.raises(InputError):
        convert_dynamicrafter("model.ckpt", "mine", SMALL)
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]


def test_the_released_sizes_are_recognised() -> None:
    unet = {"model.diffusion_model.out.2.bias": torch.zeros(4)}
    scales = {"0.7": torch.full((1400,), 0.7), "0.3": torch.full((1400,), 0.3)}
    at = Path("model.ckpt")
    assert recognise(unet | {"scale_arr": scales["0.7"]}, at).name == "dynamicrafter-512"
    assert recognise(unet | {"scale_arr": scales["0.3"]}, at).name == "dynamicrafter-1024"
    assert recognise({"model.diffusion_model.x.attn2.alpha": torch.zeros(())}, at).name == "dynamicrafter-256"
    assert recognise(unet, Path("dynamicrafter_1024_v1/model.ckpt")).name == "dynamicrafter-1024"
    assert recognise(unet, Path("dynamicrafter_512_interp_v1/model.ckpt")).given == "first-and-last"
    with pytest.raises(WeightsError, match=r"rescales by 0\.5"):
        recognise(unet | {"scale_arr": torch.full((1400,), 0.5)}, at)


def test_is_dynamicrafter() -> None:
    assert official_checkpoint.is_dynamicrafter({key: None for key, *_ in KEYS["keys"]})
    assert not official_checkpoint.is_dynamicrafter({"model.diffusion_model.out.2.bias": None})

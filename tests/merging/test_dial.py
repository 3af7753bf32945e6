"""The dial on the shipped model: a merged folder that animates with two experts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import motionloom as ml
from motionloom.cli import main
from motionloom.errors import ConfigError, WeightsError
from motionloom.weights import load_weights, save_weights
from motionloom.zoo import MINI

PHOTO = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
FEW = {"frames": 2, "steps": 2}


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mini and a neighbour of it, decoupled into experts, and as two full models."""
    folder = tmp_path_factory.mktemp("dial")
    tensors, metadata = load_weights(MINI / "generator.safetensors")
    generator = torch.Generator().manual_seed(0)
    near = {
        name: (
            w.float() + 0.05 * w.float().std(correction=0) * torch.randn(w.shape, generator=generator)
        ).half()
        for name, w in tensors.items()
    }
    save_weights(folder / "tuned.safetensors", near, metadata)
    recipe = {
        "method": {"kind": "decouple"},
        "base": "mini",
        "tuned": str(folder / "tuned.safetensors"),
        "keys": "partial",
        "groups": ["re:^unet"],
        "dtype": "float32",
    }
    ml.merge({**recipe, "exports": ["experts"]}, folder / "experts")
    ml.merge(recipe, folder / "full")
    return folder


def frames(base: object) -> np.ndarray:
    return ml.generate(base, PHOTO, [("pan-left", 1.0)], **FEW).frames  # type: ignore[arg-type]


def test_dial(merged: Path) -> None:
    plain = frames(ml.load_base("mini"))
    off = ml.load_base(merged / "experts", motion_degree=0, control=0)
    assert np.array_equal(frames(off), plain)  # 0 and 0 are the base
    more = ml.load_base(merged / "experts", motion_degree=1.5)
    first = frames(more)
    assert not np.array_equal(first, plain)
    assert np.array_equal(frames(more), first)  # the network came back to the early expert
    facts = more.facts()
    assert facts["options"] == {"motion_degree": 1.5, "control": 1.0} and set(facts["experts_sha256"]) == {
        "degree",
        "control",
    }


def test_dialled_weights_are_the_full_experts(merged: Path) -> None:
    base = ml.load_base(merged / "experts")
    full = {
        expert: load_file(merged / "full" / expert / "generator.safetensors")
        for expert in ("degree", "control")
    }
    network = base.denoiser
    for timestep, expert, tolerance in ((900.0, "degree", 1e-7), (500.0, "control", 1e-3)):
        base.experts.at(timestep)
        for name, tensor in network.state_dict().items():
            expected = full[expert][name]
            assert torch.allclose(
                tensor, expected, rtol=1e-6, atol=tolerance * float(expected.abs().max())
            ), name
    base.experts.at(900.0)
    assert base.experts.extra_share < 0.7


def test_each_dial_turns_its_own_expert(merged: Path) -> None:
    """Early steps run base + motion_degree * degree, late ones base + control * control."""
    plain = dict(ml.load_base("mini").denoiser.state_dict())
    base = ml.load_base(merged / "experts", motion_degree=2.0, control=0.5)
    for timestep, expert, factor, tolerance in ((900.0, "degree", 2.0, 1e-6), (500.0, "control", 0.5, 1e-2)):
        base.experts.at(timestep)
        differences = load_file(merged / "experts" / "experts" / f"{expert}.safetensors")
        assert differences
        for name, difference in differences.items():
            turned = base.denoiser.state_dict()[name] - plain[name]
            error = (turned - factor * difference.float()).abs().max()
            assert error <= tolerance * float(difference.abs().max()) + 1e-6, (expert, name)


def test_one_merged_model_is_a_base(merged: Path) -> None:
    assert frames(ml.load_base(merged / "full" / "degree")).shape == (2, 32, 32, 3)


def test_refusals(merged: Path) -> None:
    for base in (merged / "full" / "degree", "tiny-dynamicrafter", "mini"):
        with pytest.raises(WeightsError, match="carries no experts") as caught:
            ml.load_base(base, motion_degree=1.2)
        assert "motionloom merge" in caught.value.fix
    with pytest.raises(ConfigError, match="got motion-degree 'much', expected a number"):
        ml.load_base(merged / "experts", motion_degree="much")


def test_command(merged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    Image.fromarray(PHOTO).save("photo.png")
    words = ["animate", "photo.png", "--motion", "pan-left", "--frames", "2", "--steps", "2", "--json"]
    assert main([*words, "--base", str(merged / "experts"), "--motion-degree", "1.5", "-o", "out"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["settings"]["base_facts"]["options"] == {"motion_degree": 1.5, "control": 1.0}
    for dial in ("--motion-degree", "--control"):
        assert main([*words, "--base", "mini", dial, "1.5", "-o", "other"]) == 2
        assert "carries no experts" in capsys.readouterr().err
    assert not Path("other").exists()

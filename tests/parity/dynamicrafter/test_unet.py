"""The video network and the stage-1 adapter against the official code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import motionloom as ml
from motionloom.errors import ConfigError, InputError, WeightsError
from tests.parity.golden import read_case

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", ["unet_tiny", "unet_tiny64"])
@torch.no_grad()
def test_unet(name: str) -> None:
    case = read_case(HERE, name)
    unet = ml.dynamicrafter_unet(case.weights(), case.manifest["config"])
    assert sum(p.numel() for p in unet.parameters()) == case.manifest["parameters"]
    t = case.tensors
    case.check("output", unet(t["x"], t["t"], t["context"], t["fs"]), t["output"])


@torch.no_grad()
def test_text_adapter() -> None:
    case = read_case(HERE.parent / "edg", "adapter_forward")
    unet = ml.dynamicrafter_unet(case.weights(), case.manifest["config"])
    assert sum(p.numel() for p in unet.parameters()) == case.manifest["parameters"]
    t = case.tensors
    told = unet.text_adapter.temporal_context(t["context"][:, :77], 16)
    case.check("temporal_context", told, t["temporal_context"])
    case.check("output", unet(t["x"], t["t"], t["context"], t["fs"]), t["output"])


def test_names_with_and_without_prefix_and_other_parts_give_the_same_network() -> None:
    case = read_case(HERE, "unet_tiny")
    weights = case.weights()
    bare = {key.removeprefix("model.diffusion_model."): value for key, value in weights.items()}
    bare["betas"], bare["first_stage_model.x"] = torch.zeros(1000), torch.zeros(1)
    one = ml.dynamicrafter_unet(weights, {"target": "anything", "params": case.manifest["config"]})
    other = ml.dynamicrafter_unet(bare, case.manifest["config"])
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_strict() -> None:
    case = read_case(HERE, "unet_tiny")
    weights, config = case.weights(), case.manifest["config"]
    key = "model.diffusion_model.out.2.bias"
    with pytest.raises(WeightsError, match="1 missing .*conv_out.bias"):
        ml.dynamicrafter_unet({k: v for k, v in weights.items() if k != key}, config)
    with pytest.raises(WeightsError, match="extra.weight"):
        ml.dynamicrafter_unet(weights | {"extra.weight": torch.zeros(1)}, config)
    with pytest.raises(WeightsError, match="mis-shaped"):
        ml.dynamicrafter_unet(weights | {key: torch.zeros(5)}, config)
    with pytest.raises(WeightsError, match="no text adapter"):
        ml.dynamicrafter_unet(weights, config | {"temporal_selfatt_only": False})
    with pytest.raises(ConfigError, match="use_causal_attention"):
        ml.dynamicrafter_unet(weights, config | {"use_causal_attention": True})
    with pytest.raises(ConfigError, match="chanel_mult"):
        ml.dynamicrafter_unet(weights, config | {"chanel_mult": [1]})


def test_image_tokens_that_do_not_fit_the_frames_are_refused() -> None:
    case = read_case(HERE, "unet_tiny")
    unet, t = ml.dynamicrafter_unet(case.weights(), case.manifest["config"]), case.tensors
    with pytest.raises(InputError, match=r"expected \(2, 205, 16\)"):
        unet(t["x"][:, :, :8], t["t"], t["context"], t["fs"])
    with pytest.raises(InputError, match="latents"):
        unet(t["x"][:, :4], t["t"], t["context"], t["fs"])

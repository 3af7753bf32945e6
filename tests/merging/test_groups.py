"""Parameter groups against the sizes of the real networks."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import pytest
import torch
from torch import nn

from motionloom.errors import ConfigError
from motionloom.merging.groups import FAMILIES, counts, family_of, select

KEY_LIST = Path(__file__).parents[1] / "parity" / "dynamicrafter" / "key_list.json"
# millions of parameters, counted on the official checkpoint's names and shapes
MEASURED = {
    "temporal_attention": 278.4,
    "temporal_conv": 266.9,
    "spatial_attention": 299.2,
    "resblocks": 537.7,
    "resampling": 52.5,
    "embeddings": 4.1,
    "projector": 48.8,
}


def test_groups_of_the_official_checkpoint() -> None:
    listed = json.loads(KEY_LIST.read_text())["keys"]
    shapes = {name: shape for name, shape, *_ in listed if name.startswith(("model.diffusion", "image_proj"))}
    family = family_of(shapes)
    assert family is not None and family.name == "dynamicrafter"
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        group = family.group_of(name)
        sizes[group] = sizes.get(group, 0) + prod(shape)
    for group, millions in MEASURED.items():
        assert sizes.pop(group) / 1e6 == pytest.approx(millions, abs=0.05), group
    assert set(sizes) == {"ends"}  # nothing is forgotten, and the two end convolutions are all that remains
    assert sizes["ends"] < 60_000
    assert sum(counts(shapes).values()) == len(shapes)


def names_of(module: nn.Module) -> list[str]:
    return list(module.state_dict())


def test_groups_of_the_shipped_model() -> None:
    from motionloom.denoisers.map_generator import MapGenerator

    with torch.device("meta"):
        names = names_of(MapGenerator())
    found = counts(names)
    assert set(found) >= {"attention", "embeddings", "resblocks", "projector", "generator_other"}
    assert sum(found.values()) == len(names)


def test_groups_of_diffusers_networks() -> None:
    from diffusers import UNet3DConditionModel, UNetMotionModel, WanTransformer3DModel

    small = {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "cross_attention_dim": 16,
    }
    with torch.device("meta"):
        motion = UNetMotionModel(
            **small,
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
            motion_num_attention_heads=2,
        )
        crafter = UNet3DConditionModel(
            **small,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            attention_head_dim=8,
        )
        wan = WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, ffn_dim=32, num_layers=2, text_dim=16
        )
    for network, family, groups in (
        (
            motion,
            "animatediff",
            {"temporal_attention", "spatial_attention", "resblocks", "resampling", "embeddings", "ends"},
        ),
        (
            crafter,
            "dynamicrafter-diffusers",
            {
                "temporal_attention",
                "temporal_conv",
                "spatial_attention",
                "resblocks",
                "resampling",
                "embeddings",
                "ends",
            },
        ),
        (wan, "wan", {"attention", "text_attention", "feed_forward", "modulation", "embeddings", "other"}),
    ):
        names = names_of(network)
        known = family_of(names)
        assert known is not None and known.name == family
        assert set(counts(names)) == groups


def test_selection() -> None:
    names = ["input_blocks.1.2.proj.weight", "input_blocks.1.1.proj.weight", "time_embed.0.weight"]
    assert select(names, ["temporal_attention"]) == names[:1]
    assert select(names, ["embeddings", "temporal_attention"]) == [names[0], names[2]]
    assert select(names, [r"re:\.1\.\d\."]) == names[:2]
    assert select(names, ["all"]) == names
    with pytest.raises(
        ConfigError, match="matches none of the 3 tensors.*use all, embeddings, spatial_attention"
    ):
        select(names, ["projector"])
    with pytest.raises(ConfigError, match="no table of groups knows"):
        select(["a.weight"], ["temporal_attention"])


def test_every_family_covers_every_name() -> None:
    for family in FAMILIES:
        assert family.group_of("anything at all") == "other"

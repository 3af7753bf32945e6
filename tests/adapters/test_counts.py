"""Parameters on the full-size bases, counted without memory: the paper's 35.4M, 35.5M and what its parts must sum to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import motionloom as ml
from motionloom.convert import _EMPTY_NETWORKS


@pytest.fixture(scope="module")
def animatediff() -> Any:
    return _EMPTY_NETWORKS["animatediff-v3"]()


@pytest.fixture(scope="module")
def wan13() -> Any:
    return _EMPTY_NETWORKS["wan2.1-t2v-1.3b"]()


def by_part(adapter: ml.Adapter) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, parameter in adapter.named_parameters():
        part = next(
            (p for p in (".cfa.mask", ".cfa", ".ca_background", ".ca") if p + "." in name), "temporal"
        )
        counts[part.strip(".")] = counts.get(part.strip("."), 0) + parameter.numel()
    return counts


def test_bases(animatediff: Any, wan13: Any) -> None:
    assert sum(p.numel() for p in animatediff.parameters()) == 1_276_658_564
    assert sum(p.numel() for p in wan13.parameters()) == 1_418_996_800


@pytest.mark.parametrize("preset", ["default", "released"])
def test_unet(animatediff: Any, preset: str) -> None:
    adapter = ml.new_adapter(animatediff, preset)
    assert all(parameter.device.type == "meta" for parameter in adapter.parameters())
    assert by_part(adapter) == {"cfa": 24_834_272, "ca": 1_599_488, "temporal": 9_011_200}
    assert adapter.num_parameters == 35_444_960 and len(adapter.state_dict()) == 464


def test_masked_unet(animatediff: Any) -> None:
    adapter = ml.new_adapter(animatediff, masked=True)
    assert by_part(adapter)["cfa.mask"] == 24_793_280
    assert adapter.num_parameters == 60_238_240 and len(adapter.state_dict()) == 512
    masks = adapter.settings.masks
    assert masks is not None
    with_background = adapter.settings.model_copy(
        update={"masks": masks.model_copy(update={"background": True})}
    )
    both = ml.new_adapter(animatediff, settings=with_background)
    assert both.num_parameters - 35_444_960 == 26_392_768 and both.num_parameters == 61_837_728


def test_wan(wan13: Any) -> None:
    adapter = ml.new_adapter(wan13)
    assert by_part(adapter) == {"cfa": 23_592_960 + 92_220, "ca": 11_854_080}
    assert adapter.num_parameters == 35_539_260
    text_free = adapter.settings.text_free
    assert text_free is not None
    without_bias = adapter.settings.model_copy(
        update={"text_free": text_free.model_copy(update={"bias": False})}
    )
    assert ml.new_adapter(wan13, settings=without_bias).num_parameters == 35_489_340


def test_masked_wan(wan13: Any) -> None:
    adapter = ml.new_adapter(wan13, masked=True)
    assert adapter.num_parameters - 35_539_260 == 35_447_040 and adapter.num_parameters == 70_986_300


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_start_values_are_the_seeds(preset: str) -> None:
    from tests.adapters.conftest import small_wan

    host = small_wan()
    one, same, other = (ml.new_adapter(host, preset, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)

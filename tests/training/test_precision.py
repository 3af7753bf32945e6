"""The loss scale of fp16: its rule, its state, and the operations fp16 lacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from motionloom.errors import ConfigError
from motionloom.training import forecast, precision
from motionloom.training.precision import LossScale, emulated, missing_operations_told
from motionloom.training.recipe import load_recipe

CPU = torch.device("cpu")
SMALL = Path(__file__).parents[2] / "recipes/lamd/small"


def scale_after(gradients: list[float], scale: LossScale) -> list[float]:
    """The scale after each of these gradients of one weight."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    values = []
    for gradient in gradients:
        scale.scaled((weight * gradient).sum()).backward()
        scale.unscale(optimizer)
        scale.step(optimizer)
        optimizer.zero_grad()
        scale.adapt()
        values.append(scale.value)
    return values


def test_the_scale_halves_at_once_and_doubles_after_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = LossScale(CPU, "fp16").state_dict()
    assert fresh == {
        "scale": 65536.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 0,
        "overflows": 0,
    }
    monkeypatch.setattr(precision, "GROWTH_INTERVAL", 3)
    inf = float("inf")
    scale = LossScale(CPU, "fp16")
    in_thousands = [value / 1024 for value in scale_after([1, 1, 1, 1, 1, inf, 1, 1, 1, inf, inf], scale)]
    assert in_thousands == [64, 64, 128, 128, 128, 64, 64, 64, 128, 64, 32]
    assert scale.overflows == 3


def test_a_restored_scale_goes_on_inside_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "GROWTH_INTERVAL", 3)
    first, second = LossScale(CPU, "fp16"), LossScale(CPU, "fp16")
    scale_after([1, float("nan"), 1, 1], first)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.overflows == 1
    assert scale_after([1, 1], second) == scale_after([1, 1], first) == [65536.0, 65536.0]


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_other_precisions_scale_nothing(name: str) -> None:
    scale, loss = LossScale(CPU, name), torch.tensor(0.3)
    assert scale.scaled(loss) is loss and not scale.adapt() and scale.value == 1.0


def test_only_operations_that_fp16_lacks_are_excused() -> None:
    """Other errors, and other precisions, are our own mistakes and stay as they are."""
    for name, told, kind in (
        ("fp16", "\"geqrf_cpu\" not implemented for 'Half'", ConfigError),
        ("fp16", "could not create a primitive descriptor for the LSTM forward propagation", ConfigError),
        ("fp16", "expected scalar type Half but found Float", RuntimeError),
        ("bf16", "\"geqrf_cpu\" not implemented for 'Half'", RuntimeError),
    ):
        with pytest.raises(kind), missing_operations_told(CPU, name):
            raise RuntimeError(told)


@pytest.mark.parametrize("has_it", [True, False])
def test_a_format_that_the_processor_lacks_is_told_and_never_timed_at_length(
    has_it: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_is_mkldnn_bf16_supported", "_is_mkldnn_fp16_supported"):
        monkeypatch.setattr(torch.ops.mkldnn, name, lambda: has_it)
    assert not emulated(CPU, "fp32") and not emulated(torch.device("cuda"), "bf16")
    assert emulated(CPU, "bf16") == emulated(CPU, "fp16") == (not has_it)
    recipe = load_recipe(SMALL / "blocks_autoencoder.yaml", ["precision=bf16"])
    cost = {"flop": 5e10}  # a second in hardware, a minute or more in software
    monkeypatch.setattr(forecast, "_run_real_steps", lambda *told: 1.0)
    monkeypatch.setattr(forecast, "_conv_flop_per_second", lambda device, precision: 1e9)
    if torch.cuda.is_available():
        return
    seconds, how = forecast._time_real_step(recipe, None, cost)
    assert (seconds, "in software" in how) == ((1.0, False) if has_it else (50.0, True))


def test_without_onednn_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        """The namespace of a build without oneDNN: it has no such operation."""

    monkeypatch.setattr(torch.ops, "mkldnn", Nothing())
    assert not emulated(CPU, "bf16") and not emulated(CPU, "fp16")


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_forecast_measures_its_convolution_in_the_format_of_the_recipe(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype] = set()
    computed = nn.Conv3d.forward

    def watched(layer: nn.Conv3d, frames: torch.Tensor) -> torch.Tensor:
        made = computed(layer, frames)
        seen.add(made.dtype)
        return made

    monkeypatch.setattr(nn.Conv3d, "forward", watched)
    assert forecast._conv_flop_per_second(CPU, name) > 0
    assert seen == {dtype}

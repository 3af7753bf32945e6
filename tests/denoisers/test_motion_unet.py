"""MotionUNet: the paper's sizes and cost, any grid, and conditions that are told, padded or dropped."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from motionloom.conditions.text import TextEncoderConfig
from motionloom.denoisers.base import Denoiser, MotionCondition
from motionloom.denoisers.motion_generator import MotionGenerator, MotionGeneratorConfig
from motionloom.denoisers.motion_unet import MotionUNet, MotionUNetConfig
from motionloom.errors import ConfigError, InputError

TINY = MotionUNetConfig(base=16, heads=4, context_width=16)


def randomised(model: nn.Module) -> nn.Module:
    """Fresh networks predict exactly zero; these do not."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@cache
def full_size_unet() -> MotionUNet:
    with torch.device("meta"):
        return MotionUNet().eval()


def step_gflop(side: int, tokens: int) -> float:
    model = full_size_unet()
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as flops:
        model(torch.empty(1, 3, side, side), torch.empty(1), MotionCondition(torch.empty(1, tokens, 512)))
    return flops.get_total_flops() / 1e9


def test_parameter_counts() -> None:
    with torch.device("meta"):
        assert count(full_size_unet()) == 241_462_851
        assert count(MotionUNet(MotionUNetConfig(concat_channels=512))) == 242_347_587
        released = MotionGeneratorConfig(text=TextEncoderConfig.released_size())
        assert count(MotionGenerator(released)) == 282_240_893


def test_cost_of_a_step() -> None:
    """The latent has no frames, so neither has the cost; the numbers were counted independently."""
    assert step_gflop(16, 256) == pytest.approx(21.3, abs=0.05)
    assert step_gflop(32, 1024) == pytest.approx(94.0, abs=0.1)
    assert step_gflop(32, 77) == pytest.approx(72.8, abs=0.1)
    assert step_gflop(32, 1024 + 77) <= 96
    assert step_gflop(64, 4096) == pytest.approx(518.3, abs=0.1)


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (4, 4), (5, 7), (6, 10), (9, 16)])
@pytest.mark.parametrize("timestep", [torch.tensor([3, 999]), torch.tensor([0.25, 500.5]), torch.tensor(7.0)])
def test_every_grid_and_time(size: tuple[int, int], timestep: torch.Tensor) -> None:
    model = randomised(MotionUNet(TINY))
    assert isinstance(model, Denoiser)
    out = model(torch.randn(2, 3, *size), timestep, MotionCondition(torch.randn(2, 5, 16)))
    assert out.shape == (2, 3, *size) and out.isfinite().all()


def test_a_fresh_network_predicts_zero() -> None:
    assert MotionUNet(TINY)(torch.randn(1, 3, 4, 4), torch.tensor(1)).abs().max() == 0


def test_nothing_told_no_tokens_and_hidden_tokens_are_the_same() -> None:
    model = randomised(MotionUNet(TINY))
    z, t, tokens = torch.randn(2, 3, 4, 4), torch.tensor(10), torch.randn(2, 5, 16)
    silent = model(z, t)
    hidden = MotionCondition(tokens, torch.zeros(2, 5, dtype=torch.bool))
    torch.testing.assert_close(model(z, t, hidden), silent)
    torch.testing.assert_close(model(z, t, MotionCondition(tokens[:, :0])), silent)
    half = MotionCondition(tokens, torch.tensor([[True] * 5, [False] * 5]))
    mixed = model(z, t, half)
    torch.testing.assert_close(mixed[1], silent[1])
    torch.testing.assert_close(mixed[0], model(z, t, MotionCondition(tokens))[0])
    assert not torch.allclose(mixed[0], silent[0], atol=1e-3)


def test_padding_changes_nothing() -> None:
    model = randomised(MotionUNet(TINY))
    z, t, tokens = torch.randn(1, 3, 4, 4), torch.tensor(10), torch.randn(1, 5, 16)
    padded = MotionCondition(
        torch.cat([tokens, torch.full((1, 3, 16), 9.0)], dim=1), torch.tensor([[True] * 5 + [False] * 3])
    )
    torch.testing.assert_close(model(z, t, padded), model(z, t, MotionCondition(tokens)))


def test_hidden_tokens_give_finite_gradients() -> None:
    model = randomised(MotionUNet(TINY))
    tokens = torch.randn(2, 5, 16, requires_grad=True)
    hidden = MotionCondition(tokens, torch.tensor([[True] * 5, [False] * 5]))
    model(torch.randn(2, 3, 4, 4), torch.tensor(1), hidden).sum().backward()
    assert tokens.grad is not None and tokens.grad.isfinite().all() and tokens.grad[1].abs().max() == 0


def test_dropping_text_or_picture_of_chosen_samples() -> None:
    condition = MotionCondition(torch.randn(2, 5, 16), None, torch.ones(2, 4, 3, 3), num_content_tokens=3)
    no_text = condition.dropped(text=torch.tensor([True, False]))
    assert no_text.tokens_mask is not None
    assert no_text.tokens_mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    nothing = no_text.dropped(image=True)
    assert nothing.tokens_mask is not None and nothing.aligned is not None
    assert nothing.tokens_mask.tolist() == [[False] * 5, [False] * 3 + [True] * 2]
    assert nothing.aligned.abs().max() == 0


def test_aligned_map_is_read_and_required() -> None:
    model = randomised(MotionUNet(dataclasses.replace(TINY, concat_channels=4)))
    z, t = torch.randn(1, 3, 5, 6), torch.tensor(1)
    first, second = (model(z, t, MotionCondition(aligned=torch.randn(1, 4, 5, 6))) for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-4)
    with pytest.raises(InputError, match="aligned map"):
        model(z, t)
    with pytest.raises(InputError, match="width 8"):
        model(z, t, MotionCondition(torch.zeros(1, 2, 8), aligned=torch.zeros(1, 4, 5, 6)))
    with pytest.raises(InputError, match="latents"):
        model(torch.zeros(1, 4, 5, 6), t)


def test_without_cross_attention() -> None:
    model = randomised(MotionUNet(dataclasses.replace(TINY, context_width=None, attention_levels=(1,))))
    assert model(torch.randn(1, 3, 4, 4), torch.tensor(1)).shape == (1, 3, 4, 4)
    assert not any("cross" in name for name, _ in model.named_parameters())


def test_configuration_says_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="do not divide"):
        MotionUNetConfig(base=20, heads=8)
    with pytest.raises(ConfigError, match="level 3"):
        MotionUNetConfig(attention_levels=(3,))
    with pytest.raises(ConfigError, match="context"):
        MotionGeneratorConfig(unet=TINY, content_width=8)


def test_generator_file_round_trip(tmp_path: Path) -> None:
    text = TextEncoderConfig(vocabulary_size=9, positions=6, width=16, depth=1, heads=2)
    config = MotionGeneratorConfig(
        dataclasses.replace(TINY, concat_channels=4), 16, text, ("the", "cone"), pooled_side=2
    )
    model = randomised(MotionGenerator(config))
    assert isinstance(model, MotionGenerator)
    path = model.save(tmp_path / "dmg.safetensors", {"process": "rectified_flow", "shift": 1.0})
    loaded, schedule = MotionGenerator.load(path)
    assert loaded.config == config and schedule == {"process": "rectified_flow", "shift": 1.0}

    f_x0, ids = torch.randn(2, 16, 4, 4), torch.tensor([[1, 3, 4, 2], [1, 3, 2, 0]])
    condition = model.condition(f_x0, ids)
    assert condition.tokens is not None and condition.tokens.shape == (2, 4 + 4, 16)
    assert condition.num_content_tokens == 4
    z, t = torch.randn(2, 3, 4, 4), torch.tensor(5)
    torch.testing.assert_close(loaded(z, t, loaded.condition(f_x0, ids)), model(z, t, condition))
    assert not torch.allclose(model(z, t, model.condition(f_x0)), model(z, t, condition), atol=1e-4)


def test_text_without_a_text_encoder_is_refused() -> None:
    model = MotionGenerator(MotionGeneratorConfig(TINY, 16))
    with pytest.raises(InputError, match="no text"):
        model.condition(torch.zeros(1, 16, 4, 4), torch.ones(1, 3, dtype=torch.long))

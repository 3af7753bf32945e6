"""Muon: what its update is, what AdamW keeps doing, and that a run continues bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from motionloom.train import train
from motionloom.training.forecast import moment_bytes
from motionloom.training.loop import new_optimizer
from motionloom.training.muon import Muon, orthogonalised
from motionloom.training.recipe import Recipe
from tests.training.test_resume import Crash, crash, during_micro_step, fingerprint
from tests.training.toy import toy_recipe

MUON = {"kind": "muon", "betas": [0.95, 0.999], "weight_decay": 0.1}


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_an_update_has_the_directions_of_its_gradient_and_one_strength(shape: tuple[int, int]) -> None:
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    update = orthogonalised(gradient)
    ours, (u, _, vh) = torch.linalg.svdvals(update), torch.linalg.svd(gradient, full_matrices=False)
    assert update.shape == shape and ours.min() > 0.6 and ours.max() < 1.25
    along = torch.diagonal(u.T @ update @ vh.T)  # in the gradient's own directions
    assert torch.allclose(along.sort().values, ours.sort().values, atol=1e-4)


def test_the_size_of_a_gradient_does_not_matter() -> None:
    gradient = torch.randn(8, 40)
    assert torch.allclose(orthogonalised(gradient), orthogonalised(1000 * gradient), atol=1e-4)


def stepped(kernel: torch.Tensor, gradient: torch.Tensor, weight_decay: float = 0.0) -> torch.Tensor:
    parameter = nn.Parameter(kernel.clone())
    parameter.grad = gradient.clone()
    Muon([parameter], lr=0.01, betas=(0.95, 0.999), weight_decay=weight_decay).step()
    return parameter.detach()


def test_a_kernel_is_a_matrix_of_its_outputs() -> None:
    kernel, gradient = torch.randn(2, 8, 4, 3, 3, 3)
    assert torch.equal(stepped(kernel, gradient).flatten(1), stepped(kernel.flatten(1), gradient.flatten(1)))


def test_an_update_is_as_large_as_adams_and_decays_weights_by_themselves() -> None:
    kernel, gradient = torch.randn(2, 64, 16, 3, 3)
    change = stepped(kernel, gradient) - kernel
    assert change.square().mean().sqrt() == pytest.approx(0.01 * 0.2, rel=0.15)
    decayed = stepped(kernel, gradient, weight_decay=0.5)
    assert torch.allclose(decayed - kernel, change - 0.01 * 0.5 * kernel, atol=1e-6)
    assert torch.equal(stepped(kernel, torch.zeros_like(gradient)), kernel)  # no direction, no step


def test_momentum_is_nesterovs() -> None:
    """The second update is that of the gradient moved towards the average, both averaged over two gradients."""
    first, second = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))
    parameter = nn.Parameter(torch.zeros(6, 9))
    optimizer = Muon([parameter], lr=0.01, betas=(0.9, 0.999), weight_decay=0.0)
    for gradient in (first, second):
        before, parameter.grad = parameter.detach().clone(), gradient.clone()
        optimizer.step()
    average = 0.9 * 0.1 * first + 0.1 * second
    expected = orthogonalised(0.1 * second + 0.9 * average) * 0.01 * 0.2 * 9**0.5
    assert torch.allclose(before - parameter, expected, atol=1e-6)


def test_vectors_are_adamws_bit_for_bit() -> None:
    ended = []
    for kind in ("muon", "adamw"):
        recipe = Recipe.model_validate(toy_recipe(optimizer=MUON | {"kind": kind}))
        bias, kernel = nn.Parameter(torch.arange(5.0)), nn.Parameter(torch.eye(5))
        optimizer = new_optimizer(recipe, [bias, kernel])
        for step in range(3):
            bias.grad, kernel.grad = torch.arange(5.0) - step, torch.ones(5, 5)
            optimizer.step()
        ended.append((bias, kernel))
    (bias, kernel), (adamw_bias, adamw_kernel) = ended
    assert torch.equal(bias, adamw_bias) and not torch.equal(kernel, adamw_kernel)


def test_a_run_continues_bit_for_bit(tmp_path: Path) -> None:
    recipe = toy_recipe(optimizer=MUON, save_every_steps=3)
    train(recipe, tmp_path / "whole", progress=False)
    with during_micro_step(13, crash), pytest.raises(Crash):
        train(recipe, tmp_path / "parted", progress=False)
    assert train(recipe, tmp_path / "parted", progress=False).resumed_from == 6
    assert fingerprint(tmp_path / "parted") == fingerprint(tmp_path / "whole")


def test_a_forecast_counts_one_moment_of_kernels_and_two_of_vectors() -> None:
    layer = nn.Linear(5, 3)
    assert (
        moment_bytes(Recipe.model_validate(toy_recipe(optimizer=MUON)), list(layer.parameters()))
        == 4 * 15 + 8 * 3
    )
    assert moment_bytes(Recipe.model_validate(toy_recipe()), list(layer.parameters())) == 8 * 18

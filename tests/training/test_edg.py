"""Stage 1: what is learned, what is noised, what is dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from motionloom.adapters.text_adapter import TextAdapter
from motionloom.datasets.base import Sample, TrainingDataset
from motionloom.datasets.strided import StridedClips, longest_window
from motionloom.denoisers.catalog import load_base
from motionloom.denoisers.dynamicrafter.base import load_tiny
from motionloom.errors import ConfigError
from motionloom.training.forecast import forecast
from motionloom.training.objectives.edg import Stage1Objective, TimeNoise, Trained
from motionloom.training.recipe import load_recipe

RECIPE = Path(__file__).parents[2] / "recipes/edg/stage1.yaml"
FRAMES = 3


def objective(trained: Trained = "adapter", **changes: Any) -> Stage1Objective:
    base = load_tiny()
    torch.manual_seed(0)
    return Stage1Objective(base, TextAdapter.of(base.parts.unet, FRAMES), trained, **changes)


def batch(size: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(size, 3, FRAMES, 32, 32, generator=generator) * 2 - 1
    return {
        "frames": frames,
        "text": ["a dog runs", "the sea"] * (size // 2),
        "rate": torch.full((size,), 8.0),
    }


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("trained", "changed"), [("adapter", "text_adapter"), ("temporal", "temp_attentions"), ("all", "resnets")]
)
def test_what_is_asked_for_learns_and_nothing_else(trained: Trained, changed: str) -> None:
    one = objective(trained, drop=0.0)
    parts = one.base.parts.named()
    before = {name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in parts.items()}
    optimizer = torch.optim.AdamW(one.parameter_groups()["stage1"], lr=1e-3, weight_decay=0.0)
    for step in range(2):
        optimizer.zero_grad()
        for _, loss, _ in one.losses(batch(), step, generator()):
            loss.backward()
        optimizer.step()
    learned = {
        f"{name}.{key}"
        for name, part in parts.items()
        for key, value in part.state_dict().items()
        if not torch.equal(value, before[name][key])
    }
    asked = {f"unet.text_adapter.{name}" for name in one.adapter.state_dict()}
    assert asked <= learned
    assert any(changed in name for name in learned)
    outside = [name for name in learned if not name.startswith("unet.")]
    assert all(name.startswith("image_projection.") for name in outside) and bool(outside) == (
        trained == "all"
    )
    if trained == "adapter":
        assert learned == asked
    if trained == "temporal":
        assert all("temp_attentions" in n or "transformer_in" in n or "text_adapter" in n for n in learned)


def test_targets_are_velocities_of_the_rescaled_latents() -> None:
    one = objective()
    z, e = torch.randn(2, 2, 4, FRAMES, 4, 4)
    t = torch.tensor([999, 100])
    noisy, v = one.noised(z, e, t)
    assert torch.allclose(noisy[0], e[0]), "the last timestep is pure noise"
    assert torch.allclose(v[0], -0.7 * z[0])
    abar = one.abar[100]
    assert torch.allclose(abar.sqrt() * noisy[1] - (1 - abar).sqrt() * v[1], one.scale[100] * z[1], atol=1e-5)


def test_a_third_of_three_drops_each() -> None:
    one = objective(drop=0.1)
    told = one._told(batch(), torch.zeros(2, 4, FRAMES, 4, 4), torch.tensor([0, 1]))
    many = type(told)(
        *(
            getattr(told, name)[:1].expand(4000, *getattr(told, name).shape[1:])
            for name in ("text", "image", "still", "rate")
        ),
        told.empty_text,
        told.empty_image,
    )
    dropped = one._dropped(many, generator())
    no_text = (dropped.text == told.empty_text).flatten(1).all(1)
    no_image = (dropped.image == told.empty_image).flatten(1).all(1)
    for share in (no_text & ~no_image, no_text & no_image, ~no_text & no_image):
        assert float(share.float().mean()) == pytest.approx(0.1, abs=0.02)
    assert torch.equal(dropped.still, many.still)


def test_the_picture_is_the_chosen_frame() -> None:
    one = objective()
    latents = torch.arange(FRAMES).float().view(1, 1, -1, 1, 1).expand(2, 4, -1, 4, 4)
    told = one._told(batch(), latents, torch.tensor([2, 0]))
    assert (told.still[0] == 2).all() and (told.still[1] == 0).all()
    frames = batch()["frames"]
    expected = one.base.image(torch.stack([frames[0, :, 2], frames[1, :, 0]]))
    assert torch.allclose(told.image[:, :16], expected[:, :16], atol=1e-5)


@pytest.mark.parametrize(("at", "median"), [(0, 26.9), (400, 27.3), (800, 41.5), (1000, 73.1)])
def test_time_noise_drowns_the_picture(at: int, median: float) -> None:
    level = TimeNoise().level(torch.full((20_000,), float(at)), generator())
    assert float(level.median()) == pytest.approx(median, rel=0.03)


def test_time_noise_in_a_step() -> None:
    one = objective(time_noise=TimeNoise(image_dropped=1.0))
    told = one._told(batch(), torch.zeros(2, 4, FRAMES, 4, 4), torch.tensor([0, 1]))
    noised = TimeNoise(image_dropped=1.0)(told, torch.tensor([0, 999]), generator())
    assert float(noised.still.std()) > 5 and torch.equal(noised.still[:, :, 0], noised.still[:, :, 1])
    assert not torch.equal(noised.image, told.image) and torch.equal(noised.text, told.text)
    ((_, loss, _),) = one.losses(batch(), 0, generator())
    assert loss.isfinite()


def test_checkpointed_gradients_are_the_same() -> None:
    grads = []
    for checkpointed in (False, True):
        one = objective("adapter", drop=0.0)
        with torch.no_grad():
            for parameter in one.adapter.projections.parameters():
                parameter.add_(0.01)
        if checkpointed:
            one.unet.checkpoint_gradients()
        ((_, loss, _),) = one.losses(batch(), 0, generator())
        loss.backward()
        grads.append({name: p.grad for name, p in one.adapter.named_parameters()})
    assert all(torch.allclose(grads[0][name], grads[1][name], atol=1e-7) for name in grads[0])
    assert any(grad.abs().max() > 0 for grad in grads[0].values())


class _Ramp(TrainingDataset):
    def __len__(self) -> int:
        return 1

    def at(self, epoch: int, index: int) -> Sample:
        return {"frames": torch.arange(26.0).expand(3, -1)[..., None, None], "text": "up"}


def test_strides_are_drawn_and_told() -> None:
    clips = StridedClips(_Ramp(), 6, (1, 5), 24.0, seed=0)
    assert longest_window(6, (1, 5)) == 26
    seen = set()
    for epoch in range(60):
        sample = clips.at(epoch, 0)
        steps = sample["frames"][0, :, 0, 0].diff()
        stride = int(steps[0])
        assert len(steps) == 5 and (steps == stride).all()
        assert float(sample["rate"]) == 24 // stride
        seen.add(stride)
    assert seen == {1, 2, 3, 4, 5}
    assert torch.equal(clips.at(3, 0)["frames"], clips.at(3, 0)["frames"])


def test_the_recipe_is_planned_at_full_size_without_weights() -> None:
    recipe = load_recipe(RECIPE)
    with torch.device("meta"):
        planned = recipe.stage.objective(recipe, dry_run=True)
    count = {name: sum(p.numel() for p in net.parameters()) for name, net in planned.networks.items()}
    assert count["adapter"] == 30_181_056
    assert count["temporal"] == pytest.approx(278.4e6, rel=1e-3)
    assert sum(p.numel() for p in planned.parameter_groups()["stage1"]) == sum(count.values())


@pytest.mark.slow
def test_the_recipe_is_forecast_at_full_size_without_weights() -> None:
    plan = forecast(load_recipe(RECIPE, ["batch_size=1", "accumulation=1"]))
    parameters = plan["parameters"]
    assert parameters["adapter"]["total"] == 30_181_056
    assert parameters["temporal"]["trained"] == pytest.approx(278.4e6, rel=1e-3)
    assert plan["memory_bytes"]["activations"] and plan["time"]["flop_per_step"], plan["memory_bytes"]["how"]


def test_other_bases_are_refused() -> None:
    recipe = load_recipe(RECIPE, ["stage.base=tiny-animatediff"])
    with pytest.raises(ConfigError, match="tiny-animatediff"):
        recipe.stage.objective(recipe)
    assert load_base("tiny-dynamicrafter").name == "tiny-dynamicrafter"

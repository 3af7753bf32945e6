"""Stage 1: what is learned, what is noised, what is dropped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from motionloom.adapters.text_adapter import TextAdapter
from motionloom.datasets.base import Sample, TrainingDataset
from motionloom.datasets.strided import StridedClips, longest_window
from motionloom.denoisers import animatediff
from motionloom.denoisers.animatediff_text import TextReadingNetwork, with_group_norms
from motionloom.denoisers.dynamicrafter.base import load_tiny
from motionloom.errors import ConfigError, MotionLoomError
from motionloom.training.edg_stages import HOSTS
from motionloom.training.forecast import forecast
from motionloom.training.objectives.edg import Stage1Objective, Trained
from motionloom.training.objectives.edg_animatediff import AnimateDiffHost
from motionloom.training.objectives.edg_dynamicrafter import DynamiCrafterHost, TimeNoise
from motionloom.training.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes/edg"
RECIPE, ON_ANIMATEDIFF = RECIPES / "stage1.yaml", RECIPES / "stage1_animatediff.yaml"
FRAMES = 3


def objective(
    trained: Trained = "adapter", time_noise: TimeNoise | None = None, **changes: Any
) -> Stage1Objective:
    base = load_tiny()
    torch.manual_seed(0)
    host = DynamiCrafterHost(base, time_noise)
    return Stage1Objective(host, TextAdapter.of(base.parts.unet, FRAMES), trained, **changes)


def on_animatediff(trained: Trained = "adapter", **changes: Any) -> Stage1Objective:
    base = animatediff.load_tiny()
    torch.manual_seed(0)
    host = AnimateDiffHost(base, base.text([""]))
    return Stage1Objective(host, TextAdapter.of(host.network, FRAMES), trained, **changes)


Make = Callable[..., Stage1Objective]
both = pytest.mark.parametrize("make", [objective, on_animatediff])


def batch(size: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(size, 3, FRAMES, 32, 32, generator=generator) * 2 - 1
    return {
        "frames": frames,
        "text": ["a dog runs", "the sea"] * (size // 2),
        "rate": torch.full((size,), 8.0),
    }


def encoded(size: int = 2) -> dict[str, Any]:
    """The same as AnimateDiff reads it: latents of 64-pixel windows, tokens of captions."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(size, 4, FRAMES, 8, 8, generator=generator)
    text = torch.randn(size, 77, 24, generator=generator)
    return {"mean": mean, "logvar": torch.full_like(mean, -60.0), "text": text}


def batch_for(make: Make, size: int = 2) -> dict[str, Any]:
    return encoded(size) if make is on_animatediff else batch(size)


def parts_of(one: Stage1Objective) -> dict[str, torch.nn.Module]:
    if isinstance(one.host, DynamiCrafterHost):
        return one.host.base.parts.named()
    assert isinstance(one.host, AnimateDiffHost)
    return {"unet": one.host.network, "vae": one.host.base.codec.network}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("trained", ["adapter", "temporal", "all"])
@both
def test_what_is_asked_for_learns_and_nothing_else(make: Make, trained: Trained) -> None:
    one = make(trained, drop=0.0)
    parts = parts_of(one)
    adapter = {key: value.clone() for key, value in one.adapter.state_dict().items()}
    before = {name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in parts.items()}
    optimizer = torch.optim.AdamW(one.parameter_groups()["stage1"], lr=1e-3, weight_decay=0.0)
    for step in range(2):
        optimizer.zero_grad()
        for _, loss, _ in one.losses(batch_for(make), step, generator()):
            loss.backward()
        optimizer.step()
    learned = {
        f"{name}.{key}"
        for name, part in parts.items()
        for key, value in part.state_dict().items()
        if not torch.equal(value, before[name][key]) and "text_adapter" not in key
    }
    unlearned = [key for key, value in one.adapter.state_dict().items() if torch.equal(value, adapter[key])]
    assert unlearned == [], "every tensor of the adapter moves within two steps"
    temporal = {n for n in learned if any(m in n for m in ("temp_att", "transformer_in", "motion_mod"))}
    if trained == "adapter":
        assert learned == set()
    if trained == "temporal":
        assert learned == temporal != set()
    if trained == "all":
        assert any("resnets" in name for name in learned - temporal)
        assert not any(name.startswith(("vae.", "text_encoder.", "image_encoder.")) for name in learned)


@both
@torch.no_grad()
def test_a_fresh_adapter_leaves_the_network_as_it_is(make: Make) -> None:
    losses = []
    for factor in (1.0, 0.0):
        one = make(drop=0.0)
        one.adapter.strength = factor
        losses += [float(loss) for _, loss, _ in one.losses(batch_for(make), 0, generator())]
    assert losses[0] == losses[1]


def test_targets_are_velocities_of_the_rescaled_latents() -> None:
    one = objective()
    z, e = torch.randn(2, 2, 4, FRAMES, 4, 4)
    t = torch.tensor([999, 100])
    assert isinstance(one.host, DynamiCrafterHost)
    shown = one.host.noised(z, e, t)
    noisy, v = shown.latents, shown.target
    assert torch.allclose(noisy[0], e[0]), "the last timestep is pure noise"
    assert torch.allclose(v[0], -0.7 * z[0])
    abar = one.host.abar[100]
    assert torch.allclose(
        abar.sqrt() * noisy[1] - (1 - abar).sqrt() * v[1], one.host.scale[100] * z[1], atol=1e-5
    )


def test_a_third_of_three_drops_each() -> None:
    one = objective(drop=0.1)
    assert isinstance(one.host, DynamiCrafterHost)
    told = one.host.told_frame(batch(), torch.zeros(2, 4, FRAMES, 4, 4), torch.tensor([0, 1]))
    many = type(told)(
        *(
            getattr(told, name)[:1].expand(4000, *getattr(told, name).shape[1:])
            for name in ("text", "image", "still", "rate")
        ),
        told.empty_text,
        told.empty_image,
    )
    dropped = one.dropped(many, generator())
    no_text = (dropped.text == told.empty_text).flatten(1).all(1)
    no_image = (dropped.image == told.empty_image).flatten(1).all(1)
    for share in (no_text & ~no_image, no_text & no_image, ~no_text & no_image):
        assert float(share.float().mean()) == pytest.approx(0.1, abs=0.02)
    assert torch.equal(dropped.still, many.still)


def test_the_picture_is_the_chosen_frame() -> None:
    one = objective()
    latents = torch.arange(FRAMES).float().view(1, 1, -1, 1, 1).expand(2, 4, -1, 4, 4)
    assert isinstance(one.host, DynamiCrafterHost)
    told = one.host.told_frame(batch(), latents, torch.tensor([2, 0]))
    assert (told.still[0] == 2).all() and (told.still[1] == 0).all()
    frames = batch()["frames"]
    expected = one.host.base.image(torch.stack([frames[0, :, 2], frames[1, :, 0]]))
    assert torch.allclose(told.image[:, :16], expected[:, :16], atol=1e-5)


@pytest.mark.parametrize(("at", "median"), [(0, 26.9), (400, 27.3), (800, 41.5), (1000, 73.1)])
def test_time_noise_drowns_the_picture(at: int, median: float) -> None:
    level = TimeNoise().level(torch.full((20_000,), float(at)), generator())
    assert float(level.median()) == pytest.approx(median, rel=0.03)


def test_time_noise_in_a_step() -> None:
    one = objective(time_noise=TimeNoise(image_dropped=1.0))
    assert isinstance(one.host, DynamiCrafterHost)
    told = one.host.told_frame(batch(), torch.zeros(2, 4, FRAMES, 4, 4), torch.tensor([0, 1]))
    noised = TimeNoise(image_dropped=1.0)(told, torch.tensor([0, 999]), generator())
    assert float(noised.still.std()) > 5 and torch.equal(noised.still[:, :, 0], noised.still[:, :, 1])
    assert not torch.equal(noised.image, told.image) and torch.equal(noised.text, told.text)
    ((_, loss, _),) = one.losses(batch(), 0, generator())
    assert loss.isfinite()


@both
def test_checkpointed_gradients_are_the_same(make: Make) -> None:
    grads = []
    for checkpointed in (False, True):
        one = make("adapter", drop=0.0)
        with torch.no_grad():
            for parameter in one.adapter.projections.parameters():
                parameter.add_(0.01)
        if checkpointed:
            one.host.checkpoint_gradients()
        ((_, loss, _),) = _stepped(one, batch_for(make))
        grads.append({name: p.grad for name, p in one.adapter.named_parameters()})
        assert loss.isfinite()
    largest = max(float(grad.abs().max()) for grad in grads[0].values())
    assert largest > 0
    assert all(torch.allclose(grads[0][name], grads[1][name], atol=1e-5 * largest) for name in grads[0])


def _stepped(one: Stage1Objective, given: dict[str, Any]) -> list[Any]:
    """The losses of a step, each with its backward pass."""
    done = []
    for name, loss, numbers in one.losses(given, 0, generator()):
        loss.backward()
        done.append((name, loss, numbers))
    return done


# --- AnimateDiff --------------------------------------------------------------------------------------------


class _Recorded:
    """Answers with zeros, but for frame 0, and remembers what it was shown and told."""

    prediction_type = "epsilon"

    def __init__(self, at_first: float = 0.0) -> None:
        self.at_first, self.seen = at_first, []  # type: ignore[var-annotated]

    def __call__(self, latents: torch.Tensor, timestep: torch.Tensor, condition: Any) -> torch.Tensor:
        self.seen.append((latents, timestep, condition))
        answer = torch.zeros_like(latents)
        answer[:, :, 0] = self.at_first
        return answer


def _shown(drop: float, at_first: float = 0.0, size: int = 2) -> tuple[float, Any, dict[str, Any]]:
    """(the loss, what was shown and told, the batch) of a step."""
    one, given = on_animatediff(drop=drop), encoded(size)
    one.host.denoiser = recorded = _Recorded(at_first)
    ((_, loss, _),) = one.losses(given, 0, generator())
    return float(loss), recorded.seen[0], given


def test_the_noise_is_predicted_and_frame_0_is_the_photo() -> None:
    loss, (latents, timestep, told), given = _shown(drop=0.0)
    assert torch.allclose(latents[:, :, 0], given["mean"][:, :, 0], atol=1e-6)
    abar = animatediff.stable_diffusion().alphas_cumprod[timestep].view(-1, 1, 1, 1, 1)
    noise = ((latents - abar.sqrt() * given["mean"]) / (1 - abar).sqrt())[:, :, 1:]
    assert 0.8 < float(noise.std()) < 1.2
    assert loss == pytest.approx(float(noise.square().mean()), rel=1e-3), "the target is that noise"
    assert torch.equal(told.text, given["text"])
    assert loss == _shown(drop=0.0, at_first=9.0)[0], "the clean frame is not in the loss"


def test_where_the_picture_is_dropped_frame_0_is_a_frame_like_the_others() -> None:
    loss, (latents, _, told), given = _shown(drop=0.3, size=64)
    clean = (latents[:, :, 0] - given["mean"][:, :, 0]).flatten(1).abs().amax(1) < 1e-6
    assert torch.equal(clean, told.pictured) and 0.2 < float(clean.float().mean()) < 0.6  # 1 - 2 d = 0.4
    assert loss != _shown(drop=0.3, at_first=9.0, size=64)[0]
    empty = (told.text != given["text"]).flatten(1).any(1)
    assert 0.4 < float(empty.float().mean()) < 0.8 and bool((empty & ~clean).any())  # 2 d = 0.6


@torch.no_grad()
def test_a_step_is_the_network_told_the_text_and_leaves_nothing_mounted() -> None:
    one = on_animatediff()
    assert isinstance(one.host, AnimateDiffHost)
    network, given = one.host.base.denoiser.network, encoded()
    told = one.host.told(given, given["mean"], generator())
    time = torch.tensor([500, 20])
    with with_group_norms(network, "per_frame"):
        plain = TextReadingNetwork(network)(given["mean"], time, told)
    with one.host.ready():
        assert torch.equal(one.host.denoiser(given["mean"], time, told), plain)
    assert not torch.equal(TextReadingNetwork(network)(given["mean"], time, told), plain), "norms per frame"
    steps = one.losses(given, 0, generator())
    next(steps)
    steps.close()  # what the loop does when a loss is not finite
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


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


@pytest.mark.parametrize(
    ("recipe", "adapter", "temporal"),
    [(RECIPE, 30_181_056, 278.4e6), (ON_ANIMATEDIFF, 34_850_752, 417_137_600)],
)
def test_recipes_are_planned_at_full_size_without_weights(
    recipe: Path, adapter: int, temporal: float
) -> None:
    asked = load_recipe(recipe, ["stage.trained=temporal"])
    with torch.device("meta"):
        planned = asked.stage.objective(asked, dry_run=True)
    count = {name: sum(p.numel() for p in net.parameters()) for name, net in planned.networks.items()}
    assert count["adapter"] == adapter
    assert count["temporal"] == pytest.approx(temporal, rel=1e-3)
    assert sum(p.numel() for p in planned.parameter_groups()["stage1"]) == sum(count.values())
    assert isinstance(planned, Stage1Objective)
    trained = {id(p) for p in planned.parameter_groups()["stage1"]}
    assert not any(id(p) in trained for p in planned.frozen.parameters()), "nothing is counted twice"


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "adapter"), [(RECIPE, 30_181_056), (ON_ANIMATEDIFF, 34_850_752)])
def test_recipes_are_forecast_at_full_size_without_weights(recipe: Path, adapter: int) -> None:
    plan = forecast(load_recipe(recipe, ["batch_size=1", "accumulation=1"]))
    assert plan["parameters"]["adapter"]["trained"] == adapter
    assert plan["memory_bytes"]["activations"] and plan["time"]["flop_per_step"], plan["memory_bytes"]["how"]


@pytest.mark.parametrize("base", ["tiny-wan", "wan2.1-t2v-1.3b", "mini", "lamd-folder"])
def test_other_bases_are_refused_and_those_that_can_are_named(base: str) -> None:
    Path("lamd-folder").mkdir()
    recipe = load_recipe(RECIPE, [f"stage.base={base}"])
    with pytest.raises(ConfigError, match=base) as problem:
        recipe.stage.objective(recipe)
    for row in HOSTS:
        assert all(name in str(problem.value.fix) for name in row.bases)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("stage.base=tiny-animatedif", 'there is no base "tiny-animatedif"'),
        ("stage.base=some/where", "neither a folder here nor in the hub's cache"),
        ("stage.time_noise={}", "stage.time_noise noises a picture"),
        ("data.size_px=96", "takes multiples of 64 px"),
        ("data.frames=33", "knows the positions of 32"),
        ("stage.base_options={rho: 1}", 'has no option "rho"'),
    ],
)
def test_what_animatediff_cannot_be_trained_on_is_refused(change: str, told: str) -> None:
    small = ["stage.base=tiny-animatediff", "data.size_px=64", change]
    recipe = load_recipe(ON_ANIMATEDIFF, small)
    with pytest.raises(MotionLoomError, match=told):
        recipe.stage.objective(recipe)

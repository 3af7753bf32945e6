"""Training of motion adapters: what is trained, what the loss sees, the noise levels, the data it reads."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from motionloom.adapters.adapter import new_adapter
from motionloom.adapters.context import context_of
from motionloom.adapters.proxy_mask import ground_truth_probability
from motionloom.datasets.clips import ClipFolder
from motionloom.datasets.latent_windows import on_latent_grid
from motionloom.denoisers.catalog import load_base
from motionloom.denoisers.miva import MivaBase
from motionloom.errors import ConfigError, InputError
from motionloom.sampling.schedules import rectified_flow, stable_diffusion
from motionloom.train import train
from motionloom.training.loop import new_optimizer
from motionloom.training.objectives.miva import FramesAndMasksLesson, FramesLesson, MivaObjective
from motionloom.training.objectives.noising import EpsilonNoising, FlowNoising, Noising
from motionloom.training.recipe import load_recipe
from motionloom.video.clip import Clip

RECIPES = Path(__file__).parents[2] / "recipes/miva"
FRAMES = {"tiny-animatediff": 3, "tiny-wan": 9}


@pytest.fixture(scope="module", params=["tiny-animatediff", "tiny-wan"])
def base(request: pytest.FixtureRequest) -> MivaBase:
    loaded = load_base(request.param)
    assert isinstance(loaded, MivaBase)
    return loaded


def noising_of(base: MivaBase) -> Noising:
    flow = base.denoiser.prediction_type == "flow"
    return FlowNoising(5.0) if flow else EpsilonNoising(stable_diffusion())


def batch_of(base: MivaBase, batch_size: int = 1) -> dict[str, Tensor]:
    """Latents of 32-pixel clips of tiny sizes, with a mask whose left half is the subject."""
    shape = base.codec.latent_shape(FRAMES[base.name], 64, 64)
    generator = torch.Generator().manual_seed(1)
    draw = [torch.randn(batch_size, *shape, generator=generator) for _ in range(2)]
    subject = torch.zeros(batch_size, *shape[1:])
    subject[..., : shape[-1] // 2] = 1
    return {
        "mean": draw[0],
        "logvar": torch.full_like(draw[0], -6.0),
        "mask_mean": draw[1],
        "mask_logvar": torch.full_like(draw[1], -6.0),
        "subject": subject,
    }


def objective_of(
    base: MivaBase, masked: bool = False, counts: bool = False, levels: int = 2, chance: float = 0.0
) -> MivaObjective:
    noising = noising_of(base)
    lesson: Any = FramesLesson(base, noising, counts)
    if masked:
        lesson = FramesAndMasksLesson(base, noising, levels, lambda step: chance, (counts, counts))
    return MivaObjective(new_adapter(base.denoiser, masked=masked, seed=0), base, lesson)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- what is trained ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_only_the_adapter_gets_gradients_and_optimizer_slots(base: MivaBase, masked: bool) -> None:
    base.denoiser.network.enable_gradient_checkpointing()
    # zero outputs let no gradient past them in the first update, nor low-rank queries in the second
    updates = 2 if base.denoiser.prediction_type == "epsilon" else 4
    objective = objective_of(base, masked, levels=updates, chance=1.0)
    recipe = load_recipe({"stage": {"kind": "miva-adapter"}, "steps": 1, "learning_rate": 1e-3})
    params = [p for p in objective.parameter_groups()["adapter"] if p.requires_grad]
    optimizer = new_optimizer(recipe, params)
    before = {name: value.clone() for name, value in base.denoiser.network.state_dict().items()}
    reached: set[str] = set()
    for _ in range(1 if masked else updates):
        for _, loss, _ in objective.losses(batch_of(base), 0, generator()):
            loss.backward()
            optimizer.step()
            named = objective.adapter.named_parameters()
            reached |= {name for name, p in named if p.grad is not None and bool(p.grad.any())}
            optimizer.zero_grad()
    base.denoiser.network.disable_gradient_checkpointing()
    assert len(optimizer.state) == len(list(objective.adapter.parameters()))
    assert not any(p.requires_grad or p.grad is not None for p in base.denoiser.network.parameters())
    after = base.denoiser.network.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    untouched = {name for name, _ in objective.adapter.named_parameters()} - reached
    assert untouched == set(), sorted(untouched)[:5]


def test_a_step_leaves_nothing_mounted(base: MivaBase) -> None:
    objective = objective_of(base)
    steps = objective.losses(batch_of(base), 0, generator())
    next(steps)
    assert context_of(base.denoiser) is not None
    steps.close()  # what the loop does when a loss is not finite
    with pytest.raises(ConfigError, match="no adapters are mounted"):
        context_of(base.denoiser)


# --- what the loss sees -------------------------------------------------------------------------------------


class Recorded:
    """A denoiser that answers what it is told to and remembers what it saw."""

    def __init__(self, base: MivaBase, answer: Any) -> None:
        self.inner, self.answer, self.seen = base.denoiser, answer, []  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, latents: Tensor, timestep: Tensor, condition: None = None) -> Tensor:
        self.seen.append((latents, timestep, context_of(self.inner).masks))
        return self.answer(latents)  # type: ignore[no-any-return]


@pytest.fixture
def recorded(base: MivaBase, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    recorder = Recorded(base, torch.zeros_like)
    monkeypatch.setattr(base, "denoiser", recorder)
    return recorder


@pytest.mark.parametrize("masked", [False, True])
def test_first_frame_is_shown_clean_and_not_in_the_loss(
    recorded: Recorded, base: MivaBase, masked: bool
) -> None:
    batch = batch_of(base)
    batch["logvar"] = batch["mask_logvar"] = torch.full_like(batch["logvar"], -60.0)  # the sample is the mean

    def losses(error_at_first: float, counts: bool) -> list[float]:
        def answer(latents: Tensor) -> Tensor:
            wrong = torch.zeros_like(latents)
            wrong[:, :, 0] = error_at_first
            if masked and base.denoiser.prediction_type == "epsilon":
                wrong[:, :, latents.shape[2] // 2] = error_at_first  # the mask's first frame
            return wrong

        recorded.answer = answer
        return [
            float(loss) for _, loss, _ in objective_of(base, masked, counts).losses(batch, 0, generator())
        ]

    assert losses(0.0, counts=False) == losses(9.0, counts=False)
    assert losses(0.0, counts=True) != losses(9.0, counts=True)
    video = batch["mean"]
    for latents, _, _ in recorded.seen:
        assert torch.allclose(latents[:1, :, 0], video[:, :, 0], atol=1e-6)
        assert not torch.allclose(latents[:1, :, 1], video[:, :, 1], atol=1e-3)
        if masked:
            first = latents[:, :, latents.shape[2] // 2] if len(latents) == 1 else latents[1:, :, 0]
            assert torch.allclose(first, batch["mask_mean"][:, :, 0], atol=1e-6)


def test_masked_steps_go_from_noisy_to_clean_and_read_the_mask_off_the_step_before(
    recorded: Recorded, base: MivaBase
) -> None:
    list(objective_of(base, masked=True, levels=4).losses(batch_of(base), 0, generator()))
    times = [float(timestep[0]) for _, timestep, _ in recorded.seen]
    assert len(times) == 4 and times == sorted(times, reverse=True) and len(set(times)) == 4
    masks = [masks for _, _, masks in recorded.seen]
    truth = batch_of(base)["subject"]
    assert masks[0] is None  # nothing was predicted yet
    for shown in masks[1:]:
        assert torch.equal(shown[:, 0, 0], truth[:, 0])  # frame 0 is given
        assert not torch.equal(shown[:, 0, 1:], truth[:, 1:])
        assert float(shown.min()) >= 0 and float(shown.max()) <= 1


def test_true_masks_are_shown_with_the_chance_of_the_schedule(recorded: Recorded, base: MivaBase) -> None:
    objective = objective_of(base, masked=True, levels=3, chance=1.0)
    list(objective.losses(batch_of(base), 0, generator()))
    assert all(torch.equal(masks[:, 0], batch_of(base)["subject"]) for _, _, masks in recorded.seen)


def test_true_masks_fade_out_over_the_run() -> None:
    assert ground_truth_probability(0, 100) == 1.0
    assert ground_truth_probability(50, 100) == pytest.approx(0.5)
    assert ground_truth_probability(100, 100) == pytest.approx(0.0, abs=1e-12)


# --- noise levels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "noising", [EpsilonNoising(stable_diffusion()), FlowNoising(5.0)], ids=["epsilon", "flow"]
)
def test_the_clean_latents_come_back_from_the_target(noising: Noising) -> None:
    latents, noise = torch.randn(2, 3, 4, 5, 5, 5, generator=generator()).unbind(0)
    timestep = noising.timesteps[torch.tensor([100, 500, 700])]
    noised = noising.noised(latents, noise, timestep)
    assert torch.allclose(noising.clean(noised.latents, noised.target, timestep), latents, atol=1e-4)


def test_epsilon_levels_are_the_schedulers() -> None:
    process = stable_diffusion()
    latents, noise = torch.randn(2, 2, 4, 3, 2, 2, generator=generator()).unbind(0)
    timestep = torch.tensor([3, 981])
    ours = EpsilonNoising(process).noised(latents, noise, timestep)
    assert torch.allclose(ours.latents, process.add_noise(latents, noise, timestep), atol=1e-6)
    assert torch.equal(ours.target, noise) and torch.equal(ours.weight, torch.ones(2))


def test_flow_levels_are_the_sampler_s_and_weigh_the_middle() -> None:
    noising = FlowNoising(5.0)
    sampler = rectified_flow(5.0)
    sampler.set_timesteps(1000)
    assert torch.allclose(noising.timesteps, sampler.timesteps, atol=1e-2)
    assert float(noising.weights.mean()) == pytest.approx(1.0) and float(noising.weights.min()) == 0.0
    heaviest = float(noising.timesteps[noising.weights.argmax()])
    assert abs(heaviest - 500) < 2
    # y(t) = exp(-2 ((t - 500) / 1000)^2) - min: the ratio of two levels knows no normalisation
    a, b = (float(noising.weights[i]) for i in (200, 900))
    y = [math.exp(-2 * ((float(noising.timesteps[i]) - 500) / 1000) ** 2) for i in (200, 900)]
    low = min(math.exp(-2 * ((float(t) - 500) / 1000) ** 2) for t in noising.timesteps)
    assert a / b == pytest.approx((y[0] - low) / (y[1] - low), rel=1e-3)


# --- data ---------------------------------------------------------------------------------------------------


def lamp_folder(folder: Path, frames: int = 12, fps: float = 12.0, masks: Path | None = None) -> Path:
    """Squares that move right at their own speeds; the masks are the squares."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        clip, mask = (np.full((frames, 64, 64, 3), level, dtype=np.uint8) for level in (60, 0))
        for t in range(frames):
            x = (2 + number) * t % 44
            clip[t, 20:40, x : x + 20] = (220, 40, 40 * number)
            mask[t, 20:40, x : x + 20] = 255
        Clip(clip, fps).save(folder / f"{number}.mp4")
        if masks is not None:
            Clip(mask, fps).save(masks / f"{number}.mp4")
    return folder


def recipe_of(folder: Path, base: str = "tiny-wan", **changes: Any) -> dict[str, Any]:
    stage = {"kind": "miva-adapter", "base": base, "cache": "latents", "windows": 2, "preview_steps": 1}
    values: dict[str, Any] = {
        "stage": stage | changes.pop("stage", {}),
        "data": {"folder": str(folder), "frames": FRAMES[base], "size_px": 64} | changes.pop("data", {}),
        "steps": 2,
        "learning_rate": 1e-3,
        "optimizer": {"kind": "adamw", "weight_decay": 0.01},
        "log_every": 1,
    }
    return values | changes


def test_rates_are_the_bases_and_short_clips_are_refused_with_their_reason(tmp_path: Path) -> None:
    folder = lamp_folder(tmp_path / "waterfall")
    (folder / "prompt.txt").write_text("a waterfall")  # LAMP keeps one beside its videos
    Clip(np.zeros((4, 64, 64, 3), dtype=np.uint8), 12.0).save(folder / "short.mp4")
    with pytest.raises(InputError, match=r"short\.mp4 \(5 frames at 16 frames per second, 9 needed\)"):
        train(recipe_of(folder), tmp_path / "run", progress=False)
    result = train(recipe_of(folder, data={"skip_bad": True}), tmp_path / "run", progress=False)
    assert result.clips_used == 3 and [one["name"] for one in result.clips_refused] == ["short.mp4"]
    events = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    said = " ".join(event.get("message", "") for event in events)
    assert "resampled from 12 to 16 frames per second" in said and "left out short.mp4" in said


def test_the_cache_is_used_again_and_another_cut_gets_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from motionloom.codecs.wan_autoencoder import WanAutoencoder

    folder, encoded = lamp_folder(tmp_path / "clips"), []
    encode = WanAutoencoder.posterior
    monkeypatch.setattr(WanAutoencoder, "posterior", lambda self, f: encoded.append(1) or encode(self, f))
    train(recipe_of(folder, steps=1), tmp_path / "one", progress=False)
    assert len(encoded) == 6  # 2 windows of 3 clips
    train(recipe_of(folder, steps=1), tmp_path / "two", progress=False)
    assert len(encoded) == 6
    train(recipe_of(folder, steps=1, stage={"windows": 3}), tmp_path / "three", progress=False)
    assert len(encoded) == 15 and len(list(Path("latents").iterdir())) == 2


def test_masks_are_cut_and_mirrored_with_their_clips(tmp_path: Path) -> None:
    folder = lamp_folder(tmp_path / "clips", masks=tmp_path / "masks")
    clips = ClipFolder(folder, 6, 12.0, 64, flip=True, masks=tmp_path / "masks")
    mirrored = set()
    for epoch in range(6):
        sample = clips.at(epoch, 0)
        red = (sample["frames"][0] - sample["frames"][1]) / 2  # (T, H, W): the square is red
        assert (
            sample["masks"].shape == (1, 6, 64, 64)
            and 0 <= sample["masks"].min() <= sample["masks"].max() <= 1
        )
        together = torch.corrcoef(torch.stack([red.flatten(), sample["masks"].flatten()]))[0, 1]
        assert together > 0.97
        columns = sample["masks"][0, :, 30].argmax(dim=-1)
        mirrored.add(bool(columns[-1] < columns[0]))
    assert mirrored == {True, False}


def test_a_still_mask_holds_for_all_frames_and_missing_ones_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    folder = lamp_folder(tmp_path / "clips", masks=tmp_path / "masks")
    (tmp_path / "masks/0.mp4").unlink()
    picture = np.zeros((64, 64), dtype=np.uint8)
    picture[:, :32] = 255
    Image.fromarray(picture).save(tmp_path / "masks/0.png")
    still = ClipFolder(folder, 6, 12.0, 64, masks=tmp_path / "masks").at(0, 0)["masks"]
    assert (
        torch.equal(still, still[:, :1].expand_as(still))
        and still[0, 0, 0, 0] == 1
        and still[0, 0, 0, -1] == 0
    )
    before = ClipFolder(folder, 6, 12.0, 64, masks=tmp_path / "masks").fingerprint
    (tmp_path / "masks/0.png").unlink()
    Clip(np.zeros((5, 64, 64, 3), dtype=np.uint8), 12.0).save(tmp_path / "masks/1.mp4")
    with pytest.raises(InputError, match=r'no mask "0" in .*its mask "1\.mp4" has 5 frames, the clip 12'):
        ClipFolder(folder, 6, 12.0, 64, masks=tmp_path / "masks")
    clips = ClipFolder(folder, 6, 12.0, 64, masks=tmp_path / "masks", skip_bad=True)
    assert len(clips) == 1 and clips.fingerprint != before


def test_masks_on_the_latent_grid() -> None:
    masks = torch.zeros(1, 9, 16, 16)
    masks[:, 1:5, :8, :8] = 1
    masks[:, 5:7, 8:] = 1
    joined = on_latent_grid(masks, (3, 2, 2))  # frame 0, frames 1-4, frames 5-8
    assert torch.equal(joined[0, 0], torch.zeros(2, 2))
    assert torch.equal(joined[0, 1], torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert torch.equal(joined[0, 2], torch.tensor([[0.0, 0.0], [0.5, 0.5]]))
    assert torch.equal(on_latent_grid(masks, (9, 16, 16)), masks)


# --- recipes and forecasts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "trained", "frozen"),
    [
        ("animatediff", 35_444_960, 1_276_658_564),
        ("animatediff_masked", 60_238_240, 1_276_658_564),
        ("wan", 35_539_260, 1_418_996_800),
        ("wan_masked", 70_986_300, 1_418_996_800),
    ],
)
def test_recipes_count_what_the_paper_counts(name: str, trained: int, frozen: int) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    with torch.device("meta"):
        objective = recipe.stage.objective(recipe, dry_run=True)
    assert isinstance(objective, MivaObjective)
    assert sum(p.numel() for p in objective.parameter_groups()["adapter"]) == trained
    assert sum(p.numel() for p in objective.host.parameters()) == frozen
    assert objective.adapter.facts["fps"] == recipe.clip_data().fps


def test_a_dry_run_says_what_is_trained_what_is_frozen_and_which_clips_it_refuses(tmp_path: Path) -> None:
    folder = lamp_folder(tmp_path / "clips")
    (folder / "broken.mp4").write_bytes(b"no clip")
    plan = train(recipe_of(folder), dry_run=True).forecast
    assert plan is not None
    adapter, host = plan["parameters"]["adapter"], plan["parameters"]["host"]
    assert adapter["total"] == adapter["trained"] == sum(adapter["parts"].values())
    assert set(adapter["parts"]) == {
        "cross-frame attention",
        "adaptive weighting",
        "text-free cross-attention",
    }
    assert host["trained"] == 0 and host["total"] > adapter["total"]
    assert plan["clips"]["used"] == 3 and plan["clips"]["refused"][0]["name"] == "broken.mp4"
    assert plan["memory_bytes"]["activations"] > 0 and plan["time"]["seconds_per_step"] > 0
    assert not list(tmp_path.glob("latents*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"size_px": 56}}, "takes multiples of 16 px"),
        ({"data": {"frames": 8}}, "expected one more than a multiple of 4"),
        ({"stage": {"base": "mini"}, "data": {"fps": 12}}, "on which MIVA adapters cannot be trained"),
        ({"stage": {"preset": "papers"}}, "did you mean 'paper'"),
        ({"stage": {"base_options": {"shfit": 3}}}, "shift"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = lamp_folder(tmp_path / "clips")
    with pytest.raises((ConfigError, InputError), match=message):
        train(recipe_of(folder, **changes), tmp_path / "run", progress=False)


# --- learning -----------------------------------------------------------------------------------------------


def test_the_loss_falls_on_one_clip() -> None:
    """Overfitting: at one noise level and draw, three parts together explain more of the noise than none."""
    base = load_base("tiny-animatediff")
    assert isinstance(base, MivaBase)
    objective = objective_of(base)
    batch = batch_of(base)
    optimizer = torch.optim.Adam(objective.parameter_groups()["adapter"], lr=3e-3)

    def steps(count: int) -> Iterator[float]:
        for _ in range(count):
            for _, loss, _ in objective.losses(batch, 0, generator(5)):
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                yield float(loss.detach())

    values = list(steps(25))
    assert values[-1] < 0.9 * values[0], values


def test_8_bit_moments_survive_a_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    folder = lamp_folder(tmp_path / "clips")
    eight = {"optimizer": {"kind": "adamw8bit"}, "steps": 4}
    train(recipe_of(folder, **eight), tmp_path / "whole", progress=False)
    train(recipe_of(folder, **eight | {"steps": 2}), tmp_path / "parted", progress=False)
    train(recipe_of(folder, **eight), tmp_path / "parted", progress=False)
    whole, parted = (
        (tmp_path / run / "checkpoints/step-000004/networks.safetensors").read_bytes()
        for run in ("whole", "parted")
    )
    assert whole == parted


def test_32_bit_moments_where_bitsandbytes_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motionloom.training.loop.has_8bit_optimizer", lambda: False)
    run = tmp_path / "run"
    train(
        recipe_of(lamp_folder(tmp_path / "clips"), optimizer={"kind": "adamw8bit"}, steps=1),
        run,
        progress=False,
    )
    assert "bitsandbytes is not installed" in (run / "log.jsonl").read_text()

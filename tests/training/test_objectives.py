"""Objectives: loss arithmetic, who gets gradients, and that tiny models learn."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from motionloom.codecs.base import Gaussian
from motionloom.codecs.mcd_vae import MCDVAEConfig, MotionContentAutoencoder
from motionloom.conditions.text import TextEncoderConfig
from motionloom.denoisers.motion_generator import MotionGenerator, MotionGeneratorConfig
from motionloom.denoisers.motion_unet import MotionUNetConfig
from motionloom.errors import ConfigError, WeightsError
from motionloom.sampling.schedules import ldm_linear
from motionloom.training.objectives.autoencoder import Adversary, AutoencoderObjective
from motionloom.training.objectives.base import Objective
from motionloom.training.objectives.discriminator import PatchDiscriminator3d
from motionloom.training.objectives.generator import (
    EpsilonTarget,
    FlowTarget,
    GeneratorObjective,
    Target,
    VelocityTarget,
)
from motionloom.training.objectives.losses import (
    LPIPS,
    BetaKL,
    GradientSSIM,
    Hinge,
    MeanBetaKL,
    NonSaturating,
    PixelError,
    TargetKL,
    adaptive_weight,
    ssim,
)
from motionloom.training.recipe import load_recipe
from motionloom.weights import save_weights

CODEC = MCDVAEConfig(num_frames=8, size_px=(16, 16), motion_base=8, content_base=8)
TEXT = TextEncoderConfig(vocabulary_size=9, positions=6, width=32, depth=1, heads=2, logits_head=True)
GENERATOR = MotionGeneratorConfig(
    MotionUNetConfig(
        base=16, heads=2, multipliers=(1, 2), attention_levels=(1,), context_width=32, dropout=0.0
    ),
    content_width=32,
    text=TEXT,
)


def codec() -> MotionContentAutoencoder:
    torch.manual_seed(0)
    return MotionContentAutoencoder(CODEC)


def clips(count: int, num_frames: int = 8, side: int = 16) -> Tensor:
    """Squares that slide over a gradient: (count, 3, T, side, side), -1..1."""
    ramp = torch.linspace(-0.8, 0.2, side).expand(3, num_frames, side, side)
    frames = ramp.repeat(count, 1, 1, 1, 1)
    for index in range(count):
        for t in range(num_frames):
            left = (index + t) % (side - 4) if index % 2 else (side - 5 - index - t) % (side - 4)
            frames[index, index % 3, t, 4 + index % 6 : 9 + index % 6, left : left + 4] = 0.9
    return frames


def soft_clips(count: int, num_frames: int = 8, side: int = 16) -> Tensor:
    """Soft blobs that drift each in its own direction: (count, 3, T, side, side), -1..1.

    Small hard squares would not do: L1 is least where a place shows what it shows most of the time, the bare
    background. Two short trainings on them ended at 19.95 and 19.96 dB; the median over time has 19.96.
    """
    rows = torch.arange(side).view(1, side, 1)
    columns = torch.arange(side).view(1, 1, side)
    time = torch.arange(num_frames).view(num_frames, 1, 1) / (num_frames - 1)
    frames = []
    for index in range(count):
        angle = 2 * math.pi * index / count
        row = side / 2 - 0.5 + 3 * math.sin(angle) * time
        column = side / 2 - 0.5 + 3 * math.cos(angle) * time
        blob = torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * 3.0**2))  # (T, side, side)
        colour = torch.tensor([1.0, 0.3 + 0.1 * (index % 4), 1.0 - 0.1 * index]).view(3, 1, 1, 1)
        frames.append(colour * (1.6 * blob - 0.8))
    return torch.stack(frames)


def run_step(objective: Objective, batch: dict[str, Tensor], step: int) -> dict[str, dict[str, float]]:
    """What the training loop does, without stepping: backward for the named group only."""
    groups = objective.parameter_groups()
    logged = {}
    for name, loss, numbers in objective.losses(batch, step, torch.Generator().manual_seed(step)):
        assert loss.ndim == 0 and loss.isfinite() and all(math.isfinite(x) for x in numbers.values())
        loss.backward(inputs=groups[name])
        logged[name] = numbers
    return logged


# ---- loss terms


def test_kl_in_sum_and_mean_reduction() -> None:
    """rec_sum + beta KL_sum = N_pix (rec_mean + beta (N_lat / N_pix) KL_mean)."""
    generator = torch.Generator().manual_seed(0)
    posterior = Gaussian(*torch.randn(2, 5, 3, 4, 4, generator=generator))
    frames, reconstruction = torch.randn(2, 5, 3, 8, 16, 16, generator=generator)
    num_pixels = frames[0].numel()
    absolute = (frames - reconstruction).abs()
    by_sums = absolute.flatten(1).sum(1).mean() + 1e-2 * posterior.kl().flatten(1).sum(1).mean()
    term, numbers = BetaKL(1e-2)(posterior, num_pixels)
    torch.testing.assert_close(num_pixels * (absolute.mean() + term), by_sums)
    assert numbers["kl_nats_per_dim"] == pytest.approx(float(posterior.kl().mean()))
    mean_term, _ = MeanBetaKL(1e-2)(posterior, num_pixels)
    assert float(mean_term / term) == pytest.approx(num_pixels / (3 * 4 * 4))


def test_target_kl_finds_its_target() -> None:
    """A plant whose KL falls with beta, like a trained bottleneck: the controller settles at the target."""
    controller = TargetKL(1.0, proportional=0.5, integral=0.05)
    kl, beta = 4.0, 0.0
    for _ in range(600):
        mean = torch.full((1, 1, 1, 1), math.sqrt(2 * kl))
        _, numbers = controller(Gaussian(mean, torch.zeros_like(mean)), 100)
        beta = numbers["beta"]
        kl += 0.2 * (0.3 / math.sqrt(beta) - kl)
    assert kl == pytest.approx(1.0, rel=0.02) and beta == pytest.approx(0.09, rel=0.05)
    assert "error_sum" in controller.state_dict()


def test_target_kl_costs_what_its_beta_does() -> None:
    """The term is beta KL for the beta it says, and going down it goes towards the prior, N(0, I)."""
    mean = torch.full((2, 3, 4, 4), 0.7, requires_grad=True)
    posterior = Gaussian(mean, torch.full((2, 3, 4, 4), 0.2))
    term, numbers = TargetKL(1.0)(posterior, 100)
    torch.testing.assert_close(term, BetaKL(numbers["beta"])(posterior, 100)[0])
    (slope,) = torch.autograd.grad(term, mean)
    assert bool(term > 0) and bool((slope > 0).all())


def test_adaptive_weight_is_the_ratio_of_gradients() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    rec, gan = 2 * weight.sum(), 0.5 * weight.sum()
    ratio = adaptive_weight(rec, gan, weight)
    assert not ratio.requires_grad and ratio.item() == pytest.approx(4.0, rel=1e-3)
    assert weight.grad is None
    assert adaptive_weight(1e9 * weight.sum(), 0 * weight.sum(), weight).item() == 1e4
    assert adaptive_weight(0 * weight.sum(), weight.sum(), weight).item() == 0.0


def test_adaptive_weight_sees_gradients_below_the_range_of_fp16() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    rec = 2e-8 * weight.half().sum().float()  # its gradient in fp16 would be 0
    ratio = adaptive_weight(rec, 0 * weight.sum(), weight).item()
    assert ratio == pytest.approx(2e-8 * math.sqrt(2) / 1e-4, rel=1e-2)


def test_pixel_error_is_l1_and_by_choice_squares_and_weights_of_what_moves() -> None:
    frames = torch.zeros(1, 3, 2, 2, 2)
    frames[0, 1, 1, 0, 0] = 0.2  # one place of frame 1 differs from frame 0, in one channel
    shown = frames.clone()
    shown[0, :, 1, 0, 0] += 0.5  # wrong where it moves, all channels
    shown[0, :, 1, 1, 1] += 0.5  # and where it stands still
    l1, squared = 6 * 0.5 / 24, 6 * 0.25 / 24
    assert torch.equal(PixelError()(shown, frames), (shown - frames).abs().mean())
    assert float(PixelError(l2=2)(shown, frames)) == pytest.approx(l1 + 2 * squared)
    mean_weight = (7 * 1 + 10) / 8  # of 8 places, one counts 1 + 9
    assert float(PixelError(moving=9)(shown, frames)) == pytest.approx(3 * 0.5 * (10 + 1) / 24 / mean_weight)
    still = frames[:, :, :1].expand_as(frames)
    assert float(PixelError(l2=1, moving=9)(still + 0.1, still)) == pytest.approx(
        0.11
    )  # nothing moves: no weights


def test_the_objective_and_its_recipe_use_the_pixel_error(tmp_path: Path) -> None:
    model, frames = codec(), clips(2)
    plain, weighted = (
        AutoencoderObjective(model, pixels=pixels)._reconstruction(frames * 0.9, frames)
        for pixels in (None, PixelError(moving=10))
    )
    assert float(weighted[0] - plain[0]) == pytest.approx(
        float(PixelError(moving=10)(frames * 0.9, frames) - (frames * 0.1).abs().mean()), abs=1e-6
    )
    assert weighted[1] == plain[1]  # L1 is logged whatever is minimised
    small = Path(__file__).parents[2] / "recipes/lamd/small/blocks_autoencoder.yaml"
    recipe = load_recipe(small, ["stage.pixels.l2=3", "stage.pixels.moving=7"])
    objective: Any = recipe.stage.objective(recipe)
    assert objective.pixels == PixelError(3.0, 7.0)
    paper = load_recipe(small.parents[1] / "cater_autoencoder.yaml", ["stage.perceptual=gradient-ssim"])
    with torch.device("meta"):
        default: Any = paper.stage.objective(paper, dry_run=True)
    assert default.pixels == PixelError() and default.codec.config.output.name == "frames"


def test_adversarial_forms() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.5])
    assert Hinge().discriminator(real, fake).item() == pytest.approx(0.5 * (0.25 + 0.75))
    assert Hinge().generator(fake).item() == pytest.approx(0.75)
    zeros = torch.zeros(3)
    assert NonSaturating().generator(zeros).item() == pytest.approx(math.log(2))
    assert NonSaturating().discriminator(zeros, zeros).item() == pytest.approx(math.log(2))


def test_gradient_ssim() -> None:
    a = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert ssim(a, a).item() == pytest.approx(1.0, abs=1e-5)
    assert GradientSSIM()(a, a).item() == pytest.approx(0.0, abs=1e-5)
    blurred = torch.nn.functional.avg_pool2d(a, 3, stride=1, padding=1)
    assert GradientSSIM()(blurred, a) > GradientSSIM()(0.99 * a, a) > 0
    assert ssim(a[..., :5, :5], a[..., :5, :5]).item() == pytest.approx(1.0, abs=1e-4)


def lpips_file(folder: Path) -> Path:
    """Random weights under the published names."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    index, width = 0, 3
    for stage, (convolutions, stage_width) in enumerate(LPIPS.STAGES):
        for _ in range(convolutions):
            shape = (stage_width, width, 3, 3)
            tensors[f"features.{index}.weight"] = torch.randn(shape, generator=generator) / (3 * width**0.5)
            tensors[f"features.{index}.bias"] = torch.zeros(stage_width)
            index, width = index + 2, stage_width
        index += 1
        tensors[f"lin{stage}.model.1.weight"] = torch.rand(1, stage_width, 1, 1, generator=generator)
    return save_weights(folder / "lpips.safetensors", tensors)


def test_lpips_reads_the_published_names(tmp_path: Path) -> None:
    lpips = LPIPS(lpips_file(tmp_path))
    convolutions = [i for i, layer in enumerate(lpips.features) if isinstance(layer, nn.Conv2d)]
    assert convolutions == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    assert sum(p.numel() for p in lpips.features.parameters()) == 14_714_688
    assert not any(p.requires_grad for p in lpips.parameters())
    a = (torch.rand(1, 3, 32, 32) * 2 - 1).requires_grad_()
    assert lpips(a, a).item() == 0.0
    distance = lpips(a, a.detach().flip(-1))
    distance.backward()
    assert distance > 0 and a.grad is not None and a.grad.abs().max() > 0
    broken = save_weights(tmp_path / "broken.safetensors", {"features.0.bias": torch.zeros(64)})
    with pytest.raises(WeightsError):
        LPIPS(broken)


def test_discriminator_size() -> None:
    with torch.device("meta"):
        model = PatchDiscriminator3d()
        assert sum(p.numel() for p in model.parameters()) == 11_057_857
        assert model(torch.empty(1, 3, 16, 64, 64)).shape[:2] == (1, 1)


# ---- the autoencoder's objective


def adversary(start_step: int) -> Adversary:
    return Adversary(PatchDiscriminator3d(base=8), Hinge(), factor=0.8, start_step=start_step)


def test_adversary_sleeps_until_its_step() -> None:
    objective = AutoencoderObjective(codec(), adversary=adversary(start_step=5))
    batch = {"frames": clips(2)}
    early = run_step(objective, batch, step=4)
    assert set(early) == {"autoencoder"} and "gan_weight" not in early["autoencoder"]
    assert set(early["autoencoder"]) >= {"l1", "gradient_ssim", "kl_nats_per_dim"}
    late = run_step(objective, batch, step=5)
    assert set(late) == {"autoencoder", "discriminator"}
    assert 0 < late["autoencoder"]["gan_weight"] <= 0.8e4


def test_groups_do_not_touch_each_other() -> None:
    objective = AutoencoderObjective(codec(), adversary=adversary(start_step=0))
    groups = objective.parameter_groups()
    losses = objective.losses({"frames": clips(2)}, 0, torch.Generator().manual_seed(0))
    name, loss, _ = next(losses)
    loss.backward(inputs=groups[name])
    assert all(p.grad is not None for p in groups["autoencoder"])
    assert all(p.grad is None for p in groups["discriminator"])
    before = [p.grad.clone() for p in groups["autoencoder"] if p.grad is not None]
    name, loss, _ = next(losses)
    loss.backward()
    assert all(p.grad is not None for p in groups["discriminator"])
    assert all(torch.equal(a, p.grad) for a, p in zip(before, groups["autoencoder"], strict=True))  # type: ignore[arg-type]
    assert next(losses, None) is None


def test_same_generator_same_loss_preview_and_export(tmp_path: Path) -> None:
    objective = AutoencoderObjective(codec(), kl=TargetKL(1.0), facts={"beta": "auto"})
    assert set(objective.networks) == {"codec", "kl"} and objective.ema_networks == ()
    batch = {"frames": clips(2)}
    first, second = (
        next(AutoencoderObjective(codec()).losses(batch, 0, torch.Generator().manual_seed(1)))[1].item()
        for _ in range(2)
    )
    assert first == second
    objective.codec.eval()
    grid = objective.preview(batch, torch.Generator())
    assert grid.shape == (8, 2 * 16, 2 * 16, 3) and str(grid.dtype) == "uint8"
    objective.export(tmp_path)
    assert MotionContentAutoencoder.load(tmp_path / "mcd_vae.safetensors").config == CODEC


def test_bf16_autocast_gives_finite_gradients() -> None:
    objective = AutoencoderObjective(codec(), adversary=adversary(start_step=0))
    groups = objective.parameter_groups()
    losses = objective.losses({"frames": clips(2)}, 0, torch.Generator().manual_seed(0))
    while True:
        with torch.autocast("cpu", torch.bfloat16):
            drawn = next(losses, None)
        if drawn is None:
            break
        drawn[1].backward(inputs=groups[drawn[0]])
    assert all(p.grad is not None and p.grad.isfinite().all() for ps in groups.values() for p in ps)


# ---- the generator's objective


def generator_batch(model: MotionContentAutoencoder, count: int = 4) -> dict[str, Tensor]:
    frames = clips(count)
    with torch.no_grad():
        posterior = model.eval().encode_motion(frames)
    ids = torch.tensor([[1, 3 + index % 6, 2, 0] for index in range(count)])
    return {
        "mean": posterior.mean,
        "logvar": posterior.logvar,
        "first_frame": frames[:, :, 0],
        "text_ids": ids,
    }


def generator_objective(target: Target, **options: Any) -> GeneratorObjective:
    torch.manual_seed(0)
    config = dataclasses.replace(GENERATOR, prediction_type=target.prediction_type)
    return GeneratorObjective(MotionGenerator(config), codec(), target, **options)


def targets() -> list[Target]:
    return [
        EpsilonTarget(ldm_linear()),
        EpsilonTarget(ldm_linear(), min_snr=5.0),
        VelocityTarget(ldm_linear("v_prediction"), min_snr=5.0),
        FlowTarget(),
        FlowTarget(logit_normal=False, shift=3.0),
    ]


@pytest.mark.parametrize("target", targets())
def test_a_perfect_prediction_recovers_the_latents(target: Target) -> None:
    """Whatever is predicted, the noisy latents and the target together hold z and epsilon."""
    z = torch.randn(64, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    noised = target.noised(z, torch.Generator().manual_seed(1))
    assert noised.timestep.shape == noised.weight.shape == (64,)
    assert noised.timestep.min() >= 0 and noised.timestep.max() <= 1000 and (noised.weight > 0).all()
    t = noised.timestep.view(-1, 1, 1, 1)
    if target.prediction_type == "flow":
        recovered = noised.latents - t / 1000 * noised.target
        tolerance = 1e-5
    else:
        abar = ldm_linear().alphas_cumprod[t]
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        is_epsilon = target.prediction_type == "epsilon"
        recovered = (
            (noised.latents - sigma * noised.target) / alpha
            if is_epsilon
            else alpha * noised.latents - sigma * noised.target
        )
        tolerance = 1e-3
    torch.testing.assert_close(recovered, z, atol=tolerance, rtol=1e-3)


@pytest.mark.parametrize("target", targets())
def test_generator_step_preview_and_export(target: Target, tmp_path: Path) -> None:
    objective = generator_objective(target, drop_text=0.5, drop_image=0.5)
    batch = generator_batch(objective.codec)
    logged = run_step(objective, batch, 0)
    assert set(logged) == {"generator"}
    assert not any(p.requires_grad for p in objective.codec.parameters()) and not objective.codec.training
    assert all(p.grad is not None for p in objective.parameter_groups()["generator"])
    objective.generator.eval()
    assert objective.preview(batch, torch.Generator().manual_seed(0)).shape == (8, 32, 64, 3)
    objective.export(tmp_path)
    loaded, schedule = MotionGenerator.load(tmp_path / "dmg.safetensors")
    assert loaded.prediction_type == target.prediction_type and schedule == target.description()
    assert (tmp_path / "mcd_vae.safetensors").is_file()


def test_dropping_conditions_hides_them() -> None:
    """With everything dropped, the loss does not depend on picture or text."""
    batch = generator_batch(codec())
    other = batch | {"first_frame": -batch["first_frame"], "text_ids": batch["text_ids"].roll(1, 0)}
    for options, equal in (({"drop_text": 1.0, "drop_image": 1.0}, True), ({}, False)):
        objective = generator_objective(FlowTarget(), **options)
        with torch.no_grad():
            for parameter in objective.generator.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
            losses = [
                next(objective.losses(each, 0, torch.Generator().manual_seed(2)))[1].item()
                for each in (batch, other)
            ]
        assert (losses[0] == pytest.approx(losses[1], rel=1e-6)) is equal


def test_mismatches_are_refused() -> None:
    with pytest.raises(ConfigError, match="set up for epsilon"):
        VelocityTarget(ldm_linear())
    with pytest.raises(ConfigError, match="predicts epsilon"):
        GeneratorObjective(MotionGenerator(GENERATOR), codec(), FlowTarget())


# ---- learning


def train(objective: Objective, batch: dict[str, Tensor], steps: int, rate: float) -> list[float]:
    optimizers = {
        name: torch.optim.AdamW(parameters, rate, betas=(0.9, 0.99))
        for name, parameters in objective.parameter_groups().items()
    }
    generator, curve = torch.Generator().manual_seed(0), []
    for step in range(steps):
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = (
                    rate * min(1, 10 * (step + 1) / steps) * 0.5 * (1 + math.cos(math.pi * step / steps))
                )
        for name, loss, _ in objective.losses(batch, step, generator):
            optimizers[name].zero_grad()
            loss.backward(inputs=objective.parameter_groups()[name])
            torch.nn.utils.clip_grad_norm_(objective.parameter_groups()[name], 1.0)
            optimizers[name].step()
            curve.append(float(loss.detach()))
    return curve


def test_generator_learns_one_batch() -> None:
    objective = generator_objective(FlowTarget())
    batch = generator_batch(objective.codec)
    batch["mean"] = torch.randn(batch["mean"].shape, generator=torch.Generator().manual_seed(4))
    batch["logvar"] = torch.full_like(batch["mean"], -12.0)
    curve = train(objective, batch, steps=60, rate=3e-3)
    assert sum(curve[-10:]) < 0.8 * sum(curve[:10])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_overfits_eight_clips() -> None:
    """PSNR above 30 dB on eight clips, far above copying the first frame and above any picture at rest."""
    torch.manual_seed(0)
    model = MotionContentAutoencoder(dataclasses.replace(CODEC, motion_base=16, content_base=16))
    frames = soft_clips(8)
    train(AutoencoderObjective(model, kl=BetaKL(1e-4)), {"frames": frames}, steps=300, rate=2e-3)
    with torch.no_grad():
        decoded = model.eval().decode(model.encode(frames), frames[:, :, 0])
    ours, copied, at_rest = (
        -10 * math.log10(float((guess - frames).square().mean()) / 4)
        for guess in (decoded, frames[:, :, :1], frames.mean(dim=2, keepdim=True))
    )
    assert ours > max(30, copied + 8, at_rest + 3), (ours, copied, at_rest)

"""Masks: the biases, who owns a place, the joint stream of frames and masks, and reading masks off a prediction."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import motionloom as ml
from motionloom.adapters import attention_bias as biases
from motionloom.adapters import context_of
from motionloom.adapters.proxy_mask import (
    Level,
    advanced,
    confidences,
    fitted_pixels,
    ground_truth_probability,
    in_latent_time,
    split_prediction,
)
from motionloom.adapters.settings import AdapterSettings, Masks
from motionloom.conditions.asked import Asked
from motionloom.denoisers.base import Request
from motionloom.errors import ConfigError, InputError
from motionloom.sampling.masked import MaskedDenoiser, SubjectMasks, mask_steps
from tests.adapters.conftest import latents_for, moved, predict

LN_EPS = math.log(1e-4)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def with_masks(settings: AdapterSettings, **changes: Any) -> AdapterSettings:
    assert settings.masks is not None
    return settings.model_copy(update={"masks": settings.masks.model_copy(update=changes)})


# --- Eq. 3 --------------------------------------------------------------------------------------------------


def test_soft_bias_at_its_corners() -> None:
    s = torch.tensor([0.0, 0.5, 1.0])
    got = biases.pair_bias(s, s)
    half = math.log(0.5 + 1e-4)
    expected = [[0, half, LN_EPS], [half, half, half], [LN_EPS, half, 0]]
    assert torch.allclose(got, torch.tensor(expected), atol=1e-5)
    assert got.max() <= 0 and abs(float(got.min()) + 9.2103) < 1e-3


def test_equality_bias_is_exact() -> None:
    s = torch.tensor([0.3, 0.3, 0.3000001])
    got = biases.pair_bias(s, s, "equality")
    assert got[0, 1] == 0 and abs(float(got[0, 2]) - LN_EPS) < 1e-5


@pytest.mark.parametrize("grid", [(6, 10), (3, 5), (5, 3)])
def test_any_aspect_ratio_and_grid(grid: tuple[int, int]) -> None:
    s, n = drawn(2, 4, 6, 10), grid[0] * grid[1]
    for pooling in ("mask", "bilinear", "log_bias"):
        masks = Masks(pooling=pooling)
        assert biases.cross_frame_bias(s, grid, masks).shape == (2, 4, n, 2 * n)
        assert biases.self_bias(s, grid, masks).shape == (2, 4, n, n)
    assert biases.temporal_bias(s, grid).shape == (2, n, 4, 4)
    assert biases.clip_bias(s, grid).shape == (2, 4 * n, 4 * n)


def test_pooling_before_the_logarithm_is_kinder() -> None:
    """Where cells are hard inside, the mean of logarithms lies below the logarithm of the mean (Jensen)."""
    s = (drawn(1, 2, 8, 8) > 0.5).float()
    before = biases.self_bias(s, (2, 2), Masks(pooling="mask"))
    after = biases.self_bias(s, (2, 2), Masks(pooling="log_bias"))
    assert (after < before).all()


def test_columns_are_first_and_previous() -> None:
    s = drawn(1, 4, 2, 3)
    got = biases.cross_frame_bias(s, (2, 3), Masks())[0]
    flat = s[0].flatten(1)
    assert torch.equal(got[3, :, :6], biases.pair_bias(flat[3], flat[0]))
    assert torch.equal(got[3, :, 6:], biases.pair_bias(flat[3], flat[2]))
    assert torch.equal(got[0, :, 6:], biases.pair_bias(flat[0], flat[0]))
    released = biases.cross_frame_bias(s, (2, 3), Masks(first_sees_itself=False))[0]
    assert torch.allclose(released[0, :, 6:], torch.tensor(LN_EPS)) and torch.equal(released[1:], got[1:])


def test_later_motions_lie_on_top() -> None:
    """Places: background, first, second, a tie of both, a tie with the background."""
    s = torch.tensor([[0.2, 0.9, 0.1, 0.8, 0.5], [0.1, 0.1, 0.7, 0.8, 0.2]]).reshape(1, 2, 1, 1, 5)
    assert biases.owners(s).flatten().tolist() == [0, 1, 2, 2, 1]
    assert biases.owners(torch.full((1, 2, 1, 1, 1), 0.4), "half").item() == 0
    owner = biases.owners(s).flatten()
    layered = biases.layered_bias(owner, owner)
    assert layered[2, 3] == 0 and layered[1, 4] == 0 and abs(float(layered[0, 1]) - LN_EPS) < 1e-5


# --- frames and masks in one call ---------------------------------------------------------------------------


def joint(host: Any, video: Tensor, *masks: Tensor) -> list[Tensor]:
    """One call of [video ; masks]; the prediction of each."""
    context = context_of(host)
    with context.with_masks():
        out = predict(host, torch.cat([video, *masks], dim=context.modalities_axis))
    return list(out.chunk(1 + len(masks), dim=context.modalities_axis))


def test_masks_leave_the_video_alone(host: Any) -> None:
    """Without biases, and with temporal attention split, the video is what it is without masks."""
    video, mask = latents_for(host), latents_for(host).flip(-1)
    with ml.mounted(host, [(moved(host, masked=True), 1.0)]):
        assert torch.allclose(joint(host, video, mask)[0], predict(host, video), atol=1e-5)


def test_joint_temporal_attention_mixes(unet: Any) -> None:
    video, mask = latents_for(unet), latents_for(unet).flip(-1)
    adapter = moved(unet, settings=with_masks(ml.new_adapter(unet, masked=True).settings, temporal="joint"))
    with ml.mounted(unet, [(adapter, 1.0)]):
        one, other = joint(unet, video, mask)[0], joint(unet, video, -mask)[0]
    assert not torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("guided", [True, False])
def test_masks_read_the_video_through_image_guidance_alone(host: Any, guided: bool) -> None:
    video, mask = latents_for(host), latents_for(host).flip(-1)
    settings = with_masks(ml.new_adapter(host, masked=True).settings, image_guidance=guided)
    with ml.mounted(host, [(moved(host, settings=settings), 1.0)]):
        one, other = joint(host, video, mask)[1], joint(host, video.flip(-2), mask)[1]
    assert torch.allclose(one, other, atol=1e-5) is not guided


def test_each_mask_has_its_own_adapter(host: Any) -> None:
    """Stream k under two adapters is stream 1 under adapter k alone, whatever the weights."""
    video, s1, s2 = latents_for(host), latents_for(host).flip(-1), latents_for(host).flip(-2)
    settings = with_masks(ml.new_adapter(host, masked=True).settings, image_guidance=False)
    plain = [moved(host, i, settings=settings) for i in (1, 2)]
    with ml.mounted(host, [(plain[0], 0.3), (plain[1], 0.7)]):
        both = joint(host, video, s1, s2)
    for adapter, stream, got in ((plain[0], s1, both[1]), (plain[1], s2, both[2])):
        with ml.mounted(host, [(adapter, 1.0)]):
            assert torch.allclose(joint(host, video, stream)[1], got, atol=1e-5)


def test_masks_of_ones_bias_nothing(host: Any) -> None:
    """Everything is subject: log(1 + eps) is clamped to 0 and every gate is 1."""
    latents, adapter = latents_for(host), moved(host, masked=True)
    with ml.mounted(host, [(adapter, 1.0)]):
        plain = predict(host, latents)
        context_of(host).show_masks(torch.ones(1, 3, 8, 12))
        assert torch.allclose(predict(host, latents), plain, atol=1e-5)
        context_of(host).show_masks(drawn(1, 3, 8, 12))
        assert not torch.allclose(predict(host, latents), plain, atol=1e-4)
        context_of(host).show_masks(None)
        assert torch.equal(predict(host, latents), plain)


def test_base_self_attention_is_biased_as_written(unet: Any, wan: Any) -> None:
    """U-Net: B(i, i) within frames. DiT: B over the whole clip."""
    s = drawn(1, 3, 8, 12)
    fresh = ml.new_adapter(unet, masked=True)  # adds nothing of its own
    block = unet.get_submodule(fresh.layout.spatial[0].path)
    attn, rows = block.attn1, torch.randn(3, 96, 16)
    with torch.no_grad(), ml.mounted(unet, [(fresh, 1.0)]):
        context_of(unet).show_masks(s)
        predict(unet, latents_for(unet))
        got = attn(rows)
        bias = biases.self_bias(s, (8, 12), Masks())[0][:, None]
        q, k, v = (
            layer(rows).unflatten(-1, (2, 8)).transpose(1, 2) for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        expected = attn.to_out[0](F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2))
    assert torch.allclose(got, expected, atol=1e-5)

    fresh, attn = ml.new_adapter(wan, masked=True), wan.blocks[0].attn1
    rows = torch.randn(1, 72, 48)
    with torch.no_grad(), ml.mounted(wan, [(fresh, 1.0)]):
        context_of(wan).show_masks(s)
        predict(wan, latents_for(wan))
        got = attn(rows)
        bias = biases.clip_bias(s, (4, 6))[:, None]
    with torch.no_grad():
        assert torch.allclose(got, attn(rows, None, bias), atol=1e-5)


def test_vanilla_adapter_among_masked_ones_has_the_background(unet: Any) -> None:
    masked, vanilla = moved(unet, 1, masked=True), moved(unet, 2)
    s = drawn(1, 3, 8, 12)
    with ml.mounted(unet, [(masked, 0.5), (vanilla, 0.5)]):
        context = context_of(unet)
        context.show_masks(s)
        assert torch.equal(context.subject(context.mounted[1])[0], (s[0] < 0.5).float())
        assert torch.equal(context.subject(context.mounted[0])[0], s[0])
        predict(unet, latents_for(unet))


def test_hard_gate_silences_the_text_free_part_off_the_subject(unet: Any) -> None:
    adapter = moved(unet, masked=True)
    block = unet.get_submodule(adapter.layout.spatial[0].path)
    s = torch.zeros(1, 3, 8, 12)
    s[..., 6:] = 0.6
    with torch.no_grad(), ml.mounted(unet, [(adapter, 1.0)]):
        context_of(unet).show_masks(s)
        predict(unet, latents_for(unet))
        out = block.attn2(torch.randn(3, 96, 16)).unflatten(1, (8, 12))
    assert not out[:, :, :6].any() and out[:, :, 6:].abs().min() > 0


def test_background_part_blends_softly(wan: Any) -> None:
    adapter = moved(wan, masked=True)
    parts = dict(adapter.spatial())["blocks.0"]
    attn, rows = wan.blocks[0].attn2, torch.randn(1, 72, 48)
    with torch.no_grad(), ml.mounted(wan, [(adapter, 1.0)]):
        context_of(wan).show_masks(torch.full((1, 3, 8, 12), 0.25))
        predict(wan, latents_for(wan))
        got = attn(rows)
        q = attn.norm_q(attn.to_q(rows))
        assert parts.ca is not None and parts.ca_background is not None
        assert torch.allclose(got, 0.25 * parts.ca(q) + 0.75 * parts.ca_background(q), atol=1e-5)


def test_start_of_the_mask_stream(unet: Any) -> None:
    """W'_O: zero by default, the base's in the released U-Net."""
    path = ml.new_adapter(unet).layout.spatial[0].path
    for preset, expected in (("default", 0.0), ("released", unet.get_submodule(path).attn1.to_out[0].weight)):
        cfa = dict(ml.new_adapter(unet, preset, masked=True).spatial())[path].cfa
        assert cfa is not None and (cfa.mask["both"].to_out.weight == expected).all()
        assert not cfa.video["both"].to_out.weight.any()


def test_biases_are_computed_once_for_the_masks_shown(unet: Any) -> None:
    with ml.mounted(unet, [(moved(unet, masked=True), 1.0)]):
        context = context_of(unet)
        context.show_masks(drawn(1, 3, 8, 12))
        predict(unet, latents_for(unet))
        first = dict(context._biases)
        predict(unet, latents_for(unet))
        assert first and all(context._biases[key] is value for key, value in first.items())
        context.show_masks(drawn(1, 3, 8, 12, seed=1))
        predict(unet, latents_for(unet))
        assert all(context._biases[key] is not value for key, value in first.items())


def test_refusals(unet: Any) -> None:
    with (
        ml.mounted(unet, [(moved(unet), 1.0)]),
        pytest.raises(ConfigError, match="no mounted adapter is masked"),
    ):
        context_of(unet).show_masks(torch.ones(1, 3, 8, 12))
    with ml.mounted(unet, [(moved(unet, masked=True), 1.0)]):
        context = context_of(unet)
        with pytest.raises(InputError, match="expected \\(1, frames, h, w\\)"):
            context.show_masks(torch.ones(2, 3, 8, 12))
        with context.with_masks(), pytest.raises(InputError, match="expected a multiple of 2"):
            predict(unet, latents_for(unet, 5))
        context.show_masks(torch.ones(1, 4, 8, 12))
        with pytest.raises(InputError, match="the masks have 4 frames, the video 3"):
            predict(unet, latents_for(unet))
        with pytest.raises(ConfigError, match="expected 0..1"):
            context.at(1.5)
    long = moved(unet, settings=with_masks(ml.new_adapter(unet, masked=True).settings, temporal="joint"))
    with (
        ml.mounted(unet, [(long, 1.0)]),
        context_of(unet).with_masks(),
        pytest.raises(InputError, match="count to 32"),
    ):
        predict(unet, latents_for(unet, 34))


# --- proxy masks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_the_clean_latent_is_recovered_exactly(kind: Any) -> None:
    x0, eps = drawn(1, 4, 3, 4, 4).double() - 0.5, torch.randn(1, 4, 3, 4, 4).double()
    level = Level(0.4, 0.6) if kind == "flow" else Level(0.6, 0.8)
    z = level.signal * x0 + level.noise * eps
    prediction = {"epsilon": eps, "flow": eps - x0, "v_prediction": level.signal * eps - level.noise * x0}[
        kind
    ]
    for got, want in zip(split_prediction(z, prediction, level, kind), (x0, eps), strict=True):
        assert torch.allclose(got, want)


def test_masks_advance_as_ddim_and_euler_do() -> None:
    from diffusers import DDIMScheduler

    from motionloom.adapters.proxy_mask import level_at
    from motionloom.sampling.schedules import rectified_flow

    z, prediction = torch.randn(2, 1, 4, 3, 4, 4)
    scheduler = DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, steps_offset=1)
    scheduler.set_timesteps(10)
    want = scheduler.step(prediction, 981, z).prev_sample
    got = advanced(
        z, prediction, level_at(scheduler, 981, "epsilon"), level_at(scheduler, 881, "epsilon"), "epsilon"
    )
    assert torch.allclose(got, want, atol=1e-5)
    flow = rectified_flow(5.0)
    flow.set_timesteps(10)
    t = [float(t) for t in flow.timesteps]
    want = flow.step(prediction, flow.timesteps[0], z).prev_sample
    got = advanced(z, prediction, level_at(flow, t[0], "flow"), level_at(flow, t[1], "flow"), "flow")
    assert torch.allclose(got, want, atol=1e-5)


def test_confidences_are_stretched_and_averaged() -> None:
    pixels = torch.full((1, 3, 2, 4, 4), -0.5)
    pixels[:, :, 0, :, 2:] = 0.5  # frame 0: two greys, stretched to 0 and 1; frame 1: one grey, kept
    got = confidences(pixels, (2, 2))
    assert torch.allclose(got[0, 0], torch.tensor([[0.0, 1.0], [0.0, 1.0]]), atol=1e-6)
    assert torch.allclose(got[0, 1], torch.full((2, 2), 0.25))


def test_frames_join_as_in_the_latent() -> None:
    s = torch.arange(9.0).reshape(1, 9, 1, 1)
    assert in_latent_time(s, 3).flatten().tolist() == [0, 2.5, 6.5]
    assert torch.equal(in_latent_time(s, 9), s)


def test_fitted_masks_are_exact_where_latents_are_linear_in_grey() -> None:
    """Latents made as picture times a direction plus an offset, and noise that grey has no part in."""
    masks = drawn(1, 1, 3, 6, 8)
    direction, offset = drawn(4, seed=1) - 0.5, drawn(4, seed=2)
    latents = torch.einsum("bmfhw,c->bcfhw", masks, direction) + offset[:, None, None, None]
    picture = F.interpolate(2 * masks[:, :, 0] - 1, scale_factor=8).expand(-1, 3, -1, -1)
    got = fitted_pixels(latents, picture)
    assert got.shape == (1, 3, 3, 6, 8) and torch.allclose(got, (2 * masks - 1).expand_as(got), atol=1e-3)
    stretched = (masks[0, 0] - masks[0, 0].amin((1, 2), keepdim=True)) / (
        masks[0, 0].amax((1, 2), keepdim=True) - masks[0, 0].amin((1, 2), keepdim=True)
    )
    assert torch.allclose(confidences(got, (6, 8), 3)[0], stretched, atol=1e-3)
    nothing_told = fitted_pixels(torch.ones_like(latents), torch.full((1, 3, 48, 64), 0.25))
    assert torch.allclose(nothing_told, torch.tensor(0.25), atol=1e-5)


@pytest.mark.parametrize("base", ["tiny-animatediff", "tiny-wan"])
def test_masks_are_fitted_on_request(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With mask_decode=linear no mask passes through the codec, and the option is told."""
    loaded = ml.load_base(base, mask_decode="linear")
    region = torch.zeros(64, 64)
    region[:, :32] = 1
    asked = Asked("birds", region=region.numpy(), adapter=ml.new_adapter(loaded.denoiser, masked=True))
    request = Request(torch.zeros(1, 3, 64, 64), (asked,), num_frames=5, fps=8, num_steps=2)
    subjects = loaded._subjects(request, [asked])
    monkeypatch.setattr(type(loaded.codec), "decode", None)
    latents = subjects.latents[0].expand(-1, -1, 2, -1, -1)
    pixels = subjects.decode(latents, subjects.pictures[0])
    assert pixels.shape == (1, 3, 2, *latents.shape[-2:])
    assert loaded.facts()["options"]["mask_decode"] == "linear"


def test_true_masks_fade_with_a_cosine() -> None:
    assert ground_truth_probability(0, 100) == 1 and ground_truth_probability(100, 100) == 0
    assert abs(ground_truth_probability(50, 100) - 0.5) < 1e-9


# --- sampling -----------------------------------------------------------------------------------------------


def test_mask_steps_are_the_papers_eight() -> None:
    from motionloom.sampling.schedules import ddim, stable_diffusion

    scheduler = ddim(stable_diffusion("scaled_linear"))
    scheduler.set_timesteps(50)
    assert [int(scheduler.timesteps[i]) for i in mask_steps(50)] == [981, 881, 781, 681, 581, 481, 381, 281]
    assert [int(scheduler.timesteps[i]) for i in mask_steps(50, released=True)][-1] == 181
    assert mask_steps(10) == list(range(8)) and mask_steps(3) == [0, 1, 2]


class Counting:
    """The network as a denoiser that remembers what it was called with."""

    def __init__(self, network: Any, kind: Any) -> None:
        self.network, self.prediction_type, self.calls = network, kind, []

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Any) -> Tensor:
        context = context_of(self.network)
        self.calls.append((context.modalities, context.masks_shown))
        return predict(self.network, latents, float(timestep[0]))


@pytest.mark.parametrize(("num_masked", "released"), [(1, False), (2, False), (1, True)])
def test_masked_sampling(host: Any, num_masked: int, released: bool) -> None:
    """One loop over 20 steps: joint calls at the first eight even steps, biases from the next on, frame 0 held. Released:
    nine joint calls, biases from the second on.
    """
    from motionloom.sampling.first_frame import HeldFrames
    from motionloom.sampling.loop import sample
    from motionloom.sampling.schedules import ddim, rectified_flow, stable_diffusion

    is_unet = hasattr(host, "time_embedding")
    new: Any = (lambda: ddim(stable_diffusion("scaled_linear"))) if is_unet else (lambda: rectified_flow(5.0))
    start = latents_for(host, frames=2)
    clean = start[:, :, :1]
    decoded: list[Tensor] = []

    def decode(latents: Tensor, picture: Tensor) -> Tensor:
        decoded.append(latents)
        return latents[:, :3].clamp(-1, 1)

    masks = SubjectMasks(
        pictures=[torch.zeros(1, 3, 8, 12)] * num_masked,
        latents=[clean] * num_masked,
        start=lambda first, shape, generator: torch.cat(
            [first, torch.randn(shape, generator=generator)[:, :, 1:]], dim=2
        ),
        decode=decode,
    )

    def run() -> tuple[Tensor, list[Any]]:
        network = Counting(host, "epsilon" if is_unet else "flow")
        adapters = [(moved(host, i, masked=True), 1 / num_masked) for i in range(num_masked)]
        with ml.mounted(host, adapters):
            denoiser = MaskedDenoiser(network, context_of(host), masks, new(), 20, released)
            return sample(denoiser, HeldFrames(new()), start, None, 20, None), network.calls

    latents, calls = run()
    assert [i for i, (modalities, _) in enumerate(calls) if modalities == 1 + num_masked] == list(
        range(0, 18 if released else 16, 2)
    )
    unbiased = 2 if released else 1
    assert [biased for _, biased in calls] == [False] * unbiased + [True] * (20 - unbiased)
    assert torch.equal(latents[:, :, 0], start[:, :, 0])
    assert len(decoded) == (8 + released) * num_masked and all(
        torch.equal(d[:, :, :1], clean) for d in decoded
    )
    assert torch.equal(run()[0], latents)


def test_masked_sampling_refuses(unet: Any) -> None:
    from motionloom.sampling.schedules import ddim, stable_diffusion

    scheduler = ddim(stable_diffusion("scaled_linear"))
    nothing = SubjectMasks([], [], lambda *_: torch.zeros(0), lambda *_: torch.zeros(0))
    with (
        ml.mounted(unet, [(moved(unet, masked=True), 1.0)]),
        pytest.raises(InputError, match="0 subject masks for 1"),
    ):
        MaskedDenoiser(Counting(unet, "epsilon"), context_of(unet), nothing, scheduler, 20)

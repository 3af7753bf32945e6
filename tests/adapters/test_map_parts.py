"""Adapters beside the small model's map generator: identity at the start, weights, regions, files, clips made with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import motionloom as ml
from motionloom.adapters.adapter_file import metadata_of
from motionloom.adapters.context import context_of
from motionloom.adapters.map_parts import AttentionParts
from motionloom.adapters.motion_weight import MotionWeight
from motionloom.adapters.settings import AdapterSettings, SpatialLowRank, TextFree
from motionloom.codecs.linear_motion import LinearMotion
from motionloom.codecs.warp_codec import WarpCodec
from motionloom.conditions.asked import Asked
from motionloom.denoisers.map_generator import MapGenerator, MapGeneratorConfig
from motionloom.denoisers.mini import MiniBase
from motionloom.errors import ConfigError, WeightsError
from motionloom.sampling.weave import shares, strength_of
from motionloom.weights import load_weights, save_weights

SETTINGS = AdapterSettings(text_free=TextFree(rank=8), spatial=SpatialLowRank(rank=4, alpha=4.0), word="sea")


@pytest.fixture(scope="module")
def base() -> MiniBase:
    """A tiny `mini` with random weights, none of them zero."""
    torch.manual_seed(0)
    motion = LinearMotion(flow_modes=2, light_modes=1)
    tau = torch.linspace(0, 1, motion.num_frames)
    motion.flow_basis = torch.stack([tau, tau * (1 - tau)]) / 3
    motion.light_basis = tau[None] / 3
    motion.scale = torch.full((motion.channels,), 0.05)
    config = MapGeneratorConfig(
        motion.channels, base=16, multipliers=(1, 1, 1), res_blocks=1, content_channels=8
    )
    generator = MapGenerator(config).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.05)
    return MiniBase(WarpCodec(motion, 8).eval(), generator)


def fresh(base: MiniBase, seed: int = 0, settings: AdapterSettings = SETTINGS) -> ml.Adapter:
    return ml.new_adapter(base.denoiser, settings=settings, seed=seed, motion="rain", base="mini")


def moved(base: MiniBase, seed: int = 1) -> ml.Adapter:
    """As if trained."""
    adapter, generator = fresh(base, seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return adapter


Weighted = tuple[ml.Adapter, float | MotionWeight]


@torch.no_grad()
def predict(base: MiniBase, adapters: list[Weighted], h: int = 8, w: int = 12, batch: int = 2) -> Tensor:
    random = torch.Generator().manual_seed(3)
    latents = torch.randn(batch, base.codec.motion.channels, h, w, generator=random)
    told = base.denoiser.tell(torch.rand(batch, 3, 8 * h, 8 * w, generator=random) * 2 - 1, h, w)
    condition = told.with_map(torch.zeros(batch, base.denoiser.config.map_channels, h, w))
    timestep = torch.full((batch,), 400.0)
    if not adapters:
        return base.denoiser(latents, timestep, condition)
    with ml.mounted(base.denoiser, adapters) as denoiser:
        return denoiser(latents, timestep, condition)


# --- beside the generator -----------------------------------------------------------------------------------


def test_a_fresh_adapter_changes_no_bit_and_leaves_no_trace(base: MiniBase) -> None:
    before = predict(base, [])
    state = {name: value.clone() for name, value in base.denoiser.state_dict().items()}
    assert torch.equal(predict(base, [(fresh(base), 1.0)]), before)
    assert not torch.equal(predict(base, [(moved(base), 1.0)]), before)
    assert torch.equal(predict(base, []), before)
    assert all(torch.equal(value, state[name]) for name, value in base.denoiser.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.denoiser.modules())


def test_every_part_learns_and_the_generator_does_not(base: MiniBase) -> None:
    base.denoiser.requires_grad_(False)
    adapter = moved(base)
    latents, told = (
        torch.randn(1, base.codec.motion.channels, 8, 8),
        base.denoiser.tell(torch.zeros(1, 3, 64, 64), 8, 8),
    )
    condition = told.with_map(torch.zeros(1, base.denoiser.config.map_channels, 8, 8))
    with ml.mounted(base.denoiser, [(adapter, 1.0)]) as denoiser:
        denoiser(latents, torch.tensor([500.0]), condition).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in adapter.parameters())
    assert all(parameter.grad is None for parameter in base.denoiser.parameters())
    assert len(dict(adapter.map_parts())) == 7 + 15  # attentions, residual blocks


def test_a_mask_of_ones_is_no_mask(base: MiniBase) -> None:
    adapter = moved(base)
    whole = MotionWeight(region=torch.ones(50, 70))
    assert torch.equal(predict(base, [(adapter, whole)]), predict(base, [(adapter, 1.0)]))


def test_a_place_of_weight_0_keeps_the_frozen_output(base: MiniBase) -> None:
    """Layer by layer: the output of the hooked layer against that of the bare one, from the same input."""
    region = torch.zeros(8, 12)
    region[:, 8:] = 1  # falls on whole cells of every grid: 12, 6 and 3 columns
    seen: dict[str, tuple[Any, Tensor, Tensor]] = {}
    adapter = moved(base)
    with ml.mounted(base.denoiser, [(adapter, MotionWeight(region=region))]) as denoiser:
        handles = []
        for path, _ in adapter.map_parts():

            def keep(module: Any, args: Any, output: Tensor, path: str = path) -> None:
                seen[path] = module, args[0], output

            handles.append(denoiser.get_submodule(path).register_forward_hook(keep))
        random = torch.Generator().manual_seed(3)
        latents = torch.randn(1, base.codec.motion.channels, 8, 12, generator=random)
        condition = denoiser.tell(torch.zeros(1, 3, 64, 96), 8, 12).with_map(
            torch.zeros(1, denoiser.config.map_channels, 8, 12)
        )
        with torch.no_grad():
            denoiser(latents, torch.tensor([300.0]), condition)
        grid_of = context_of(denoiser).call.grid
        for handle in handles:
            handle.remove()
    assert len(seen) == 22
    for path, (module, x, output) in seen.items():
        with torch.no_grad():
            bare = module(x, x) if path.endswith("attend_self") else module(x)
        if output.ndim == 3:
            h, w = grid_of(output.shape[1])
            bare, output = (y.transpose(1, 2).unflatten(2, (h, w)) for y in (bare, output))
        kept = output.shape[-1] * 2 // 3
        assert torch.equal(output[..., :kept], bare[..., :kept]), path
        assert not torch.equal(output[..., kept:], bare[..., kept:]), path


def test_two_halves_are_one_in_any_order(base: MiniBase) -> None:
    one, other = moved(base, 1), moved(base, 2)
    whole = predict(base, [(one, 1.0)])
    assert torch.allclose(predict(base, [(one, 0.5), (one, 0.5)]), whole, atol=1e-5)
    both = predict(base, [(one, 0.3), (other, 0.9)])
    assert torch.allclose(both, predict(base, [(other, 0.9), (one, 0.3)]), atol=1e-5)
    assert not torch.allclose(both, whole, atol=1e-3)


def test_weight_0_is_the_base(base: MiniBase) -> None:
    assert torch.equal(predict(base, [(moved(base), 0.0)]), predict(base, []))


def test_attention_with_low_rank_parts_against_a_plain_second_writing(base: MiniBase) -> None:
    """softmax((W + B A) x ...) per head in float64, and GELU(LN(A q)) B."""
    path, part = next((p, m) for p, m in moved(base).map_parts() if isinstance(m, AttentionParts))
    attn: Any = base.denoiser.get_submodule(path)
    x = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(0)).double()
    weights = {name: parameter.detach().double() for name, parameter in part.named_parameters()}

    def changed(name: str) -> Tensor:
        low = weights[f"low_rank.{name}.lora_B.weight"] @ weights[f"low_rank.{name}.lora_A.weight"]
        return attn.get_submodule(name).weight.detach().double() + low  # alpha / rank = 1

    q, k, v = (x[0] @ changed(name).T for name in ("to_q", "to_k", "to_v"))
    heads = []
    for one in range(attn.heads):
        cut = slice(4 * one, 4 * one + 4)
        heads.append(torch.softmax(q[:, cut] @ k[:, cut].T / 2, -1) @ v[:, cut])
    attended = torch.cat(heads, -1) @ changed("to_out").T + attn.to_out.bias.detach().double()
    frozen_q = x[0] @ attn.to_q.weight.detach().double().T
    a = frozen_q @ weights["ca.down.weight"].T
    normed = (a - a.mean(-1, keepdim=True)) / (a.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    hidden = torch.nn.functional.gelu(normed * weights["ca.norm.weight"] + weights["ca.norm.bias"])
    expected = attended + hidden @ weights["ca.up.weight"].T
    with torch.no_grad():
        frozen = attn(x.float(), x.float())
        found = frozen + part(attn, x.float(), frozen)
    assert torch.allclose(found[0].double(), expected, atol=1e-5)


def test_what_cannot_be_mounted(base: MiniBase, unet: Any) -> None:
    empty = ml.Adapter(fresh(base).layout, AdapterSettings())
    with pytest.raises(ConfigError, match="has no parts"), ml.mounted(base.denoiser, [(empty, 1.0)]):
        pass
    with (
        pytest.raises(
            WeightsError, match="made for a MapGenerator with 22 blocks .* host is a UNetMotionModel"
        ),
        ml.mounted(unet, [(fresh(base), 1.0)]),
    ):
        pass
    with pytest.raises(ConfigError, match="takes no masked adapters"):
        ml.new_adapter(base.denoiser, masked=True)
    with pytest.raises(ConfigError, match="no adapter preset 'released'. Fix: use one of default|default"):
        ml.new_adapter(base.denoiser, "released")


# --- files --------------------------------------------------------------------------------------------------


def test_round_trip_with_headings_and_speeds(base: MiniBase, tmp_path: Path) -> None:
    adapter = moved(base)
    adapter.headings.copy_(torch.rand(32, 3))
    adapter.speeds.copy_(torch.rand(2, 33))
    adapter.facts = {"clips": 9}
    file = adapter.save(tmp_path / "rain.safetensors")
    back = ml.load_adapter(file)
    assert (back.motion, back.base, back.facts, back.settings) == ("rain", "mini", {"clips": 9}, SETTINGS)
    own = adapter.state_dict()
    assert own.keys() == back.state_dict().keys() and {"headings", "speeds"} <= own.keys()
    assert all(torch.equal(value, own[key]) for key, value in back.state_dict().items())
    assert torch.equal(predict(base, [(back, 1.0)]), predict(base, [(adapter, 1.0)]))
    assert "| spatial low rank |" in file.with_suffix(".md").read_text()


Change = Callable[[dict[str, Tensor], dict[str, str]], None]


def _drop(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    del tensors["headings"]


def _extra(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    tensors["mystery.weight"] = torch.zeros(2)


def _rank(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    metadata["motionloom.config"] = metadata["motionloom.config"].replace('"rank":4', '"rank":2')


def _hostile_path(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    said = json.loads(metadata["motionloom.base"])
    said["layout"]["spatial"][0]["path"] = "headings.conv_out"
    metadata["motionloom.base"] = json.dumps(said)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_drop, "1 missing \\(headings"),
        (_extra, "1 unexpected \\(mystery.weight"),
        (_rank, "mis-shaped"),
        (_hostile_path, "does not describe itself|fingerprint"),
    ],
)
def test_damaged_files_are_refused(base: MiniBase, change: Change, sentence: str, tmp_path: Path) -> None:
    adapter = moved(base)
    tensors, metadata = dict(adapter.state_dict()), metadata_of(adapter)
    change(tensors, metadata)
    save_weights(tmp_path / "changed.safetensors", tensors, metadata)
    with pytest.raises(WeightsError, match=sentence):
        ml.load_adapter(tmp_path / "changed.safetensors")
    assert load_weights(adapter.save(tmp_path / "sound.safetensors"))


# --- clips --------------------------------------------------------------------------------------------------


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)


def clip(base: MiniBase, motions: list[Any], masks: list[Any] | None = None) -> np.ndarray:
    return ml.generate(base, picture(), motions, masks=masks, frames=4, steps=2).frames


def test_clips_with_words_masks_and_several_adapters(base: MiniBase) -> None:
    before = clip(base, ["pan-left"])
    one, other = moved(base, 1), moved(base, 2)
    left = np.zeros((64, 96), np.float32)
    left[:, :48] = 1
    alone = clip(base, [one])
    assert np.array_equal(alone[0], picture()) and not np.array_equal(alone[1], picture())
    different = {
        frames.tobytes()
        for frames in (
            alone, clip(base, [(one, 0.5)]), clip(base, [(one, (1.0, 0.0))]), clip(base, [one], [left]), clip(base, [other]),
            clip(base, [one, "pan-left"]), clip(base, [(one, 0.5), (other, 0.5)]), before,
        )
    }  # fmt: skip
    assert len(different) == 8
    assert np.array_equal(clip(base, [one], [np.ones((64, 96), np.float32)]), alone)
    halves = clip(base, [(one, 0.5), (one, 0.5)]).astype(int)
    assert np.abs(halves - alone).max() <= 1
    assert np.array_equal(clip(base, [(one, 0.0), "pan-left"]), before)
    assert np.array_equal(clip(base, ["pan-left"]), before)


def test_half_the_weight_moves_half_as_far(base: MiniBase) -> None:
    adapter = moved(base)
    latents = torch.randn(1, base.codec.motion.channels, 8, 12, generator=torch.Generator().manual_seed(0))
    flows = []
    for weight in (1.0, 0.5, 2.0):
        asked = [Asked("rain", weight, adapter=adapter)]
        flows.append(base.codec.motion.decode(base.as_asked(latents, asked)).local)
    assert torch.allclose(flows[1], 0.5 * flows[0]) and torch.allclose(flows[2], 2 * flows[0])
    adapter.speeds.copy_(torch.stack([torch.linspace(0, 1, 33), torch.linspace(0, 0.5, 33)]))
    calmer = base.codec.motion.decode(base.as_asked(latents, [Asked("rain", 1.0, adapter=adapter)])).local
    assert 0.45 < float(calmer.norm() / flows[0].norm()) < 0.55  # as its clips, half as fast as it generates


def test_adapters_divide_a_place_by_weight(base: MiniBase) -> None:
    left = np.zeros((8, 12), np.float32)
    left[:, :6] = 1
    adapter = fresh(base)
    asked = [
        Asked("a", 0.6, adapter=adapter), Asked("b", 0.2, left, adapter=adapter), Asked("pan-left", 0.5, left),
    ]  # fmt: skip
    one, other, word = shares(asked, 8, 12)
    assert torch.allclose(one[:, :6], torch.tensor(0.75)) and torch.allclose(one[:, 6:], torch.tensor(1.0))
    assert torch.allclose(other[:, :6], torch.tensor(0.25)) and not other[:, 6:].any()
    assert torch.equal(word, torch.from_numpy(left))
    strength = strength_of(asked[0], asked, 8, 12)
    assert torch.allclose(strength[:, :6], torch.tensor(0.8)) and torch.allclose(
        strength[:, 6:], torch.tensor(0.6)
    )


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (None, 'knows no motion ""'),
        ("storm", 'knows no motion "storm"'),
        ("pan-left", "expected a local motion"),
    ],
)
def test_an_adapter_without_a_local_word_is_refused(base: MiniBase, word: str | None, said: str) -> None:
    adapter = fresh(base, settings=SETTINGS.model_copy(update={"word": word}))
    with pytest.raises(ConfigError, match=said):
        clip(base, [adapter])


def test_other_weights_are_said(base: MiniBase) -> None:
    adapter = fresh(base)
    adapter.facts = {"base_weights": "0" * 16}
    settings = ml.generate(base, picture(), [adapter], frames=2, steps=1).settings
    assert "trained beside other weights of mini" in settings["notes"][0]

"""Mounting: what is adapted, that nothing of it stays, what is refused, and how several adapters blend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import motionloom as ml
from motionloom.adapters import context_of, weight_notes
from motionloom.adapters.motion_weight import weights_at
from motionloom.adapters.settings import AdapterSettings, TemporalLowRank, preset_settings
from motionloom.errors import ConfigError, InputError, WeightsError
from tests.adapters.conftest import latents_for, moved, predict, small_wan


def without_cross_attention(host: Any, latents: torch.Tensor) -> torch.Tensor:
    """The stock host with every text cross-attention zeroed, by stock means."""
    cross = [
        m.to_out[0] for n, m in host.named_modules() if n.endswith("attn2") and "motion_modules" not in n
    ]
    saved = [(layer, {k: v.clone() for k, v in layer.state_dict().items()}) for layer in cross]
    try:
        for layer in cross:
            for parameter in layer.parameters():
                parameter.data.zero_()
        return predict(host, latents)
    finally:
        for layer, values in saved:
            layer.load_state_dict(values)


def state_of(host: Any) -> list[Any]:
    """Everything mounting could leave behind: attributes and hooks of every module, and the very processors."""
    return [
        (
            name,
            sorted(vars(module)),
            dict(module._forward_pre_hooks),
            dict(module._forward_hooks),
            list(module._modules),
        )
        for name, module in host.named_modules()
    ] + [id(m.processor) for m in host.modules() if hasattr(m, "processor")]


@pytest.mark.parametrize("preset", ["default", "released", "paper"])
@pytest.mark.parametrize("masked", [False, True])
def test_fresh_adapter_is_the_base_without_text(host: Any, preset: str, masked: bool) -> None:
    latents = latents_for(host)
    adapter = ml.new_adapter(host, preset, masked=masked)
    with ml.mounted(host, [(adapter, 1.0)], group_norm="diffusers"):
        got = predict(host, latents)
    assert torch.equal(got, without_cross_attention(host, latents))


def test_leaving_restores_everything(host: Any) -> None:
    latents, adapter = latents_for(host), moved(host)
    before, state = predict(host, latents), state_of(host)
    weights = {key: value.clone() for key, value in host.state_dict().items()}
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        ml.mounted(host, [(adapter, 1.0)], group_norm="joint"),
    ):
        assert not torch.equal(predict(host, latents), before)
        raise RuntimeError("on purpose")
    assert state_of(host) == state
    assert all(torch.equal(value, weights[key]) for key, value in host.state_dict().items())
    assert torch.equal(predict(host, latents), before)


def test_text_is_not_read(host: Any) -> None:
    latents, timestep = latents_for(host), torch.tensor([500.0])
    with torch.no_grad(), ml.mounted(host, [(moved(host), 1.0)]):
        one = host(latents, timestep, encoder_hidden_states=None).sample
        other = host(latents, timestep, None).sample
        assert torch.equal(one, predict(host, latents)) and torch.equal(one, other)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 8, 8), (2, 16, 8), (5, 8, 20)])
def test_any_shape_and_batch(host: Any, frames: int, height: int, width: int) -> None:
    """Samples of a batch do not see each other, whatever the frames and the aspect ratio."""
    latents = latents_for(host, frames, height, width, batch=2)
    with ml.mounted(host, [(moved(host), 1.0)]):
        together = predict(host, latents)
        apart = torch.cat([predict(host, one[None]) for one in latents])
    assert torch.allclose(together, apart, atol=1e-5)


def test_a_batch_may_have_many_timesteps(host: Any) -> None:
    latents, timesteps = latents_for(host, batch=2), torch.tensor([900.0, 50.0])
    with torch.no_grad(), ml.mounted(host, [(moved(host), 1.0)]):
        together = host(latents, timesteps, encoder_hidden_states=None).sample
        apart = [
            host(x[None], t[None], encoder_hidden_states=None).sample
            for x, t in zip(latents, timesteps, strict=True)
        ]
    assert torch.allclose(together, torch.cat(apart), atol=1e-5)


def test_odd_sizes_of_a_unet(unet: Any) -> None:
    with ml.mounted(unet, [(moved(unet), 1.0)]):
        assert predict(unet, latents_for(unet, 3, 10, 7)).shape == (1, 4, 3, 10, 7)


def test_group_norm_modes_differ_and_per_frame_is_the_default(unet: Any) -> None:
    latents, adapter = latents_for(unet), moved(unet)
    outs = {}
    for mode in ("per_frame", "joint", "diffusers"):
        with ml.mounted(unet, [(adapter, 1.0)], group_norm=mode):
            outs[mode] = predict(unet, latents)
    with ml.mounted(unet, [(adapter, 1.0)]):
        assert torch.equal(predict(unet, latents), outs["per_frame"])
    assert not torch.allclose(outs["per_frame"], outs["joint"], atol=1e-4)
    assert not torch.allclose(outs["per_frame"], outs["diffusers"], atol=1e-4)


def test_motion_module_statistics_are_per_frame(unet: Any) -> None:
    """Scaling one frame of a module's input leaves the normalised others alone."""
    from motionloom.adapters.unet import motion_modules

    norm = motion_modules(unet)[0].norm
    x = torch.randn(1, norm.num_channels, 3, 4, 4)
    louder = x.clone()
    louder[:, :, 1] *= 5
    with ml.mounted(unet, [(moved(unet), 1.0)]):
        assert torch.allclose(norm(x)[:, :, 0], norm(louder)[:, :, 0], atol=1e-6)
    assert not torch.allclose(norm(x)[:, :, 0], norm(louder)[:, :, 0], atol=1e-2)


# --- what is refused ----------------------------------------------------------------------------------------


def test_refusals(unet: Any, wan: Any) -> None:
    adapter = ml.new_adapter(unet)
    with pytest.raises(ConfigError, match="no adapters to mount"), ml.mounted(unet, []):
        pass
    with (
        pytest.raises(ConfigError, match="cannot be mounted on a Linear"),
        ml.mounted(nn.Linear(2, 2), [(adapter, 1)]),
    ):
        pass
    with pytest.raises(ConfigError, match="got a str"), ml.mounted(unet, [("waterfall", 1)]):
        pass
    with (
        pytest.raises(WeightsError, match="made for a UNetMotionModel.*the host is a Wan"),
        ml.mounted(wan, [(adapter, 1)]),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="group_norm='all'"),
        ml.mounted(unet, [(adapter, 1)], group_norm="all"),
    ):
        pass
    with (
        ml.mounted(unet, [(adapter, 1)]),
        pytest.raises(ConfigError, match="already"),
        ml.mounted(unet, [(adapter, 1)]),
    ):
        pass
    with pytest.raises(ConfigError, match="no adapters are mounted"):
        context_of(unet)
    empty = ml.new_adapter(unet, settings=AdapterSettings(temporal=TemporalLowRank()))
    no_temporal = ml.Adapter(empty.layout.model_copy(update={"temporal": ()}), AdapterSettings())
    with pytest.raises(WeightsError, match="nothing for the host's"), ml.mounted(unet, [(no_temporal, 1)]):
        pass


def test_the_first_difference_is_named() -> None:
    from diffusers import WanTransformer3DModel

    shape = {
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "text_dim": 12,
        "ffn_dim": 64,
        "num_layers": 2,
    }
    wider = WanTransformer3DModel(**(shape | {"attention_head_dim": 36}))
    adapter = ml.new_adapter(small_wan())
    with (
        pytest.raises(WeightsError, match='at "blocks.0" it has 48 channels'),
        ml.mounted(wider, [(adapter, 1)]),
    ):
        pass


def test_fused_projections_are_refused() -> None:
    host = small_wan()
    adapter = ml.new_adapter(host)
    host.fuse_qkv_projections()
    with pytest.raises(ConfigError, match="fused"), ml.mounted(host, [(adapter, 1)]):
        pass


def test_host_may_be_wrapped(unet: Any) -> None:
    class Denoiser:
        network = unet

    latents, adapter = latents_for(unet), moved(unet)
    with ml.mounted(unet, [(adapter, 1)]):
        expected = predict(unet, latents)
    denoiser = Denoiser()
    with ml.mounted(denoiser, [(adapter, 1)]) as same:
        assert same is denoiser
        assert torch.equal(predict(unet, latents), expected)


# --- several adapters ---------------------------------------------------------------------------------------


def test_copies_with_weights_of_sum_one_are_one(host: Any) -> None:
    latents, adapter = latents_for(host), moved(host)
    with ml.mounted(host, [(adapter, 1.0)]):
        one = predict(host, latents)
    with ml.mounted(host, [(adapter, 0.2), (adapter, 0.5), (adapter, 0.3)]):
        assert torch.allclose(predict(host, latents), one, atol=1e-5)


def test_order_does_not_matter(host: Any) -> None:
    latents, a, b = latents_for(host), moved(host, 1), moved(host, 2)
    with ml.mounted(host, [(a, 0.3), (b, 0.9)]):
        one = predict(host, latents)
    with ml.mounted(host, [(b, 0.9), (a, 0.3)]):
        assert torch.allclose(predict(host, latents), one, atol=1e-5)


@pytest.mark.parametrize("temporal", ["residual", "relative"])
def test_layers_are_linear_in_the_weights(unet: Any, temporal: str) -> None:
    """Every mounted layer: f(w) is affine in w, so f(a) + f(b) = f(0) + f(a + b)."""
    a = moved(unet)
    attn = unet.get_submodule(a.layout.temporal[0].path)
    block = unet.get_submodule(a.layout.spatial[0].path)
    x = torch.randn(96, 3, attn.to_q.in_features)  # (n, F, C)
    rows = torch.randn(3, 96, attn.to_q.in_features)  # (F, n, C)

    def layers(weight: float) -> list[torch.Tensor]:
        with torch.no_grad(), ml.mounted(unet, [(a, weight)], temporal=temporal):
            predict(unet, latents_for(unet))  # sets the call
            return [attn(x), block.attn1(rows), block.attn2(rows)]

    zero, half, one, more = (layers(w) for w in (0.0, 0.5, 1.0, 1.5))
    for z, h, o, m in zip(zero, half, one, more, strict=True):
        assert torch.allclose(h + o, z + m, atol=1e-5)
        assert not torch.allclose(o, z, atol=1e-3)


def test_temporal_blends_agree_for_one_adapter_and_differ_for_two(unet: Any) -> None:
    latents, a, b = latents_for(unet), moved(unet, 1), moved(unet, 2)

    def out(mounts: list[Any], temporal: str) -> torch.Tensor:
        with ml.mounted(unet, mounts, temporal=temporal):
            return predict(unet, latents)

    single = {mode: out([(a, 1.0)], mode) for mode in ("residual", "relative", "weights")}
    assert torch.allclose(single["residual"], single["relative"], atol=1e-5)
    assert torch.allclose(single["residual"], single["weights"], atol=1e-5)
    double = {mode: out([(a, 0.5), (b, 0.5)], mode) for mode in ("residual", "relative", "weights")}
    assert torch.allclose(double["residual"], double["relative"], atol=1e-5)  # the sum is 1
    assert not torch.allclose(double["residual"], double["weights"], atol=1e-4)
    far = {mode: out([(a, 0.3), (b, 0.9)], mode) for mode in ("residual", "relative")}
    assert not torch.allclose(far["residual"], far["relative"], atol=1e-3)


def test_motion_lora_keeps_the_text(unet: Any) -> None:
    """An adapter without text-free part leaves cross-attention, so the text is read."""
    lora = moved(unet, settings=AdapterSettings(temporal=TemporalLowRank(rank=4, alpha=4)))
    latents = latents_for(unet)
    with torch.no_grad(), ml.mounted(unet, [(lora, 1.0)]):
        one, other = (
            unet(latents, 500, encoder_hidden_states=torch.full((3, 2, 12), value)).sample
            for value in (0.0, 1.0)
        )
    assert not torch.allclose(one, other, atol=1e-4)
    miva = moved(unet)
    with ml.mounted(unet, [(lora, 0.5), (miva, 0.5)]):
        predict(unet, latents)


# --- weights that vary --------------------------------------------------------------------------------------


def test_curve_over_steps_follows_progress_and_timestep(host: Any) -> None:
    latents, adapter = latents_for(host), moved(host)

    def at(weight: Any, progress: float | None, timestep: float = 500.0) -> torch.Tensor:
        with ml.mounted(host, [(adapter, weight)]):
            context_of(host).at(progress)
            return predict(host, latents, timestep)

    fading = ml.MotionWeight(over_steps=(1, 0))
    assert torch.allclose(at(fading, 0.0), at(1.0, None), atol=1e-6)
    assert torch.equal(at(fading, 0.25), at((1, 0), 0.25))
    from_timestep, told = at(fading, None, 750.0), at(fading, 0.25, 750.0)
    assert torch.allclose(from_timestep, told, atol=1e-6)
    assert not torch.allclose(at(fading, 1.0), at(fading, 0.0), atol=1e-3)


def test_where_the_weight_is_zero_the_base_is_untouched(host: Any) -> None:
    """A region of zeros everywhere gives the base (without text); so does a curve that ended."""
    latents, adapter = latents_for(host), moved(host)
    base = without_cross_attention(host, latents)
    nowhere = ml.MotionWeight(region=torch.zeros(8, 12))
    with ml.mounted(host, [(adapter, nowhere)], group_norm="diffusers"):
        assert torch.allclose(predict(host, latents), base, atol=1e-6)
    with ml.mounted(host, [(adapter, (1.0, 0.0))], group_norm="diffusers"):
        context_of(host).at(1.0)
        assert torch.allclose(predict(host, latents), base, atol=1e-6)


def test_region_weights_single_places(unet: Any) -> None:
    """Inside a mounted layer, places of weight 0 keep the base's result and places of weight 1 the adapter's."""
    adapter = moved(unet)
    block = unet.get_submodule(adapter.layout.spatial[0].path)
    temporal = unet.get_submodule(adapter.layout.temporal[0].path)
    channels = temporal.to_q.in_features
    rows, columns = torch.randn(3, 96, channels), torch.randn(96, 3, channels)
    region = torch.zeros(8, 12)
    region[:, 6:] = 1
    inside = region.flatten().bool()

    def layers(weight: Any) -> list[torch.Tensor]:
        with torch.no_grad(), ml.mounted(unet, [(adapter, weight)]):
            predict(unet, latents_for(unet))
            return [block.attn1(rows), block.attn2(rows), temporal(columns).transpose(0, 1)]

    with torch.no_grad():
        base = [block.attn1(rows), torch.zeros_like(rows), temporal(columns).transpose(0, 1)]
    for plain, everywhere, there in zip(
        base, layers(1.0), layers(ml.MotionWeight(region=region)), strict=True
    ):
        assert torch.allclose(there[:, inside], everywhere[:, inside], atol=1e-6)
        assert torch.allclose(there[:, ~inside], plain[:, ~inside], atol=1e-6)


def test_disjoint_regions_do_not_mix(wan: Any) -> None:
    """Two adapters, each in its half: every half of a layer is that of its adapter alone."""
    a, b = moved(wan, 1), moved(wan, 2)
    block = wan.blocks[0]
    rows = torch.randn(1, 3 * 24, 48)  # (B, F n, C), n = 4 x 6
    left = torch.zeros(4, 6)
    left[:, :3] = 1

    def layer(mounts: list[Any]) -> torch.Tensor:
        with torch.no_grad(), ml.mounted(wan, mounts):
            predict(wan, latents_for(wan))
            return block.attn2(rows).unflatten(1, (3, 24))

    both = layer([(a, ml.MotionWeight(region=left)), (b, ml.MotionWeight(region=1 - left))])
    inside = left.flatten().bool()
    assert torch.allclose(both[:, :, inside], layer([(a, 1.0)])[:, :, inside], atol=1e-6)
    assert torch.allclose(both[:, :, ~inside], layer([(b, 1.0)])[:, :, ~inside], atol=1e-6)


def test_motion_weight_multiplies_its_factors() -> None:
    region = torch.zeros(4, 4)
    region[:2] = 1
    weight = ml.MotionWeight(0.5, over_steps=(1, 0), over_frames=(0, 1), region=region)
    got = weight.at(0.5, 3, 2, 2)
    assert torch.allclose(got[:, 0, 0], torch.tensor([0.0, 0.125, 0.25])) and not got[:, 1].any()
    assert ml.MotionWeight(0.7).at(0.3, 5, 8, 8).shape == (1, 1, 1)
    moving = torch.stack([region, region.flip(0)])
    assert ml.MotionWeight(region=moving).at(0, 2, 2, 1)[:, :, 0].tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"strength": float("nan")}, ConfigError),
        ({"over_steps": ()}, ConfigError),
        ({"over_frames": (0, float("inf"))}, ConfigError),
        ({"region": torch.zeros(3)}, InputError),
        ({"region": torch.full((2, 2), 1.5)}, InputError),
    ],
)
def test_motion_weight_refuses(fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ml.MotionWeight(**fields)


def test_sums_are_told_not_rescaled() -> None:
    adapter: Any = None
    assert weight_notes([(adapter, 0.5), (adapter, 0.5)]) == []
    assert "sum to 1.4" in weight_notes([(adapter, 0.9), (adapter, 0.5)])[0]
    assert "sum to 0.3" in weight_notes([(adapter, 0.3)])[0]
    half = torch.zeros(4, 4)
    half[:2] = 1
    split = [(adapter, ml.MotionWeight(region=half)), (adapter, ml.MotionWeight(region=1 - half))]
    assert weight_notes(split) == []
    assert "in places" in weight_notes([*split, (adapter, 0.5)])[0]


def test_normalised_weights_sum_to_one_where_there_are_any(host: Any) -> None:
    latents, a, b = latents_for(host), moved(host, 1), moved(host, 2)
    with ml.mounted(host, [(a, 0.5), (b, 0.5)]):
        expected = predict(host, latents)
    with ml.mounted(host, [(a, 3.0), (b, 3.0)], normalise=True):
        assert torch.allclose(predict(host, latents), expected, atol=1e-5)
    half = torch.zeros(4, 4)
    half[:2] = 1
    values = weights_at(
        [ml.MotionWeight(2, region=half), ml.MotionWeight(1, region=half)], 0, 1, (4, 4), True
    )
    assert torch.allclose(values[0][0, 0], torch.tensor(2 / 3)) and not values[0][0, 3].any()


def test_presets_are_checked() -> None:
    with pytest.raises(ConfigError, match="did you mean 'released'"):
        preset_settings("release", "unet")

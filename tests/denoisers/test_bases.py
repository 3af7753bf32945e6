"""Bases: the contract, the catalogue, weights from folders and from the official files, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    MotionAdapter,
    UNet2DConditionModel,
    UNetMotionModel,
    WanTransformer3DModel,
)
from torch import Tensor, nn

import motionloom as ml
from motionloom.adapters.adapter import new_adapter
from motionloom.conditions.asked import Asked
from motionloom.denoisers import animatediff, wan
from motionloom.denoisers.base import Base, Request
from motionloom.denoisers.catalog import BASES, describe_bases
from motionloom.denoisers.pretrained import fingerprint, to_precision
from motionloom.errors import ConfigError, WeightsError
from motionloom.weights import load_weights, save_weights
from tests.denoisers import official_layouts as official

TINY = ("tiny-animatediff", "tiny-wan")


def request_for(base: Base, **changes: Any) -> Request:
    height, width = base.native_size_px or (64, 64)
    photo = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    values = {"photo": photo, "motions": (), "num_frames": base.num_frames, "fps": base.fps, "num_steps": 3}
    return Request(**values | changes)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# --- sizes and layouts --------------------------------------------------------------------------------------


def test_parameters_of_the_published_sizes() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**animatediff.SPATIAL_CONFIG)
        adapter = MotionAdapter(**animatediff.MOTION_CONFIG)
        network = UNetMotionModel.from_unet2d(unet, adapter, load_weights=False)
        autoencoder = AutoencoderKL(**animatediff.VAE_CONFIG)
        transformer = WanTransformer3DModel(**wan.NETWORK_CONFIG)
    assert parameters(unet) == 859_520_964
    assert parameters(adapter) == 417_137_600
    assert parameters(network) == 1_276_658_564
    assert parameters(autoencoder) == 83_653_863
    assert parameters(transformer) == 1_418_996_800


@pytest.mark.parametrize("name", TINY)
def test_tiny_bases_have_the_layout_and_are_the_same_for_the_same_seed(name: str) -> None:
    one, again, other = ml.load_base(name), ml.load_base(name, seed=0), ml.load_base(name, seed=1)
    assert one.facts() == again.facts() != other.facts()
    assert parameters(one.denoiser.network) + parameters(one.codec.network) < 4_000_000
    published = {"tiny-animatediff": UNetMotionModel, "tiny-wan": WanTransformer3DModel}[name]
    assert type(one.denoiser.network) is published
    if name == "tiny-animatediff":
        assert one.denoiser.network.config.motion_max_seq_length == 32
        assert not hasattr(one.denoiser.network.mid_block, "motion_modules")


@pytest.mark.parametrize("name", TINY)
def test_making_a_tiny_base_draws_no_random_number_of_ours(name: str) -> None:
    torch.manual_seed(5)
    ml.load_base(name)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))


# --- the way from photo to clip -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_start_is_the_clean_photo_and_noise_that_knows_it(name: str) -> None:
    base = ml.load_base(name)
    request = request_for(base)
    first = base.encode(request, torch.Generator().manual_seed(0))
    start = base.start_noise(request)(first, base.latent_shape(request), torch.Generator().manual_seed(1))
    assert first is not None and torch.equal(start[:, :, :1], first)
    assert 0.8 < float(start[:, :, 1:].std()) < 1.2


@pytest.mark.parametrize("adain", [True, False])
@pytest.mark.parametrize("name", TINY)
def test_what_is_decoded_has_the_statistics_of_the_photo(
    name: str, adain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last step, and only if asked for: mean and standard deviation of every frame and channel are frame 0's."""
    base = ml.load_base(name, adain=adain)
    decoded: list[Tensor] = []
    monkeypatch.setattr(base.codec, "decode", lambda latents, *_: decoded.append(latents))
    latents = torch.randn(1, 4, 3, 8, 8) * torch.tensor([1.0, 2.0, 0.5])[:, None, None] + 0.3
    base.decode(latents, request_for(base))
    std, mean = torch.std_mean(decoded[0], dim=(-2, -1))
    assert torch.equal(decoded[0][:, :, 0], latents[:, :, 0])
    assert torch.allclose(std, std[:, :, :1].expand_as(std), atol=1e-4) is adain
    assert torch.allclose(mean, mean[:, :, :1].expand_as(mean), atol=1e-4) is adain


def test_levels_of_the_start() -> None:
    base = ml.load_base("tiny-animatediff")
    signal, noise = base.levels(request_for(base))
    assert signal == pytest.approx(0.0787138, abs=1e-6) and signal**2 + noise**2 == pytest.approx(1.0)
    linear = ml.load_base("tiny-animatediff", convention="paper")
    assert linear.levels(request_for(linear))[0] == pytest.approx(0.0459, abs=1e-4)
    flow = ml.load_base("tiny-wan")
    signal, noise = flow.levels(request_for(flow, num_steps=50))
    visited = 5 * torch.linspace(1, 0.02, 50) / (1 + 4 * torch.linspace(1, 0.02, 50))
    assert signal + noise == pytest.approx(1.0)
    assert noise == pytest.approx(float(visited[(visited - 0.975).abs().argmin()]), abs=1e-6)


@pytest.mark.parametrize("name", TINY)
def test_the_denoiser_is_told_nothing(name: str) -> None:
    base = ml.load_base(name)
    base.denoiser.network.double()  # random weights magnify rounding
    latents = torch.randn(2, *base.latent_shape(request_for(base))[1:], dtype=torch.float64)
    with torch.no_grad():
        both = base.denoiser(latents, torch.tensor([500, 500]), None)
        one = base.denoiser(latents[1:], torch.tensor([500]), None)
    assert both.shape == latents.shape and torch.allclose(both[1:], one)


@pytest.mark.parametrize("name", TINY)
def test_half_precision_runs_and_latents_stay_float32(name: str) -> None:
    base = ml.load_base(name)
    request = request_for(base)
    latents = torch.randn(base.latent_shape(request), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = base.denoiser(latents, torch.tensor([500]), None)
        network = to_precision(base.denoiser.network, torch.bfloat16)
        rough = base.denoiser(latents, torch.tensor([500]), None)
    assert network.dtype == torch.bfloat16 and rough.dtype == torch.float32
    assert not torch.equal(rough, exact) and (rough - exact).norm() < 0.2 * exact.norm()
    if name == "tiny-wan":  # its class keeps some parts in float32
        assert network.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
        assert network.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16


def test_conventions_name_where_paper_and_release_disagree() -> None:
    for convention, expected in {
        "default": ("per_frame", "scaled_linear"),
        "paper": ("per_frame", "linear"),
        "released": ("joint", "scaled_linear"),
    }.items():
        base = ml.load_base("tiny-animatediff", convention=convention)
        assert (base.group_norm, base.options.beta_schedule) == expected
        assert base.schedule(request_for(base)).config.beta_schedule == expected[1]
    repeated = ml.load_base("tiny-animatediff", **base.facts()["options"])
    assert repeated.options == base.options


@pytest.mark.parametrize("name", TINY)
def test_options_as_text_are_read_and_remembered(name: str) -> None:
    base = ml.load_base(name, shared_noise="0.2", seed="3")
    assert base.options.shared_noise == 0.2
    assert base.facts()["options"] == {"shared_noise": 0.2, "seed": 3}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown option": ({"shared_nose": 0.2}, 'did you mean "shared_noise"'),
    "a value out of range": ({"shared_noise": 2}, "shared_noise=2"),
    "a start timestep out of range": ({"start_timestep": 1000}, "start_timestep=1000"),
    "a word for a number": ({"dct_share": "much"}, "dct_share='much'"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", TINY)
def test_options_that_cannot_be(name: str, case: str) -> None:
    options, said = REFUSED[case]
    with pytest.raises(ConfigError) as problem:
        ml.load_base(name, **options)
    assert said in str(problem.value)


def test_an_unknown_convention_device_or_precision() -> None:
    with pytest.raises(ConfigError, match="default, paper, released"):
        ml.load_base("tiny-animatediff", convention="official")
    with pytest.raises(ConfigError, match="no device"):
        ml.load_base("animatediff-v3", device="quantum")
    with pytest.raises(ConfigError, match="two repositories"):
        ml.load_base("animatediff-v3", device="cpu", revision="main")
    with pytest.raises(ConfigError, match="float16 or bfloat16"):
        ml.load_base("animatediff-v3", device="cpu", dtype="int8")


def test_requests_that_cannot_be() -> None:
    animatediff_base, wan_base = (ml.load_base(name) for name in TINY)
    motion = Asked("waterfall", adapter=new_adapter(wan_base.denoiser.network))
    with pytest.raises(ConfigError, match="through adapters alone"):
        wan_base.check(request_for(wan_base))
    with pytest.raises(ConfigError, match="knows the positions of 32"):
        animatediff_base.check(request_for(animatediff_base, motions=(motion,), num_frames=33))
    with pytest.raises(ConfigError, match="one more than a multiple of 4") as problem:
        wan_base.check(request_for(wan_base, motions=(motion,), num_frames=16))
    assert problem.value.fix == "take 13 or 17"
    for option in ("loop", "overscan"):
        with pytest.raises(ConfigError, match=f'no "{option}"'):
            wan_base.check(request_for(wan_base, motions=(motion,), **{option: True}))


def test_an_adapter_wants_what_it_was_trained_with() -> None:
    base = ml.load_base("tiny-animatediff")
    adapter = new_adapter(base.denoiser.network)

    def notes(facts: dict[str, Any], base: Base = base) -> list[str]:
        adapter.facts = facts
        return base.notes(request_for(base, motions=(Asked("rain", adapter=adapter),)))

    assert notes({}) == notes({"base_options": {"device": "cpu", "shared_noise": 0.2}}) == []
    (note,) = notes({"base_options": {"convention": "paper", "group_norm": "joint"}})
    assert note.startswith("rain was trained with group_norm=joint and beta_schedule=linear; --base-option")
    released = ml.load_base("tiny-animatediff", convention="released")
    adapter.settings = adapter.settings.model_copy(update={"preset": "released"})
    assert "group_norm=joint" in notes({"converted from": "adapter.pt"})[0]
    assert notes({"converted from": "adapter.pt"}, released) == []


# --- the catalogue ------------------------------------------------------------------------------------------


def test_every_base_is_listed_with_where_its_weights_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    rows = {name: status for name, _, status in describe_bases()}
    assert list(rows) == list(BASES)
    assert rows["mini"] == "shipped" and rows["tiny-wan"] == "made on the spot"
    assert rows["animatediff-v3"].startswith("missing: hf download stable-diffusion-v1-5/")
    assert "hf download guoyww/animatediff-motion-adapter-v1-5-3" in rows["animatediff-v3"]
    assert rows["wan2.1-t2v-1.3b"].startswith("missing: hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("animatediff-v3", "hf download stable-diffusion-v1-5/stable-diffusion-v1-5 unet/config.json"),
        ("wan2.1-t2v-1.3b", "hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
        ("someone/some-model", "hf download someone/some-model"),
    ],
)
def test_missing_weights_name_the_command_that_fetches_them(name: str, command: str) -> None:
    with pytest.raises(WeightsError) as problem:
        ml.load_base(name, device="cpu")
    assert command in problem.value.fix


def test_mini_has_no_options() -> None:
    with pytest.raises(ConfigError, match='mini has no option "shared_noise"'):
        ml.load_base("mini", shared_noise=0.2)


def test_an_unknown_name() -> None:
    with pytest.raises(ConfigError) as problem:
        ml.load_base("animatedif-v3")
    assert problem.value.fix == 'did you mean "animatediff-v3"?'


# --- folders of diffusers pipelines -------------------------------------------------------------------------


def write_index(folder: Path, kind: str) -> None:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": kind}))


def as_folder(name: str, folder: Path) -> Base:
    """A tiny base saved as the folder of its pipeline; returns what was saved."""
    base = ml.load_base(name)
    kind, part = {
        "tiny-animatediff": ("AnimateDiffPipeline", "unet"), "tiny-wan": ("WanPipeline", "transformer")
    }[name]  # fmt: skip
    base.denoiser.network.save_pretrained(folder / part)
    base.codec.network.save_pretrained(folder / "vae")
    write_index(folder, kind)
    return base


@pytest.mark.parametrize("name", TINY)
def test_a_folder_loads_as_what_it_holds(name: str, tmp_path: Path) -> None:
    saved = as_folder(name, tmp_path / "my-model")
    loaded = ml.load_base(tmp_path / "my-model", device="cpu")
    assert type(loaded) is type(saved) and loaded.name == "my-model"
    assert loaded.facts()["weights"] == saved.facts()["weights"]
    assert loaded.size_multiple_px == saved.size_multiple_px


def test_a_folder_of_a_picture_model_with_motion_modules_beside_it(tmp_path: Path) -> None:
    unet, adapter, autoencoder = tiny_parts()
    unet.save_pretrained(tmp_path / "unet")
    adapter.save_pretrained(tmp_path / "motion_adapter")
    autoencoder.save_pretrained(tmp_path / "vae")
    write_index(tmp_path, "AnimateDiffPipeline")
    loaded = ml.load_base(tmp_path, device="cpu")
    assert fingerprint(loaded.denoiser.network) == fingerprint(UNetMotionModel.from_unet2d(unet, adapter))


def break_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")


def name_another_kind(folder: Path) -> None:
    write_index(folder, "StableAudioPipeline")


def drop_a_part(folder: Path) -> None:
    (folder / "vae" / "config.json").unlink()


def add_a_tensor(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.update({"stranger.weight": torch.zeros(2)}))


def drop_a_tensor(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.pop("proj_out.weight"))


def cut_the_file(folder: Path) -> None:
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (break_index, "is damaged"),
        (name_another_kind, "which is no base"),
        (drop_a_part, "has no config.json"),
        (add_a_tensor, "stranger.weight"),
        (drop_a_tensor, "proj_out.weight"),
        (cut_the_file, "cannot load WanTransformer3DModel"),
    ],
)
def test_a_damaged_folder_is_refused(damage: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    as_folder("tiny-wan", tmp_path)
    damage(tmp_path)
    with pytest.raises(WeightsError) as problem:
        ml.load_base(tmp_path, device="cpu")
    assert said in str(problem.value)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no model_index\.json"):
        ml.load_base(tmp_path)


# --- the official files -------------------------------------------------------------------------------------

TINY_SPATIAL = {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1, "cross_attention_dim": 24}


@cache
def tiny_parts() -> tuple[UNet2DConditionModel, MotionAdapter, AutoencoderKL]:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**TINY_SPATIAL)
    adapter = MotionAdapter(
        block_out_channels=(32, 32, 32, 32), motion_layers_per_block=1, **animatediff.MOTION_CONFIG
    )
    return unet, adapter, AutoencoderKL(**animatediff.TINY_VAE)


def write_official(
    folder: Path, change: Callable[[dict[str, Tensor], dict[str, Tensor]], Any] = lambda motion, spatial: None
) -> tuple[Path, Path, Any, Any]:
    """(motion module file, checkpoint file, the network and autoencoder they hold)."""
    unet, adapter, autoencoder = tiny_parts()
    motion = official.motion_module(adapter.state_dict())
    spatial = official.stable_diffusion(unet.state_dict(), autoencoder.state_dict(), layers_per_block=1)
    change(motion, spatial)
    files = folder / "v3_sd15_mm.safetensors", folder / "sd15.safetensors"
    for file, tensors in zip(files, (motion, spatial), strict=True):
        save_weights(file, tensors)
    return *files, UNetMotionModel.from_unet2d(unet, adapter), autoencoder


def read_official(motion: Path, checkpoint: Path) -> tuple[Any, Any]:
    return animatediff.load_official(
        motion, checkpoint, TINY_SPATIAL, animatediff.MOTION_CONFIG, animatediff.TINY_VAE
    )


def test_official_animatediff_files_load_tensor_by_tensor(tmp_path: Path) -> None:
    motion, checkpoint, network, autoencoder = write_official(tmp_path)
    got_network, got_autoencoder = read_official(motion, checkpoint)
    for got, want in ((got_network, network), (got_autoencoder, autoencoder)):
        expected = want.state_dict()
        assert got.state_dict().keys() == expected.keys()
        for name, value in got.state_dict().items():
            if name.endswith("pos_embed.pe"):  # computed here, in another order
                assert torch.allclose(value, expected[name], atol=1e-5)
            else:
                assert torch.equal(value, expected[name])


def left_over_motion(motion: dict[str, Tensor], spatial: dict[str, Tensor]) -> None:
    motion["mid_block.motion_modules.0.temporal_transformer.norm.weight"] = torch.ones(64)


def left_over_spatial(motion: dict[str, Tensor], spatial: dict[str, Tensor]) -> None:
    spatial["model.diffusion_model.label_emb.0.0.weight"] = torch.ones(64)


def missing_spatial(motion: dict[str, Tensor], spatial: dict[str, Tensor]) -> None:
    del spatial["model.diffusion_model.out.2.weight"]


def two_position_tables(motion: dict[str, Tensor], spatial: dict[str, Tensor]) -> None:
    name = next(name for name in motion if "pos_encoder" in name)
    motion[name] = motion[name] + 0.1


def not_a_number(motion: dict[str, Tensor], spatial: dict[str, Tensor]) -> None:
    spatial["model.diffusion_model.out.2.weight"] = spatial["model.diffusion_model.out.2.weight"] / 0


def no_autoencoder(motion: dict[str, Tensor], spatial: dict[str, Tensor]) -> None:
    for name in [name for name in spatial if name.startswith("first_stage_model.")]:
        del spatial[name]


def test_official_animatediff_files_as_published(tmp_path: Path) -> None:
    """The motion module is a pickle whose names a data-parallel trainer prefixed."""
    motion, checkpoint, network, _ = write_official(tmp_path)
    tensors = {f"module.{name}": value for name, value in load_weights(motion)[0].items()}
    torch.save({"state_dict": tensors}, tmp_path / "v3_sd15_mm.ckpt")
    got, _ = read_official(tmp_path / "v3_sd15_mm.ckpt", checkpoint)
    name = "down_blocks.1.motion_modules.0.transformer_blocks.0.attn2.to_k.weight"
    assert torch.equal(got.get_parameter(name), network.get_parameter(name))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (left_over_motion, "1 unexpected (mid_block.motion_modules.0.norm.weight)"),
        (left_over_spatial, "no place in UNet2DConditionModel (model.diffusion_model.label_emb.0.0.weight)"),
        (missing_spatial, "conv_out.weight"),
        (two_position_tables, "two different position tables"),
        (not_a_number, '"model.diffusion_model.out.2.weight" holds NaN'),
        (no_autoencoder, 'no tensor below "first_stage_model."'),
    ],
)
def test_official_animatediff_files_leave_nothing_over(change: Any, said: str, tmp_path: Path) -> None:
    motion, checkpoint, *_ = write_official(tmp_path, change)
    with pytest.raises(WeightsError) as problem:
        read_official(motion, checkpoint)
    assert said in str(problem.value)


TINY_WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "text_dim": 20,
    "ffn_dim": 96,
    "num_layers": 2,
}


def test_official_wan_files_load_tensor_by_tensor(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, autoencoder = WanTransformer3DModel(**TINY_WAN), AutoencoderKLWan(base_dim=4)
    transformer, vae = tmp_path / "wan.safetensors", tmp_path / "wan_vae.safetensors"
    tensors = official.wan_transformer(network.state_dict())
    save_weights(transformer, tensors)
    save_weights(vae, official.wan_autoencoder(autoencoder.state_dict()))
    for got, want in zip(
        wan.load_official(transformer, vae, TINY_WAN, {"base_dim": 4}), (network, autoencoder), strict=True
    ):
        expected = want.state_dict()
        assert got.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in got.state_dict().items())
    save_weights(transformer, tensors | {"blocks.0.self_attn.stranger.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="1 unexpected"):
        wan.load_official(transformer, vae, TINY_WAN, {"base_dim": 4})


def test_one_official_file_alone_is_not_enough() -> None:
    with pytest.raises(ConfigError, match="expected both"):
        ml.load_base("animatediff-v3", motion_module="v3_sd15_mm.safetensors", device="cpu")
    with pytest.raises(ConfigError, match="expected both"):
        ml.load_base("wan2.1-t2v-1.3b", vae="wan_vae.safetensors", device="cpu")

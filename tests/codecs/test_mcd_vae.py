"""MCD-VAE: the paper's sizes, the shapes of every data set, normalisation, and what decoding depends on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from motionloom.codecs.base import Codec, Gaussian
from motionloom.codecs.mcd_vae import (
    BatchLatentNorm,
    BlendOutput,
    FrameOutput,
    MCDVAEConfig,
    MotionContentAutoencoder,
    NoLatentNorm,
    StdLatentNorm,
)
from motionloom.denoisers.base import MotionCondition
from motionloom.denoisers.motion_unet import MotionUNet
from motionloom.errors import ConfigError, InputError, WeightsError

TINY = MCDVAEConfig(num_frames=8, size_px=(16, 16), motion_base=4, content_base=8)

DATASET_ROWS = {
    "bair": MCDVAEConfig(num_frames=16, size_px=(64, 64)),
    "landscape": MCDVAEConfig(num_frames=32, size_px=(128, 128)),
    "natops": MCDVAEConfig(num_frames=32, size_px=(128, 128), motion_base=32),
    "mug-128": MCDVAEConfig(num_frames=32, size_px=(128, 128)),
    "mug-256": MCDVAEConfig(num_frames=16, size_px=(256, 256), spatial_ratio=8),
    "cater": MCDVAEConfig(num_frames=16, size_px=(128, 128)),
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def tiny(**changes: object) -> MotionContentAutoencoder:
    torch.manual_seed(0)
    return MotionContentAutoencoder(dataclasses.replace(TINY, **changes)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "parameters"),
    [
        ("bair", 164_596_553),
        ("landscape", 175_267_529),
        ("natops", 148_746_281),
        ("mug-256", 174_559_561),
    ],
)
def test_parameter_counts(row: str, parameters: int) -> None:
    with torch.device("meta"):
        assert count(MotionContentAutoencoder(DATASET_ROWS[row])) == parameters


def test_parameter_counts_of_the_parts() -> None:
    with torch.device("meta"):
        model = MotionContentAutoencoder()
    assert count(model.content_encoder) == 22_323_584
    assert count(model.motion_encoder) == 26_531_910
    assert count(model.decoder) == 115_741_059


@pytest.mark.parametrize("row", DATASET_ROWS)
def test_shapes_of_every_data_set(row: str) -> None:
    config = dataclasses.replace(DATASET_ROWS[row], motion_base=4, content_base=8)
    height, width = config.size_px
    latent_side = height // config.spatial_ratio
    with torch.device("meta"):
        model = MotionContentAutoencoder(config).eval()
        frames = torch.empty(2, 3, config.num_frames, height, width)
    latents = model.encode(frames)
    assert latents.shape == (2, 3, latent_side, latent_side)
    assert model.latent_shape(config.num_frames, height, width) == latents.shape[1:]
    content = model.content(frames[:, :, 0])
    assert [tuple(f.shape[1:]) for f in content.maps] == [
        (8, height, width),
        (16, height // 2, width // 2),
        (32, height // 4, width // 4),
    ]
    assert content.f_x0.shape == (2, 32, latent_side, latent_side)
    assert model.decode(latents, content).shape == frames.shape


@pytest.mark.parametrize("changes", [{}, {"thin_tail": True, "blocks_before_tail": 2}, {"spatial_ratio": 8}])
def test_round_trip_on_numbers(changes: dict[str, object]) -> None:
    model = tiny(**changes)
    assert isinstance(model, Codec)
    frames = torch.rand(1, 3, 8, 16, 24) * 2 - 1
    latents = model.encode(frames)
    decoded = model.decode(latents, frames[:, :, 0])
    assert decoded.shape == frames.shape and decoded.isfinite().all()
    torch.testing.assert_close(decoded, model.decode(latents, model.content(frames[:, :, 0])))
    torch.testing.assert_close(latents, model.encode(frames))


def test_random_motion_decodes_and_depends_on_both_inputs() -> None:
    model = tiny()
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    z = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    a = model.decode(z, pictures)
    assert a.shape == (2, 3, 8, 16, 16) and a.isfinite().all()
    assert not torch.allclose(a, model.decode(z.flip(0), pictures), atol=1e-4)
    assert not torch.allclose(a, model.decode(z, pictures.flip(0)), atol=1e-4)


def test_posterior_is_clamped_and_sampling_reads_only_its_generator() -> None:
    model = tiny()
    last = model.motion_encoder.out[-1]
    assert isinstance(last, nn.Conv3d) and last.bias is not None
    nn.init.constant_(last.bias, 1e6)
    posterior = model.encode_motion(torch.zeros(1, 3, 8, 16, 16))
    assert posterior.logvar.max() == 20.0

    unit = Gaussian(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4))
    first, second = (unit.sample(torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert unit.kl().abs().max() == 0
    shifted = Gaussian(torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 1.0))
    reference = torch.distributions.kl_divergence(
        torch.distributions.Normal(2.0, torch.e**0.5), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(shifted.kl().squeeze(), reference)


def test_batch_norm_gives_unit_variance_and_the_cache_equals_the_fly() -> None:
    norm = BatchLatentNorm(3)
    samples = (
        torch.randn(256, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        * torch.tensor([0.1, 1.0, 7.0]).view(3, 1, 1)
        + 2
    )
    in_training = norm(samples)
    assert in_training.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert (in_training.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-2
    for _ in range(200):
        norm(samples)
    norm.eval()
    torch.testing.assert_close(norm(samples), in_training, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(norm(samples)[:2], norm(samples[:2]))  # no clip depends on its batch

    model = tiny()
    frames = torch.rand(2, 3, 8, 16, 16) * 2 - 1
    cached = model.encode_motion(frames)
    on_the_fly = model.encode_motion(frames)
    latents = [
        model.normalise(posterior.sample(torch.Generator().manual_seed(3)))
        for posterior in (cached, on_the_fly)
    ]
    assert torch.equal(*latents)


def test_measured_norm_and_no_norm() -> None:
    samples = torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 3 - 1
    norm = StdLatentNorm(2)
    norm.fit(samples.split(10))
    unit = norm(samples)
    assert unit.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert (unit.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-3
    assert torch.equal(NoLatentNorm(2)(samples), samples)


def test_thin_tail_makes_long_clips_cheap() -> None:
    """Decoder plus 200 generator steps: 128 frames cost at most 1.1 times 16 frames, 1.6 with config A."""

    def decoder_flops(num_frames: int, thin_tail: bool) -> int:
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as flops:
            model = MotionContentAutoencoder(MCDVAEConfig(num_frames=num_frames, thin_tail=thin_tail)).eval()
            model.decode(torch.empty(1, 3, 32, 32), torch.empty(1, 3, 128, 128))
        return flops.get_total_flops()

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as step:
        MotionUNet().eval()(
            torch.empty(1, 3, 32, 32), torch.empty(1), MotionCondition(torch.empty(1, 1101, 512))
        )
    generator = 200 * step.get_total_flops()
    thin = [generator + decoder_flops(num_frames, thin_tail=True) for num_frames in (16, 128)]
    full = [generator + decoder_flops(num_frames, thin_tail=False) for num_frames in (16, 128)]
    assert thin[1] / thin[0] <= 1.1
    assert full[1] / full[0] <= 1.65
    assert abs(full[0] / 1e12 - 21.8) < 0.1 and abs(full[1] / 1e12 - 35.2) < 0.1


def test_file_round_trip_and_refusals(tmp_path: Path) -> None:
    model = tiny(z_norm=StdLatentNorm, thin_tail=True)
    path = model.save(tmp_path / "mcd_vae.safetensors", {"beta": "0.01"})
    loaded = MotionContentAutoencoder.load(path)
    assert loaded.config == model.config and not loaded.training
    frames = torch.rand(1, 3, 8, 16, 16) * 2 - 1
    assert torch.equal(loaded.encode(frames), model.encode(frames))

    from motionloom.weights import save_weights

    other = save_weights(tmp_path / "other.safetensors", {"x": torch.zeros(1)}, {"kind": "adapter"})
    with pytest.raises(WeightsError, match="adapter"):
        MotionContentAutoencoder.load(other)


def test_a_blended_clip_is_the_photo_where_the_mask_is_shut_and_the_drawing_where_it_is_open() -> None:
    model = tiny(output=BlendOutput)
    assert model.decoder.last.bias is not None
    assert float(model.decoder.last.bias[3].detach()) == BlendOutput.FRESH_MASK
    z, photo = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 16, 16) * 2 - 1
    said: list[torch.Tensor] = []
    model.decoder.out.register_forward_hook(lambda module, given, out: said.append(out))
    with torch.no_grad():
        for bias, expected in ((-40.0, None), (40.0, said)):
            model.decoder.last.bias[3] = bias
            frames = model.decode(z, photo)
            drawn = photo[:, :, None].expand_as(frames) if expected is None else said[-1][:, :3]
            assert torch.allclose(frames, drawn, atol=1e-6)
        model.decoder.last.bias[3] = 0.0
        half = model.decode(z, photo)
        mask = said[-1][:, 3:].sigmoid()
    assert torch.allclose(
        half, torch.lerp(photo[:, :, None].expand_as(half), said[-1][:, :3], mask), atol=1e-6
    )


def test_the_output_is_part_of_the_file_and_the_papers_by_default(tmp_path: Path) -> None:
    assert MCDVAEConfig().output is FrameOutput
    without = json.loads(TINY.to_json())
    del without["output"]  # files written before there was a choice
    assert MCDVAEConfig.from_mapping(without) == TINY
    model = tiny(output=BlendOutput)
    loaded = MotionContentAutoencoder.load(model.save(tmp_path / "codec.safetensors"))
    assert loaded.config.output is BlendOutput
    assert count(model) - count(tiny()) == 27 * TINY.content_base + 1  # one more channel
    with pytest.raises(ConfigError, match="output 'blends'") as error:
        MCDVAEConfig.from_mapping({"output": "blends"})
    assert "'blend'" in error.value.fix


def test_of_changes_alone_every_still_picture_has_one_latent_and_motion_is_seen_without_its_ground() -> None:
    changes, clips = tiny(motion_input="change"), tiny()
    photos = torch.rand(2, 3, 16, 16) * 2 - 1
    still = photos[:, :, None].expand(-1, -1, 8, -1, -1)
    with torch.no_grad():
        one, other = changes.encode(still)
        assert torch.equal(one, other)
        assert not torch.equal(*clips.encode(still))  # the paper's encoder sees the pictures
        moving = torch.cat([torch.zeros(1, 3, 1, 16, 16), torch.rand(1, 3, 7, 16, 16) * 0.5], dim=2)
        apart = changes.encode(moving + 0.25) - changes.encode(moving - 0.25)
    assert float(apart.abs().max()) < 1e-5
    with pytest.raises(ConfigError, match="motion_input is changes, expected clip or change"):
        MCDVAEConfig(motion_input="changes")  # type: ignore[arg-type]


def test_groups_of_one_channel_take_its_strength_away_and_wide_groups_keep_it() -> None:
    x = torch.randn(2, 8, 4, 6, 6)
    stronger = x * torch.tensor([3.0, *[1.0] * 7]).view(1, 8, 1, 1, 1)
    for group_channels, groups, keeps in ((1, 8, False), (8, 1, True)):
        config = dataclasses.replace(TINY, motion_base=8, group_channels=group_channels)
        norm = config.norm(8)
        assert norm.num_groups == groups
        assert torch.allclose(norm(stronger), norm(x), atol=1e-4) is not keeps
        norms = [
            module
            for module in MotionContentAutoencoder(config).modules()
            if isinstance(module, nn.GroupNorm)
        ]
        smallest = min(module.num_channels // module.num_groups for module in norms)
        assert smallest == group_channels and len(norms) > 40
    assert [MCDVAEConfig().norm(width).num_groups for width in (64, 128, 512)] == [32, 32, 32]  # the paper's


def test_configuration_says_what_is_wrong() -> None:
    assert MCDVAEConfig.from_mapping(json.loads(TINY.to_json())) == TINY
    with pytest.raises(ConfigError, match="num_framez") as error:
        MCDVAEConfig.from_mapping({"num_framez": 16})
    assert "num_frames" in error.value.fix
    with pytest.raises(ConfigError, match="z_norm 'batch'"):
        MCDVAEConfig.from_mapping({"z_norm": "batch"})
    with pytest.raises(ConfigError, match="num_frames is 20"):
        MCDVAEConfig(num_frames=20)
    model = tiny()
    with pytest.raises(InputError, match="multiples of 4"):
        model.content(torch.zeros(1, 3, 18, 16))
    with pytest.raises(InputError, match="8, height"):
        model.encode(torch.zeros(1, 3, 7, 16, 16))
    with pytest.raises(InputError, match="this picture takes"):
        model.decode(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 16, 16))

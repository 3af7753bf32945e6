"""d_t = 2: the latent keeps two moments, folded into its channels (LaMD, Tab. 12)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from motionloom.codecs.mcd_vae import MCDVAEConfig, MotionContentAutoencoder, NoLatentNorm
from motionloom.errors import ConfigError

TWO = MCDVAEConfig(
    num_frames=16, size_px=(16, 16), motion_base=4, content_base=8, latent_channels=2, latent_frames=2
)


def test_shapes_and_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MotionContentAutoencoder(TWO).eval()
    frames = torch.rand(2, 3, 16, 16, 16) * 2 - 1
    with torch.no_grad():
        z = model.encode(frames)
        drawn = model.decode(z, frames[:, :, 0])
    assert z.shape == (2, 4, 4, 4) and model.latent_shape(16, 16, 16) == (4, 4, 4)
    assert drawn.shape == frames.shape
    loaded = MotionContentAutoencoder.load(model.save(tmp_path / "mcd_vae.safetensors"))
    assert loaded.config == TWO and torch.equal(loaded.encode(frames), z)


def test_the_decoder_sees_the_moments_in_the_order_the_encoder_made_them() -> None:
    torch.manual_seed(0)
    model = MotionContentAutoencoder(dataclasses.replace(TWO, z_norm=NoLatentNorm)).eval()
    made: list[Tensor] = []
    model.motion_encoder.out.register_forward_hook(lambda module, given, moments: made.append(moments))
    model.decoder.conv_in.register_forward_pre_hook(lambda module, given: made.append(given[0]))
    frames = torch.rand(1, 3, 16, 16, 16) * 2 - 1
    with torch.no_grad():
        model.decode(model.encode(frames), frames[:, :, 0])
    moments, seen = made
    assert moments.shape == (1, 4, 2, 4, 4)  # mean and logvar of d = 2, at d_t = 2 moments
    assert torch.equal(seen, moments[:, :2])


def test_one_moment_is_the_paper_and_three_are_refused() -> None:
    assert MCDVAEConfig().latent_frames == 1 and MCDVAEConfig().latent_depth == 3
    with pytest.raises(ConfigError, match="latent_frames is 3"):
        MCDVAEConfig(latent_frames=3)

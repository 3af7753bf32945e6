"""Tiny hosts, and adapters that do something: every parameter of a fresh one is moved from its start."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import motionloom as ml


def small_unet() -> Any:
    from diffusers import UNetMotionModel

    torch.manual_seed(0)
    return UNetMotionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        cross_attention_dim=12,
        num_attention_heads=2,
        motion_num_attention_heads=2,
        norm_num_groups=8,
        use_motion_mid_block=False,
    ).eval()


def small_wan() -> Any:
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    return WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, text_dim=12, freq_dim=32, ffn_dim=64, num_layers=2
    ).eval()


@pytest.fixture(scope="session")
def unet() -> Any:
    return small_unet()


@pytest.fixture(scope="session")
def wan() -> Any:
    return small_wan()


@pytest.fixture(params=["unet", "wan"])
def host(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def moved(host: Any, seed: int = 1, **options: Any) -> ml.Adapter:
    """A fresh adapter with noise on every parameter, as if it had been trained."""
    adapter = ml.new_adapter(host, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return adapter


def latents_for(host: Any, frames: int = 3, height: int = 8, width: int = 12, batch: int = 1) -> torch.Tensor:
    channels = host.config.in_channels
    return torch.randn(batch, channels, frames, height, width, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def predict(host: Any, latents: torch.Tensor, timestep: float = 500.0) -> torch.Tensor:
    """The stock call of either host, with a text that must not matter."""
    count, width = (
        (latents.shape[0] * latents.shape[2], host.config.cross_attention_dim)
        if hasattr(host, "time_embedding")
        else (latents.shape[0], host.config.text_dim)
    )
    text = torch.ones(count, 3, width)
    out: torch.Tensor = host(
        latents, torch.full((latents.shape[0],), timestep), encoder_hidden_states=text
    ).sample
    return out

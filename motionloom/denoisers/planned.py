"""Bases as shapes without values, for forecasts and counts: no weights are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from motionloom.codecs.image_autoencoder import ImageAutoencoder
from motionloom.codecs.wan_autoencoder import WanAutoencoder
from motionloom.denoisers import animatediff, wan
from motionloom.denoisers.miva import MivaBase
from motionloom.denoisers.pretrained import read_options, with_random_values
from motionloom.denoisers.text_free import TextFreeNetwork

UNET_CONFIG = {**animatediff.SPATIAL_CONFIG, **animatediff.MOTION_CONFIG}


def planned_base(name: str, **options: Any) -> MivaBase:
    """One of PLANNED on the meta device, with its options. Raises ConfigError for an option it does not have."""
    with torch.device("meta"):
        return PLANNED[name](**options)


def _animatediff(**options: Any) -> MivaBase:
    from diffusers import AutoencoderKL, UNetMotionModel

    models = (UNetMotionModel, UNET_CONFIG), (AutoencoderKL, animatediff.VAE_CONFIG)
    network, autoencoder = with_random_values(0, *models)
    denoiser = TextFreeNetwork(network, "epsilon", int(network.config.cross_attention_dim), True)
    chosen = animatediff.chosen_options(options, animatediff.NAME)
    sizes_px = (animatediff.NATIVE_SIZE_PX, 64)
    return animatediff.AnimateDiffBase(
        animatediff.NAME, denoiser, ImageAutoencoder(autoencoder), sizes_px, chosen
    )


def _wan(**options: Any) -> MivaBase:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    network, autoencoder = with_random_values(
        0, (WanTransformer3DModel, wan.NETWORK_CONFIG), (AutoencoderKLWan, {})
    )
    denoiser = TextFreeNetwork(network, "flow", int(network.config.text_dim), False)
    chosen = read_options(wan.WanOptions, options, wan.NAME)
    sizes_px = (wan.NATIVE_SIZE_PX, 16)
    return wan.WanBase(wan.NAME, denoiser, WanAutoencoder(autoencoder), sizes_px, chosen)


PLANNED: dict[str, Callable[..., MivaBase]] = {
    animatediff.NAME: _animatediff,
    wan.NAME: _wan,
    "tiny-animatediff": animatediff.load_tiny,
    "tiny-wan": wan.load_tiny,
}

"""The full-size bases as shapes without values, for forecasts and counts: no weights are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from motionloom.denoisers import animatediff, wan
from motionloom.denoisers.miva import MivaBase, read_options
from motionloom.denoisers.text_free import TextFreeNetwork

UNET_CONFIG = {
    "cross_attention_dim": animatediff.SPATIAL_CONFIG["cross_attention_dim"],
    "sample_size": animatediff.SPATIAL_CONFIG["sample_size"],
    **animatediff.MOTION_CONFIG,
}


def planned_base(name: str, **options: Any) -> MivaBase:
    """One of PLANNED on the meta device, with its options. Raises ConfigError for an option it does not have."""
    with torch.device("meta"):
        return PLANNED[name](**options)


def _animatediff(**options: Any) -> MivaBase:
    from diffusers import AutoencoderKL, UNetMotionModel

    network = UNetMotionModel(**UNET_CONFIG)
    denoiser = TextFreeNetwork(network, "epsilon", int(network.config.cross_attention_dim), True)
    codec = animatediff.ImageAutoencoder(AutoencoderKL(**animatediff.VAE_CONFIG))
    sizes_px = (animatediff.NATIVE_SIZE_PX, 64)
    return animatediff.AnimateDiffBase(
        animatediff.NAME, denoiser, codec, sizes_px, animatediff.AnimateDiffOptions()
    )


def _wan(**options: Any) -> MivaBase:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    network = WanTransformer3DModel(**wan.NETWORK_CONFIG)
    denoiser = TextFreeNetwork(network, "flow", int(network.config.text_dim), False)
    codec = wan.WanAutoencoder(AutoencoderKLWan())
    chosen = read_options(wan.WanOptions, options, wan.NAME)
    return wan.WanBase(wan.NAME, denoiser, codec, (wan.NATIVE_SIZE_PX, 16), chosen)


PLANNED: dict[str, Callable[..., MivaBase]] = {
    animatediff.NAME: _animatediff,
    wan.NAME: _wan,
    "tiny-animatediff": animatediff.load_tiny,
    "tiny-wan": wan.load_tiny,
}

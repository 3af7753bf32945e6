"""The bases `wan2.1-t2v-1.3b` and `tiny-wan`: Wan 2.1, a diffusion transformer trained by flow matching.

Weights come from the hub's cache, from a folder of a diffusers pipeline, or from the two official files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from motionloom.codecs.wan_autoencoder import WanAutoencoder
from motionloom.denoisers.base import Request
from motionloom.denoisers.hub import FETCH_WAN, WAN_REPOSITORY
from motionloom.denoisers.miva import MivaBase, MivaOptions
from motionloom.denoisers.official_files import fill, read_part
from motionloom.denoisers.pretrained import (
    device_and_dtype,
    find_folder,
    load_part,
    read_options,
    to_precision,
    with_random_values,
    without_values,
)
from motionloom.denoisers.text_free import TextFreeNetwork
from motionloom.errors import ConfigError, InputError
from motionloom.sampling.schedules import rectified_flow

NAME = "wan2.1-t2v-1.3b"
HALF = "bfloat16"
NATIVE_SIZE_PX = (480, 832)  # height, width

NETWORK_CONFIG: Mapping[str, Any] = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}


class WanOptions(MivaOptions):
    """How sampling runs.

    Attributes:
        shift: bends the noise levels towards noise, sigma' = shift sigma / (1 + (shift - 1) sigma).
    """

    posterior: Literal["sample", "mean"] = "mean"
    adain: bool = False
    shift: float = Field(5.0, gt=0, le=100)


class WanBase(MivaBase):
    """MIVA on Wan: 17 frames at 16 fps, 832 x 480 px, flow matching in 50 Euler steps without guidance."""

    num_frames, fps = 17, 16.0
    options: WanOptions
    codec: WanAutoencoder

    def check(self, request: Request) -> None:
        """See `Base`; the autoencoder takes one frame more than a multiple of four."""
        super().check(request)
        try:
            self.codec.latent_shape(request.num_frames, request.height, request.width)
        except InputError as problem:
            raise ConfigError(f"{self.name}: {problem.message}", fix=problem.fix) from None

    def scheduler(self) -> Any:
        """See `MivaBase`: K noise levels from 1 to 1 / K, shifted, then 0."""
        return rectified_flow(self.options.shift)

    def levels(self, request: Request) -> tuple[float, float]:
        """See `MivaBase`: 1 - sigma and sigma, at the visited timestep nearest to the one asked for."""
        scheduler = self.scheduler()
        scheduler.set_timesteps(request.num_steps)
        nearest = (scheduler.timesteps - self.options.start_timestep).abs().argmin()
        sigma = float(scheduler.sigmas[nearest])
        return 1 - sigma, sigma


def load_wan(
    folder: str | os.PathLike[str] | None = None,
    *,
    transformer: str | os.PathLike[str] | None = None,
    vae: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    **options: Any,
) -> WanBase:
    """The base, from wherever its weights are. No text encoder is ever loaded.

    Args:
        folder: of a diffusers pipeline (transformer and vae), or its hub id; None takes the official one.
        transformer, vae: instead, the official files, as .pth or .safetensors.
        revision: of the hub repository.
        device, dtype: where and how precisely to compute.
        options: see `WanOptions`.

    Raises:
        WeightsError: weights are missing (the fix fetches them), damaged, or of another model.
        ConfigError: an option that does not exist.
    """
    name = NAME if folder is None else Path(folder).name
    chosen = read_options(WanOptions, options, name)
    place, precision = device_and_dtype(device, dtype, HALF)
    given = {"revision": revision} if revision else {}
    if transformer is not None or vae is not None:
        if transformer is None or vae is None:
            raise ConfigError("got one of transformer and vae, expected both", fix="give both official files")
        network, autoencoder = load_official(transformer, vae)
        network, autoencoder = to_precision(network, precision), to_precision(autoencoder, precision)
    else:
        network, autoencoder = _load_folder(folder or WAN_REPOSITORY, revision, precision)
    return _base(name, network.to(place), autoencoder.to(place), chosen, given)


def load_tiny(seed: int | str = 0, **options: Any) -> WanBase:
    """Random weights of the same layout, made on the spot from a seed: for tests and dry runs."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    chosen = read_options(WanOptions, options, "tiny-wan")
    models = (WanTransformer3DModel, TINY_NETWORK), (AutoencoderKLWan, TINY_VAE)
    network, autoencoder = with_random_values(int(seed), *models)
    return _base("tiny-wan", network, autoencoder, chosen, {"seed": int(seed)}, native_size_px=(64, 64))


TINY_NETWORK: Mapping[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "text_dim": 20,
    "ffn_dim": 96,
    "num_layers": 2,
}
TINY_VAE: Mapping[str, Any] = {"base_dim": 4, "num_res_blocks": 1}


def _base(
    name: str,
    network: Any,
    autoencoder: Any,
    options: WanOptions,
    given: Mapping[str, Any],
    native_size_px: tuple[int, int] = NATIVE_SIZE_PX,
) -> WanBase:
    denoiser = TextFreeNetwork(network, "flow", int(network.config.text_dim), False)
    codec = WanAutoencoder(autoencoder)
    sizes_px = (native_size_px, codec.factor * int(network.config.patch_size[1]))  # 8 x 2 = 16
    return WanBase(name, denoiser, codec, sizes_px, options, given)


def _load_folder(source: str | os.PathLike[str], revision: str | None, dtype: torch.dtype) -> tuple[Any, Any]:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    fetch = FETCH_WAN if source == WAN_REPOSITORY else ""
    folder = find_folder(source, fetch, revision)
    network = load_part(WanTransformer3DModel, folder, "transformer", dtype, fetch)
    return network, load_part(AutoencoderKLWan, folder, "vae", dtype, fetch)


# --- the official files -------------------------------------------------------------------------------------


def load_official(
    transformer: str | os.PathLike[str],
    vae: str | os.PathLike[str],
    network_config: Mapping[str, Any] = NETWORK_CONFIG,
    vae_config: Mapping[str, Any] | None = None,
) -> tuple[Any, Any]:
    """(network, autoencoder) from the official files, every key accounted for.

    Raises:
        WeightsError: a file is damaged, or its keys are not those of the model.
    """
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from diffusers.loaders.single_file_utils import (
        convert_wan_transformer_to_diffusers,
        convert_wan_vae_to_diffusers,
    )

    network = without_values(WanTransformer3DModel, network_config)
    autoencoder = without_values(AutoencoderKLWan, vae_config or {})
    fill(network, read_part(transformer), convert_wan_transformer_to_diffusers, transformer)
    fill(autoencoder, read_part(vae), convert_wan_vae_to_diffusers, vae)
    return network, autoencoder

"""All networks of the model, sized by one configuration, and the released sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from motionloom.denoisers.dynamicrafter.unet import (
    IMAGE_TOKENS_PER_FRAME,
    TEXT_TOKENS,
    TRAINED_FRAMES,
    DynamiCrafterUNet,
    UNetConfig,
)
from motionloom.errors import WeightsError

CLIP_SIDE_PX = 224


class _Sizes(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TransformerSize(_Sizes):
    """A CLIP encoder."""

    width: int
    layers: int
    heads: int
    mlp_ratio: int = 4


class ResamplerSize(_Sizes):
    """The network that turns the picture's CLIP tokens into 16 tokens for each of 16 frames."""

    width: int = 1024
    depth: int = 4
    heads: int = 12
    head_width: int = 64


class Rate(_Sizes):
    """What the network is told about speed, in the numbers it was trained with.

    Attributes:
        unit: "fps" (frames per second of the training clip; a small number is more motion) or "stride" (frames
            skipped in it; a large number is more motion).
        usual, calm, lively: the release's default, and the trained values of least and of most motion.
    """

    unit: Literal["fps", "stride"] = "fps"
    usual: float = 24
    calm: float = 30
    lively: float = 15


class DynamiCrafterConfig(_Sizes):
    """Sizes of the parts, and how the model is sampled.

    Attributes:
        given: the frames whose latent it is told: "first" repeats the photo's over the clip; "first-and-last" is
            the interpolation checkpoint, told nothing of the frames between.
        prediction, base_scale, guidance_rescale: of its schedule; "v_prediction" comes with zero terminal SNR.
    """

    name: str = "dynamicrafter-512"
    unet: UNetConfig = UNetConfig.model_validate({})
    autoencoder_channels: tuple[int, ...] = (128, 256, 512, 512)
    autoencoder_layers: int = 2
    autoencoder_groups: int = 32
    latent_scale: float = 0.18215
    text: TransformerSize = TransformerSize(width=1024, layers=24, heads=16)
    vocabulary: int = 49408
    vision: TransformerSize = TransformerSize(width=1280, layers=32, heads=16)
    patch_px: int = 14
    resampler: ResamplerSize = ResamplerSize()
    native_size_px: tuple[int, int] = (320, 512)  # (height, width)
    prediction: Literal["v_prediction", "epsilon"] = "v_prediction"
    base_scale: float = 0.7
    guidance_rescale: float = 0.7
    rate: Rate = Rate()
    given: Literal["first", "first-and-last"] = "first"


RELEASED: dict[str, DynamiCrafterConfig] = {
    "dynamicrafter-512": DynamiCrafterConfig(),
    "dynamicrafter-1024": DynamiCrafterConfig(
        name="dynamicrafter-1024",
        native_size_px=(576, 1024),
        base_scale=0.3,
        rate=Rate(usual=10, calm=15, lively=5),
    ),
    "dynamicrafter-256": DynamiCrafterConfig(
        name="dynamicrafter-256",
        unet=UNetConfig.model_validate({"image_cross_attention_scale_learnable": True, "default_fs": 3}),
        native_size_px=(256, 256),
        prediction="epsilon",
        base_scale=1.0,
        guidance_rescale=0.0,
        rate=Rate(unit="stride", usual=3, calm=1, lively=6),
    ),
}
"""Sizes and sampling settings of the released checkpoints, which all have the same names."""

TINY = DynamiCrafterConfig(
    name="tiny-dynamicrafter",
    unet=UNetConfig.model_validate(
        {
            "model_channels": 32,
            "channel_mult": (1, 2),
            "num_res_blocks": 1,
            "attention_resolutions": (2, 1),
            "num_head_channels": 8,
            "context_dim": 32,
        }
    ),
    autoencoder_channels=(8, 8, 8, 8),
    autoencoder_layers=1,
    autoencoder_groups=4,
    text=TransformerSize(width=32, layers=2, heads=4, mlp_ratio=2),
    vocabulary=512,
    vision=TransformerSize(width=32, layers=2, heads=4, mlp_ratio=2),
    patch_px=56,
    resampler=ResamplerSize(width=32, depth=1, heads=2, head_width=16),
    native_size_px=(64, 64),
)


@dataclass
class Parts:
    """The networks; each field is a folder of a saved model.

    Attributes:
        unet: the video network.
        vae: picture autoencoder (Stable Diffusion's).
        text_encoder, image_encoder: OpenCLIP ViT-H/14 in the released sizes.
        image_projection: the resampler.
    """

    unet: DynamiCrafterUNet
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    image_encoder: CLIPVisionModel
    image_projection: IPAdapterPlusImageProjection

    def named(self) -> dict[str, nn.Module]:
        """Folder name -> network."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def build(config: DynamiCrafterConfig) -> Parts:
    """The networks with initial weights, on the default device ("meta" for sizes alone)."""
    text, vision, resampler = config.text, config.vision, config.resampler
    return Parts(
        unet=DynamiCrafterUNet(config.unet),
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(config.autoencoder_channels),
            up_block_types=("UpDecoderBlock2D",) * len(config.autoencoder_channels),
            block_out_channels=config.autoencoder_channels,
            layers_per_block=config.autoencoder_layers,
            norm_num_groups=config.autoencoder_groups,
            latent_channels=config.unet.out_channels,
            scaling_factor=config.latent_scale,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=config.vocabulary,
                max_position_embeddings=TEXT_TOKENS,
                projection_dim=text.width,
                bos_token_id=config.vocabulary - 2,
                eos_token_id=config.vocabulary - 1,
                **_encoder(text),
            )
        ),
        image_encoder=CLIPVisionModel(
            CLIPVisionConfig(image_size=CLIP_SIDE_PX, patch_size=config.patch_px, **_encoder(vision))
        ),
        image_projection=IPAdapterPlusImageProjection(
            embed_dims=vision.width,
            output_dims=config.unet.context_dim,
            hidden_dims=resampler.width,
            depth=resampler.depth,
            dim_head=resampler.head_width,
            heads=resampler.heads,
            num_queries=TRAINED_FRAMES * IMAGE_TOKENS_PER_FRAME,
        ),
    )


def build_random(config: DynamiCrafterConfig, seed: int = 0) -> Parts:
    """The networks with random weights from a seed; leaves the global random state as it was.

    Layers that start at zero (output projections) are drawn too, so that every part has an effect.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = build(config)
        for network in parts.named().values():
            for parameter in network.parameters():
                if not parameter.any():
                    nn.init.normal_(parameter, std=0.02)
    return _ready(parts)


def fill(config: DynamiCrafterConfig, tensors: Mapping[str, Mapping[str, Tensor]], source: str) -> Parts:
    """The networks with given weights, read one tensor at a time; a stage-1 adapter among them is joined.

    Args:
        config: the sizes.
        tensors: folder name -> (tensor name -> tensor); may be lazy.
        source: what errors call them.

    Raises:
        WeightsError: names or shapes that differ; the first five of each.
    """
    parts = planned(config, tensors, source)
    for name, network in parts.named().items():
        _copy(network, tensors[name])
    return _ready(parts)


def planned(config: DynamiCrafterConfig, tensors: Mapping[str, Mapping[str, Tensor]], source: str) -> Parts:
    """The networks that such tensors fill, without memory ("meta"); no value is read. Raises as `fill` does."""
    shapes = {name: _shapes(given) for name, given in tensors.items()}
    with torch.device("meta"):
        parts = build(config)
        if queries := shapes["unet"].get("text_adapter.queries"):
            from motionloom.adapters.text_adapter import TextAdapter

            TextAdapter.of(parts.unet, num_queries=queries[0]).join(parts.unet)
    for name, network in parts.named().items():
        _check_layout(network, shapes[name], f"{source}, {name}")
    return parts


def _check_layout(network: nn.Module, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raises WeightsError when names or shapes are not those of the network's parameters."""
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    groups = {
        "missing": [name for name in own if name not in shapes],
        "unexpected": [name for name in shapes if name not in own],
        "mis-shaped": [name for name in own if name in shapes and own[name] != shapes[name]],
    }
    told = "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
        for kind, names in groups.items()
        if names
    )
    if told:
        raise WeightsError(
            f"{source}: the tensors do not fit {type(network).__name__}: {told} of {len(own)}",
            fix="give a whole checkpoint of this model, or the configuration it was made with",
        )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Of every tensor; of a lazy mapping without reading."""
    return {name: tuple(given.shape) for name, given in getattr(tensors, "stored", tensors).items()}


def _copy(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    network.to_empty(device="cpu")
    for name, buffer in network.named_buffers():
        assert name.endswith("position_ids"), f"the buffer {name} is in no file"
        buffer.copy_(torch.arange(buffer.shape[-1])[None])
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(tensors[name])


def _ready(parts: Parts) -> Parts:
    for network in parts.named().values():
        network.eval().requires_grad_(False)
    return parts


def _encoder(size: TransformerSize) -> dict[str, Any]:
    return {
        "hidden_size": size.width,
        "intermediate_size": size.mlp_ratio * size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "hidden_act": "gelu",
    }

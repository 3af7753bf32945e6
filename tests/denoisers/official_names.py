"""A small checkpoint under DynamiCrafter's official names, with random values."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from motionloom.denoisers.dynamicrafter.official import BUFFERS, UNUSED
from motionloom.denoisers.dynamicrafter.parts import TINY, DynamiCrafterConfig, ResamplerSize, TransformerSize
from motionloom.denoisers.dynamicrafter.unet import UNetConfig

REFERENCE = Path(__file__).parents[1] / "parity" / "dynamicrafter"
UNET = json.loads((REFERENCE / "unet_tiny.json").read_text())
FULL = json.loads((REFERENCE / "key_list.json").read_text())["keys"]
WIDTH, VISION_WIDTH, VOCABULARY = 16, 32, 64

SMALL: DynamiCrafterConfig = TINY.model_copy(
    update={
        "name": "small",
        "unet": UNetConfig.of(UNET["config"]),
        "autoencoder_channels": (8, 16, 32, 32),  # a sixteenth of the released
        "autoencoder_layers": 2,
        "text": TransformerSize(width=WIDTH, layers=2, heads=2),
        "vocabulary": VOCABULARY,
        "vision": TransformerSize(width=VISION_WIDTH, layers=2, heads=2),
        "resampler": ResamplerSize(width=24, depth=1, heads=2, head_width=8),
    }
)


def small_checkpoint(seed: int = 0) -> dict[str, Tensor]:
    """The model of `SMALL` as `model.ckpt` would hold it, schedule and unused tensors included."""
    shapes: dict[str, list[int]] = {key: shape for key, shape, *_ in UNET["weights"]}
    for key, shape, _ in FULL:
        if key.startswith("first_stage_model."):
            shapes[key] = [side // 16 if side >= 128 else side for side in shape]
        elif key in BUFFERS or key in UNUSED:
            shapes[key] = [min(side, 5) for side in shape]
    text, vision = "cond_stage_model.model", "embedder.model.visual"
    shapes |= {
        f"{text}.token_embedding.weight": [VOCABULARY, WIDTH],
        f"{text}.positional_embedding": [77, WIDTH],
        **_norm(f"{text}.ln_final", WIDTH),
        f"{vision}.class_embedding": [VISION_WIDTH],
        f"{vision}.positional_embedding": [17, VISION_WIDTH],
        f"{vision}.conv1.weight": [VISION_WIDTH, 3, 56, 56],
        **_norm(f"{vision}.ln_pre", VISION_WIDTH),
        **_norm(f"{vision}.ln_post", VISION_WIDTH),
    }
    for layer in range(2):
        shapes |= _clip_block(f"{text}.transformer.resblocks.{layer}", WIDTH)
        shapes |= _clip_block(f"{vision}.transformer.resblocks.{layer}", VISION_WIDTH)
    shapes |= _resampler("image_proj_model", 24, 16, VISION_WIDTH, WIDTH)
    generator = torch.Generator().manual_seed(seed)
    return {key: 0.05 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def _norm(name: str, width: int) -> dict[str, list[int]]:
    return {f"{name}.weight": [width], f"{name}.bias": [width]}


def _clip_block(name: str, width: int) -> dict[str, list[int]]:
    return {
        **_norm(f"{name}.ln_1", width),
        **_norm(f"{name}.ln_2", width),
        f"{name}.attn.in_proj_weight": [3 * width, width],
        f"{name}.attn.in_proj_bias": [3 * width],
        f"{name}.attn.out_proj.weight": [width, width],
        f"{name}.attn.out_proj.bias": [width],
        f"{name}.mlp.c_fc.weight": [4 * width, width],
        f"{name}.mlp.c_fc.bias": [4 * width],
        f"{name}.mlp.c_proj.weight": [width, 4 * width],
        f"{name}.mlp.c_proj.bias": [width],
    }


def _resampler(name: str, width: int, inner: int, given: int, out: int) -> dict[str, list[int]]:
    layer = f"{name}.layers.0"
    return {
        f"{name}.latents": [1, 256, width],
        f"{name}.proj_in.weight": [width, given],
        f"{name}.proj_in.bias": [width],
        f"{name}.proj_out.weight": [out, width],
        f"{name}.proj_out.bias": [out],
        **_norm(f"{name}.norm_out", out),
        **_norm(f"{layer}.0.norm1", width),
        **_norm(f"{layer}.0.norm2", width),
        f"{layer}.0.to_q.weight": [inner, width],
        f"{layer}.0.to_kv.weight": [2 * inner, width],
        f"{layer}.0.to_out.weight": [width, inner],
        **_norm(f"{layer}.1.0", width),
        f"{layer}.1.1.weight": [4 * width, width],
        f"{layer}.1.3.weight": [width, 4 * width],
    }

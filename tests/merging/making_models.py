"""Small checkpoints with the official names, written in every form a merge reads."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from motionloom.weights import save_weights

SHAPES = {
    "model.diffusion_model.input_blocks.1.0.in_layers.2.weight": (8, 4, 3, 3),
    "model.diffusion_model.input_blocks.1.0.in_layers.2.bias": (8,),
    "model.diffusion_model.input_blocks.1.0.temopral_conv.conv1.2.weight": (8, 8, 3, 1, 1),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": (16, 12),
    "model.diffusion_model.input_blocks.1.2.transformer_blocks.0.attn1.to_q.weight": (16, 12),
    "model.diffusion_model.input_blocks.1.2.transformer_blocks.0.attn1.to_k.weight": (16, 12),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.alpha": (),
    "model.diffusion_model.time_embed.0.weight": (8, 8),
    "image_proj_model.latents": (1, 4, 6),
}
TEMPORAL = [name for name in SHAPES if ".1.2." in name]
STEPS = "num_updates"  # an integer buffer


def model(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A base: std 0.3."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return {**{name: w.to(dtype) for name, w in weights.items()}, STEPS: torch.tensor([3, 4])}


def tuned(base: dict[str, Tensor], seed: int = 1, std: float = 0.05) -> dict[str, Tensor]:
    """The base plus a task vector of this standard deviation; another integer buffer."""
    generator = torch.Generator().manual_seed(seed)
    moved = {
        name: (w + std * torch.randn(w.shape, generator=generator)).to(w.dtype)
        for name, w in base.items()
        if w.is_floating_point()
    }
    return {**moved, STEPS: torch.tensor([7, 8])}


def write_single(path: Path, tensors: dict[str, Tensor]) -> Path:
    return save_weights(path, tensors, {"motionloom.kind": "toy"})


def write_sharded(folder: Path, tensors: dict[str, Tensor]) -> Path:
    """Two shards with an index and a configuration, as diffusers writes them."""
    names = sorted(tensors)
    shards = {"m-00001-of-00002.safetensors": names[:5], "m-00002-of-00002.safetensors": names[5:]}
    for shard, part in shards.items():
        save_weights(folder / shard, {name: tensors[name] for name in part})
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    (folder / "m.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text("{}")
    return folder


def write_lightning(path: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save({"state_dict": tensors, "epoch": 3, "pytorch-lightning_version": "1.9"}, path)
    return path


def write_deepspeed(path: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save({"module": {f"_forward_module.{name}": w for name, w in tensors.items()}}, path)
    return path

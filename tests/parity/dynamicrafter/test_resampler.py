"""The image-token resampler against the official code, its weights through the checkpoint converter."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models.embeddings import IPAdapterPlusImageProjection

from motionloom.denoisers.dynamicrafter.official import resampler_tensors
from tests.parity.golden import read_case


@torch.no_grad()
def test_resampler() -> None:
    case = read_case(Path(__file__).parent, "resampler_tiny")
    sizes = case.manifest["config"]
    resampler = IPAdapterPlusImageProjection(
        embed_dims=sizes["embedding_dim"],
        output_dims=sizes["output_dim"],
        hidden_dims=sizes["dim"],
        depth=sizes["depth"],
        dim_head=sizes["dim_head"],
        heads=sizes["heads"],
        num_queries=sizes["num_queries"] * sizes["video_length"],
        ffn_ratio=sizes["ff_mult"],
    ).eval()
    tensors: dict[str, torch.Tensor] = {}
    for key, value in case.weights().items():
        tensors |= resampler_tensors(key, value)
    resampler.load_state_dict(tensors, strict=True)
    case.check("output", resampler(case.tensors["image_tokens"]), case.tensors["output"])

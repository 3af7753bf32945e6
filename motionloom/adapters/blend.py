"""Several adapters in one block: their outputs summed with their weights (section 3.5, S4), each mask stream with its
own adapter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from motionloom.adapters.adapter import SpatialParts
from motionloom.adapters.attend import keys, values
from motionloom.adapters.context import MotionContext
from motionloom.adapters.cross_frame_attention import KeysValues

Parts = dict[int, SpatialParts]  # number of the mounted adapter -> its parts at one block


def blend_cross_frames(x: Tensor, attn: Any, parts: Parts, context: MotionContext) -> Tensor:
    """Video: sum_k w_k CFA_k; mask stream S^k: CFA_k of its own adapter alone, at weight 1.

    Args:
        x: (B, M, F, N, C), what cross-frame attention reads. attn: the frozen self-attention.

    Returns:
        What is added to the residual stream, of x's shape.
    """
    k, v = keys(attn, x), values(attn, x)
    frozen = [KeysValues(k[:, m], v[:, m]) for m in range(x.shape[1])]
    grid = context.call.grid(x.shape[3])
    video = torch.zeros_like(x[:, 0])
    masks = [torch.zeros_like(video) for _ in frozen[1:]]
    for index, part in parts.items():
        cfa, stream = part.cfa, context.mounted[index].stream
        if cfa is None:
            continue
        bias = context.cross_frame_bias(index, grid, x)
        moved = cfa(x[:, 0], frozen[0], attn, context.time_embedding(0), bias)
        video = video + context.weight(index, grid, x)[..., None] * moved
        if 0 < stream < len(frozen):
            guide = frozen[0] if context.settings_for(context.mounted[index]).image_guidance else None
            embedding = context.time_embedding(stream)
            masks[stream - 1] = cfa(
                x[:, stream], frozen[stream], attn, embedding, guide=guide, modality="mask"
            )
    return torch.stack([video, *masks], dim=1)


def blend_text_free(query: Tensor, parts: Parts, context: MotionContext) -> Tensor:
    """Video: sum_k w_k (m_k CA_k + (1 - m_k) CA'_k) with gates m_k = 1 without masks; mask stream S^k: CA_k alone.

    Args:
        query: (B, M, F, N, C), frozen queries of cross-attention.

    Returns:
        What is added to the residual stream, of the query's shape.
    """
    grid = context.call.grid(query.shape[3])
    video = torch.zeros_like(query[:, 0])
    masks = [torch.zeros_like(video) for _ in range(1, query.shape[1])]
    for index, part in parts.items():
        ca, stream = part.ca, context.mounted[index].stream
        if ca is None:
            continue
        moved = ca(query[:, 0])
        gate = context.gate(index, grid, query)
        if gate is not None:
            moved = gate[..., None] * moved
            if part.ca_background is not None:
                moved = moved + (1 - gate[..., None]) * part.ca_background(query[:, 0])
        video = video + context.weight(index, grid, query)[..., None] * moved
        if 0 < stream <= len(masks):
            masks[stream - 1] = ca(query[:, stream])
    return torch.stack([video, *masks], dim=1)

"""Several adapters in one block: their outputs summed with their weights (section 3.5, S4), each mask stream with its
own adapter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from motionloom.adapters.adapter import SpatialParts
from motionloom.adapters.context import MotionContext
from motionloom.adapters.cross_frame_attention import KeysValues

Parts = dict[int, SpatialParts]  # number of the mounted adapter -> its parts at one block


def blend_cross_frames(
    x: Tensor, seen: KeysValues, attn: Any, parts: Parts, context: MotionContext
) -> Tensor:
    """Video: sum_k w_k CFA_k; mask stream S^k: CFA_k of its own adapter alone, at weight 1.

    Args:
        x: (B, M, F, N, C), what cross-frame attention reads.
        seen: the frozen self-attention's keys and values of x, of its shape.
        attn: the frozen self-attention.

    Returns:
        What is added to the residual stream, of x's shape.
    """
    frozen = [KeysValues(seen.keys[:, m], seen.values[:, m]) for m in range(x.shape[1])]
    grid = context.call.grid(x.shape[3])
    video: list[Tensor] = []
    masks = [torch.zeros_like(x[:, 0]) for _ in frozen[1:]]
    for index, part in parts.items():
        cfa, stream = part.cfa, context.mounted[index].stream
        if cfa is None:
            continue
        bias = context.cross_frame_bias(index, grid, x)
        alike = bias is None or context.settings_for(context.mounted[index]).first_sees_itself
        moved = cfa(x[:, 0], frozen[0], attn, context.time_embedding(0), bias, alike)
        video.append(_weighted(moved, index, grid, context))
        if 0 < stream < len(frozen):
            guide = frozen[0] if context.settings_for(context.mounted[index]).image_guidance else None
            embedding = context.time_embedding(stream)
            masks[stream - 1] = cfa(
                x[:, stream], frozen[stream], attn, embedding, guide=guide, modality="mask"
            )
    return _stacked(video, masks, x)


def blend_text_free(
    query: Tensor, parts: Parts, context: MotionContext, before: Tensor | None = None
) -> Tensor:
    """Video: sum_k w_k (m_k CA_k + (1 - m_k) CA'_k) with gates m_k = 1 without masks; mask stream S^k: CA_k alone.

    Args:
        query: (B, M, F, N, C), frozen queries of cross-attention; with `before` = W_Q, what they would be made of.

    Returns:
        What is added to the residual stream, of the query's shape.
    """
    grid = context.call.grid(query.shape[3])
    video: list[Tensor] = []
    masks = [torch.zeros_like(query[:, 0]) for _ in range(1, query.shape[1])]
    for index, part in parts.items():
        ca, stream = part.ca, context.mounted[index].stream
        if ca is None:
            continue
        moved = ca(query[:, 0], before)
        gate = context.gate(index, grid, query)
        if gate is not None:
            moved = gate[..., None] * moved
            if part.ca_background is not None:
                moved = moved + (1 - gate[..., None]) * part.ca_background(query[:, 0], before)
        video.append(_weighted(moved, index, grid, context))
        if 0 < stream <= len(masks):
            masks[stream - 1] = ca(query[:, stream], before)
    return _stacked(video, masks, query)


def _weighted(moved: Tensor, index: int, grid: tuple[int, int], context: MotionContext) -> Tensor:
    """w_k times the output (B, F, N, C) of one adapter."""
    return moved if context.plain(index) else context.weight(index, grid, moved)[..., None] * moved


def _stacked(video: list[Tensor], masks: list[Tensor], like: Tensor) -> Tensor:
    """The sum of the adapters' outputs for the video, then the masks' own: (B, M, F, N, C)."""
    total = sum(video[1:], video[0]) if video else torch.zeros_like(like[:, 0])
    return torch.stack([total, *masks], dim=1) if masks else total[:, None]

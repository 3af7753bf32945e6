"""Adapters in a WanTransformer3DModel, without touching its block's forward.

The block computes, with x the residual stream,

    x <- x + gate SA(modulate(norm1 x));   x <- x + attn2(norm2 x, text);   x <- x + feed-forward

and the released adapter wants x <- x + CFA(x) in between, on the raw stream, and CA in place of attn2. So a hook on norm2
computes c = CFA(x) and returns norm2(x + c); the processor of attn2 returns c + CA(W_Q norm2(x + c)). The paper's
parallel form (Eq. 2) is added to SA's output by the processor of attn1, where the gate scales it too.

With masks, modalities are stacked on the batch axis: (B, 1 + K) samples, row-major, with the same positions.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from motionloom.adapters.attend import keys, queries, values
from motionloom.adapters.blend import Parts, blend_cross_frames, blend_text_free
from motionloom.adapters.context import Call, MotionContext
from motionloom.adapters.cross_frame_attention import KeysValues
from motionloom.adapters.hooks import (
    hook_forward,
    keep_calls_when_checkpointing,
    new_call,
    set_processor,
    watch_calls,
    watch_time_embedding,
)
from motionloom.adapters.unet import replaces_text
from motionloom.errors import ConfigError, InputError


def mount_dit(network: Any, context: MotionContext, undo: ExitStack) -> int:
    """Put the adapters of a context beside a DiT's blocks; return how many parts were mounted."""
    hooked = 0
    blocks: dict[str, Parts] = {}
    for index, one in enumerate(context.mounted):
        for path, parts in one.adapter.spatial():
            blocks.setdefault(path, {})[index] = parts
    for path, parts_here in blocks.items():
        block: Any = network.get_submodule(path)
        side = BlockSide(block, parts_here, context)
        if side.beside or context.num_masked:
            set_processor(block.attn1, ClipProcessor(block.attn1.processor, side), undo)
        if side.after:
            hook_forward(block.norm2, side.before_norm2, undo)
        if side.after or side.text_free:
            set_processor(block.attn2, AfterProcessor(block.attn2.processor, side), undo)
        hooked += len(parts_here)
    everywhere = bool(blocks) and all(replaces_text(parts) for parts in blocks.values())
    text_channels = network.config.text_dim
    watch_calls(
        network,
        context,
        lambda latents, timestep: _call(network, context, latents, timestep),
        (lambda latents: latents.new_zeros(len(latents), 1, text_channels)) if everywhere else None,
        undo,
    )
    watch_time_embedding(network.condition_embedder.time_embedder, context, undo)
    keep_calls_when_checkpointing(network, context, undo)
    return hooked


class BlockSide:
    """What stands beside one block: the adapters' parts, by where their cross-frame attention belongs."""

    def __init__(self, block: Any, parts: Parts, context: MotionContext) -> None:
        self.attn1, self.context, self.parts = block.attn1, context, parts
        with_cfa = {index: one for index, one in parts.items() if one.cfa is not None}
        self.after = {i: one for i, one in with_cfa.items() if _place(one) == "after"}
        self.beside = {i: one for i, one in with_cfa.items() if _place(one) == "beside"}
        self.text_free = replaces_text(parts)
        self.pending: Tensor | None = None  # c, from norm2 to attn2

    def cross_frames(self, x: Tensor, parts: Parts) -> Tensor:
        """Rows (B M, F N, C) => what is added to them."""
        split = self.context.call.split(x)
        seen = KeysValues(keys(self.attn1, split), values(self.attn1, split))
        return blend_cross_frames(split, seen, self.attn1, parts, self.context).reshape(x.shape)

    def before_norm2(self, forward: Any, x: Tensor) -> Tensor:
        """norm2(x + c), with c = CFA(x) kept for attn2. The block hands x over in float32."""
        c = self.cross_frames(x.to(self.context.call.dtype), self.after)
        self.pending = c
        normed: Tensor = forward(x + c)
        return normed


class ClipProcessor:
    """Self-attention over the whole clip, the video's biased by masks where there are some, plus the paper's parallel
    cross-frame attention.
    """

    _attention_backend: Any = None
    _parallel_config: Any = None

    def __init__(self, original: Any, side: BlockSide) -> None:
        self.original, self.side = original, side

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        context, call = self.side.context, self.side.context.call
        grid = call.grid(hidden_states.shape[1] // call.frames)
        bias = context.base_bias(grid, hidden_states, whole_clip=True)
        out: Tensor
        if bias is None:
            out = self.original(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        else:
            by_modality = torch.unflatten(hidden_states, 0, (call.batch, -1)).unbind(1)
            outs = [
                self.original(attn, rows, None, None if modality else bias[:, None], rotary_emb)
                for modality, rows in enumerate(by_modality)
            ]
            out = torch.stack(outs, dim=1).flatten(0, 1)
        if self.side.beside:
            out = out + self.side.cross_frames(hidden_states, self.side.beside)
        return out


class AfterProcessor:
    """What follows self-attention: c + text-free cross-attention, or c + the frozen cross-attention."""

    _attention_backend: Any = None
    _parallel_config: Any = None

    def __init__(self, original: Any, side: BlockSide) -> None:
        self.original, self.side = original, side

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        side, call = self.side, self.side.context.call
        if side.text_free:
            query = call.split(queries(attn, hidden_states))
            out = blend_text_free(query, side.parts, side.context).reshape(hidden_states.shape)
        else:
            out = self.original(attn, hidden_states, *args, **kwargs)
        if side.pending is not None:
            out, side.pending = out + side.pending.to(out.dtype), None
        return out


def _place(parts: Any) -> str:
    place: str = parts.cfa.settings.place
    return place


def _call(network: Any, context: MotionContext, latents: Tensor, timestep: Tensor) -> Call:
    if timestep.ndim > 1:
        raise ConfigError(
            "this Wan model has a timestep for every token, which adapters do not read", fix="use Wan2.1"
        )
    frame_patch, height_patch, width_patch = network.config.patch_size
    if frame_patch != 1:
        raise InputError("this Wan model joins frames into patches", fix="use one with patch size (1, p, p)")
    grid = (latents.shape[-2] // height_patch, latents.shape[-1] // width_patch)
    return new_call(context, latents, timestep, [grid])

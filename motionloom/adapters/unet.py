"""Adapters in a UNetMotionModel: processors on its attentions, nothing else of it is replaced.

    attn1 of a spatial block     SA(x) + sum_k w_k CFA_k(x)                       x = norm1(hidden)
    attn2 of a spatial block     sum_k w_k CA_k(W_Q x), text is not read          x = norm2(hidden)
    attentions of motion modules sum_k w_k TSA_k(x)                               x = norm(hidden) + position code

With masks, frames of all modalities lie on the frame axis: [video ; S^1 ; ... ; S^K], F each.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from motionloom.adapters.attend import attend, keys, queries, unmade_queries, values
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
from motionloom.adapters.low_rank import MergedAttention, TemporalSelfAttention
from motionloom.errors import InputError


def mount_unet(network: Any, context: MotionContext, group_norm: str, temporal: str, undo: ExitStack) -> int:
    """Put the adapters of a context beside a U-Net's attentions; return how many parts were mounted."""
    hooked = 0
    spatial: dict[str, Parts] = {}
    temporal_parts: dict[str, dict[int, TemporalSelfAttention]] = {}
    for index, one in enumerate(context.mounted):
        for path, parts in one.adapter.spatial():
            spatial.setdefault(path, {})[index] = parts
        for path, low_rank in one.adapter.temporal():
            temporal_parts.setdefault(path, {})[index] = low_rank
    for path, at_block in spatial.items():
        block: Any = network.get_submodule(path)
        if any(parts.cfa is not None for parts in at_block.values()) or context.num_masked:
            set_processor(block.attn1, FramesProcessor(block.attn1.processor, at_block, context), undo)
        if replaces_text(at_block):
            set_processor(block.attn2, TextFreeProcessor(at_block, context), undo)
        hooked += len(at_block)
    for path, at_attention in temporal_parts.items():
        attn: Any = network.get_submodule(path)
        set_processor(attn, TemporalProcessor(attn.processor, at_attention, context, temporal), undo)
        hooked += len(at_attention)
    everywhere = bool(spatial) and all(replaces_text(at_block) for at_block in spatial.values())
    watch_calls(
        network,
        context,
        lambda latents, timestep: _call(network, context, latents, timestep),
        (lambda latents: None) if everywhere else None,
        undo,
    )
    watch_time_embedding(network.time_embedding, context, undo)
    _hook_motion_modules(network, context, undo)
    hook_group_norms(network, group_norm, lambda: context.call.frames, undo)
    keep_calls_when_checkpointing(network, context, undo)
    return hooked


def replaces_text(parts: Parts) -> bool:
    """Whether cross-attention at a block is replaced: some adapter there has a text-free part."""
    return any(one.ca is not None for one in parts.values())


class FramesProcessor:
    """The frozen self-attention, biased by masks where there are some, plus cross-frame attention."""

    _attention_backend: Any = None
    _parallel_config: Any = None

    def __init__(self, original: Any, parts: Parts, context: MotionContext) -> None:
        self.original, self.parts, self.context = original, parts, context

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        x = self.context.call.split(hidden_states)  # (B, M, F, N, C)
        seen = KeysValues(keys(attn, x), values(attn, x))
        bias = self.context.base_bias(self.context.call.grid(x.shape[3]), x, whole_clip=False)
        if bias is None and type(self.original) is not AttnProcessor2_0:
            base: Tensor = self.original(attn, hidden_states, *args, **kwargs)
        else:
            base = self._self_attention(attn, x, seen, bias).reshape(hidden_states.shape)
        return base + blend_cross_frames(x, seen, attn, self.parts, self.context).reshape(hidden_states.shape)

    def _self_attention(self, attn: Any, x: Tensor, seen: KeysValues, bias: Tensor | None) -> Tensor:
        """Self-attention within every frame, by keys and values that cross-frame attention reads too; the video's tokens
        are biased, the masks' are not.
        """
        qkv = queries(attn, x), *seen
        if bias is None:
            mixed = attend((y.flatten(0, 2) for y in qkv), attn.heads, None, self._attention_backend)
        else:
            biases = [bias.expand(len(x), -1, -1, -1).flatten(0, 1)] + [None] * (x.shape[1] - 1)
            streams = [
                attend((y[:, m].flatten(0, 1) for y in qkv), attn.heads, on_rows, self._attention_backend)
                for m, on_rows in enumerate(biases)
            ]
            mixed = torch.stack([torch.unflatten(one, 0, (len(x), -1)) for one in streams], dim=1)
        out: Tensor = attn.to_out[0](mixed)
        return out


class TextFreeProcessor:
    """Text-free cross-attention in place of the frozen one."""

    _attention_backend: Any = None
    _parallel_config: Any = None

    def __init__(self, parts: Parts, context: MotionContext) -> None:
        self.parts, self.context = parts, context

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        query, before = unmade_queries(attn, hidden_states)
        query = self.context.call.split(query)
        return blend_text_free(query, self.parts, self.context, before).reshape(hidden_states.shape)


class TemporalProcessor:
    """Temporal self-attention with low-rank parts.

    residual:  sum_k w_k TSA_k; where weights have curves or regions, TSA fills up what is missing to a sum of 1 (ours)
    relative:  TSA + sum_k w_k (TSA_k - TSA)
    weights:   one attention whose q, k, v and out have sum_k w_k delta_k added

    A mask stream has its own adapter's TSA_k alone.
    """

    _attention_backend: Any = None
    _parallel_config: Any = None

    def __init__(
        self, original: Any, parts: dict[int, TemporalSelfAttention], context: MotionContext, blend: str
    ) -> None:
        self.original, self.parts, self.context, self.blend = original, parts, context, blend

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        call = self.context.call
        joint = self.context.joint_temporal
        modalities = 1 if joint else call.modalities
        x = torch.unflatten(hidden_states, 0, (call.batch, modalities, -1))  # (B, M or 1, n, F or M F, C)
        merged = self._merged(attn, x)
        parts = {} if merged else self.parts
        attended = _Attended(merged or attn, x, call.frames, joint)
        video = self._video(attended, parts)
        masks = [self._mask(attended, parts, stream) for stream in range(1, call.modalities)]
        out = torch.stack([video, *masks], dim=1) if masks else video[:, None]  # (B, M, n, F, C)
        if joint:
            out = out.transpose(1, 2).flatten(2, 3)
        return out.reshape(hidden_states.shape)

    @property
    def _is_alone(self) -> bool:
        """Whether one adapter at weight 1 is all there is, so that its attention is the blend."""
        return self.blend != "weights" and len(self.context.mounted) == 1 and self.context.plain(0)

    def _merged(self, attn: Any, x: Tensor) -> MergedAttention | None:
        return self.parts[0].merged(attn, x) if self._is_alone else None

    def _video(self, attended: _Attended, parts: dict[int, TemporalSelfAttention]) -> Tensor:
        """(B, n, F, C)."""
        context, grid = self.context, self.context.call.grid(attended.x.shape[2])
        if self.blend == "weights":
            return attended.summed(
                [(part, self._weight(index, grid, attended.x)) for index, part in parts.items()]
            )
        if self._is_alone:
            return attended.by(parts.get(0), 0, context.temporal_bias(0, grid, attended.x))
        total = torch.zeros_like(attended.frames_of(attended.x, 0))
        spent = total.new_zeros(())
        for index in range(len(context.mounted)):
            weight = self._weight(index, grid, attended.x)
            bias = context.temporal_bias(index, grid, attended.x)
            total = total + weight * attended.by(parts.get(index), 0, bias)
            spent = spent + weight
        if self.blend == "relative":
            total = total + (1 - spent) * attended.by(None, 0, None)
        elif context.base_fills:
            total = total + (1 - spent).clamp(min=0) * attended.by(None, 0, None)
        return total

    def _mask(self, attended: _Attended, parts: dict[int, TemporalSelfAttention], stream: int) -> Tensor:
        index = next(i for i, one in enumerate(self.context.mounted) if one.stream == stream)
        return attended.by(parts.get(index), stream, None)

    def _weight(self, index: int, grid: tuple[int, int], like: Tensor) -> Tensor:
        """(n or 1, F or 1, 1)."""
        return self.context.weight(index, grid, like).transpose(0, 1)[..., None]


class _Attended:
    """Temporal attentions over the same input; the frozen projections are computed once.

    x is (B, M, n, F, C) with every modality on its own, or (B, 1, n, M F, C) when they are read as one sequence.
    """

    def __init__(self, attn: Any, x: Tensor, frames: int, joint: bool) -> None:
        self.attn, self.x, self.frames, self.joint = attn, x, frames, joint
        self.qkv = attn.to_q(x), attn.to_k(x), attn.to_v(x)

    def frames_of(self, y: Tensor, modality: int) -> Tensor:
        """(B, n, F, C) of a modality."""
        if self.joint:
            return y[:, 0, :, modality * self.frames : (modality + 1) * self.frames]
        return y[:, modality]

    def by(self, part: TemporalSelfAttention | None, modality: int, bias: Tensor | None) -> Tensor:
        """The attention with one adapter's low-rank parts, or (None) the frozen one: (B, n, F, C) of a modality."""
        at = 0 if self.joint else modality
        x, *qkv = (y[:, at].flatten(0, 1) for y in (self.x, *self.qkv))  # (B n, F, C)
        if bias is not None:
            bias = bias.expand(len(self.x), -1, -1, -1).flatten(0, 1)
        if part is None:
            out = self.attn.to_out[0](attend(qkv, self.attn.heads, bias))
        else:
            out = part(x, (qkv[0], qkv[1], qkv[2]), self.attn, bias)
        return self.frames_of(torch.unflatten(out, 0, (len(self.x), 1, -1)), modality if self.joint else 0)

    def summed(self, parts: list[tuple[TemporalSelfAttention, Tensor]]) -> Tensor:
        """One attention with all low-rank parts summed with weights (n or 1, F or 1, 1): (B, n, F, C) of the video."""

        def deltas(name: str, x: Tensor) -> Tensor:
            return sum((weight * part.get_submodule(name)(x) for part, weight in parts), torch.zeros_like(x))

        x, *qkv = (self.frames_of(y, 0) for y in (self.x, *self.qkv))  # (B, n, F, C)
        q, k, v = (y + deltas(n, x) for n, y in zip(("to_q", "to_k", "to_v"), qkv, strict=True))
        mixed = attend((y.flatten(0, 1) for y in (q, k, v)), self.attn.heads)
        mixed = torch.unflatten(mixed, 0, x.shape[:2])
        out: Tensor = self.attn.to_out[0](mixed) + deltas("to_out", mixed)
        return out


def _call(network: Any, context: MotionContext, latents: Tensor, timestep: Tensor) -> Call:
    height, width = latents.shape[-2:]
    grids = [(height, width)]
    for _ in network.down_blocks[1:]:
        height, width = -(-height // 2), -(-width // 2)
        grids.append((height, width))
    call = new_call(context, latents, timestep, grids)
    longest = network.config.motion_max_seq_length
    frames = call.frames * (call.modalities if context.joint_temporal else 1)
    if longest and frames > longest:
        raise InputError(
            f"got {frames} frames in one temporal attention, the motion modules count to {longest}",
            fix="give fewer frames",
        )
    return call


def _hook_motion_modules(network: Any, context: MotionContext, undo: ExitStack) -> None:
    """Motion modules read each modality on its own, and are checkpointed where the U-Net is: diffusers leaves them out."""

    def around(forward: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        call = context.call
        kwargs["num_frames"] = call.frames * (call.modalities if context.joint_temporal else 1)
        if torch.is_grad_enabled() and network.is_gradient_checkpointing:

            def run(x: Tensor) -> Tensor:
                out: Tensor = forward(x, *args, **kwargs)
                return out

            recomputed: Tensor = checkpoint(context.keeping_call(run), hidden_states, use_reentrant=False)
            return recomputed
        out: Tensor = forward(hidden_states, *args, **kwargs)
        return out

    for module in motion_modules(network):
        hook_forward(module, around, undo)


def motion_modules(network: Any) -> list[Any]:
    """The motion modules of a U-Net, in order of name."""
    from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D

    return [module for module in network.modules() if isinstance(module, AnimateDiffTransformer3D)]


def hook_group_norms(network: Any, mode: str, frames: Callable[[], int], undo: ExitStack) -> None:
    """Statistics of GroupNorms: see `mounted`. `frames` tells the number of frames of the call that runs."""
    if mode == "diffusers":
        return

    def per_frame(forward: Any, x: Tensor) -> Tensor:  # (B, C, F, h, w)
        pictures = x.transpose(1, 2)
        normed: Tensor = forward(pictures.flatten(0, 1))
        return torch.unflatten(normed, 0, pictures.shape[:2]).transpose(1, 2)

    def over_frames(forward: Any, x: Tensor) -> Tensor:  # (B M F, C, h, w)
        clips = torch.unflatten(x, 0, (-1, frames())).transpose(1, 2)
        normed: Tensor = forward(clips)
        return normed.transpose(1, 2).flatten(0, 1)

    for module in motion_modules(network):
        hook_forward(module.norm, per_frame, undo)
    if mode == "joint":
        from diffusers.models.resnet import ResnetBlock2D

        norms: list[nn.Module] = [network.conv_norm_out]
        for module in network.modules():
            if isinstance(module, ResnetBlock2D):
                norms += [module.norm1, module.norm2]
        for norm in norms:
            hook_forward(norm, over_frames, undo)

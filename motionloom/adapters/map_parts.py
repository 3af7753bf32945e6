"""Adapters in the small model's map generator: what sits beside its spatial attentions and its convolutions.

    spatial attention    SA(x) + sum_k w_k (SA_k(x) - SA(x) + CA_k(W_Q x))        x = norm(hidden)
    residual block       conv(x) + sum_k w_k L_k(x)                               its last convolution

SA_k is the frozen attention with low-rank parts on q, k, v and out; CA_k the text-free part of 3.3.2, beside the attention
and on its frozen query, for there is no cross-attention whose place it could take; L_k a low-rank convolution, since the
finest level has no attention (both ours). The latent has no frames, so nothing attends between them. A place of weight 0
keeps the frozen output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionloom.adapters.layout import Layout, Slot
from motionloom.adapters.low_rank import LowRank
from motionloom.adapters.settings import AdapterSettings, SpatialLowRank
from motionloom.adapters.text_free_attention import TextFreeCrossAttention

ATTENTION, CONVOLUTION = "attend_self", "conv_out"  # the last names of the paths of slots
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out")


class AttentionParts(nn.Module):
    """Beside one spatial attention."""

    def __init__(self, channels: int, settings: AdapterSettings) -> None:
        super().__init__()
        low_rank, text_free = settings.spatial, settings.text_free
        self.low_rank = (
            None
            if low_rank is None
            else nn.ModuleDict(
                {name: LowRank(channels, channels, low_rank.rank, low_rank.alpha) for name in PROJECTIONS}
            )
        )
        self.ca = None if text_free is None else TextFreeCrossAttention(channels, text_free)

    def forward(self, attn: Any, x: Tensor, frozen: Tensor) -> Tensor:
        """What is added to the frozen attention's output (B, n, C) of x (B, n, C)."""
        q = attn.to_q(x)
        added = torch.zeros_like(frozen) if self.low_rank is None else self._whole(attn, x, q) - frozen
        return added if self.ca is None else added + self.ca(q)

    def _whole(self, attn: Any, x: Tensor, q: Tensor) -> Tensor:
        """The attention with low-rank parts."""
        parts: Any = self.low_rank
        qkv = [
            parts[name].beside(frozen, x)
            for name, frozen in zip(PROJECTIONS[:3], (q, attn.to_k(x), attn.to_v(x)), strict=True)
        ]
        heads = (y.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for y in qkv)  # (B, heads, n, C / heads)
        mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        whole: Tensor = parts["to_out"].beside(attn.to_out(mixed), mixed)
        return whole

    def reset(self, generator: torch.Generator) -> None:
        """B = 0: as if it were not there."""
        for part in self.modules():
            if isinstance(part, LowRank | TextFreeCrossAttention):
                part.reset(generator)


class ConvolutionParts(nn.Module):
    """Beside one convolution: (alpha / r) B A x, with A: 3 x 3, in -> r, and B: 1 x 1, r -> out."""

    def __init__(self, channels: int, settings: SpatialLowRank) -> None:
        super().__init__()
        self.scale = settings.alpha / settings.rank
        self.lora_A = nn.Conv2d(channels, settings.rank, 3, padding=1, bias=False)
        self.lora_B = nn.Conv2d(settings.rank, channels, 1, bias=False)

    def forward(self, conv: Any, x: Tensor, frozen: Tensor) -> Tensor:
        """What is added to the frozen convolution's output (B, C, h, w) of x (B, C, h, w)."""
        up: Tensor = self.lora_B(self.lora_A(x.to(self.lora_A.weight.dtype)))
        return (up * self.scale).to(frozen.dtype)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """A: Kaiming-uniform; B: zero."""
        bound = 1 / math.sqrt(self.lora_A.weight[0].numel())
        self.lora_A.weight.uniform_(-bound, bound, generator=generator)
        self.lora_B.weight.zero_()


MapParts = AttentionParts | ConvolutionParts


def map_layout(network: Any) -> Layout:
    """The layout of a `MapGenerator`: its spatial attentions, and the last convolution of every residual block."""
    from motionloom.denoisers.motion_unet import Attention, ResidualBlock

    slots: list[Slot] = []
    for name, module in network.named_modules():
        if isinstance(module, Attention) and name.endswith(ATTENTION):
            slots.append(Slot(path=name, channels=module.to_q.in_features, heads=module.heads))
        elif isinstance(module, ResidualBlock):
            width = module.conv_out.out_channels
            slots.append(Slot(path=f"{name}.{CONVOLUTION}", channels=width, heads=1))
    time_channels = network.unet.time[-1].out_features
    return Layout(host="MapGenerator", time_channels=time_channels, query_bias=False, spatial=tuple(slots))


def map_parts(layout: Layout, settings: AdapterSettings) -> Iterator[tuple[str, MapParts]]:
    """(path in the host, a fresh part) of all that the settings ask for."""
    for slot in layout.spatial:
        if slot.path.endswith(CONVOLUTION):
            if settings.spatial is not None:
                yield slot.path, ConvolutionParts(slot.channels, settings.spatial)
        elif settings.spatial is not None or settings.text_free is not None:
            yield slot.path, AttentionParts(slot.channels, settings)

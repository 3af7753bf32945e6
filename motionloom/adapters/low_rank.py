"""Low-rank linear maps, alone or beside a frozen layer, and the temporal self-attention that carries four of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionloom.adapters.attend import attend, is_plain
from motionloom.adapters.settings import TemporalLowRank


class LowRank(nn.Module):
    """x => (alpha / r) B A x, with A: in -> r, B: r -> out, no biases. Zero at the start, because B is."""

    def __init__(self, in_channels: int, out_channels: int, rank: int, alpha: float | None = None) -> None:
        super().__init__()
        self.scale = 1.0 if alpha is None else alpha / rank
        self.lora_A = nn.Linear(in_channels, rank, bias=False)
        self.lora_B = nn.Linear(rank, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) => (..., out), computed in its own precision and handed back in that of x."""
        up: Tensor = self.lora_B(self.lora_A(x.to(self.lora_A.weight.dtype)))
        return (up * self.scale).to(x.dtype)

    def beside(self, frozen: Tensor, x: Tensor) -> Tensor:
        """frozen + (alpha / r) B A x, with the output (..., out) of a frozen layer; one product where precisions agree."""
        weight = self.lora_B.weight
        down = self.lora_A(x.to(weight.dtype))
        if not frozen.dtype == down.dtype == weight.dtype:
            return frozen + self.forward(x).to(frozen.dtype)
        rows = frozen.flatten(0, -2), down.flatten(0, -2)
        added: Tensor = torch.addmm(*rows, weight.T, alpha=self.scale)
        return added.reshape(frozen.shape)

    def merged(self, frozen: nn.Linear) -> Callable[[Tensor], Tensor]:
        """x => (W + (alpha / r) B A) x + b, with the W and b of a frozen layer, which stays as it is."""
        weight = torch.addmm(frozen.weight, self.lora_B.weight, self.lora_A.weight, alpha=self.scale)
        return lambda x: F.linear(x, weight, frozen.bias)

    @torch.no_grad()
    def reset(self, generator: torch.Generator, gaussian: bool = False) -> None:
        """A: Kaiming-uniform, or N(0, 1 / r^2); B: zero."""
        weight = self.lora_A.weight
        if gaussian:
            weight.normal_(0, 1 / len(weight), generator=generator)
        else:
            bound = 1 / math.sqrt(weight.shape[1])
            weight.uniform_(-bound, bound, generator=generator)
        self.lora_B.weight.zero_()


class MergedAttention(NamedTuple):
    """The projections of an attention with an adapter's low-rank parts in them, and its heads."""

    to_q: Callable[[Tensor], Tensor]
    to_k: Callable[[Tensor], Tensor]
    to_v: Callable[[Tensor], Tensor]
    to_out: list[Callable[[Tensor], Tensor]]
    heads: int


class TemporalSelfAttention(nn.Module):
    """A base's temporal self-attention with low-rank parts on q, k, v and out (section 3.3.3).

    q, k and v read what the frozen projections read, position code included; out reads the attention's output.
    """

    def __init__(self, channels: int, settings: TemporalLowRank) -> None:
        super().__init__()
        for name in ("to_q", "to_k", "to_v", "to_out"):
            self.add_module(name, LowRank(channels, channels, settings.rank, settings.alpha))

    def forward(
        self, x: Tensor, base: tuple[Tensor, Tensor, Tensor], attn: Any, bias: Tensor | None
    ) -> Tensor:
        """The whole attention, the frozen out-projection included.

        Args:
            x: (L, F, C), one row a location, position code added.
            base: q, k and v (L, F, C) of the frozen projections of x.
            attn: the frozen attention.
            bias: (L, F, F) or (L, 1, F, F), added to the logits.
        """
        qkv = [
            self._part(name).beside(frozen, x)
            for name, frozen in zip(("to_q", "to_k", "to_v"), base, strict=True)
        ]
        mixed = attend(qkv, attn.heads, bias)
        return self._part("to_out").beside(attn.to_out[0](mixed), mixed)

    def merged(self, attn: Any, x: Tensor) -> MergedAttention | None:
        """The same attention through four matrices W + (alpha / r) B A made for one call, for inputs (..., C) of many rows.

        None where that gains or keeps nothing: few rows, gradients, layers that PEFT or offloading wraps, and precisions in
        which a small product is lost beside W.
        """
        frozen = {"to_q": attn.to_q, "to_k": attn.to_k, "to_v": attn.to_v, "to_out": attn.to_out[0]}
        if torch.is_grad_enabled() or (not x.is_meta and torch.is_autocast_enabled(x.device.type)):
            return None
        if 2 * x.numel() < x.shape[-1] ** 2 or not all(is_plain(layer) for layer in frozen.values()):
            return None
        precisions = {layer.weight.dtype for layer in frozen.values()} | {p.dtype for p in self.parameters()}
        if precisions - {torch.float32, torch.float64} or len(precisions) > 1:
            return None
        q, k, v, out = (self._part(name).merged(layer) for name, layer in frozen.items())
        return MergedAttention(q, k, v, [out], attn.heads)

    def _part(self, name: str) -> LowRank:
        part = self.get_submodule(name)
        assert isinstance(part, LowRank)
        return part

    def reset(self, generator: torch.Generator) -> None:
        """Gaussian A with standard deviation 1 / r, zero B: the base at the start."""
        for part in self.children():
            assert isinstance(part, LowRank)
            part.reset(generator, gaussian=True)

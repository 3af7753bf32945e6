"""Cross-attention without text: what a learnt prompt would do, as a small map of the query (section 3.3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionloom.adapters.settings import TextFree


class TextFreeCrossAttention(nn.Module):
    """phi(A q) B, where q is the frozen query of cross-attention; added to the residual stream in its place.

    With a learnt prompt e, softmax(q (e W_K)^T) (e W_V W_O) has this form with A = (e W_K)^T and B = e W_V W_O: "softmax".
    The official code has phi = GELU(LayerNorm(.)): "mlp". Neither has heads; both are zero at the start, because B is.
    """

    def __init__(self, channels: int, settings: TextFree) -> None:
        super().__init__()
        self.down = nn.Linear(channels, settings.rank, bias=settings.bias)  # A
        self.norm = nn.LayerNorm(settings.rank) if settings.form == "mlp" else None
        self.up = nn.Linear(settings.rank, channels, bias=settings.bias)  # B

    def forward(self, query: Tensor, before: Tensor | None = None) -> Tensor:
        """Frozen queries (..., N, C) => what is added to the residual stream (..., N, C).

        Args:
            before: W_Q (C, C), where `query` is what queries would be made of: (A W_Q) x needs r products a value
                instead of C.
        """
        down = self.down
        x = query.to(down.weight.dtype)
        a = down(x) if before is None else F.linear(x, down.weight @ before.to(x.dtype), down.bias)
        hidden = torch.softmax(a, dim=-1) if self.norm is None else F.gelu(self.norm(a))  # (..., N, r)
        out: Tensor = self.up(hidden)
        return out.to(query.dtype)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """A: Kaiming-uniform; norm: identity; B: zero."""
        bound = 1 / math.sqrt(self.down.in_features)
        for parameter in self.down.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
        if self.norm is not None:
            self.norm.reset_parameters()
        for parameter in self.up.parameters():
            parameter.zero_()

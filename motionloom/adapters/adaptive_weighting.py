"""How much of the first and of the previous frame: two weights from the time embedding (section 3.3.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AdaptiveWeighting(nn.Module):
    """softmax((W SiLU(e) + b) / T): time embedding => weights of the first and of the previous frame.

    The activation and the temperature are those of the official code; the paper says "a learnable projection".
    """

    def __init__(self, time_channels: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.linear = nn.Linear(time_channels, 2)

    def forward(self, time_embedding: Tensor) -> Tensor:
        """(B, E), before any activation => (B, 2), positive, summing to 1: (first, previous)."""
        logits = self.linear(F.silu(time_embedding).to(self.linear.weight.dtype))
        return torch.softmax(logits.float() / self.temperature, dim=-1)

    @torch.no_grad()
    def reset(self, generator: torch.Generator, neutral: bool) -> None:
        """Uniform in +-1/sqrt(E), so that the start is not (0.5, 0.5); zero when neutral, so that it is."""
        bound = 0.0 if neutral else 1 / math.sqrt(self.linear.in_features)
        for parameter in self.linear.parameters():
            parameter.uniform_(-bound, bound, generator=generator)

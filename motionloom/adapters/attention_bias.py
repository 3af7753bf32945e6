"""Masks as attention biases: tokens of the same side attend to each other (section 3.4.1, Eq. 3; B.2.1, S5, S6).

    B(p, q) = log( s_p s_q + (1 - s_p)(1 - s_q) + eps ), clamped to <= 0

Confidences s are (F, h, w) in 0..1 on the latent grid; a layer has its own grid (n = its height times its width). All
functions take a leading batch axis: (B, F, h, w).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from motionloom.adapters.cross_frame_attention import reference_frames
from motionloom.adapters.settings import Masks, Pooling

EPS = 1e-4
LOWEST = math.log(EPS)  # -9.21: nothing in common
Form = Literal["soft", "equality"]


def pair_bias(s_p: Tensor, s_q: Tensor, form: Form = "soft") -> Tensor:
    """B between query tokens (..., n) and key tokens (..., m): (..., n, m).

    "soft" is Eq. 3; "equality" is log(1[s_p = s_q] + eps), what the released cross-frame layer computes.
    """
    p, q = s_p[..., :, None], s_q[..., None, :]
    if form == "soft":
        together = p * q
        together += (1 - p) * (1 - q)
    else:
        together = (p == q).to(s_p.dtype)
    return together.add_(EPS).log_().clamp_(max=0)  # in place: at a large grid this is a big tensor


def to_grid(s: Tensor, grid: tuple[int, int], pooling: Pooling = "mask") -> Tensor:
    """Confidences (B, F, h, w) on a layer's grid, averaged over its cells or ("bilinear") interpolated: (B, F, *grid)."""
    if pooling == "bilinear":
        return F.interpolate(s, grid, mode="bilinear", align_corners=False)
    return F.adaptive_avg_pool2d(s, grid)


def cross_frame_bias(s: Tensor, grid: tuple[int, int], masks: Masks) -> Tensor:
    """(B, F, n, 2n), columns [B(i, 0) ; B(i, p(i))], for cross-frame attention at a layer's grid.

    With `masks.first_sees_itself` False the previous half of frame 0 is the constant log eps, as released.
    """
    first, previous = reference_frames(s.shape[1], s.device)
    halves = [_frame_pairs(s, s[:, seen], grid, masks, masks.bias) for seen in (first, previous)]
    if not masks.first_sees_itself:
        halves[1] = torch.cat([torch.full_like(halves[1][:, :1], LOWEST), halves[1][:, 1:]], dim=1)
    return torch.cat(halves, dim=-1)


def self_bias(s: Tensor, grid: tuple[int, int], masks: Masks) -> Tensor:
    """(B, F, n, n): B(i, i), for the base's self-attention within frames. Always soft."""
    return _frame_pairs(s, s, grid, masks, "soft")


def clip_bias(s: Tensor, grid: tuple[int, int], pooling: Pooling = "mask") -> Tensor:
    """(B, F n, F n): B between all tokens of a clip, for the base's full attention in a DiT."""
    tokens = to_grid(s, grid, pooling).flatten(1)
    return pair_bias(tokens, tokens)


def temporal_bias(s: Tensor, grid: tuple[int, int], pooling: Pooling = "mask") -> Tensor:
    """(B, n, F, F): B between the frames at one location, for temporal self-attention."""
    along = to_grid(s, grid, pooling).flatten(2).transpose(1, 2)
    return pair_bias(along, along)


def background(s: Tensor, score: Literal["complement", "half"] = "complement") -> Tensor:
    """The background's confidence (B, F, h, w) from those of K subjects (B, K, F, h, w): 1 - max_k s_k, or 1/2."""
    return 1 - s.amax(dim=1) if score == "complement" else torch.full_like(s[:, 0], 0.5)


def owners(s: Tensor, score: Literal["complement", "half"] = "complement") -> Tensor:
    """Who owns each place: (B, F, h, w) of 0 (background) to K (S5).

    The largest index among those of maximal confidence: later motions lie on top.
    """
    scores = torch.cat([background(s, score)[:, None], s], dim=1)  # (B, 1 + K, F, h, w)
    return scores.shape[1] - 1 - scores.flip(1).argmax(dim=1)


def layered_bias(owner_p: Tensor, owner_q: Tensor) -> Tensor:
    """log(1[M(p) = M(q)] + eps) between owners (..., n) and (..., m): (..., n, m), clamped to <= 0 (S6)."""
    return pair_bias(owner_p.float(), owner_q.float(), "equality")


def gate(s: Tensor, grid: tuple[int, int], masks: Masks) -> Tensor:
    """(B, F, n): what multiplies the text-free part of video tokens; 0 or 1 when hard."""
    pooled = to_grid(s, grid, masks.pooling).flatten(2)
    return (pooled > 0.5).to(s.dtype) if masks.gate == "hard" else pooled


def _frame_pairs(s_p: Tensor, s_q: Tensor, grid: tuple[int, int], masks: Masks, form: Form) -> Tensor:
    """B (B, F, n, n) between equal-numbered frames, at a layer's grid."""
    if masks.pooling != "log_bias":
        p, q = (to_grid(one, grid, masks.pooling).flatten(2) for one in (s_p, s_q))
        return pair_bias(p, q, form)
    full = pair_bias(s_p.flatten(2), s_q.flatten(2), form)  # (B, F, hw, hw)
    return _pool_pairs(full, s_p.shape[-2:], grid)


def _pool_pairs(bias: Tensor, size: torch.Size, grid: tuple[int, int]) -> Tensor:
    """Average (..., hw, hw) over the query cells and the key cells of a grid."""
    if tuple(size) == grid:
        return bias
    n = grid[0] * grid[1]
    lead = bias.shape[:-2]
    keys = F.adaptive_avg_pool2d(bias.reshape(-1, 1, *size), grid).reshape(*lead, -1, n)
    queries = F.adaptive_avg_pool2d(keys.transpose(-1, -2).reshape(-1, 1, *size), grid)
    return queries.reshape(*lead, n, n).transpose(-1, -2)

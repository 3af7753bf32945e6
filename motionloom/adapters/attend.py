"""Multi-head attention on token rows, and the frozen projections that side branches borrow from a base's attention."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def attend(qkv: Iterable[Tensor], heads: int, bias: Tensor | None = None, backend: Any = None) -> Tensor:
    """softmax(q k^T / sqrt(C / heads) + bias) v, per head.

    Args:
        qkv: queries (R, N, C), keys and values (R, M, C).
        heads: H.
        bias: (R or 1, N, M), shared over heads.
        backend: an attention backend of diffusers; None is the active one.

    Returns:
        (R, N, C).
    """
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    q, k, v = qkv
    q, k, v = (torch.unflatten(x.to(v.dtype), -1, (heads, -1)) for x in (q, k, v))  # (R, N, H, C/H)
    mask = None if bias is None else bias[:, None].to(v.dtype)  # (R, 1, N, M)
    mixed: Tensor = dispatch_attention_fn(q, k, v, attn_mask=mask, backend=backend)
    return mixed.flatten(2)


def queries(attn: Any, x: Tensor) -> Tensor:
    """The frozen queries of x, normalised where the base does."""
    return normed_queries(attn, attn.to_q(x))


def unmade_queries(attn: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """(x, W_Q) where the frozen queries are W_Q x and nothing more, for a reader that takes W_Q into its own first map; else
    (queries, None).
    """
    if attn.norm_q is None and attn.to_q.bias is None and is_plain(attn.to_q):
        return x, attn.to_q.weight
    return queries(attn, x), None


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is a linear map whose weight may be read beside its forward: not wrapped by PEFT, not hooked, as
    offloading does.
    """
    hooked = layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
    return type(layer) is nn.Linear and not hooked


def normed_queries(attn: Any, q: Tensor) -> Tensor:
    """Queries (..., C) through the base's own query norm: Wan's RMSNorm over all channels; Stable Diffusion has none."""
    normed: Tensor = q if attn.norm_q is None else attn.norm_q(q)
    return normed


def keys(attn: Any, x: Tensor) -> Tensor:
    """The frozen keys of x, normalised where the base does."""
    k: Tensor = attn.to_k(x)
    normed: Tensor = k if attn.norm_k is None else attn.norm_k(k)
    return normed


def values(attn: Any, x: Tensor) -> Tensor:
    """The frozen values of x."""
    v: Tensor = attn.to_v(x)
    return v

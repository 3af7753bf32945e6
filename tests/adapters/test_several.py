"""Two adapters at uneven weights (S4) against a second, plain writing of whole adapted networks from tensors alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import motionloom as ml
from tests.adapters.conftest import latents_for, moved, predict

FRAMES, TIMESTEP = 3, 500.0
Tensors = dict[str, Tensor]


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """(..., N, C), heads side by side."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(-3, -2) for x in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ v).transpose(-3, -2).flatten(-2)


def cross_frames(
    own: Tensors, x: Tensor, q: Tensor, k: Tensor, v: Tensor, temb: Tensor, t: float, heads: int
) -> Tensor:
    """(F, N, C): joint form, from keys and values of every frame; what W'_O multiplies."""
    logits = F.silu(temb) @ own["cfa.weighting.linear.weight"].T + own["cfa.weighting.linear.bias"]
    a, b = (logits / t).softmax(-1)[0]
    rows = []
    for i in range(len(x)):
        p = max(i - 1, 0)
        rows.append(softmax_attention(q[i], torch.cat([k[0], k[p]]), torch.cat([a * v[0], b * v[p]]), heads))
    return torch.stack(rows)


def text_free(own: Tensors, q: Tensor) -> Tensor:
    hidden = F.linear(q, own["ca.down.weight"], own.get("ca.down.bias"))
    hidden = F.gelu(F.layer_norm(hidden, hidden.shape[-1:], own["ca.norm.weight"], own["ca.norm.bias"]))
    return F.linear(hidden, own["ca.up.weight"], own.get("ca.up.bias"))


def below(adapter: ml.Adapter, path: str) -> Tensors:
    return {
        key.removeprefix(path + "."): v
        for key, v in adapter.state_dict().items()
        if key.startswith(path + ".")
    }


@torch.no_grad()
def test_unet(unet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [(moved(unet, 1), 0.3), (moved(unet, 2), 0.9)]
    latents = latents_for(unet, FRAMES)
    with ml.mounted(unet, mounts, group_norm="diffusers"):
        got = predict(unet, latents, TIMESTEP)

    temb = unet.time_embedding(unet.time_proj(torch.tensor([TIMESTEP])))
    for slot in mounts[0][0].layout.spatial:
        block = unet.get_submodule(slot.path)

        def attn1(x: Tensor, *_: Any, attn: Any = block.attn1, slot: Any = slot, **__: Any) -> Tensor:
            q, k, v = attn.to_q(x), attn.to_k(x), attn.to_v(x)
            out = attn.to_out[0](softmax_attention(q, k, v, slot.heads))
            for adapter, w in mounts:
                own = below(adapter, f"{slot.path}.miva")
                mixed = cross_frames(
                    own, x, x @ own["cfa.video.both.to_q.weight"].T, k, v, temb, 0.2, slot.heads
                )
                out = out + w * F.linear(
                    mixed, own["cfa.video.both.to_out.weight"], own["cfa.video.both.to_out.bias"]
                )
            return out

        def attn2(x: Tensor, *_: Any, attn: Any = block.attn2, slot: Any = slot, **__: Any) -> Tensor:
            q = attn.to_q(x)
            return sum(
                (w * text_free(below(a, f"{slot.path}.miva"), q) for a, w in mounts), torch.zeros_like(x)
            )

        monkeypatch.setattr(block.attn1, "forward", attn1)
        monkeypatch.setattr(block.attn2, "forward", attn2)
    for slot in mounts[0][0].layout.temporal:
        attn = unet.get_submodule(slot.path)

        def temporal(x: Tensor, *_: Any, attn: Any = attn, slot: Any = slot, **__: Any) -> Tensor:
            out = torch.zeros_like(x)
            for adapter, w in mounts:
                own = below(adapter, slot.path)
                frozen = {"to_q": attn.to_q, "to_k": attn.to_k, "to_v": attn.to_v, "to_out": attn.to_out[0]}
                merged = {
                    n: layer.weight + own[f"{n}.lora_B.weight"] @ own[f"{n}.lora_A.weight"] / 32
                    for n, layer in frozen.items()
                }
                q, k, v = (x @ merged[n].T for n in ("to_q", "to_k", "to_v"))
                mixed = softmax_attention(q, k, v, slot.heads)
                out = out + w * F.linear(mixed, merged["to_out"], attn.to_out[0].bias)
            return out

        monkeypatch.setattr(attn, "forward", temporal)
    want = predict(unet, latents, TIMESTEP)
    error = float((got - want).norm() / want.norm())
    print(f"\ntwo adapters in a U-Net: relative L2 {error:.1e}")
    assert error < 1e-5


@torch.no_grad()
def test_wan(wan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [(moved(wan, 1), 0.3), (moved(wan, 2), 0.9)]
    latents = latents_for(wan, FRAMES)
    with ml.mounted(wan, mounts):
        got = predict(wan, latents, TIMESTEP)

    embedder = wan.condition_embedder
    temb = embedder.time_embedder(embedder.timesteps_proj(torch.tensor([TIMESTEP])))
    for i, block in enumerate(wan.blocks):

        def forward(
            x: Tensor, _: Any, modulation: Tensor, rotary: Any, block: Any = block, i: int = i
        ) -> Tensor:
            shift, scale, gate, c_shift, c_scale, c_gate = (block.scale_shift_table + modulation).chunk(
                6, dim=1
            )
            x = x + gate * block.attn1(block.norm1(x) * (1 + scale) + shift, None, None, rotary)
            attn, frames = block.attn1, x.unflatten(1, (FRAMES, -1))[0]  # the raw stream
            k, v = attn.norm_k(attn.to_k(frames)), attn.to_v(frames)
            added = torch.zeros_like(frames)
            for adapter, w in mounts:
                own = below(adapter, f"blocks.{i}.miva")
                names = [f"cfa.video.both.{n}.lora_{m}.weight" for n in ("to_q", "to_out") for m in "AB"]
                q_a, q_b, o_a, o_b = (own[name] for name in names)
                q = attn.norm_q(attn.to_q(frames) + frames @ q_a.T @ q_b.T)
                added = added + w * cross_frames(own, frames, q, k, v, temb, 1.0, attn.heads) @ o_a.T @ o_b.T
            x = x + added.flatten(0, 1)[None]
            q = block.attn2.norm_q(block.attn2.to_q(block.norm2(x)))
            x = x + sum(
                (w * text_free(below(a, f"blocks.{i}.miva"), q) for a, w in mounts), torch.zeros_like(x)
            )
            return x + block.ffn(block.norm3(x) * (1 + c_scale) + c_shift) * c_gate

        monkeypatch.setattr(block, "forward", forward)
    want = predict(wan, latents, TIMESTEP)
    error = float((got - want).norm() / want.norm())
    print(f"\ntwo adapters in Wan: relative L2 {error:.1e}")
    assert error < 1e-5

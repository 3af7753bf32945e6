"""Each part against its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from motionloom.adapters.adaptive_weighting import AdaptiveWeighting
from motionloom.adapters.attend import attend, keys, unmade_queries, values
from motionloom.adapters.cross_frame_attention import CrossFrameAttention, KeysValues
from motionloom.adapters.low_rank import LowRank, TemporalSelfAttention
from motionloom.adapters.settings import CrossFrame, TemporalLowRank, TextFree
from motionloom.adapters.text_free_attention import TextFreeCrossAttention

B, FRAMES, N, C, HEADS, E = 2, 4, 6, 16, 2, 10


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def attn() -> Any:
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(0)
    return Attention(C, heads=HEADS, dim_head=C // HEADS)


def scrambled(module: torch.nn.Module, seed: int = 3) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def frozen_of(attn: Any, x: Tensor) -> KeysValues:
    return KeysValues(keys(attn, x), values(attn, x))


# --- adaptive weighting -------------------------------------------------------------------------------------


def test_weights_sum_to_one_for_every_sample() -> None:
    weighting = scrambled(AdaptiveWeighting(E, 0.2))
    weights = weighting(drawn(5, E))
    assert weights.shape == (5, 2) and torch.allclose(weights.sum(-1), torch.ones(5))
    assert weights[:, 0].std() > 0.01  # each sample has its own


def test_temperature_sharpens() -> None:
    cold, warm = AdaptiveWeighting(E, 0.2), AdaptiveWeighting(E, 1.0)
    warm.load_state_dict(scrambled(cold).state_dict())
    e = drawn(1, E)
    logits = [torch.log(w(e)[0, 0] / w(e)[0, 1]) for w in (cold, warm)]
    assert torch.allclose(logits[0], logits[1] * 5, rtol=1e-4)


def test_neutral_start_is_one_half() -> None:
    weighting = AdaptiveWeighting(E, 0.2)
    weighting.reset(torch.Generator().manual_seed(0), neutral=True)
    assert torch.equal(weighting(drawn(3, E)), torch.full((3, 2), 0.5))
    weighting.reset(torch.Generator().manual_seed(0), neutral=False)
    assert (weighting(drawn(3, E)) - 0.5).abs().max() > 0.01


# --- cross-frame attention ----------------------------------------------------------------------------------


def looped(cfa: CrossFrameAttention, attn: Any, x: Tensor, e: Tensor) -> Tensor:
    """Eq. 2 in float64, frame by frame and head by head."""
    weights = cfa.weighting(e).double()
    out = torch.zeros(x.shape, dtype=torch.float64)
    wk, wv = attn.to_k.weight.double(), attn.to_v.weight.double()
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            seen = [x[b, 0].double(), x[b, max(i - 1, 0)].double()]
            if cfa.settings.form == "joint":
                pairs = [(cfa.video["both"], torch.cat(seen) @ wk.T)]
                v = [torch.cat([weights[b, j] * seen[j] @ wv.T for j in (0, 1)])]
                scales = [torch.tensor(1.0)]
            else:
                pairs = [(cfa.video[n], seen[j] @ wk.T) for j, n in enumerate(("first", "previous"))]
                v = [s @ wv.T for s in seen]
                scales = [weights[b, 0], weights[b, 1]]
            for (pair, k), value, scale in zip(pairs, v, scales, strict=True):
                q = x[b, i].double() @ pair.to_q.weight.double().T
                heads = []
                for h in range(HEADS):
                    at = slice(h * C // HEADS, (h + 1) * C // HEADS)
                    logits = q[:, at] @ k[:, at].T / math.sqrt(C / HEADS)
                    heads.append(logits.softmax(-1) @ value[:, at])
                w, bias = pair.to_out.weight.double(), pair.to_out.bias.double()
                out[b, i] += scale * (torch.cat(heads, -1) @ w.T + bias)
    return out


@pytest.mark.parametrize("form", ["joint", "separate"])
@torch.no_grad()
def test_cross_frame_attention_is_eq_2(attn: Any, form: Any) -> None:
    cfa = scrambled(CrossFrameAttention(C, E, CrossFrame(form=form), False, False))
    x, e = drawn(B, FRAMES, N, C), drawn(B, E, seed=1)
    got = cfa(x, frozen_of(attn, x), attn, e)
    assert torch.allclose(got.double(), looped(cfa, attn, x, e), atol=1e-5)


@torch.no_grad()
def test_frame_0_gets_half_of_its_plain_attention(attn: Any) -> None:
    cfa = scrambled(CrossFrameAttention(C, E, CrossFrame(), False, False))
    pair = cfa.video["both"]
    pair.to_q.load_state_dict(attn.to_q.state_dict())
    pair.to_out.load_state_dict(attn.to_out[0].state_dict())
    pair.to_out.bias.zero_()
    x = drawn(1, FRAMES, N, C)
    attn.to_out[0].bias.zero_()
    half = cfa(x, frozen_of(attn, x), attn, drawn(1, E))[0, 0]
    assert torch.allclose(half, attn(x[0, :1])[0] / 2, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 5])
@torch.no_grad()
def test_frames_0_and_1_attend_once_under_a_bias_too(attn: Any, frames: int) -> None:
    """Halves that are alike there give what the whole softmax gives; halves that are not are told apart."""
    cfa = scrambled(CrossFrameAttention(C, E, CrossFrame(), False, False))
    x, e = drawn(B, frames, N, C), drawn(B, E, seed=1)
    bias = drawn(1, frames, N, 2 * N, seed=2)
    bias[:, :2, :, N:] = bias[:, :2, :, :N]
    once, whole = (cfa(x, frozen_of(attn, x), attn, e, bias, alike) for alike in (True, False))
    assert torch.allclose(once, whole, atol=1e-6)
    bias[:, 0, :, N:] = -9.0
    told = cfa(x, frozen_of(attn, x), attn, e, bias, False)
    assert not torch.allclose(told[:, 0], whole[:, 0], atol=1e-3) and torch.equal(told[:, 1:], whole[:, 1:])


@torch.no_grad()
def test_image_guidance_appends_the_video_unweighted(attn: Any) -> None:
    """With all keys equal, attention is the mean of the values: a third each from [a V_0 ; (1-a) V_p ; V_video]."""
    cfa = scrambled(CrossFrameAttention(C, E, CrossFrame(), False, True))
    pair = cfa.mask["both"]
    pair.to_q.weight.zero_()
    pair.to_out.load_state_dict({"weight": torch.eye(C), "bias": torch.zeros(C)})
    masks, video = drawn(1, 1, N, C), drawn(1, 1, N, C, seed=2)
    e = drawn(1, E)
    got = cfa(masks, frozen_of(attn, masks), attn, e, guide=frozen_of(attn, video), modality="mask")
    a = cfa.weighting(e)[0]
    v_mask, v_video = attn.to_v(masks)[0, 0], attn.to_v(video)[0, 0]
    expected = (a[0] * v_mask + a[1] * v_mask + v_video).mean(0) / 3
    assert torch.allclose(got[0, 0], expected.expand(N, C), atol=1e-6)


def test_low_rank_out_learns_though_it_starts_at_zero(attn: Any) -> None:
    """A low-rank part beside a zero W'_O would be zero with zero gradient; B A in its place is not."""
    cfa = CrossFrameAttention(C, E, CrossFrame(rank=4), False, False)
    cfa.reset(torch.Generator().manual_seed(0), attn)
    x = drawn(1, FRAMES, N, C)
    out = cfa(x, frozen_of(attn, x), attn, drawn(1, E))
    assert not out.any()
    (out * drawn(1, FRAMES, N, C, seed=4)).sum().backward()
    gradient = cfa.video["both"].to_out.lora_B.weight.grad
    assert gradient is not None and gradient.abs().max() > 1e-4


# --- text-free cross-attention ------------------------------------------------------------------------------


@torch.no_grad()
def test_text_free_mlp_is_its_formula() -> None:
    ca = scrambled(TextFreeCrossAttention(C, TextFree(rank=5)))
    q = drawn(3, N, C)
    a = q.double() @ ca.down.weight.double().T
    normed = (a - a.mean(-1, keepdim=True)) / torch.sqrt(a.var(-1, unbiased=False, keepdim=True) + 1e-5)
    normed = normed * ca.norm.weight.double() + ca.norm.bias.double()
    gelu = normed * 0.5 * (1 + torch.erf(normed / math.sqrt(2)))
    assert torch.allclose(ca(q).double(), gelu @ ca.up.weight.double().T, atol=1e-5)


@torch.no_grad()
def test_softmax_form_is_cross_attention_to_a_learnt_prompt(attn: Any) -> None:
    """One head, a prompt e: softmax(x W_Q (e W_K)^T / sqrt(d)) e W_V W_O = softmax(A q) B."""
    prompt = drawn(5, C, seed=9)
    ca = TextFreeCrossAttention(C, TextFree(form="softmax", rank=5))
    wk, wv, wo = drawn(C, C, seed=1), drawn(C, C, seed=2), drawn(C, C, seed=3)
    ca.down.weight.copy_(prompt @ wk / math.sqrt(C))
    ca.up.weight.copy_((prompt @ wv @ wo).T)
    q = drawn(3, N, C)
    expected = F.scaled_dot_product_attention(
        q, (prompt @ wk).expand(3, -1, -1), (prompt @ wv).expand(3, -1, -1)
    )
    assert torch.allclose(ca(q), expected @ wo, atol=1e-3)


def test_text_free_part_takes_the_frozen_queries_into_its_first_map(attn: Any) -> None:
    """(A W_Q) x = A (W_Q x), with the same gradient; not where the queries are more than a product."""
    ca, x = scrambled(TextFreeCrossAttention(C, TextFree(rank=5, bias=True))), drawn(3, N, C)
    query, before = unmade_queries(attn, x)
    assert query is x and before is attn.to_q.weight
    outs = ca(attn.to_q(x)), ca(query, before.detach())
    assert torch.allclose(*outs, atol=1e-6)
    apart, folded = (torch.autograd.grad(out.square().sum(), ca.down.weight)[0] for out in outs)
    assert torch.allclose(apart, folded, rtol=1e-4, atol=1e-4)
    attn.to_q.register_forward_hook(lambda layer, args, out: 2 * out)
    doubled, none = unmade_queries(attn, x)
    assert none is None and torch.allclose(doubled, 2 * x @ attn.to_q.weight.T, atol=1e-6)


def test_gradient_reaches_b_first_then_a() -> None:
    ca = TextFreeCrossAttention(C, TextFree(rank=5))
    ca.reset(torch.Generator().manual_seed(0))
    out = ca(drawn(3, N, C))
    assert not out.any()
    target = drawn(3, N, C, seed=5)
    (out * target).sum().backward()
    assert ca.up.weight.grad.any() and not ca.down.weight.grad.any()
    with torch.no_grad():
        ca.up.weight -= 0.1 * ca.up.weight.grad
    (ca(drawn(3, N, C)) * target).sum().backward()
    assert ca.down.weight.grad.any()


# --- temporal self-attention --------------------------------------------------------------------------------


def test_scale_is_alpha_over_rank() -> None:
    low_rank = scrambled(LowRank(C, C, 32, 1.0))
    x = drawn(3, C)
    plain = x @ low_rank.lora_A.weight.T @ low_rank.lora_B.weight.T
    assert torch.allclose(low_rank(x), plain / 32, atol=1e-6)
    assert torch.allclose(scrambled(LowRank(C, C, 32))(x), plain, atol=1e-5)


@torch.no_grad()
def test_temporal_attention_is_the_one_with_merged_weights(attn: Any) -> None:
    """Low-rank parts beside q, k, v and out equal the attention whose matrices have them added."""
    part = scrambled(TemporalSelfAttention(C, TemporalLowRank(rank=4, alpha=2)))
    x = drawn(5, FRAMES, C)
    got = part(x, (attn.to_q(x), attn.to_k(x), attn.to_v(x)), attn, None)
    for name in ("to_q", "to_k", "to_v", "to_out"):
        low_rank = part.get_submodule(name)
        frozen = attn.to_out[0] if name == "to_out" else getattr(attn, name)
        frozen.weight += 0.5 * low_rank.lora_B.weight @ low_rank.lora_A.weight
    assert torch.allclose(got, attn(x), atol=1e-5)


@torch.no_grad()
def test_merged_attention_is_the_low_rank_one_and_leaves_the_base(attn: Any) -> None:
    part, x = scrambled(TemporalSelfAttention(C, TemporalLowRank(rank=4, alpha=2))), drawn(5, FRAMES, C)
    before = {name: value.clone() for name, value in attn.state_dict().items()}
    merged = part.merged(attn, x)
    assert merged is not None
    qkv = merged.to_q(x), merged.to_k(x), merged.to_v(x)
    beside = part(x, (attn.to_q(x), attn.to_k(x), attn.to_v(x)), attn, None)
    assert torch.allclose(merged.to_out[0](attend(qkv, HEADS)), beside, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in attn.state_dict().items())


def test_no_merging_where_it_would_lose_something(attn: Any) -> None:
    part, x = TemporalSelfAttention(C, TemporalLowRank(rank=4)), drawn(5, FRAMES, C)
    assert part.merged(attn, x) is None  # gradients go through A and B
    with torch.no_grad():
        assert part.merged(attn, x) is not None
        assert part.merged(attn, x[:1, :1]) is None  # one row costs less beside
        with torch.autocast("cpu", torch.bfloat16):
            assert part.merged(attn, x) is None  # the small product would be rounded away
        assert part.to(torch.bfloat16).merged(attn.to(torch.bfloat16), x) is None


def test_temporal_start_is_gaussian_of_one_over_rank() -> None:
    part = TemporalSelfAttention(512, TemporalLowRank(rank=32))
    part.reset(torch.Generator().manual_seed(0))
    down = torch.cat([p.lora_A.weight.detach().flatten() for p in part.children()])
    assert abs(float(down.std()) * 32 - 1) < 0.02
    assert all(not p.lora_B.weight.any() for p in part.children())

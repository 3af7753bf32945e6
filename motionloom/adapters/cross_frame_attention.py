"""Cross-frame attention: every frame looks at the first and at the previous one (section 3.3.1, Eq. 2)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from motionloom.adapters.adaptive_weighting import AdaptiveWeighting
from motionloom.adapters.attend import attend, normed_queries
from motionloom.adapters.low_rank import LowRank
from motionloom.adapters.settings import CrossFrame


class KeysValues(NamedTuple):
    """Frozen keys and values of all frames, (B, F, N, C) each."""

    keys: Tensor
    values: Tensor


class QueryAndOut(nn.Module):
    """W'_Q, which starts as the base's W_Q, and W'_O, which starts at zero; full rank or low rank.

    Low rank means W_Q + B A for the query and B A in place of W'_O: beside an already projected output a low-rank part
    would be zero forever, because the output is.
    """

    def __init__(self, channels: int, settings: CrossFrame, query_bias: bool) -> None:
        super().__init__()
        rank, alpha = settings.rank, settings.alpha
        self.to_q: nn.Linear | LowRank
        self.to_out: nn.Linear | LowRank
        if rank is None:
            self.to_q = nn.Linear(channels, channels, bias=query_bias)
            self.to_out = nn.Linear(channels, channels)
        else:
            self.to_q = LowRank(channels, channels, rank, alpha)
            self.to_out = LowRank(channels, channels, rank, alpha)

    def query(self, x: Tensor, attn: Any) -> Tensor:
        """(B, F, N, C) => W'_Q x, through the base's query norm."""
        if isinstance(self.to_q, LowRank):
            q = attn.to_q(x) + self.to_q(x)
        else:
            q = self.to_q(x.to(self.to_q.weight.dtype)).to(x.dtype)
        return normed_queries(attn, q)

    def out(self, mixed: Tensor) -> Tensor:
        """(B, F, N, C) => W'_O mixed + b'_O."""
        if isinstance(self.to_out, LowRank):
            low_rank: Tensor = self.to_out(mixed)
            return low_rank
        projected: Tensor = self.to_out(mixed.to(self.to_out.weight.dtype))
        return projected.to(mixed.dtype)

    @torch.no_grad()
    def reset(self, generator: torch.Generator, attn: Any) -> None:
        """W'_Q as the base's, W'_O zero."""
        if isinstance(self.to_q, LowRank):
            assert isinstance(self.to_out, LowRank)
            self.to_q.reset(generator)
            self.to_out.reset(generator)
            return
        frozen = getattr(attn.to_q, "base_layer", attn.to_q)  # below PEFT, where there is any
        self.to_q.load_state_dict(frozen.state_dict())
        for parameter in self.to_out.parameters():
            parameter.zero_()


class CrossFrameAttention(nn.Module):
    """CFA with adaptive weighting; keys and values are the frozen base's.

    joint:     CFA_i = W'_O softmax(W'_Q x_i [K_0 ; K_p]^T / sqrt(d)) [a V_0 ; (1-a) V_p] + b'_O
    separate:  CFA_i = a CFA(x_i, x_0) + (1-a) CFA'(x_i, x_p)

    p = max(i - 1, 0) is the previous frame, a the first output of the weighting. In the joint form frame 0, which sees
    itself twice, gets half of its plain attention.
    """

    def __init__(
        self, channels: int, time_channels: int, settings: CrossFrame, query_bias: bool, masked: bool
    ) -> None:
        super().__init__()
        self.settings = settings
        self.weighting = AdaptiveWeighting(time_channels, settings.temperature)
        pairs = ("both",) if settings.form == "joint" or settings.shared else ("first", "previous")
        self.video = nn.ModuleDict({name: QueryAndOut(channels, settings, query_bias) for name in pairs})
        self.mask = nn.ModuleDict(
            {name: QueryAndOut(channels, settings, query_bias) for name in pairs * masked}
        )

    def forward(
        self,
        x: Tensor,
        frozen: KeysValues,
        attn: Any,
        time_embedding: Tensor,
        bias: Tensor | None = None,
        alike: bool = False,
        guide: KeysValues | None = None,
        modality: str = "video",
    ) -> Tensor:
        """What is added to the residual stream.

        Args:
            x: (B, F, N, C), what the frozen self-attention reads.
            frozen: keys and values of x.
            attn: the frozen self-attention.
            time_embedding: (B, E).
            bias: (B or 1, F, N, 2N), columns [first ; previous], added to the logits.
            alike: whether both halves of the bias are the same at frames 0 and 1, which see frame 0 twice.
            guide: keys and values of the video, for the mask modality under image guidance; not weighted.
            modality: "video" or "mask": whose W'_Q and W'_O.

        Returns:
            (B, F, N, C).
        """
        pairs = self.video if modality == "video" else self.mask
        weights = self.weighting(time_embedding).to(x.dtype)  # (B, 2)
        if self.settings.form == "joint":
            return _joint(pairs["both"], x, frozen, weights, attn, bias, bias is None or alike, guide)
        first, previous = (_frames_at(frozen, index) for index in reference_frames(x.shape[1], x.device))
        halves = (None, None) if bias is None else bias.chunk(2, dim=-1)
        total = torch.zeros_like(x)
        for i, (name, seen) in enumerate((("first", first), ("previous", previous))):
            pair = pairs["both" if self.settings.shared else name]
            seen_all = [seen] + ([guide] if guide else [])
            total = total + weights[:, i, None, None, None] * _cross(pair, x, seen_all, attn, halves[i])
        return total

    def reset(self, generator: torch.Generator, attn: Any) -> None:
        """Zero output at the start; see `QueryAndOut.reset` and `AdaptiveWeighting.reset`."""
        self.weighting.reset(generator, self.settings.neutral)
        for pair in (*self.video.values(), *self.mask.values()):
            assert isinstance(pair, QueryAndOut)
            pair.reset(generator, attn)

    def copy_base_out(self, attn: Any) -> None:
        """W'_O of the mask stream as the base's: the released start of a U-Net."""
        frozen = getattr(attn.to_out[0], "base_layer", attn.to_out[0])
        for pair in self.mask.values():
            assert isinstance(pair, QueryAndOut) and isinstance(pair.to_out, nn.Linear)
            pair.to_out.load_state_dict(frozen.state_dict())


def reference_frames(num_frames: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Which frames each frame looks at: (F,) of zeros, and (F,) of max(i - 1, 0)."""
    frames = torch.arange(num_frames, device=device)
    return torch.zeros_like(frames), (frames - 1).clamp(min=0)


def _frames_at(frozen: KeysValues, index: Tensor) -> KeysValues:
    return KeysValues(frozen.keys[:, index], frozen.values[:, index])


def _joint(
    pair: nn.Module,
    x: Tensor,
    frozen: KeysValues,
    weights: Tensor,
    attn: Any,
    bias: Tensor | None,
    alike: bool,
    guide: KeysValues | None,
) -> Tensor:
    """One softmax over [first ; previous], values weighted.

    Frames 0 and 1 see frame 0 twice; where nothing tells the two apart, that is half of plain attention to it.
    """
    assert isinstance(pair, QueryAndOut)
    q = pair.query(x, attn)  # (B, F, N, C)
    frames, tokens = x.shape[1:3]
    a = weights[:, :, None, None, None]
    k, v = frozen

    def first(count: int, weight: Any) -> KeysValues:
        """Frame 0 as `count` frames see it."""
        return KeysValues(*(y.expand(-1, count, -1, -1) for y in (k[:, :1], weight * v[:, :1])))

    def previous(since: int) -> KeysValues:
        """What the frames from `since` on see before them."""
        before = [y[:, max(since - 1, 0) : max(frames - 1, 1)] for y in (k, a[:, 1] * v)]
        return KeysValues(*(torch.cat([y[:, :1], y], dim=1)[:, :frames] if since == 0 else y for y in before))

    if guide is not None or not alike:
        seen = [first(frames, a[:, 0]), previous(0)] + ([guide] if guide else [])
        return pair.out(_mixed(q, seen, attn, bias))
    early, late = (None, None) if bias is None else (bias[:, :2, :, :tokens], bias[:, 2:])
    parts = [_mixed(q[:, :2], [first(min(2, frames), 0.5)], attn, early)]
    if frames > 2:
        parts.append(_mixed(q[:, 2:], [first(frames - 2, a[:, 0]), previous(2)], attn, late))
    return pair.out(torch.cat(parts, dim=1))


def _cross(pair: nn.Module, x: Tensor, seen: list[KeysValues], attn: Any, bias: Tensor | None) -> Tensor:
    """W'_O of one softmax over everything seen by W'_Q x."""
    assert isinstance(pair, QueryAndOut)
    return pair.out(_mixed(pair.query(x, attn), seen, attn, bias))


def _mixed(q: Tensor, seen: list[KeysValues], attn: Any, bias: Tensor | None) -> Tensor:
    """Queries (B, F, N, C) over everything seen, in one softmax. The bias covers the first columns; the rest has none."""
    k, v = (torch.cat([one[i] for one in seen], dim=2) for i in (0, 1))  # (B, F, n N, C)
    if bias is not None:
        bias = bias.expand(len(q), -1, -1, -1).flatten(0, 1)
    rows = (tensor.flatten(0, 1) for tensor in (q, k, v))
    mixed = attend(rows, attn.heads, bias, getattr(attn.processor, "_attention_backend", None))
    return torch.unflatten(mixed, 0, q.shape[:2])

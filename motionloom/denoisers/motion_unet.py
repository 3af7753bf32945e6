"""DMG, the diffusion-based motion generator of LaMD (arXiv 2304.11603): a 2-D UNet over the motion latent.

Time is compressed away by the codec, so the cost of a step does not depend on the number of frames. The
layout is the latent-diffusion UNet with scale-shift time embedding, residual blocks that resample, and a
transformer block at every level. The defaults give the paper's 241M: exactly 241,462,851 parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionloom.denoisers.base import MotionCondition, PredictionType
from motionloom.errors import ConfigError, InputError


@dataclass(frozen=True)
class MotionUNetConfig:
    """The size of a `MotionUNet`.

    Attributes:
        in_channels: channels d of the motion latent that comes in.
        out_channels: channels of the prediction.
        base: width of the finest level.
        multipliers: width of each level in units of `base`, finest first.
        res_blocks: residual blocks per level on the way down; one more on the way up.
        attention_levels: levels (0 = finest) that have transformer blocks; the middle always has one.
        heads: attention heads; must divide every width that has attention.
        context_width: width of the condition's tokens; None builds no cross-attention.
        dropout: probability inside the residual blocks.
        concat_channels: channels of the condition's aligned map, joined to the latent.
    """

    in_channels: int = 3
    out_channels: int = 3
    base: int = 192
    multipliers: tuple[int, ...] = (1, 2, 4)
    res_blocks: int = 2
    attention_levels: tuple[int, ...] = (0, 1, 2)
    heads: int = 8
    context_width: int | None = 512
    dropout: float = 0.2
    concat_channels: int = 0

    def __post_init__(self) -> None:
        attended = {*self.attention_levels, len(self.multipliers) - 1}
        for level in sorted(attended):
            if not 0 <= level < len(self.multipliers):
                raise ConfigError(
                    f"attention level {level} does not exist: there are {len(self.multipliers)} levels",
                    fix=f"name levels from 0 (finest) to {len(self.multipliers) - 1}",
                )
            width = self.base * self.multipliers[level]
            if width % self.heads:
                raise ConfigError(
                    f"{self.heads} attention heads do not divide the width {width} of level {level}",
                    fix="choose a base that is a multiple of the number of heads",
                )


class MotionUNet(nn.Module):
    """Predicts noise, velocity or flow of a motion latent: a `Denoiser`.

    Args:
        config: sizes.
        prediction_type: what the network is trained to predict; it changes no parameter.
    """

    def __init__(
        self, config: MotionUNetConfig | None = None, prediction_type: PredictionType = "epsilon"
    ) -> None:
        super().__init__()
        self.config = config = config or MotionUNetConfig()
        self.prediction_type: PredictionType = prediction_type
        widths = [config.base * multiplier for multiplier in config.multipliers]

        self.time = nn.Sequential(
            nn.Linear(config.base, 4 * config.base), nn.SiLU(), nn.Linear(4 * config.base, 4 * config.base)
        )
        self.conv_in = nn.Conv2d(config.in_channels + config.concat_channels, config.base, 3, padding=1)

        width, skips = config.base, [config.base]
        self.down = nn.ModuleList()
        for level, level_width in enumerate(widths):
            if level > 0:
                self.down.append(UNetBlock(width, width, config, attention=False, resize=halve))
                skips.append(width)
            for _ in range(config.res_blocks):
                self.down.append(UNetBlock(width, level_width, config, level in config.attention_levels))
                width = level_width
                skips.append(width)

        self.middle = nn.ModuleList(
            [UNetBlock(width, width, config, attention) for attention in (True, False)]
        )

        self.up = nn.ModuleList()
        for level, level_width in reversed(list(enumerate(widths))):
            for _ in range(config.res_blocks + 1):
                joined = width + skips.pop()
                self.up.append(UNetBlock(joined, level_width, config, level in config.attention_levels))
                width = level_width
            if level > 0:
                self.up.append(UNetBlock(width, width, config, attention=False, resize=match_size))

        self.out = nn.Sequential(
            group_norm(width), nn.SiLU(), zeroed(nn.Conv2d(width, config.out_channels, 3, padding=1))
        )

    def forward(self, latents: Tensor, timestep: Tensor, condition: MotionCondition | None = None) -> Tensor:
        """One prediction.

        Args:
            latents: (B, d, h, w), noisy motion latents; any h and w.
            timestep: (B,) or a scalar, integer or float, 0..1000.
            condition: content and text tokens, aligned map; None tells nothing.

        Returns:
            (B, out_channels, h, w).

        Raises:
            InputError: if the condition does not fit the network or the latents.
        """
        condition = condition or MotionCondition()
        self._check(latents, condition)
        if condition.aligned is not None:
            latents = torch.cat([latents, condition.aligned.to(latents)], dim=1)
        context = Context.of(condition, latents)
        timestep = timestep.expand(len(latents))
        time = self.time(sinusoids(timestep, self.config.base).to(latents))  # (B, 4 base)

        x = self.conv_in(latents)
        skips = [x]
        for block in self.down:
            x = block(x, time, context)
            skips.append(x)
        for block in self.middle:
            x = block(x, time, context)
        for block in self.up:
            if block.resize is match_size:
                x = block(x, time, context, skips[-1].shape[-2:])
            else:
                x = block(torch.cat([x, skips.pop()], dim=1), time, context)
        prediction: Tensor = self.out(x)
        return prediction

    def _check(self, latents: Tensor, condition: MotionCondition) -> None:
        config = self.config
        if latents.ndim != 4 or latents.shape[1] != config.in_channels:
            raise InputError(
                f"got latents of shape {tuple(latents.shape)}, expected (batch, {config.in_channels}, h, w)",
                fix="use the codec this generator was trained with",
            )
        tokens_width = None if condition.tokens is None else condition.tokens.shape[-1]
        if tokens_width not in (None, config.context_width):
            raise InputError(
                f"got condition tokens of width {tokens_width}, expected {config.context_width}",
                fix="use the content and text encoders this generator was trained with",
            )
        expected = (config.concat_channels, *latents.shape[-2:]) if config.concat_channels else None
        aligned = None if condition.aligned is None else tuple(condition.aligned.shape[1:])
        if aligned != expected:
            raise InputError(
                f"got an aligned map of shape {aligned}, expected {expected} (channels, height, width)",
                fix="project the content features to the channels and grid of this generator",
            )


@dataclass(frozen=True)
class Context:
    """Tokens in the shape attention wants.

    Attributes:
        tokens: (B, n, width).
        mask: (B, 1, 1, n) bool, True where a token is read; None reads all.
        told: (B, 1, 1), 1 where a sample is told anything, else 0; None means all are.
    """

    tokens: Tensor
    mask: Tensor | None
    told: Tensor | None

    @classmethod
    def of(cls, condition: MotionCondition, like: Tensor) -> Context | None:
        """None when there is nothing to read; a sample without tokens reads any and is multiplied by zero."""
        if condition.tokens is None or condition.tokens.shape[1] == 0:
            return None
        if condition.tokens_mask is None:
            return cls(condition.tokens.to(like), None, None)
        told = condition.tokens_mask.any(dim=1, keepdim=True)  # (B, 1)
        mask = (condition.tokens_mask | ~told)[:, None, None, :]
        return cls(condition.tokens.to(like), mask, told[..., None].to(like))


class UNetBlock(nn.Module):
    """A residual block that may resample, then a transformer block where the level has attention."""

    def __init__(
        self,
        in_width: int,
        out_width: int,
        config: MotionUNetConfig,
        attention: bool,
        resize: Resize | None = None,
    ) -> None:
        super().__init__()
        self.resize: Resize = resize or keep_size
        self.residual = ResidualBlock(in_width, out_width, 4 * config.base, config.dropout)
        self.transformer = (
            SpatialTransformer(out_width, config.heads, config.context_width) if attention else None
        )

    def forward(self, x: Tensor, time: Tensor, context: Context | None, size: Size | None = None) -> Tensor:
        """(B, in_width, h, w) -> (B, out_width, *size), size being that of x where nothing is resampled."""
        size = size or x.shape[-2:]
        x = self.residual(x, time, lambda features: self.resize(features, size))
        if self.transformer is not None:
            x = self.transformer(x, context)
        return x


class ResidualBlock(nn.Module):
    """x + conv(drop(silu(norm(h) (1 + scale) + shift))) with h = conv(silu(norm(x))).

    The time embedding sets scale and shift; the input is resampled before the first convolution.
    """

    def __init__(self, in_width: int, out_width: int, time_width: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = group_norm(in_width)
        self.conv_in = nn.Conv2d(in_width, out_width, 3, padding=1)
        self.time = nn.Linear(time_width, 2 * out_width)
        self.norm_out = group_norm(out_width)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zeroed(nn.Conv2d(out_width, out_width, 3, padding=1))
        self.skip = nn.Identity() if in_width == out_width else nn.Conv2d(in_width, out_width, 1)

    def forward(self, x: Tensor, time: Tensor, resize: Callable[[Tensor], Tensor]) -> Tensor:
        """(B, in_width, h, w) and (B, time_width) -> (B, out_width, h', w')."""
        h = self.conv_in(resize(F.silu(self.norm_in(x))))
        scale, shift = self.time(F.silu(time))[..., None, None].chunk(2, dim=1)
        h = self.norm_out(h) * (1 + scale) + shift
        h = self.conv_out(self.dropout(F.silu(h)))
        output: Tensor = self.skip(resize(x)) + h
        return output


class SpatialTransformer(nn.Module):
    """Self-attention over places, cross-attention to the context, gated feed-forward; residual."""

    def __init__(self, width: int, heads: int, context_width: int | None) -> None:
        super().__init__()
        self.norm = group_norm(width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.norm_self = nn.LayerNorm(width)
        self.attend_self = Attention(width, width, heads)
        if context_width is not None:
            self.norm_cross = nn.LayerNorm(width)
            self.attend_cross = Attention(width, context_width, heads)
        self.norm_feed = nn.LayerNorm(width)
        self.feed_forward = GatedFeedForward(width)
        self.proj_out = zeroed(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor, context: Context | None) -> Tensor:
        """(B, c, h, w) -> (B, c, h, w)."""
        height, width = x.shape[-2:]
        y = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)  # (B, h w, c)
        normed = self.norm_self(y)
        y = y + self.attend_self(normed, normed)
        if context is not None:
            read = self.attend_cross(self.norm_cross(y), context.tokens, context.mask)
            y = y + (read if context.told is None else read * context.told)
        y = y + self.feed_forward(self.norm_feed(y))
        update: Tensor = self.proj_out(y.transpose(1, 2).unflatten(2, (height, width)))
        return x + update


class Attention(nn.Module):
    """softmax(q k^T / sqrt(c / heads)) v, with q from `x` and k, v from `source`."""

    def __init__(self, width: int, source_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(source_width, width, bias=False)
        self.to_v = nn.Linear(source_width, width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, n, c) and (B, m, s) -> (B, n, c)."""
        q, k, v = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, n, c / heads)
            for projected in (self.to_q(x), self.to_k(source), self.to_v(source))
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        output: Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return output


class GatedFeedForward(nn.Module):
    """GEGLU: (x W) * gelu(x V), then back to the width; four times wider inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 8 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, c) -> (B, n, c)."""
        value, gate = self.expand(x).chunk(2, dim=-1)
        output: Tensor = self.contract(value * F.gelu(gate))
        return output


Size = tuple[int, int] | torch.Size
Resize = Callable[[Tensor, Size], Tensor]


def keep_size(x: Tensor, size: Size) -> Tensor:
    """A block that does not resample."""
    return x


def halve(x: Tensor, size: Size) -> Tensor:
    """Mean over 2x2 places; an odd border row or column is averaged alone, so no size is too small."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


def match_size(x: Tensor, size: Size) -> Tensor:
    """Nearest neighbour to the size of the skip connection that comes next: twice, or twice less one."""
    return F.interpolate(x, size=(size[0], size[1]), mode="nearest")


def sinusoids(timestep: Tensor, width: int) -> Tensor:
    """[cos(t w_k) ; sin(t w_k)] with w_k = 10000^(-k / (width/2)): (B,) -> (B, width), float32."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half, device=timestep.device) / half)
    angles = timestep.float()[:, None] * frequencies[None]
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, width % 2))


def group_norm(width: int, eps: float = 1e-5) -> nn.GroupNorm:
    """32 groups; fewer where the width is small, so that every group has at least two channels."""
    return nn.GroupNorm(math.gcd(32, width // 2), width, eps)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """A convolution that starts as zero: a fresh block is the identity, a fresh network predicts 0."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer

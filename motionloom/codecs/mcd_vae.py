"""MCD-VAE, the motion-content decomposed autoencoder of LaMD (arXiv 2304.11603, section 3.2).

A picture encoder E_I reads frame 0 at several scales, a light 3-D encoder E_M compresses the whole clip,
time included, into a small 2-D Gaussian, and a 3-D decoder D_V fuses the two into frames. The block lists fit
the paper's sizes: 164,596,553 parameters at 16 frames (165M), 175,267,529 at 32 (175M), 148,746,281 at 32
with motion base 32 (149M).
"""

from __future__ import annotations

import dataclasses
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionloom.codecs.base import Codec, Gaussian
from motionloom.codecs.conv3d import Conv3d
from motionloom.errors import ConfigError, InputError, WeightsError
from motionloom.weights import load_strictly, load_weights, save_weights

LOGVAR_RANGE = (-30.0, 20.0)
INITIAL_LOGVAR = -4.0  # sigma = .14: at sigma = 1 a fresh decoder would be shown little but noise
SHARED_TIME_RATIO = 4  # the stages that halve height and width halve time too, twice
TIME_KERNEL = (3, 1, 1)
MotionInput = Literal["clip", "change"]
Norm = Callable[[int], nn.GroupNorm]  # of a width


@dataclass(frozen=True)
class MCDVAEConfig:
    """The size of a `MotionContentAutoencoder`; everything it does not say is derived.

    Attributes:
        num_frames: clip length L, a power of two from 8 to 128; the paper uses 16 and 32.
        size_px: height and width it is trained at; the network takes any multiple of `spatial_ratio`.
        spatial_ratio: r_s, pixels per place of the latent: 4, or 8 for 256-pixel clips.
        latent_channels: d, 1 to 4 in the paper, 3 by default.
        latent_frames: d_t, moments the latent keeps: 1, or 2 as the paper's ablation (Tab. 12); they are folded into the
            channels, so that the generator stays two-dimensional.
        motion_base: c, base width of E_M; 64, or 32 for small sets.
        content_base: base width of E_I and D_V.
        z_norm: what brings the latent to unit scale.
        fusion: how D_V joins content maps to motion features.
        output: what D_V's last convolution says about a frame.
        motion_input: what E_M sees: the "clip", as in the paper, or its "change" from frame 0 (ours), in which what stands
            still is nothing and cannot fill the latent.
        thin_tail: the temporal stages of D_V are convolutions only, without residual blocks: long clips then
            cost little more than short ones.
        blocks_before_tail: residual blocks at 4 frames and full resolution; 2 make up for a thin tail.
        group_channels: least channels of a normalisation group. The paper's widths have 32 groups; in a narrow network those
            hold one channel each, which takes from every channel how strong it is. Ours: 8 there.
    """

    num_frames: int = 16
    size_px: tuple[int, int] = (128, 128)
    spatial_ratio: int = 4
    latent_channels: int = 3
    motion_base: int = 64
    content_base: int = 128
    z_norm: type[LatentNorm] = dataclasses.field(default_factory=lambda: BatchLatentNorm)
    fusion: type[Fusion] = dataclasses.field(default_factory=lambda: ConcatFusion)
    output: type[Output] = dataclasses.field(default_factory=lambda: FrameOutput)
    motion_input: MotionInput = "clip"
    thin_tail: bool = False
    blocks_before_tail: int = 0
    latent_frames: int = 1
    group_channels: int = 1

    def __post_init__(self) -> None:
        lengths = (8, 16, 32, 64, 128)
        _expect(self.num_frames in lengths, "num_frames", self.num_frames, "8, 16, 32, 64 or 128")
        _expect(self.spatial_ratio in (4, 8), "spatial_ratio", self.spatial_ratio, "4 or 8")
        _expect(self.latent_frames in (1, 2), "latent_frames", self.latent_frames, "1 or 2")
        tailless = self.spatial_ratio == 8 and self.temporal_stages == 0
        _expect(not tailless, "latent_frames", self.latent_frames, "1 for 8 frames at spatial_ratio 8")
        _expect(self.group_channels >= 1, "group_channels", self.group_channels, "1 or more")
        _expect(1 <= self.latent_channels <= 16, "latent_channels", self.latent_channels, "1 to 16")
        seen = get_args(MotionInput)
        _expect(self.motion_input in seen, "motion_input", self.motion_input, " or ".join(seen))
        whole = all(side > 0 and side % self.spatial_ratio == 0 for side in self.size_px)
        _expect(whole, "size_px", self.size_px, f"positive multiples of {self.spatial_ratio}")

    @property
    def temporal_stages(self) -> int:
        """log2(L / (4 d_t)): how often time alone is halved."""
        return int(math.log2(self.num_frames // (SHARED_TIME_RATIO * self.latent_frames)))

    @property
    def latent_depth(self) -> int:
        """d d_t, the channels of the latent."""
        return self.latent_channels * self.latent_frames

    @property
    def content_widths(self) -> tuple[int, int, int]:
        """Widths of the content maps f1, f2, f3 and of the decoder's levels."""
        return self.content_base, 2 * self.content_base, 4 * self.content_base

    def norm(self, width: int) -> nn.GroupNorm:
        """Group normalisation of a width; see `group_norm`."""
        return group_norm(width, self.group_channels)

    def to_json(self) -> str:
        """The configuration as a JSON object; parts are written by name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps(values | {name: getattr(self, name).name for name in PARTS})

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> MCDVAEConfig:
        """The configuration a recipe or a weights file says; names become parts here and nowhere else.

        Raises:
            ConfigError: if a key or a part's name is unknown, or a value is out of range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(f"unknown autoencoder option '{key}'", fix=_did_you_mean(key, known))
        resolved = dict(values)
        for key, parts in PARTS.items():
            name = resolved.get(key)
            if isinstance(name, str):
                if name not in parts:
                    raise ConfigError(f"unknown {key} '{name}'", fix=_did_you_mean(name, list(parts)))
                resolved[key] = parts[name]
        if "size_px" in resolved:
            resolved["size_px"] = tuple(resolved["size_px"])
        return cls(**resolved)


def group_norm(width: int, least: int = 1) -> nn.GroupNorm:
    """32 groups, or as many as divide a small width and have `least` channels."""
    return nn.GroupNorm(math.gcd(32, max(1, width // least)), width, eps=1e-6)


class MotionContentAutoencoder(nn.Module, Codec):
    """Clip => motion latent, and motion latent + first frame => clip."""

    def __init__(self, config: MCDVAEConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MCDVAEConfig()
        self.content_encoder = ContentEncoder(config)
        self.motion_encoder = MotionEncoder(config)
        self.latent_norm: LatentNorm = config.z_norm(config.latent_depth)
        self.decoder = FusionDecoder(config)

    def content(self, first_frame: Tensor) -> ContentFeatures:
        """E_I: a picture (B, 3, H, W), -1..1 => its appearance at every scale.

        Raises:
            InputError: if H or W is not a multiple of `spatial_ratio`.
        """
        self._check_size(first_frame.shape)
        features: ContentFeatures = self.content_encoder(first_frame)
        return features

    def encode_motion(self, frames: Tensor) -> Gaussian:
        """E_M: pixels (B, 3, L, H, W), -1..1 => q(z~|x), mean and logvar (B, d d_t, H / r_s, W / r_s).

        The posterior is *before* normalisation; `normalise` brings its samples to unit scale. This is what a
        latent cache holds.

        Raises:
            InputError: if the clip does not have L frames, or H or W is not a multiple of `spatial_ratio`.
        """
        self._check_clip(frames.shape)
        seen = frames if self.config.motion_input == "clip" else frames - frames[:, :, :1]
        posterior: Gaussian = self.motion_encoder(seen)
        return posterior

    def normalise(self, sample: Tensor) -> Tensor:
        """z~ => z_m: samples of the posterior => latents of unit scale, (B, d, h, w) both."""
        latents: Tensor = self.latent_norm(sample)
        return latents

    def encode(self, frames: Tensor) -> Tensor:
        """Pixels (B, 3, L, H, W) => latents (B, d d_t, H / r_s, W / r_s), the posterior's mean at unit scale."""
        return self.normalise(self.encode_motion(frames).mean)

    def decode(self, latents: Tensor, first_frame: Tensor | ContentFeatures) -> Tensor:
        """D_V: latents (B, d, h, w) and the picture, or its `content`, => pixels (B, 3, L, H, W).

        Raises:
            InputError: if the latents are not on the picture's grid.
        """
        content = first_frame if isinstance(first_frame, ContentFeatures) else self.content(first_frame)
        expected = (self.config.latent_depth, *content.f_x0.shape[-2:])
        if latents.shape[1:] != expected:
            raise InputError(
                f"got motion latents of shape {tuple(latents.shape[1:])}, this picture takes {expected}",
                fix="encode the motion at the picture's size",
            )
        frames: Tensor = self.decoder(latents, content)
        return frames

    def forward(self, frames: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Gaussian]:
        """Encode, sample, decode: (B, 3, L, H, W) => (its reconstruction, the posterior)."""
        posterior = self.encode_motion(frames)
        latents = self.normalise(posterior.sample(generator))
        return self.decode(latents, frames[:, :, 0]), posterior

    def latent_shape(self, num_frames: int, height_px: int, width_px: int) -> tuple[int, ...]:
        """(d d_t, H / r_s, W / r_s), whatever the number of frames."""
        self._check_clip(torch.Size((1, 3, num_frames, height_px, width_px)))
        ratio = self.config.spatial_ratio
        return self.config.latent_depth, height_px // ratio, width_px // ratio

    def save(self, path: Path, facts: Mapping[str, str] | None = None) -> Path:
        """Write weights, normalisation buffers and configuration as one safetensors file.

        Args:
            path: where to.
            facts: more metadata, such as how it was trained.

        Raises:
            ResourceError: if the file cannot be written.
        """
        metadata = {"kind": "mcd_vae", "config": self.config.to_json(), **(facts or {})}
        return save_weights(path, dict(self.state_dict()), metadata)

    @classmethod
    def load(cls, path: Path) -> MotionContentAutoencoder:
        """Read a file that `save` wrote; evaluation mode.

        Raises:
            WeightsError: if the file is damaged, is not an MCD-VAE, or its tensors do not fit.
        """
        tensors, metadata = load_weights(path)
        if metadata.get("kind") != "mcd_vae":
            raise WeightsError(
                f"'{path}' holds '{metadata.get('kind', 'weights of unknown kind')}', expected 'mcd_vae'",
                fix="give the codec file of a LaMD model",
            )
        model = cls(MCDVAEConfig.from_mapping(json.loads(metadata["config"])))
        load_strictly(model, tensors, path)
        return model.eval()

    def _check_size(self, shape: torch.Size) -> None:
        ratio = self.config.spatial_ratio
        height, width = shape[-2:]
        if height % ratio or width % ratio:
            raise InputError(
                f"got {width}x{height} pixels, expected both sides to be multiples of {ratio}",
                fix=f"resize to {width // ratio * ratio or ratio}x{height // ratio * ratio or ratio}",
            )

    def _check_clip(self, shape: torch.Size) -> None:
        length = self.config.num_frames
        if len(shape) != 5 or shape[2] != length:
            raise InputError(
                f"got frames of shape {tuple(shape)}, expected (batch, 3, {length}, height, width)",
                fix=f"cut clips of {length} frames",
            )
        self._check_size(shape)


@dataclass(frozen=True)
class ContentFeatures:
    """The appearance of a picture.

    Attributes:
        maps: f1 (B, c, H, W), f2 (B, 2c, H/2, W/2), f3 (B, 4c, H/4, W/4), finest first.
        f_x0: (B, 4c, h, w), on the grid of the motion latent.
        picture: (B, 3, H, W), itself, -1..1.
    """

    maps: tuple[Tensor, ...]
    f_x0: Tensor
    picture: Tensor


class ContentEncoder(nn.Module):
    """E_I, the body of the latent-diffusion f4 encoder."""

    def __init__(self, config: MCDVAEConfig) -> None:
        super().__init__()
        w1, w2, w3 = config.content_widths
        block = partial(Residual2d, norm=config.norm)
        self.conv_in = nn.Conv2d(3, w1, 3, padding=1)
        self.level1 = nn.Sequential(block(w1, w1), block(w1, w1))
        self.down1 = nn.Conv2d(w1, w1, 3, stride=2, padding=1)
        self.level2 = nn.Sequential(block(w1, w2), block(w2, w2))
        self.down2 = nn.Conv2d(w2, w2, 3, stride=2, padding=1)
        self.level3 = nn.Sequential(block(w2, w3), block(w3, w3))
        self.down3 = nn.Conv2d(w3, w3, 3, stride=2, padding=1) if config.spatial_ratio == 8 else nn.Identity()
        self.middle = nn.Sequential(
            block(w3, w3), SelfAttention2d(w3, config.norm), block(w3, w3), config.norm(w3)
        )

    def forward(self, picture: Tensor) -> ContentFeatures:
        f1 = self.level1(self.conv_in(picture))
        f2 = self.level2(self.down1(f1))
        f3 = self.level3(self.down2(f2))
        return ContentFeatures((f1, f2, f3), self.middle(self.down3(f3)), picture)


class MotionEncoder(nn.Module):
    """E_M: two stages halve time, height and width; the others halve time alone until one step is left.

    At r_s = 8 the first of the others halves height and width as well, at no parameter.
    """

    def __init__(self, config: MCDVAEConfig) -> None:
        super().__init__()
        c = config.motion_base
        block = partial(Residual3d, norm=config.norm)
        self.shared = nn.Sequential(
            Conv3d(3, c, 3, padding=1),
            *(block(c, c), block(c, c), Conv3d(c, c, 3, stride=2, padding=1)),
            *(block(c, 2 * c), block(2 * c, 2 * c), Conv3d(2 * c, 2 * c, 3, stride=2, padding=1)),
            *(block(2 * c, 4 * c), block(4 * c, 4 * c)),
        )
        self.temporal = nn.Sequential()
        for stage in range(config.temporal_stages):
            space = 2 if config.spatial_ratio == 8 and stage == 0 else 1
            self.temporal.extend(
                [
                    Conv3d(4 * c, 4 * c, 3, stride=(2, space, space), padding=1),
                    block(4 * c, 4 * c),
                    block(4 * c, 4 * c),
                ]
            )
        moments = Conv3d(4 * c, 2 * config.latent_channels, 3, padding=1)
        assert moments.bias is not None
        nn.init.constant_(moments.bias[config.latent_channels :], INITIAL_LOGVAR)
        self.out = nn.Sequential(config.norm(4 * c), nn.SiLU(), moments)

    def forward(self, frames: Tensor) -> Gaussian:
        moments = self.out(self.temporal(self.shared(frames)))  # (B, 2d, d_t, h, w)
        mean, logvar = (half.flatten(1, 2) for half in moments.float().chunk(2, dim=1))
        return Gaussian(mean, logvar.clamp(*LOGVAR_RANGE))


class FusionDecoder(nn.Module):
    """D_V: motion features meet the content map of their scale after every block; time is grown last."""

    def __init__(self, config: MCDVAEConfig) -> None:
        super().__init__()
        w1, w2, w3 = config.content_widths
        fuse = config.fusion
        block, level = partial(Residual3d, norm=config.norm), partial(FusedLevel, norm=config.norm)
        self.latent = (config.latent_channels, config.latent_frames)
        self.conv_in = Conv3d(config.latent_channels, w3, 3, padding=1)
        self.middle1, self.middle_fuse = block(w3, w3), fuse(w3)
        self.middle2, self.middle3 = block(w3, w3), block(w3, w3)
        self.up3, self.up3_fuse = None, None
        if config.spatial_ratio == 8:
            self.up3, self.up3_fuse = Upsample(w3, scale=(1, 2, 2)), fuse(w3)
        self.level3, self.up2 = level(w3, w3, fuse), Upsample(w3, scale=(2, 2, 2))
        self.level2, self.up1 = level(w3, w2, fuse), Upsample(w2, scale=(2, 2, 2))
        self.level1 = level(w2, w1, fuse)
        self.tail = nn.Sequential(*(block(w1, w1) for _ in range(config.blocks_before_tail)))
        for _ in range(config.temporal_stages):
            self.tail.append(Upsample(w1, scale=(2, 1, 1), kernel=TIME_KERNEL))
            if not config.thin_tail:
                self.tail.extend([block(w1, w1), block(w1, w1)])
        self.out = nn.Sequential(config.norm(w1), nn.SiLU(), Conv3d(w1, config.output.channels, 3, padding=1))
        self.output = config.output(self.last)

    def forward(self, latents: Tensor, content: ContentFeatures) -> Tensor:
        f1, f2, f3 = content.maps
        x = self.conv_in(torch.unflatten(latents.to(f1), 1, self.latent))  # (B, 4c, d_t, h, w)
        x = self.middle_fuse(self.middle1(x), content.f_x0)
        x = self.middle3(self.middle2(x))
        if self.up3 is not None and self.up3_fuse is not None:
            x = self.up3_fuse(self.up3(x), f3)
        x = self.up2(self.level3(x, f3))
        x = self.up1(self.level2(x, f2))
        x = self.tail(self.level1(x, f1))  # 4 frames at H x W, then L
        frames: Tensor = self.output(self.out(x), content.picture)
        return frames

    @property
    def last(self) -> Conv3d:
        """The last convolution, where the adversary's gradient is measured."""
        last = self.out[-1]
        assert isinstance(last, Conv3d)
        return last


class FusedLevel(nn.Module):
    """Three times a residual block and a fusion."""

    def __init__(self, in_width: int, width: int, fuse: type[Fusion], norm: Norm) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual3d(in_width if i == 0 else width, width, norm) for i in range(3))
        self.fusions = nn.ModuleList(fuse(width) for _ in range(3))

    def forward(self, x: Tensor, content_map: Tensor) -> Tensor:
        for block, fusion in zip(self.blocks, self.fusions, strict=True):
            x = fusion(block(x), content_map)
        return x


class Fusion(nn.Module, ABC):
    """Joins a content map (B, c, h, w) to motion features (B, c, T, h, w) of the same width and grid.

    Built as `Fusion(width)`; `name` is what a configuration file calls it.
    """

    name: ClassVar[str]

    @abstractmethod
    def forward(self, features: Tensor, content_map: Tensor) -> Tensor:
        """(B, c, T, h, w) and (B, c, h, w) -> (B, c, T, h, w)."""


class ConcatFusion(Fusion):
    """The paper's: repeat the map over time, concatenate, and mix by a 1x1x1 convolution."""

    name = "concat"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = Conv3d(2 * width, width, 1)

    def forward(self, features: Tensor, content_map: Tensor) -> Tensor:
        repeated = content_map[:, :, None].expand(-1, -1, features.shape[2], -1, -1)
        mixed: Tensor = self.mix(torch.cat([features, repeated], dim=1))
        return mixed


class Output(nn.Module, ABC):
    """What the decoder's last convolution says => frames.

    Built as `Output(convolution)`, which it may set up; `channels` is how many that has, `name` what a configuration file
    calls it. No parameters of its own.
    """

    name: ClassVar[str]
    channels: ClassVar[int]

    def __init__(self, last: Conv3d) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, said: Tensor, picture: Tensor) -> Tensor:
        """(B, channels, T, H, W) and the first frame (B, 3, H, W) => pixels (B, 3, T, H, W)."""


class FrameOutput(Output):
    """The paper's: frames."""

    name = "frames"
    channels = 3

    def forward(self, said: Tensor, picture: Tensor) -> Tensor:
        return said


class BlendOutput(Output):
    """Ours: x = x_0 + m (y - x_0), m = sigmoid of a fourth channel: what stands still is the picture itself.

    Where little moves, most of an autoencoder's training goes into redrawing what it was given; here it starts near the
    picture and learns what changes. A plain residual x_0 + y would leave outlines of what has gone.
    """

    name = "blend"
    channels = 4
    FRESH_MASK = -1.0  # m = .27 at the start: near the picture, with a gradient

    def __init__(self, last: Conv3d) -> None:
        super().__init__(last)
        assert last.bias is not None
        nn.init.constant_(last.bias[3:], self.FRESH_MASK)

    def forward(self, said: Tensor, picture: Tensor) -> Tensor:
        drawn, mask = said[:, :3].float(), said[:, 3:].float().sigmoid()  # (B, 3, T, H, W), (B, 1, T, H, W)
        still = picture[:, :, None].float()
        return still + mask * (drawn - still)


class LatentNorm(nn.Module, ABC):
    """Brings samples of the posterior to unit scale per channel, over the data set and never per clip.

    A norm of its own for every clip would delete how *much* moves. Built as `LatentNorm(channels)`; `name` is
    what a configuration file calls it.
    """

    name: ClassVar[str]

    @abstractmethod
    def forward(self, sample: Tensor) -> Tensor:
        """z~ (B, d, h, w) => z_m, same shape."""


class BatchLatentNorm(LatentNorm):
    """BatchNorm without affine part, the default: batch statistics in training, running ones after."""

    name = "bn"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False, momentum=0.05)

    def forward(self, sample: Tensor) -> Tensor:
        latents: Tensor = self.norm(sample)
        return latents


class StdLatentNorm(LatentNorm):
    """(z~ - mean) / std with constants measured once, by `fit`, on about ten thousand clips."""

    name = "std"
    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))

    def forward(self, sample: Tensor) -> Tensor:
        return (sample - self.mean) / self.std

    @torch.no_grad()
    def fit(self, samples: Iterable[Tensor]) -> None:
        """Measure the constants on batches (B, d, h, w) of posterior samples."""
        count = 0
        total, squares = torch.zeros(2, self.mean.shape[1], dtype=torch.float64)
        for batch in samples:
            values = batch.double().cpu().transpose(0, 1).flatten(1)  # (d, B h w)
            count += values.shape[1]
            total += values.sum(dim=1)
            squares += values.square().sum(dim=1)
        assert count > 1, "fit needs samples"
        mean = total / count
        self.mean.copy_(mean.view_as(self.mean))
        self.std.copy_((squares / count - mean.square()).clamp(min=1e-12).sqrt().view_as(self.std))


class NoLatentNorm(LatentNorm):
    """The latent as it is, for a bottleneck whose KL term is strong enough to keep the scale."""

    name = "none"

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, sample: Tensor) -> Tensor:
        return sample


LATENT_NORMS: dict[str, type[LatentNorm]] = {
    part.name: part for part in (BatchLatentNorm, StdLatentNorm, NoLatentNorm)
}
FUSIONS: dict[str, type[Fusion]] = {part.name: part for part in (ConcatFusion,)}
OUTPUTS: dict[str, type[Output]] = {part.name: part for part in (FrameOutput, BlendOutput)}
PARTS: dict[str, Mapping[str, type[nn.Module]]] = {
    "z_norm": LATENT_NORMS,
    "fusion": FUSIONS,
    "output": OUTPUTS,
}


class Residual2d(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution on x where the width changes."""

    def __init__(self, in_width: int, width: int, norm: Norm = group_norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(norm(in_width), nn.SiLU(), nn.Conv2d(in_width, width, 3, padding=1)),
            *(norm(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)),
        )
        self.skip = nn.Identity() if in_width == width else nn.Conv2d(in_width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.skip(x) + self.body(x)
        return output


class Residual3d(nn.Module):
    """`Residual2d` with 3x3x3 convolutions."""

    def __init__(self, in_width: int, width: int, norm: Norm = group_norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(norm(in_width), nn.SiLU(), Conv3d(in_width, width, 3, padding=1)),
            *(norm(width), nn.SiLU(), Conv3d(width, width, 3, padding=1)),
        )
        self.skip = nn.Identity() if in_width == width else Conv3d(in_width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.skip(x) + self.body(x)
        return output


class Upsample(nn.Module):
    """Nearest neighbour by `scale` in (time, height, width), then a convolution."""

    def __init__(
        self, width: int, scale: tuple[int, int, int], kernel: tuple[int, int, int] = (3, 3, 3)
    ) -> None:
        super().__init__()
        self.scale = scale
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = Conv3d(width, width, kernel, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        grown = F.interpolate(x, scale_factor=tuple(float(s) for s in self.scale), mode="nearest")
        output: Tensor = self.conv(grown)
        return output


class SelfAttention2d(nn.Module):
    """Single-head attention over places, residual."""

    def __init__(self, width: int, norm: Norm = group_norm) -> None:
        super().__init__()
        self.norm = norm(width)
        self.to_qkv = nn.Conv2d(width, 3 * width, 1)
        self.to_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2)  # (B, n, 3c)
        q, k, v = qkv[:, None].chunk(3, dim=-1)  # (B, 1, n, c): one head
        attended = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).view_as(x)
        output: Tensor = x + self.to_out(attended)
        return output


def _expect(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {value}, expected {expected}", fix=f"set {name} to {expected}")


def _did_you_mean(given: str, known: list[str]) -> str:
    close = get_close_matches(given, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(known)}"

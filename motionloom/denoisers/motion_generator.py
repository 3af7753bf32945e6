"""The motion generator as one file: the UNet, and what turns a picture and words into its condition.

first frame -> f_x0 -> content tokens (+ aligned map) ┐
caption -> ids ------> text tokens, mask -------------┼-> MotionCondition -> MotionUNet
last frame, motion before -> hints -------------------┘

Hints are ours: where the clip is to end, for interpolation and loops, and how the piece before it moved, for long clips. A
model is built with them or without; one that has them was trained with each of them missing half of the time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from motionloom.conditions.content import AlignedContent, content_tokens
from motionloom.conditions.text import TextEncoder, TextEncoderConfig
from motionloom.denoisers.base import MotionCondition, PredictionType
from motionloom.denoisers.motion_unet import MotionUNet, MotionUNetConfig
from motionloom.errors import ConfigError, InputError, WeightsError
from motionloom.weights import load_strictly, load_weights, save_weights


@dataclass(frozen=True)
class MotionGeneratorConfig:
    """What a `MotionGenerator` is made of.

    Attributes:
        unet: the denoiser; its `concat_channels` say whether f_x0 is also joined to the latent.
        content_width: channels of the codec's f_x0; equals `unet.context_width`, or nothing could be read.
        text: the text encoder; None for models that read no words.
        words: the vocabulary the text encoder was trained with, in the order of its ids.
        pooled_side: content tokens a side, such as 8 with `concat_channels`; None reads every place.
        prediction_type: what the UNet predicts.
        end_channels: of the last frame's projected features, joined to the latent; 0 reads no last frame.
        previous: whether the motion latent of the piece before is joined to the latent.
    """

    unet: MotionUNetConfig = field(default_factory=MotionUNetConfig)
    content_width: int = 512
    text: TextEncoderConfig | None = None
    words: tuple[str, ...] = ()
    pooled_side: int | None = None
    prediction_type: PredictionType = "epsilon"
    end_channels: int = 0
    previous: bool = False

    @property
    def aligned_channels(self) -> int:
        """Of `unet.concat_channels`, those of the first frame: what the hints and their flags leave."""
        end = self.end_channels + 1 if self.end_channels else 0
        previous = self.unet.in_channels + 1 if self.previous else 0
        return self.unet.concat_channels - end - previous

    def __post_init__(self) -> None:
        if self.aligned_channels < 0:
            raise ConfigError(
                f"the hints need more channels than the {self.unet.concat_channels} joined to the latent",
                fix=f"set concat_channels to at least {self.unet.concat_channels - self.aligned_channels}",
            )
        widths = {"content features": self.content_width, "text tokens": self.text and self.text.width}
        for name, width in widths.items():
            if width not in (None, self.unet.context_width):
                raise ConfigError(
                    f"{name} are {width} wide, the generator's context is {self.unet.context_width}",
                    fix=f"set context_width to {width}",
                )

    def to_json(self) -> str:
        """The configuration as a JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> MotionGeneratorConfig:
        """The inverse of `to_json`."""
        values: dict[str, Any] = json.loads(text)
        unet = values["unet"]
        for name in ("multipliers", "attention_levels"):
            unet[name] = tuple(unet[name])
        encoder = values["text"] and TextEncoderConfig(**values["text"])
        return cls(
            **values | {"unet": MotionUNetConfig(**unet), "text": encoder, "words": tuple(values["words"])}
        )


@dataclass(frozen=True)
class Hint:
    """What a sample may be told, and whether it is.

    Attributes:
        value: (B, c, h, w) on the latent grid.
        given: (B,) bool, False where the sample is not told.
    """

    value: Tensor
    given: Tensor

    @classmethod
    def of(cls, value: Tensor) -> Hint:
        """Told to every sample."""
        return cls(value, torch.ones(len(value), dtype=torch.bool, device=value.device))

    def as_map(self) -> Tensor:
        """(B, c + 1, h, w): the value, 0 where it is not given, and whether it is."""
        given = self.given.to(self.value)[:, None, None, None].expand(-1, 1, *self.value.shape[-2:])
        return torch.cat([self.value * given, given], dim=1)


class MotionGenerator(nn.Module):
    """A `Denoiser` of motion latents that makes its own conditions."""

    def __init__(self, config: MotionGeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MotionGeneratorConfig()
        self.prediction_type: PredictionType = config.prediction_type
        self.unet = MotionUNet(config.unet, config.prediction_type)
        self.text = TextEncoder(config.text) if config.text else None
        channels, width = config.aligned_channels, config.content_width
        self.aligned = AlignedContent(width, channels) if channels else None
        self.end = AlignedContent(width, config.end_channels) if config.end_channels else None

    def condition(
        self,
        f_x0: Tensor,
        text_ids: Tensor | None = None,
        end: Hint | None = None,
        previous: Hint | None = None,
    ) -> MotionCondition:
        """What the UNet is told.

        Args:
            f_x0: (B, content_width, h, w), the first frame's content features.
            text_ids: (B, n) word ids, 0 = padding; None for no text.
            end: the last frame's content features, as f_x0; None for none.
            previous: the motion latent of the piece before, (B, d, h, w); None for none.

        Raises:
            InputError: if there is text and no text encoder, or a hint that this model was not trained with.
        """
        tokens = content_tokens(f_x0, self.config.pooled_side)  # (B, h w, width)
        aligned = self._aligned(f_x0, end, previous)
        count = tokens.shape[1]
        if text_ids is None:
            return MotionCondition(tokens, None, aligned, count)
        if self.text is None:
            raise InputError("this motion generator reads no text", fix="leave the prompt away")
        words, words_mask = self.text(text_ids)
        content_mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return MotionCondition(
            torch.cat([tokens, words.to(tokens)], dim=1),
            torch.cat([content_mask, words_mask], dim=1),
            aligned,
            count,
        )

    def _aligned(self, f_x0: Tensor, end: Hint | None, previous: Hint | None) -> Tensor | None:
        """(B, concat_channels, h, w): the first frame's features, the last frame's, the motion before."""
        if (end is not None and self.end is None) or (previous is not None and not self.config.previous):
            raise InputError(
                "this motion generator was trained without "
                + (
                    "an end frame"
                    if self.end is None and end is not None
                    else "the motion of the piece before"
                ),
                fix="train one with end_frame or previous in its recipe (recipes/lamd/small/long_generator.yaml)",
            )
        maps = [] if self.aligned is None else [self.aligned(f_x0)]
        if self.end is not None:
            hint = end or _untold(f_x0, self.config.content_width)
            maps.append(Hint(self.end(hint.value), hint.given).as_map())
        if self.config.previous:
            hint = previous or _untold(f_x0, self.config.unet.in_channels)
            maps.append(hint.as_map())
        return torch.cat([one.to(f_x0) for one in maps], dim=1) if maps else None

    def forward(self, latents: Tensor, timestep: Tensor, condition: MotionCondition) -> Tensor:
        """See `Denoiser`."""
        prediction: Tensor = self.unet(latents, timestep, condition)
        return prediction

    def save(self, path: Path, schedule: Mapping[str, Any], facts: Mapping[str, str] | None = None) -> Path:
        """Write weights, configuration and noise process as one safetensors file.

        Args:
            path: where to.
            schedule: `sampling.schedules.describe` of the process it was trained with.
            facts: more metadata.

        Raises:
            ResourceError: if the file cannot be written.
        """
        metadata = {"kind": "dmg", "config": self.config.to_json(), "schedule": json.dumps(dict(schedule))}
        return save_weights(path, dict(self.state_dict()), metadata | dict(facts or {}))

    @classmethod
    def load(cls, path: Path) -> tuple[MotionGenerator, dict[str, Any]]:
        """Read a file that `save` wrote: the generator in evaluation mode, and its schedule's description.

        Raises:
            WeightsError: if the file is damaged, is not a motion generator, or its tensors do not fit.
        """
        tensors, metadata = load_weights(path)
        if metadata.get("kind") != "dmg":
            raise WeightsError(
                f"'{path}' holds '{metadata.get('kind', 'weights of unknown kind')}', expected 'dmg'",
                fix="give the generator file of a LaMD model",
            )
        model = cls(MotionGeneratorConfig.from_json(metadata["config"]))
        load_strictly(model, tensors, path)
        schedule: dict[str, Any] = json.loads(metadata["schedule"])
        return model.eval(), schedule


def _untold(f_x0: Tensor, channels: int) -> Hint:
    """A hint that no sample is told."""
    value = f_x0.new_zeros(len(f_x0), channels, *f_x0.shape[-2:])
    return Hint(value, torch.zeros(len(f_x0), dtype=torch.bool, device=f_x0.device))

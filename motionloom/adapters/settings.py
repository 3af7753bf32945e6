"""What an adapter is made of: its settings, and the presets that name where their values come from.

`released` has the numbers of the official code, `paper` what the text of arXiv 2512.20000 states, `default` what we
recommend; docs/systems/miva.md lists every difference.
"""

from __future__ import annotations

import difflib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from motionloom.errors import ConfigError

Family = Literal["unet", "dit", "map"]  # UNetMotionModel; WanTransformer3DModel; MapGenerator
Pooling = Literal["mask", "bilinear", "log_bias"]
PresetName = Literal["default", "released", "paper"]
LARGEST_RANK = 8192


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class CrossFrame(Part):
    """Cross-frame attention (Eq. 2).

    Attributes:
        form: "joint" is one softmax over [first ; previous] with the two weights on the values; "separate" is two
            attentions with the weights on their outputs.
        rank: of W'_Q and W'_O; None is full rank.
        alpha: of the low-rank products, which are scaled by alpha / rank; None is alpha = rank.
        temperature: T of the adaptive weighting.
        neutral: the weighting starts at exactly (0.5, 0.5) instead of at random.
        place: "beside" self-attention, on its input; or "after" it, on the raw residual stream (DiT as released).
        shared: for "separate": one pair (W'_Q, W'_O) for both attentions.
    """

    form: Literal["joint", "separate"] = "joint"
    rank: int | None = Field(default=None, ge=1, le=LARGEST_RANK)
    alpha: float | None = Field(default=None, gt=0)
    temperature: float = Field(default=0.2, gt=0)
    neutral: bool = False
    place: Literal["beside", "after"] = "beside"
    shared: bool = False


class TextFree(Part):
    """The text-free form of cross-attention: "mlp" is B GELU(LN(A q)), "softmax" is softmax(A q) B.

    Attributes:
        bias: of A and B.
    """

    form: Literal["mlp", "softmax"] = "mlp"
    rank: int = Field(default=64, ge=1, le=LARGEST_RANK)
    bias: bool = False


class TemporalLowRank(Part):
    """Low-rank parts of the temporal self-attention: q, k, v and out, scaled by alpha / rank."""

    rank: int = Field(default=32, ge=1, le=LARGEST_RANK)
    alpha: float = Field(default=1.0, gt=0)


class SpatialLowRank(Part):
    """On the map generator: low-rank parts of spatial attentions (q, k, v, out) and convolutions, scaled by alpha / rank."""

    rank: int = Field(default=8, ge=1, le=LARGEST_RANK)
    alpha: float = Field(default=8.0, gt=0)


class Masks(Part):
    """Masked MIVA: frames and subject masks are denoised together, the masks bias attention (Eq. 3).

    Attributes:
        bias: "soft" is Eq. 3; "equality" is the released cross-frame form, log(1[s_p = s_q] + eps).
        pooling: the layer's grid is reached before the logarithm, by averaging the "mask" or by interpolating it
            ("bilinear", the paper's), or after it, by averaging the "log_bias" (released).
        first_sees_itself: frame 0, which is its own previous frame, has B(0, 0) there; False: the released log eps.
        image_guidance: mask tokens also attend to the video tokens of their own frame.
        background: a second text-free part acts where the subject is not.
        gate: the text-free part of video tokens is multiplied by the mask, "hard" (> 0.5) or "soft".
        temporal: temporal attention of each modality on its own, biased by the mask ("split_masked"); on its own, unbiased
            ("split"); or over frames and masks together ("joint").
        out_start: W'_O of the mask stream starts at "zero", or as a copy of the "base"'s (released, full rank alone).
        background_score: of overlapping masks: 1 - max_k s_k ("complement") or the constant 0.5 ("half").
    """

    bias: Literal["soft", "equality"] = "soft"
    pooling: Pooling = "mask"
    first_sees_itself: bool = True
    image_guidance: bool = True
    background: bool = False
    gate: Literal["hard", "soft"] = "hard"
    temporal: Literal["split_masked", "split", "joint"] = "split_masked"
    out_start: Literal["zero", "base"] = "zero"
    background_score: Literal["complement", "half"] = "complement"


class AdapterSettings(Part):
    """Everything an adapter's tensors cannot tell. A part that is None is absent.

    Attributes:
        word: on the map generator, the motion word it is told where the adapter acts.
    """

    preset: str = "default"
    cross_frame: CrossFrame | None = None
    text_free: TextFree | None = None
    temporal: TemporalLowRank | None = None
    masks: Masks | None = None
    spatial: SpatialLowRank | None = None
    word: str | None = None


_PAPER_MASKS = Masks(image_guidance=False, pooling="bilinear")
_RELEASED_MASKS = Masks(
    bias="equality", pooling="log_bias", first_sees_itself=False, temporal="joint", out_start="base"
)
_DIT_RELEASED_MASKS = Masks(pooling="log_bias", first_sees_itself=False, background=True, gate="soft")
_DIT_TEXT_FREE = TextFree(rank=128, bias=True)

# (preset, family) -> (settings without masks, settings of the masks)
PRESETS: dict[tuple[str, Family], tuple[AdapterSettings, Masks]] = {
    ("default", "unet"): (  # 35,444,960 parameters on SD 1.5
        AdapterSettings(cross_frame=CrossFrame(), text_free=TextFree(), temporal=TemporalLowRank()),
        Masks(),
    ),
    ("released", "unet"): (  # 35,444,960
        AdapterSettings(
            preset="released", cross_frame=CrossFrame(), text_free=TextFree(), temporal=TemporalLowRank()
        ),
        _RELEASED_MASKS,
    ),
    ("paper", "unet"): (
        AdapterSettings(
            preset="paper",
            cross_frame=CrossFrame(form="separate", rank=64, temperature=1.0),
            text_free=TextFree(form="softmax"),
            temporal=TemporalLowRank(),
        ),
        _PAPER_MASKS,
    ),
    ("default", "dit"): (  # 35,539,260 on Wan2.1-T2V-1.3B
        AdapterSettings(
            cross_frame=CrossFrame(rank=128, temperature=1.0, place="after"), text_free=_DIT_TEXT_FREE
        ),
        Masks(background=True, gate="soft"),
    ),
    ("released", "dit"): (  # 35,539,260
        AdapterSettings(
            preset="released",
            cross_frame=CrossFrame(rank=128, temperature=1.0, place="after"),
            text_free=_DIT_TEXT_FREE,
        ),
        _DIT_RELEASED_MASKS,
    ),
    ("paper", "dit"): (
        AdapterSettings(
            preset="paper",
            cross_frame=CrossFrame(form="separate", rank=64, temperature=1.0),
            text_free=TextFree(form="softmax", rank=128, bias=True),
        ),
        _PAPER_MASKS,
    ),
    ("default", "map"): (AdapterSettings(text_free=TextFree(), spatial=SpatialLowRank()), Masks()),
}


def preset_settings(preset: str, family: Family, masked: bool = False) -> AdapterSettings:
    """The settings of a preset for a family of hosts.

    Raises:
        ConfigError: there is no such preset, or none with masks: the latent of a map generator has no frames to mask.
    """
    if masked and family == "map":
        raise ConfigError("a map generator takes no masked adapters", fix="leave the masks out")
    if (preset, family) not in PRESETS:
        names = sorted({name for name, of in PRESETS if of == family})
        near = difflib.get_close_matches(preset, names, 1)
        raise ConfigError(
            f"there is no adapter preset {preset!r}",
            fix=f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(names)}",
        )
    settings, masks = PRESETS[preset, family]
    return settings.model_copy(update={"masks": masks}) if masked else settings

"""Parts of a network by tensor names, so that a merge can move time and leave space alone.

A family is a way of naming tensors. Its rows are tried in order and the first that matches a name owns it, so the groups of
a family are disjoint and cover everything.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from motionloom.errors import ConfigError

EVERYTHING = "all"
REGEX = "re:"


@dataclass(frozen=True)
class Family:
    """One way of naming tensors: `mark` occurs in it alone; `rows` maps groups to regular expressions."""

    name: str
    mark: str
    rows: Mapping[str, str]

    def group_of(self, tensor: str) -> str:
        """The first row that matches anywhere in the name."""
        return next(group for group, pattern in self.rows.items() if re.search(pattern, tensor))


FAMILIES = (
    Family(  # the official checkpoints (LVDM); "temopral" is their spelling
        "dynamicrafter",
        r"(^|\.)(input_blocks|output_blocks)\.\d+\.\d+\.",
        {
            "text_adapter": r"cc_projection|^queries$|^qformer\.",
            "temporal_conv": r"temopral_conv",
            "temporal_attention": r"init_attn\.|put_blocks\.\d+\.2\.(?!conv)|middle_block\.2\.",
            "resampling": r"put_blocks\.\d+\.\d+\.(op|conv)\.",
            "spatial_attention": r"put_blocks\.\d+\.1\.|middle_block\.1\.",
            "resblocks": r"put_blocks\.\d+\.0\.(in_layers|emb_layers|out_layers|skip)|middle_block\.[03]\.",
            "embeddings": r"time_embed\.|fps_embedding\.|framestride_embed\.",
            "projector": r"^image_proj_model\.",
            "ends": r"input_blocks\.0\.0\.|diffusion_model\.out\.|^out\.",
            "other": r"",
        },
    ),
    Family(  # diffusers' UNet3DConditionModel names: our DynamiCrafter
        "dynamicrafter-diffusers",
        r"temp_attentions\.",
        {
            "text_adapter": r"cc_projection|text_adapter|queries$|qformer\.",
            "temporal_conv": r"temp_convs\.",
            "temporal_attention": r"temp_attentions\.|transformer_in\.",
            "resampling": r"(down|up)samplers\.",
            "spatial_attention": r"\.attentions\.",
            "resblocks": r"\.resnets\.",
            "embeddings": r"time_embedding\.|fps_embedding\.",
            "projector": r"image_proj|resampler|projector",
            "ends": r"conv_in\.|conv_out\.|conv_norm_out\.",
            "other": r"",
        },
    ),
    Family(  # diffusers' UNetMotionModel
        "animatediff",
        r"motion_modules\.",
        {
            "temporal_attention": r"motion_modules\.",
            "resampling": r"(down|up)samplers\.",
            "spatial_attention": r"\.attentions\.",
            "resblocks": r"\.resnets\.",
            "embeddings": r"time_embedding\.",
            "ends": r"conv_in\.|conv_out\.|conv_norm_out\.",
            "other": r"",
        },
    ),
    Family(  # diffusers' WanTransformer3DModel: attention over space and time at once
        "wan",
        r"condition_embedder\.|scale_shift_table",
        {
            "attention": r"blocks\.\d+\.attn1\.",
            "text_attention": r"blocks\.\d+\.(attn2|norm2)\.",
            "feed_forward": r"blocks\.\d+\.ffn\.",
            "modulation": r"scale_shift_table",
            "embeddings": r"condition_embedder\.|patch_embedding\.",
            "other": r"",
        },
    ),
    Family(  # the shipped model: a codec whose motion is linear, and a generator
        "mini",
        r"(^|[./])unet\.down\.\d+\.residual\.",
        {
            "attention": r"\.transformer\.|\.attend",
            "embeddings": r"unet\.time\.|residual\.time\.",
            "resblocks": r"\.residual\.",
            "projector": r"(^|[./])photo\.",
            "generator_other": r"(^|[./])unet\.",
            "other": r"",
        },
    ),
)


def family_of(names: Iterable[str]) -> Family | None:
    """The family whose mark occurs in the names; None for a network no table knows."""
    known = list(names)
    return next((family for family in FAMILIES if any(re.search(family.mark, name) for name in known)), None)


def select(names: Sequence[str], groups: Sequence[str]) -> list[str]:
    """The names that belong to any of the groups, in order.

    Args:
        names: of tensors.
        groups: "all", groups of the network's family, or "re:PATTERN" (found anywhere in a name).

    Raises:
        ConfigError: an unknown group, a pattern that is no regular expression, or one that no tensor matches.
    """
    if EVERYTHING in groups:
        return list(names)
    family = family_of(names)
    chosen: set[str] = set()
    for group in groups:
        found = _matching(names, group, family)
        if not found:
            raise ConfigError(
                f'the group "{group}" matches none of the {len(names)} tensors', fix=_offer(names, family)
            )
        chosen |= found
    return [name for name in names if name in chosen]


def _matching(names: Sequence[str], group: str, family: Family | None) -> set[str]:
    if group.startswith(REGEX):
        try:
            pattern = re.compile(group.removeprefix(REGEX))
        except re.error as problem:
            raise ConfigError(
                f'the group "{group}" is no regular expression: {problem}', fix="correct the pattern"
            ) from None
        return {name for name in names if pattern.search(name)}
    if family is None or group not in family.rows:
        known = list(family.rows) if family else []
        near = difflib.get_close_matches(group, known, 1, 0.5)
        kind = (
            f"a network of the family {family.name}" if family else "a network that no table of groups knows"
        )
        raise ConfigError(
            f'there is no group "{group}" in {kind}',
            fix=f'did you mean "{near[0]}"?' if near else _offer(names, family),
        )
    return {name for name in names if family.group_of(name) == group}


def _offer(names: Sequence[str], family: Family | None) -> str:
    present = sorted({family.group_of(name) for name in names}) if family else []
    return f"use {', '.join([EVERYTHING, *present])} or {REGEX}PATTERN"


def counts(names: Iterable[str]) -> dict[str, int]:
    """Tensors by group; everything under "all" where no family is known."""
    listed = list(names)
    family = family_of(listed)
    totals: dict[str, int] = {}
    for name in listed:
        group = family.group_of(name) if family else EVERYTHING
        totals[group] = totals.get(group, 0) + 1
    return totals

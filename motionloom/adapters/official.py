"""The authors' key names => ours. Adapter files of the official code are flat dicts of tensors without settings.

U-Net, T a spatial transformer block, B a block with motion modules:

    T.i2v_adapter.{to_q, to_out.0, processor.weight_module.linear, processor.to_q_mask, processor.to_out_mask.0}
    T.sCA.{CA2, CA3, CA_norm}; older files T.{CA2, ...}; background T.sCA_b.{...}
    B.motion_modules.j.temporal_transformer.transformer_blocks.0.attention_blocks.a.processor.to_X_lora.{down, up}

Wan, low rank or full:

    blocks.n.i2v_adapter.{q, o, q_m, o_m}.lora_{A,B}.default.weight, or .weight and .bias
    blocks.n.i2v_adapter.weight_module.linear; blocks.n.cross_attn.{CA2, CA3, CA_norm}; blocks.n.cross_attn_b.{...}

AnimateDiff's MotionLoRA has the temporal keys alone, with an unscaled product; diffusers' export of it names them

    unet.B.motion_modules.j.transformer_blocks.0.attn{1,2}.to_X.lora_{A,B}.weight, or .processor.to_X_lora.{down,up}.weight
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from motionloom.adapters.adapter import Adapter
from motionloom.adapters.layout import Layout, layout_of
from motionloom.adapters.settings import (
    AdapterSettings,
    CrossFrame,
    Masks,
    TemporalLowRank,
    TextFree,
    preset_settings,
)
from motionloom.errors import WeightsError

Tensors = Mapping[str, Tensor]

_UNET_BLOCK = r"(?P<at>.*transformer_blocks\.\d+)"
_WAN_BLOCK = r"(?P<at>blocks\.\d+)"
_TEMPORAL = (
    r"(?P<at>.*motion_modules\.\d+)\.temporal_transformer\.transformer_blocks\.(?P<block>\d+)"
    r"\.attention_blocks\.(?P<a>\d+)\.processor\.(?P<to>to_[qkv]|to_out)_lora\.(?P<part>down|up)\.weight"
)
_DIFFUSERS_TEMPORAL = r"(?:unet\.)?(?P<at>.*motion_modules\.\d+\.transformer_blocks\.\d+\.attn\d)"
_TEXT_FREE = {"CA2": "down", "CA3": "up", "CA_norm": "norm"}
_WAN_PAIRS = {
    "q": ("video", "to_q"),
    "o": ("video", "to_out"),
    "q_m": ("mask", "to_q"),
    "o_m": ("mask", "to_out"),
}

# pattern of an official key -> our key, as a template over the pattern's groups
_RULES: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), template)
    for pattern, template in (
        (_UNET_BLOCK + r"\.i2v_adapter\.to_q\.weight", "{at}.miva.cfa.video.both.to_q.weight"),
        (
            _UNET_BLOCK + r"\.i2v_adapter\.to_out\.0\.(?P<end>weight|bias)",
            "{at}.miva.cfa.video.both.to_out.{end}",
        ),
        (
            _UNET_BLOCK + r"\.i2v_adapter\.processor\.weight_module\.linear\.(?P<end>weight|bias)",
            "{at}.miva.cfa.weighting.linear.{end}",
        ),
        (_UNET_BLOCK + r"\.i2v_adapter\.processor\.to_q_mask\.weight", "{at}.miva.cfa.mask.both.to_q.weight"),
        (
            _UNET_BLOCK + r"\.i2v_adapter\.processor\.to_out_mask\.0\.(?P<end>weight|bias)",
            "{at}.miva.cfa.mask.both.to_out.{end}",
        ),
        (
            _UNET_BLOCK + r"(?:\.sCA)?\.(?P<ca>CA2|CA3|CA_norm)\.(?P<end>weight|bias)",
            "{at}.miva.ca.{ca}.{end}",
        ),
        (
            _UNET_BLOCK + r"\.sCA_b\.(?P<ca>CA2|CA3|CA_norm)\.(?P<end>weight|bias)",
            "{at}.miva.ca_background.{ca}.{end}",
        ),
        (_TEMPORAL, "{at}.transformer_blocks.{block}.attn{a}.{to}.{part}.weight"),
        (
            _DIFFUSERS_TEMPORAL + r"\.processor\.(?P<to>to_[qkv]|to_out)_lora\.(?P<part>down|up)\.weight",
            "{at}.{to}.{part}.weight",
        ),
        (
            _DIFFUSERS_TEMPORAL + r"\.(?P<to>to_[qkv]|to_out)(?:\.0)?\.lora_(?P<ab>A|B)\.weight",
            "{at}.{to}.lora_{ab}.weight",
        ),
        (
            _WAN_BLOCK + r"\.i2v_adapter\.(?P<pair>q|o|q_m|o_m)\.lora_(?P<ab>A|B)(?:\.default)?\.weight",
            "{at}.miva.cfa.{pair}.lora_{ab}.weight",
        ),
        (
            _WAN_BLOCK + r"\.i2v_adapter\.(?P<pair>q|o|q_m|o_m)\.(?P<end>weight|bias)",
            "{at}.miva.cfa.{pair}.{end}",
        ),
        (
            _WAN_BLOCK + r"\.i2v_adapter\.weight_module\.linear\.(?P<end>weight|bias)",
            "{at}.miva.cfa.weighting.linear.{end}",
        ),
        (
            _WAN_BLOCK + r"\.cross_attn\.(?P<ca>CA2|CA3|CA_norm)\.(?P<end>weight|bias)",
            "{at}.miva.ca.{ca}.{end}",
        ),
        (
            _WAN_BLOCK + r"\.cross_attn_b\.(?P<ca>CA2|CA3|CA_norm)\.(?P<end>weight|bias)",
            "{at}.miva.ca_background.{ca}.{end}",
        ),
    )
]


def our_key(official: str) -> str | None:
    """Our key of an official one; None when it is not an adapter's."""
    for pattern, template in _RULES:
        if match := pattern.fullmatch(official):
            return template.format(**{name: _renamed(name, text) for name, text in match.groupdict().items()})
    return None


def _renamed(group: str, text: str) -> str:
    if group == "a":
        return str(int(text) + 1)  # attention_blocks.0 is attn1
    if group == "part":
        return {"down": "lora_A", "up": "lora_B"}[text]
    if group == "pair":
        modality, projection = _WAN_PAIRS[text]
        return f"{modality}.both.{projection}"
    return _TEXT_FREE.get(text, text)


def renamed_keys(tensors: Tensors, name: str) -> dict[str, Tensor]:
    """Official tensors under our keys.

    Raises:
        WeightsError: naming the keys that are not an adapter's, or that fall together.
    """
    ours: dict[str, Tensor] = {}
    unknown = [key for key in tensors if our_key(key) is None]
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise WeightsError(
            f"{name} has {len(unknown)} of {len(tensors)} keys that no MIVA adapter has ({shown})",
            fix="give an adapter alone: not a whole model, and not adapters merged into one file",
        )
    for key, tensor in tensors.items():
        ours_key = our_key(key)
        assert ours_key is not None
        if ours_key in ours:
            raise WeightsError(f"{name} holds {ours_key!r} twice, under two names", fix="export it again")
        ours[ours_key] = tensor
    return ours


def adapter_from_official(
    source: str | os.PathLike[str] | Tensors,
    host: Any,
    preset: str = "released",
    temperature: float = 0.2,
    lora_alpha: float = 1,
) -> Adapter:
    """An adapter from the authors' key names.

    Args:
        source: an official checkpoint (.pt, .ckpt, .safetensors), or its dict of tensors, also inside {"state_dict": ...}.
        host: the UNetMotionModel or WanTransformer3DModel (any size) it belongs to, or a denoiser that wraps one.
        preset: how what the file cannot tell is read: "released", "paper" or "default".
        temperature: T of the adaptive weighting; the official U-Net configuration has 0.2, its class and Wan 1.
        lora_alpha: of every low-rank part, scaled by alpha / rank: 1 in the official U-Net; Wan files do not say.

    Returns:
        an Adapter on the CPU; ranks, masks and background part are read from the tensors.

    Raises:
        WeightsError: keys that are missing, left over, or of another shape than the host's.
        ConfigError: an unknown preset, or a host that cannot carry adapters.
    """
    name = "the checkpoint" if isinstance(source, Mapping) else f'"{os.fspath(source)}"'
    tensors = unwrapped(source) if isinstance(source, Mapping) else read_checkpoint(source)
    return adapter_from_renamed(
        renamed_keys(tensors, name), layout_of(host), preset, temperature, lora_alpha, name
    )


def adapter_from_renamed(
    tensors: Tensors, layout: Layout, preset: str, temperature: float, lora_alpha: float | None, name: str
) -> Adapter:
    """An adapter from tensors under our keys, with its settings read from their names and shapes."""
    from motionloom.weights import load_strictly

    settings = _settings_of(tensors, layout, preset, temperature, lora_alpha, name)
    with torch.device("meta"):
        adapter = Adapter(layout, settings)
    adapter.to_empty(device="cpu")
    load_strictly(adapter, tensors, name.strip('"'))
    return adapter


def unwrapped(source: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint, without the {"state_dict": ...} and "module." around them.

    Raises:
        WeightsError: it holds something other than tensors.
    """
    inner = source.get("state_dict")
    found: Mapping[str, Any] = inner if isinstance(inner, Mapping) else source
    for key, value in found.items():
        if not isinstance(value, Tensor):
            raise WeightsError(
                f"the checkpoint holds a {type(value).__name__} under {key!r}, expected tensors only",
                fix="give a flat dict of tensors",
            )
    if not found:
        raise WeightsError("the checkpoint is empty", fix="export it again")
    return {key.removeprefix("module."): value for key, value in found.items()}


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors of an official checkpoint file; of a pickle, tensors alone are read.

    Raises:
        WeightsError: missing, damaged, or not a checkpoint of tensors.
    """
    from motionloom.merging.checkpoint import open_checkpoint

    with open_checkpoint(path) as opened:
        return unwrapped({key: opened[key] for key in opened})


def _settings_of(
    tensors: Tensors, layout: Layout, preset: str, temperature: float, lora_alpha: float | None, name: str
) -> AdapterSettings:
    parts = preset_settings(preset, layout.family, masked=True)
    cross, text, masks = parts.cross_frame, parts.text_free, parts.masks
    assert cross is not None and text is not None and masks is not None
    has_cfa = any(".miva.cfa." in key for key in tensors)
    has_ca = any(".miva.ca." in key for key in tensors)
    has_temporal = any("motion_modules" in key for key in tensors)
    if has_cfa != has_ca:
        lost = "text-free cross-attention" if has_cfa else "cross-frame attention"
        raise WeightsError(
            f"{name} has no {lost}",
            fix="the official code's split files lose it: give the single adapter file",
        )
    is_masked = any(".cfa.mask." in key for key in tensors)
    has_background = any(".ca_background." in key for key in tensors)
    rank = _rank(tensors, r"\.cfa\.video\.both\.to_q\.lora_A\.weight")
    temporal_rank = _rank(tensors, r"attn\d\.to_q\.lora_A\.weight") or 1
    alpha = None if lora_alpha is None else float(lora_alpha)
    place: Literal["after", "beside"] = "after" if layout.family == "dit" else "beside"
    return AdapterSettings(
        preset=preset,
        cross_frame=CrossFrame(rank=rank, alpha=alpha if rank else None, temperature=temperature, place=place)
        if has_cfa
        else None,
        text_free=TextFree(
            rank=_rank(tensors, r"\.miva\.ca\.down\.weight") or 1,
            bias=any(key.endswith(".ca.down.bias") for key in tensors),
        )
        if has_ca
        else None,
        temporal=TemporalLowRank(rank=temporal_rank, alpha=alpha or temporal_rank) if has_temporal else None,
        masks=Masks.model_validate(masks.model_dump() | {"background": has_background})
        if is_masked
        else None,
    )


def _rank(tensors: Tensors, ending: str) -> int | None:
    """Rows of the first matrix whose key ends so; None when there is none."""
    return next((len(t) for key, t in tensors.items() if re.search(ending + "$", key) and t.ndim == 2), None)

"""official checkpoint -> our files: the verb `convert`.

result = convert("adapter.pt", "adapters/")                       # MIVA on AnimateDiff
result = convert("wan.ckpt", "adapters/", lora_alpha=128)         # MIVA on Wan
result = convert("model.ckpt", "dynamicrafter-512/")              # DynamiCrafter, as a base

Each kind of checkpoint is one row of ROWS: how its tensor names are recognised, and what converts it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motionloom.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from motionloom.adapters.layout import Layout

Names = Mapping[str, object]  # tensor names of a checkpoint


@dataclass(frozen=True)
class Options:
    """What a checkpoint does not say.

    Attributes:
        base: name of the base an adapter belongs to; None finds it from the tensors.
        motion: what the adapter is called; None takes the file's name.
        preset: how what the tensors cannot tell is read.
        temperature: of the adaptive weighting; None takes the release's: 0.2 for a U-Net, 1 for Wan.
        lora_alpha: of low-rank parts, scaled by alpha / rank; None takes the release's 1 for a U-Net; Wan files need it.
        like: folder of a converted DynamiCrafter whose sizes and settings the checkpoint has; None knows the released ones.
    """

    base: str | None = None
    motion: str | None = None
    preset: str = "released"
    temperature: float | None = None
    lora_alpha: float | None = None
    like: str | os.PathLike[str] | None = None


@dataclass(frozen=True)
class Row:
    """One kind of checkpoint.

    Attributes:
        kind: what it is called.
        recognises: its tensor names => whether they are of this kind.
        convert: (checkpoint, output folder or file, options) => what was written.
    """

    kind: str
    recognises: Callable[[Names], bool]
    convert: Callable[[Path, Path, Options], Path]


def convert(
    source: str | os.PathLike[str], out: str | os.PathLike[str], options: Options | None = None, **given: Any
) -> dict[str, Any]:
    """Convert an official checkpoint; nothing is written unless every tensor is accounted for.

    Args:
        source: a .ckpt, .pt, .pth, .bin or .safetensors file. Of pickles, tensors alone are read.
        out: a folder; for an adapter also a name ending in .safetensors.
        options: see `Options`; or its fields by keyword.

    Returns:
        {"kind": what it was, "path": what was written}.

    Raises:
        WeightsError: damaged, unknown, or with tensors missing or left over.
        ConfigError: a value is needed that the file does not hold.
        InputError, ResourceError: `out` cannot be written.
    """
    from motionloom.merging.checkpoint import open_checkpoint

    source = Path(source)
    with open_checkpoint(source) as opened:
        names: Names = dict.fromkeys(opened)
    for row in ROWS:
        if row.recognises(names):
            return {"kind": row.kind, "path": row.convert(source, Path(out), options or Options(**given))}
    first = ", ".join(list(names)[:3])
    raise WeightsError(
        f'"{source}" is no checkpoint MotionLoom converts; its tensors are {first}, ...',
        fix=f"give one of: {', '.join(row.kind for row in ROWS)}",
    )


# --- adapters -----------------------------------------------------------------------------------------------


def _is_miva(names: Names) -> bool:
    return any(".i2v_adapter." in name for name in names)


def _is_motion_lora(names: Names) -> bool:
    return any("motion_modules" in name and "lora" in name for name in names) and not _is_miva(names)


def _convert_adapter(source: Path, out: Path, options: Options) -> Path:
    from motionloom.adapters.official import adapter_from_renamed, read_checkpoint, renamed_keys

    tensors = renamed_keys(read_checkpoint(source), f'"{source}"')
    base, layout = _base_of(tensors, options.base)
    is_dit, is_motion_lora = layout.family == "dit", not any(".miva." in name for name in tensors)
    if is_dit and options.lora_alpha is None and any(".lora_A." in name for name in tensors):
        raise ConfigError(
            f'"{source}" has low-rank parts, and Wan checkpoints do not say their alpha',
            fix="give --lora-alpha, the value it was trained with (often the rank)",
        )
    alpha = options.lora_alpha
    if alpha is None and not is_motion_lora:  # MotionLoRA's product is not scaled: alpha = rank
        alpha = 1.0
    temperature = options.temperature or (1.0 if is_dit else 0.2)
    adapter = adapter_from_renamed(tensors, layout, options.preset, temperature, alpha, f'"{source}"')
    adapter.motion = source.stem if options.motion is None else options.motion
    adapter.base, adapter.facts = base, {"converted from": source.name}
    target = out if out.suffix == ".safetensors" else out / f"{source.stem}.safetensors"
    return adapter.save(target)


def _base_of(tensors: Names, wanted: str | None) -> tuple[str, Layout]:
    """Name and layout of the base an adapter belongs to."""
    from motionloom.adapters.layout import layout_of

    if wanted is None:
        if any(name.startswith("blocks.") for name in tensors):
            wanted = "wan2.1-t2v-1.3b"
        else:  # the motion modules of v2 alone have one in the middle
            wanted = (
                "animatediff-v2" if any("mid_block.motion" in name for name in tensors) else "animatediff-v3"
            )
    if wanted in _EMPTY_NETWORKS:
        return wanted, layout_of(_EMPTY_NETWORKS[wanted]())
    from motionloom.denoisers.catalog import load_base

    return wanted, layout_of(load_base(wanted).denoiser)


def _animatediff(mid_block: bool) -> Any:
    import torch
    from diffusers import UNetMotionModel

    with torch.device("meta"):
        return UNetMotionModel(  # type: ignore[no-untyped-call]
            cross_attention_dim=768, use_motion_mid_block=mid_block
        )


def _wan() -> Any:
    import torch
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        return WanTransformer3DModel(  # type: ignore[no-untyped-call]
            num_attention_heads=12, ffn_dim=8960, num_layers=30
        )


# base -> its network without values: enough to know its layout, and nothing is downloaded
_EMPTY_NETWORKS: dict[str, Callable[[], Any]] = {
    "animatediff-v3": lambda: _animatediff(mid_block=False),
    "animatediff-v2": lambda: _animatediff(mid_block=True),
    "wan2.1-t2v-1.3b": _wan,
}


# --- bases --------------------------------------------------------------------------------------------------


def _is_dynamicrafter(names: Names) -> bool:
    from motionloom.denoisers.dynamicrafter.checkpoint import is_dynamicrafter

    return is_dynamicrafter(names)


def _convert_dynamicrafter(source: Path, out: Path, options: Options) -> Path:
    from motionloom.denoisers.dynamicrafter.checkpoint import convert_dynamicrafter
    from motionloom.denoisers.dynamicrafter.folder import read_config

    return convert_dynamicrafter(
        source, out, None if options.like is None else read_config(Path(options.like))
    )


ROWS: list[Row] = [
    Row("MIVA adapter", _is_miva, _convert_adapter),
    Row("AnimateDiff MotionLoRA", _is_motion_lora, _convert_adapter),
    Row("DynamiCrafter checkpoint", _is_dynamicrafter, _convert_dynamicrafter),
]

"""A merge in other forms than a full checkpoint: the difference to its base, as it is, factorised, or for ComfyUI.

Every function writes below a folder and returns what it left out and why: a form that cannot hold a tensor says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from motionloom.durable import Section, write_json
from motionloom.errors import WeightsError
from motionloom.merging.checkpoint import EXPERTS_FOLDER
from motionloom.merging.low_rank import Factors, factors, product
from motionloom.merging.streaming import Merge, PiecewiseFile, Progress
from motionloom.weights import save_weights

KIND_KEY = "motionloom.kind"
UNET_PREFIX = "model."  # official checkpoints: model.diffusion_model.*; ComfyUI: diffusion_model.*


@dataclass
class Left:
    """What an export could not hold: name -> reason; and how much of the difference was lost (LoRA)."""

    tensors: dict[str, str] = field(default_factory=dict)
    lost_share: float | None = None  # of the sum of squares of the difference


def stem(output: str) -> str:
    """File name of an output without its suffix."""
    return output or "merged"


def write_differences(merge: Merge, folder: Path, progress: Progress | None) -> Left:
    """`merged - base` of every changed tensor, a file an output: what `sampling.experts` and the dial read."""
    _write(merge, folder, "difference", _own_name, progress)
    return Left()


def write_experts(merge: Merge, folder: Path, progress: Progress | None) -> Left:
    """The base as it is, and in `experts/` both differences with the schedule: what `animate --motion-degree` dials."""
    copy_base(merge, folder)
    left = write_differences(merge, folder / EXPERTS_FOLDER, progress)
    write_json(folder / EXPERTS_FOLDER / "schedule.json", merge.recipe.schedule.model_dump(mode="json"))
    return left


def write_comfyui(merge: Merge, folder: Path, progress: Progress | None) -> Left:
    """A file for ComfyUI's LoRA loader at any strength: `.diff` for weights, `.diff_b` for biases, uncompressed.

    Only the diffusion model can be patched that way: other tensors (an image projector) are left out, by name.
    """
    left = Left()
    wrapped = any(".diffusion_model." in f".{name}" for name in merge.names)
    weights = {name for name in merge.names if name.endswith(".weight")}

    def name_for_comfyui(name: str) -> str | None:
        if wrapped and not name.startswith(("model.diffusion_model.", "diffusion_model.")):
            left.tensors[name] = "lies outside the diffusion model"
            return None
        inside = name.removeprefix(UNET_PREFIX).removeprefix("diffusion_model.")
        if name in weights:
            return f"lora_unet_{inside.removesuffix('.weight').replace('.', '_')}.diff"
        if name.endswith(".bias") and name.removesuffix(".bias") + ".weight" in weights:
            return f"lora_unet_{inside.removesuffix('.bias').replace('.', '_')}.diff_b"
        return f"diffusion_model.{inside}.diff"

    _write(merge, folder, "ComfyUI difference", name_for_comfyui, progress)
    return left


def write_lora(merge: Merge, folder: Path, progress: Progress | None) -> Left:
    """The difference of every changed weight of two axes or more as `lora_A` and `lora_B` of scale 1.

    Rank or energy as the recipe's `lora` says. Biases, gains and other tensors have no place in a LoRA: left out, by name,
    and counted in `lost_share`.
    """
    left = Left()
    asked, dtype = merge.recipe.lora, getattr(torch, merge.recipe.difference_dtype)
    for output, names in merge.changed.items():
        pairs: dict[str, Tensor] = {}
        lost, total = 0.0, 0.0
        for name, difference in _differences(merge, output, sorted(names), progress):
            squares = float(difference.square().sum())
            total += squares
            if difference.ndim < 2 or not name.endswith(".weight"):
                left.tensors[name] = "a LoRA holds weights of two axes or more"
                lost += squares
                continue
            pair = factors(difference, asked.rank, asked.energy)
            lost += float((difference - product(pair, difference.shape)).square().sum())
            pairs |= _lora_tensors(name.removesuffix(".weight"), pair, difference.shape, dtype)
        if not pairs:
            raise WeightsError("no changed tensor can be held by a LoRA", fix="export delta instead")
        left.lost_share = max(left.lost_share or 0.0, lost / total)
        save_weights(folder / f"{stem(output)}.safetensors", pairs, {KIND_KEY: "lora"})
    return left


def copy_base(merge: Merge, folder: Path) -> None:
    """Everything of the base's folder, or its one file, unchanged."""
    if merge.base.path.is_dir():
        copy_companions(merge, folder)
    for file in merge.base.files:
        root = merge.base.path if merge.base.path.is_dir() else merge.base.path.parent
        target = folder / file.path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.path, target)
        merge.written[target] = [Section(target.stat().st_size, file.sha256())]


def copy_companions(merge: Merge, folder: Path) -> None:
    """What stands beside the base's weights and is needed to load them: configurations, vocabularies, indices.

    The index of shards stays right, for shards keep their names and tensors; under keys: union or shared, and under another
    dtype, it is left out and readers look into the shards.
    """
    if not merge.base.path.is_dir():
        return
    moved = merge.recipe.keys in ("union", "shared") or merge.recipe.dtype != "keep"
    for path in sorted(merge.base.path.rglob("*")):
        inside = path.relative_to(merge.base.path)
        skipped = path.suffix in (".safetensors", ".md", ".bin", ".ckpt", ".pt", ".pth", ".png", ".jpg")
        if not path.is_file() or skipped or inside.name in OWN_FILES or inside.parts[0] == EXPERTS_FOLDER:
            continue
        if any(part.startswith(".") for part in inside.parts) or (
            moved and path.name.endswith(".index.json")
        ):
            continue
        (folder / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / inside)


OWN_FILES = ("MANIFEST.json", "merge.json", "merge.yaml", "numbers.json")

EXPORTS: dict[str, Callable[[Merge, Path, Progress | None], Left]] = {
    "experts": write_experts,
    "delta": write_differences,
    "lora": write_lora,
    "comfyui": write_comfyui,
}


def _write(
    merge: Merge,
    folder: Path,
    kind: str,
    rename: Callable[[str], str | None],
    progress: Progress | None,
) -> None:
    """One file an output, tensor by tensor."""
    dtype = getattr(torch, merge.recipe.difference_dtype)
    folder.mkdir(parents=True, exist_ok=True)
    for output, changed in merge.changed.items():
        names = [(name, new) for name in merge.names if name in changed and (new := rename(name)) is not None]
        if not names:
            raise WeightsError(
                f"no changed tensor can be held by a {kind}", fix="export full or delta instead"
            )
        listed = [(new, dtype, merge.stored(name).shape) for name, new in names]
        metadata = {KIND_KEY: kind, "motionloom.merge": merge.recipe.method.model_dump_json()}
        with PiecewiseFile(folder / f"{stem(output)}.safetensors", listed, metadata) as file:
            for _, difference in _differences(merge, output, [name for name, _ in names], progress):
                file.write(difference.to(dtype))
        merge.written[file.path] = file.sections


def _differences(
    merge: Merge, output: str, names: list[str], progress: Progress | None
) -> Iterator[tuple[str, Tensor]]:
    """(name, merged - base), float32, whole tensors."""
    for index, name in enumerate(names):
        base = merge.base[name].float()
        yield name, merge.result(name)[output] - base
        if progress is not None:
            progress(f"differences {stem(output)}", index + 1, len(names))


def _own_name(name: str) -> str:
    return name


def _lora_tensors(place: str, pair: Factors, shape: torch.Size, dtype: torch.dtype) -> dict[str, Tensor]:
    """Kernels keep their axes in A and have 1 x 1 kernels in B, as LoRA files do."""
    rank = pair.up.shape[1]
    up = pair.up.reshape(shape[0], rank, *[1] * (len(shape) - 2))
    down = pair.down.reshape(rank, *shape[1:])
    return {
        f"{place}.lora_A.weight": down.to(dtype).contiguous(),
        f"{place}.lora_B.weight": up.to(dtype).contiguous(),
    }

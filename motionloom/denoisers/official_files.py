"""Models from the files their authors published: names translated by diffusers' converters, every tensor accounted for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from motionloom.errors import WeightsError
from motionloom.merging.checkpoint import open_checkpoint
from motionloom.weights import load_strictly

Convert = Callable[[dict[str, Tensor]], dict[str, Tensor]]  # official names => diffusers' names


def read_part(path: str | os.PathLike[str], prefix: str = "") -> dict[str, Tensor]:
    """The tensors below a prefix, under their full names; others are not read, and no pickle is trusted.

    Args:
        path: .safetensors, .ckpt, .pt or .pth.
        prefix: such as "model.diffusion_model.".

    Raises:
        WeightsError: the file is missing, damaged or no weights; it has no such tensor; one holds NaN or Inf.
    """
    with open_checkpoint(path) as opened:
        tensors = {name: opened[name] for name in opened if name.startswith(prefix)}
    if not tensors:
        raise WeightsError(
            f'"{path}" has no tensor below "{prefix}"', fix="give the whole official checkpoint"
        )
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise WeightsError(f'"{path}": "{name}" holds NaN or Inf', fix="download the file again")
    return tensors


def fill(
    model: torch.nn.Module, tensors: Mapping[str, Tensor], convert: Convert, path: str | os.PathLike[str]
) -> None:
    """Give a model the values of official tensors; the converter may drop none, and the model may miss none.

    Args:
        model: a diffusers model.
        tensors: official names.
        convert: their translation.
        path: only named in errors.

    Raises:
        WeightsError: naming what is missing, left over or of another shape.
    """
    converted = convert(dict(tensors))
    if len(converted) != len(tensors):
        used = {value.untyped_storage().data_ptr() for value in converted.values()}
        left = [name for name, value in tensors.items() if value.untyped_storage().data_ptr() not in used]
        raise WeightsError(
            f'"{path}" has {len(left)} tensors that have no place in {type(model).__name__} ({", ".join(left[:5])})',
            fix="give the official file",
        )
    load_strictly(model, converted, path)

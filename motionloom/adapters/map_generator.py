"""Adapters in the small model's `MapGenerator`: hooks on the layers that map_parts.py lies beside, nothing is replaced."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from motionloom.adapters.context import Call, MotionContext
from motionloom.adapters.map_parts import MapParts


def mount_map(network: Any, context: MotionContext, undo: ExitStack) -> int:
    """Put the adapters of a context beside a map generator's layers; return how many parts were mounted."""
    beside: dict[str, dict[int, MapParts]] = {}
    for index, one in enumerate(context.mounted):
        for path, part in one.adapter.map_parts():
            beside.setdefault(path, {})[index] = part
    for path, parts in beside.items():
        undo.callback(network.get_submodule(path).register_forward_hook(_Beside(parts, context)).remove)

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = dict(zip(("latents", "timestep"), args, strict=False)) | kwargs
        context.begin(_call(network, context, named["latents"], torch.as_tensor(named["timestep"])))

    undo.callback(network.register_forward_pre_hook(begin, with_kwargs=True).remove)
    return sum(len(parts) for parts in beside.values())


class _Beside:
    """A hook on a frozen layer: its output and the weighted sum of what lies beside it."""

    def __init__(self, parts: dict[int, MapParts], context: MotionContext) -> None:
        self.parts, self.context = parts, context

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        rows = output.ndim == 3  # (B, n, C) of an attention, (B, C, h, w) of a convolution
        grid = (
            self.context.call.grid(output.shape[1]) if rows else (int(output.shape[2]), int(output.shape[3]))
        )
        total = output
        for index, part in self.parts.items():
            weight = self.context.weight(index, grid, output)  # (1, n or 1)
            spread = grid if weight.shape[1] > 1 else (1, 1)
            at = weight[..., None] if rows else weight.reshape(1, 1, *spread)
            total = total + at * part(layer, args[0], output)
        return total


def _call(network: Any, context: MotionContext, latents: Tensor, timestep: Tensor) -> Call:
    height, width = latents.shape[-2:]
    grids = [(height, width)]
    for _ in network.config.multipliers[1:]:
        height, width = -(-height // 2), -(-width // 2)
        grids.append((height, width))
    return Call(len(latents), 1, 1, grids, context.progress_at(timestep), latents.device, latents.dtype)

"""Changes to a host that undo themselves: processors, forwards, checkpointing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from torch import Tensor, nn

from motionloom.adapters.context import Call, MotionContext
from motionloom.errors import InputError

HOOK_NAME = "motionloom"


class _Around(ModelHook):
    """Calls `around(forward, *args, **kwargs)` in place of a module's forward."""

    def __init__(self, around: Callable[..., Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # diffusers has no types
        self.around = around

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.around(self.fn_ref.original_forward, *args, **kwargs)


def hook_forward(module: nn.Module, around: Callable[..., Any], undo: ExitStack) -> None:
    """Wrap a module's forward in diffusers' own registry, so that offloading and caches may be stacked on it and taken
    away in any order.
    """
    was_plain = "forward" not in vars(module) and not hasattr(module, "_diffusers_hook")
    registry = HookRegistry.check_if_exists_or_initialize(module)
    registry.register_hook(_Around(around), HOOK_NAME)

    def remove() -> None:
        registry.remove_hook(HOOK_NAME, recurse=False)
        if was_plain and not registry.hooks:
            del module._diffusers_hook
            del module.forward

    undo.callback(remove)


def set_processor(attn: Any, processor: Any, undo: ExitStack) -> None:
    """Give an attention another processor; the very object it had comes back."""
    undo.callback(attn.set_processor, attn.processor)
    attn.set_processor(processor)


def keep_calls_when_checkpointing(network: nn.Module, context: MotionContext, undo: ExitStack) -> None:
    """What gradient checkpointing recomputes sees the call it belongs to, though others came since."""
    for module in network.modules():
        if getattr(module, "gradient_checkpointing", False):
            checkpoint = module._gradient_checkpointing_func

            def keeping(function: Any, *args: Any, checkpoint: Any = checkpoint) -> Any:
                return checkpoint(context.keeping_call(function), *args)

            undo.callback(setattr, module, "_gradient_checkpointing_func", checkpoint)
            module._gradient_checkpointing_func = keeping  # type: ignore[assignment]


def watch_calls(
    network: nn.Module,
    context: MotionContext,
    begin: Callable[[Tensor, Tensor], Call],
    textless: Callable[[Tensor], Tensor | None] | None,
    undo: ExitStack,
) -> None:
    """Tell the context of every call before it starts.

    Args:
        begin: (latents, timestep) => the call; the timestep is a tensor.
        textless: latents => what stands in for the text, which nobody reads; None leaves the text alone.
    """

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = dict(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False)) | kwargs
        latents = named.get("sample", named.get("hidden_states"))
        assert latents is not None, "the host was called without latents"
        for one in context.mounted:
            if next(one.adapter.parameters()).device != latents.device:
                one.adapter.to(latents.device)
        context.begin(begin(latents, torch.as_tensor(named["timestep"])))
        if textless is None:
            return None
        if len(args) > 2:
            return (*args[:2], textless(latents), *args[3:]), kwargs
        return args, {**kwargs, "encoder_hidden_states": textless(latents)}

    undo.callback(network.register_forward_pre_hook(before, with_kwargs=True).remove)


def watch_time_embedding(embedder: nn.Module, context: MotionContext, undo: ExitStack) -> None:
    """Hand the time embedding (B M or B, E) to the context as it is made."""

    def after(module: nn.Module, args: Any, output: Tensor) -> None:
        call = context.call
        call.time_embedding = torch.unflatten(output, 0, (call.batch, -1))

    undo.callback(embedder.register_forward_hook(after).remove)


def new_call(
    context: MotionContext,
    latents: Tensor,
    timestep: Tensor,
    grids: list[tuple[int, int]],
) -> Call:
    """The call of latents (B, C, F, h, w) whose axis `context.modalities_axis` carries the modalities.

    Raises:
        InputError: the axis cannot be divided, or the masks shown have another number of frames.
    """
    modalities, axis = context.modalities, context.modalities_axis
    size = list(latents.shape)
    if size[axis] % modalities:
        what = "frames" if axis == 2 else "samples"
        raise InputError(
            f"got {size[axis]} {what}, expected a multiple of {modalities}: the video and "
            f"{modalities - 1} masks",
            fix="stack the masks behind the video, or call outside `context.with_masks()`",
        )
    size[axis] //= modalities
    masks = context.masks
    if masks is not None and masks.shape[2] != size[2]:
        raise InputError(
            f"the masks have {masks.shape[2]} frames, the video {size[2]}",
            fix="give masks of the video's length",
        )
    progress = context.progress_at(timestep)
    return Call(size[0], modalities, size[2], grids, progress, latents.device, latents.dtype)

"""The adapter: one motion, as a tree of small parts under the host's own module paths."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from motionloom.adapters.cross_frame_attention import CrossFrameAttention
from motionloom.adapters.layout import Layout, layout_of, network_of
from motionloom.adapters.low_rank import TemporalSelfAttention
from motionloom.adapters.map_parts import AttentionParts, ConvolutionParts, MapParts, map_parts
from motionloom.adapters.settings import AdapterSettings, preset_settings
from motionloom.adapters.text_free_attention import TextFreeCrossAttention


class SpatialParts(nn.Module):
    """What an adapter puts beside one block: cross-frame attention and text-free cross-attention."""

    def __init__(self, channels: int, layout: Layout, settings: AdapterSettings) -> None:
        super().__init__()
        masks = settings.masks
        self.copies_out = masks is not None and masks.out_start == "base"
        self.cfa: CrossFrameAttention | None = None
        self.ca: TextFreeCrossAttention | None = None
        self.ca_background: TextFreeCrossAttention | None = None
        if settings.cross_frame is not None:
            self.cfa = CrossFrameAttention(
                channels, layout.time_channels, settings.cross_frame, layout.query_bias, masks is not None
            )
        if settings.text_free is not None:
            self.ca = TextFreeCrossAttention(channels, settings.text_free)
            if masks is not None and masks.background:
                self.ca_background = TextFreeCrossAttention(channels, settings.text_free)

    def reset(self, generator: torch.Generator, attn: Any) -> None:
        if self.cfa is not None:
            self.cfa.reset(generator, attn)
            if self.copies_out:
                self.cfa.copy_base_out(attn)
        for part in (self.ca, self.ca_background):
            if part is not None:
                part.reset(generator)


class Adapter(nn.Module):
    """One motion. Its parameters are all that training changes; its keys are `<path in the host>.miva.<part>...` and
    `<path of a temporal attention>.to_q.lora_A.weight`.

    Attributes:
        layout: the hosts it fits.
        settings: what its tensors cannot tell.
        motion: what it moves, in words; "" when unknown.
        base: name of the base it was trained on; "" when unknown.
        facts: how it was trained: clips, fps, frames, size, steps, seed, ... (JSON values).
        headings, speeds: of a map generator's adapter, (32, 3) and (2, 33): what `MapGenerator` keeps of each word learned
            from clips; coherence -1 and speeds 0 say nothing.
    """

    headings: Tensor
    speeds: Tensor

    def __init__(
        self,
        layout: Layout,
        settings: AdapterSettings,
        motion: str = "",
        base: str = "",
        facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.layout, self.settings = layout, settings
        self.motion, self.base, self.facts = motion, base, dict(facts or {})
        if layout.family == "map":
            from motionloom.denoisers.map_generator import HEADINGS
            from motionloom.motion.speeds import LEVELS

            self.register_buffer("headings", torch.empty(HEADINGS, 3))
            self.register_buffer("speeds", torch.empty(2, LEVELS))
            for path, part in map_parts(layout, settings):
                _plant(self, f"{path}.miva", part)
            return
        if settings.cross_frame is not None or settings.text_free is not None:
            for slot in layout.spatial:
                _plant(self, f"{slot.path}.miva", SpatialParts(slot.channels, layout, settings))
        if settings.temporal is not None:
            for slot in layout.temporal:
                _plant(self, slot.path, TemporalSelfAttention(slot.channels, settings.temporal))

    @property
    def masked(self) -> bool:
        """Whether it denoises masks together with frames (M-MIVA)."""
        return self.settings.masks is not None

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def spatial(self) -> Iterator[tuple[str, SpatialParts]]:
        """(path of the block in the host, its parts)."""
        for name, part in self.named_modules():
            if isinstance(part, SpatialParts):
                yield name.removesuffix(".miva"), part

    def temporal(self) -> Iterator[tuple[str, TemporalSelfAttention]]:
        """(path of the temporal attention in the host, its low-rank parts)."""
        for name, part in self.named_modules():
            if isinstance(part, TemporalSelfAttention):
                yield name, part

    def map_parts(self) -> Iterator[tuple[str, MapParts]]:
        """(path of the layer in a map generator, what lies beside it)."""
        for name, part in self.named_modules():
            if isinstance(part, AttentionParts | ConvolutionParts):
                yield name.removesuffix(".miva"), part

    @torch.no_grad()
    def reset(self, host: Any, seed: int) -> None:
        """Start values, the same for the same seed: with them the host acts as without its text cross-attention."""
        network = network_of(host)
        generator = torch.Generator(self._device()).manual_seed(seed)
        for path, parts in self.spatial():
            parts.reset(generator, network.get_submodule(f"{path}.attn1"))
        for _, low_rank in self.temporal():
            low_rank.reset(generator)
        for _, part in self.map_parts():
            part.reset(generator)
        if self.layout.family == "map":
            self.headings.fill_(-1)
            self.speeds.zero_()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one self-describing .safetensors, and its card beside it. See `adapter_file.save_adapter`."""
        from motionloom.adapters.adapter_file import save_adapter

        return save_adapter(self, path)

    def _device(self) -> torch.device:
        return next(self.parameters()).device


def new_adapter(
    host: Any,
    preset: str = "default",
    masked: bool = False,
    *,
    seed: int = 0,
    motion: str = "",
    base: str = "",
    settings: AdapterSettings | None = None,
) -> Adapter:
    """A fresh adapter for a host.

    Args:
        host: UNetMotionModel, WanTransformer3DModel or MapGenerator of any size, or a denoiser that wraps one. On the meta
            device the adapter is there too: shapes without values, for counting.
        preset: "default", "released" or "paper"; see settings.py.
        masked: with the parts of M-MIVA.
        seed: of the random start values.
        motion, base: what the adapter will be called and is trained on.
        settings: instead of a preset.

    Returns:
        an Adapter in float32 on the host's device, all of it trainable. Mounted, it is bit for bit the host, without its
        text cross-attention if it has one.

    Raises:
        ConfigError: the host cannot carry adapters, or there is no such preset.
    """
    layout = layout_of(host)
    chosen = settings or preset_settings(preset, layout.family, masked)
    device = next(network_of(host).parameters()).device
    with torch.device("meta"):
        adapter = Adapter(layout, chosen, motion, base)
    adapter = adapter.float()
    if device.type != "meta":
        adapter = adapter.to_empty(device=device)
        adapter.reset(host, seed)
    return adapter


def _plant(tree: nn.Module, path: str, part: nn.Module) -> None:
    """Register `part` under a dotted path, making the modules in between."""
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in tree._modules:
            tree.add_module(parent, nn.Module())
        tree = tree.get_submodule(parent)
    tree.add_module(name, part)

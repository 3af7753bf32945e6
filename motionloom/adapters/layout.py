"""Where an adapter's parts sit: the places ("slots") a host offers, found by walking it once.

layout_of(host)    UNetMotionModel, WanTransformer3DModel or MapGenerator of any size => Layout
network_of(host)   the network inside a denoiser, a PEFT wrapper or a compiled module
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field
from torch import nn

from motionloom.adapters.settings import Family, Part
from motionloom.errors import ConfigError, WeightsError

LARGEST_WIDTH = 65536
FAMILIES: dict[str, Family] = {
    "UNetMotionModel": "unet",
    "WanTransformer3DModel": "dit",
    "MapGenerator": "map",
}


class Slot(Part):
    """One attention block, or one convolution of a map generator (`heads` 1). `path` is its module path."""

    path: str = Field(max_length=300)
    channels: int = Field(ge=1, le=LARGEST_WIDTH)
    heads: int = Field(ge=1, le=LARGEST_WIDTH)


class Layout(Part):
    """The shape of a host, as far as adapters depend on it.

    Attributes:
        host: class name of the network.
        time_channels: E, width of the time embedding.
        query_bias: whether the host's query projections have a bias.
        spatial: blocks with self- and cross-attention; of a map generator, spatial attentions and convolutions.
        temporal: temporal self-attentions of the motion modules (in a U-Net alone).
    """

    host: Literal["UNetMotionModel", "WanTransformer3DModel", "MapGenerator"]
    time_channels: int = Field(ge=1, le=LARGEST_WIDTH)
    query_bias: bool
    spatial: tuple[Slot, ...]
    temporal: tuple[Slot, ...] = ()

    @property
    def family(self) -> Family:
        return FAMILIES[self.host]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits; equal layouts have equal fingerprints."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json")).encode()).hexdigest()[:16]

    def summary(self) -> str:
        """One line for people: how many blocks, how wide."""
        spatial = f"{len(self.spatial)} blocks of {_span([slot.channels for slot in self.spatial])} channels"
        return f"{self.host} with {spatial}, {len(self.temporal)} temporal attentions"


def layout_of(host: Any) -> Layout:
    """The layout of a host.

    Raises:
        ConfigError: the host is none of FAMILIES, or one that adapters cannot sit in.
    """
    from motionloom.adapters.map_parts import map_layout

    network = network_of(host)
    return {"unet": _unet_layout, "dit": _wan_layout, "map": map_layout}[FAMILIES[type(network).__name__]](
        network
    )


def network_of(host: Any) -> nn.Module:
    """The network inside `host`: a denoiser's `.network`, a PEFT model's base, a compiled or distributed module's
    original.

    Raises:
        ConfigError: there is none.
    """
    found = host
    for _ in range(8):  # wrappers around wrappers
        if type(found).__name__ in FAMILIES:
            assert isinstance(found, nn.Module)
            return found
        for inner in ("network", "_orig_mod", "module", "base_model", "model"):
            if (candidate := getattr(found, inner, None)) is not None:
                found = candidate
                break
        else:
            break
    raise ConfigError(
        f"adapters cannot be mounted on a {type(host).__name__}",
        fix=f"give a {', '.join(FAMILIES)}, or the denoiser of a base that wraps one",
    )


def _unet_layout(network: Any) -> Layout:
    from diffusers.models.attention import BasicTransformerBlock

    blocks = {
        name: block for name, block in network.named_modules() if isinstance(block, BasicTransformerBlock)
    }
    spatial = [
        Slot(path=name, channels=block.attn1.to_q.in_features, heads=block.attn1.heads)
        for name, block in blocks.items()
        if "motion_modules" not in name and block.attn2 is not None
    ]
    temporal = [
        Slot(path=f"{name}.{part}", channels=attn.to_q.in_features, heads=attn.heads)
        for name, block in blocks.items()
        if "motion_modules" in name
        for part in ("attn1", "attn2")
        if (attn := getattr(block, part)) is not None
    ]
    return Layout(
        host="UNetMotionModel",
        time_channels=network.time_embedding.linear_2.out_features,
        query_bias=blocks[spatial[0].path].attn1.to_q.bias is not None,
        spatial=tuple(sorted(spatial, key=_by_path)),
        temporal=tuple(sorted(temporal, key=_by_path)),
    )


def _wan_layout(network: Any) -> Layout:
    if network.config.added_kv_proj_dim is not None or network.config.image_dim is not None:
        raise ConfigError(
            "this Wan model reads image tokens in its cross-attention, which adapters replace",
            fix="use a text-to-video Wan model",
        )
    spatial = [
        Slot(path=f"blocks.{i}", channels=block.attn1.to_q.in_features, heads=block.attn1.heads)
        for i, block in enumerate(network.blocks)
    ]
    return Layout(
        host="WanTransformer3DModel",
        time_channels=network.condition_embedder.time_embedder.linear_2.out_features,
        query_bias=True,
        spatial=tuple(spatial),
    )


def check_fits(made_for: Layout, host: Layout, name: str) -> None:
    """Refuse an adapter whose layout is not the host's.

    Raises:
        WeightsError: with the first difference.
    """
    if made_for == host:
        return
    if made_for.host != host.host or len(made_for.spatial) != len(host.spatial):
        reason = f"it was made for a {made_for.summary()}, the host is a {host.summary()}"
    else:
        reason = _first_difference(made_for, host)
    raise WeightsError(
        f"adapter {name} does not fit this base: {reason}", fix="use it with the base it was trained on"
    )


def _first_difference(made_for: Layout, host: Layout) -> str:
    for kind in ("spatial", "temporal"):
        ours, theirs = ({slot.path: slot for slot in getattr(layout, kind)} for layout in (made_for, host))
        for path in [*ours, *theirs]:
            if path not in theirs:
                return f'the host has no "{path}"'
            if path not in ours:
                return f'it has nothing for the host\'s "{path}"'
            if ours[path] != theirs[path]:
                return (
                    f'at "{path}" it has {ours[path].channels} channels and {ours[path].heads} heads, the host '
                    f"{theirs[path].channels} and {theirs[path].heads}"
                )
    return f"its time embedding has {made_for.time_channels} channels, the host's {host.time_channels}"


def _by_path(slot: Slot) -> list[tuple[int, str]]:
    """Down before mid before up, numbers as numbers."""
    order = {"down_blocks": "0", "mid_block": "1", "up_blocks": "2"}
    return [
        (int(part), "") if part.isdecimal() else (0, order.get(part, part)) for part in slot.path.split(".")
    ]


def _span(values: list[int]) -> str:
    low, high = min(values, default=0), max(values, default=0)
    return str(low) if low == high else f"{low} to {high}"

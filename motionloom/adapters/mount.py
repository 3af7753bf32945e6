"""Adapters beside a host, for as long as a context lasts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from motionloom.adapters.adapter import Adapter
from motionloom.adapters.context import _CONTEXTS, MotionContext, Mounted
from motionloom.adapters.layout import check_fits, layout_of, network_of
from motionloom.adapters.motion_weight import MotionWeight, as_motion_weight
from motionloom.errors import ConfigError

log = logging.getLogger("motionloom")
Host = TypeVar("Host")
GroupNormMode = Literal["per_frame", "joint", "diffusers"]
TemporalBlend = Literal["residual", "relative", "weights"]
Weighted = tuple[Adapter, float | tuple[float, float] | MotionWeight]


@contextmanager
def mounted(
    host: Host,
    adapters: Sequence[Weighted],
    group_norm: GroupNormMode = "per_frame",
    temporal: TemporalBlend = "residual",
    normalise: bool = False,
) -> Iterator[Host]:
    """Adapt a host inside a `with`; on exit it is what it was, bit for bit, processors and hooks included.

    Inside, `host(latents, timestep, encoder_hidden_states=anything).sample` is the stock call with the adapted result; the
    text is not read, because adapters replace cross-attention. Any batch, number of frames and aspect ratio.

        out = SA(x) + sum_k w_k CFA_k(x);   then + sum_k w_k CA_k(norm2 x)                                   (S4)

    Args:
        host: UNetMotionModel, WanTransformer3DModel or MapGenerator, also inside PEFT or compiled, or a denoiser with one as
            `.network`.
            Enable gradient checkpointing, offloading and compiling before, caches inside.
        adapters: (adapter, weight) pairs, later ones on top where masks overlap. A weight is a number, a pair
            (first step, last step), or a `MotionWeight`. Weights are used as given unless `normalise`; they should sum to
            1, and `weight_notes` says where they do not.
        group_norm: statistics of a U-Net's GroupNorms. "per_frame": everywhere, as AnimateDiff v3 has them. "joint": those
            of the resnets and of the output norm over all frames, motion modules per frame, as the released
            configuration. "diffusers": untouched (motion modules over all frames, the rest per frame).
        temporal: of a U-Net. "residual": sum_k w_k TSA_k, whole attentions, so that the base counts sum w times, as the
            paper and the release; where a weight has a curve or a region, the base fills up what is missing to a sum of 1
            (ours). "relative": TSA + sum_k w_k (TSA_k - TSA). "weights": one attention whose low-rank parts are summed
            with weights, as PEFT and the release's older code. All agree for one adapter of weight 1.
        normalise: divide the weights by their sum wherever that is positive, at every step, frame and place.

    Raises:
        ConfigError: no adapters, adapters already mounted, a host that cannot carry them, or an unknown mode.
        WeightsError: an adapter made for another base.
    """
    network = network_of(host)
    ready = _checked(host, network, adapters, group_norm, temporal)
    is_unet = type(network).__name__ == "UNetMotionModel"
    context = MotionContext(ready, modalities_axis=2 if is_unet else 0, normalise=normalise)
    for note in weight_notes(adapters) if not normalise else []:
        log.warning(note)
    with ExitStack() as undo:
        if is_unet:
            from motionloom.adapters.unet import mount_unet

            hooked = mount_unet(network, context, group_norm, temporal, undo)
        elif type(network).__name__ == "MapGenerator":
            from motionloom.adapters.map_generator import mount_map

            hooked = mount_map(network, context, undo)
        else:
            from motionloom.adapters.dit import mount_dit

            hooked = mount_dit(network, context, undo)
        assert hooked == sum(_num_parts(one.adapter) for one in ready), "an adapter's part was not mounted"
        _CONTEXTS[network] = context
        undo.callback(_CONTEXTS.pop, network)
        yield host


def weight_notes(adapters: Sequence[Weighted]) -> list[str]:
    """A sentence for what a user should know about the sum of the weights: [] when it is 1.

    The temporal attention of a base counts as often as the weights sum to, so other sums fade or exaggerate it. With
    curves and regions it fills up to 1, so only a sum above 1 somewhere is told.
    """
    weights = [as_motion_weight(weight) for _, weight in adapters]
    sums = [sum((w.at(progress, 9, 9, 9) for w in weights), torch.zeros(())) for progress in (0.0, 0.5, 1.0)]
    low, high = min(float(s.min()) for s in sums), max(float(s.max()) for s in sums)
    if any(weight.varies for weight in weights):
        return [f"the weights of the motions sum to {high:g} in places; 1 is the most stable"] * (
            high > 1.001
        )
    return [f"the weights of the motions sum to {high:g}; 1 is the most stable"] * (abs(low - 1) > 1e-3)


def _checked(
    host: Any, network: nn.Module, adapters: Sequence[Weighted], group_norm: str, temporal: str
) -> list[Mounted]:
    if not adapters:
        raise ConfigError("no adapters to mount", fix="give at least one (adapter, weight)")
    if network in _CONTEXTS:
        raise ConfigError(
            "this host already carries adapters", fix="give all of them in one call of `mounted`"
        )
    _check_choice("group_norm", group_norm, ("per_frame", "joint", "diffusers"))
    _check_choice("temporal", temporal, ("residual", "relative", "weights"))
    _check_host(network)
    layout = layout_of(network)
    ready: list[Mounted] = []
    for adapter, weight in adapters:
        if not isinstance(adapter, Adapter):
            raise ConfigError(
                f"got a {type(adapter).__name__}, expected an adapter", fix="load it with `load_adapter`"
            )
        check_fits(adapter.layout, layout, f'"{adapter.motion}"' if adapter.motion else "without a name")
        if _num_parts(adapter) == 0:
            raise ConfigError(
                "the adapter has no parts, so mounting it would do nothing", fix="choose a preset"
            )
        stream = 1 + sum(one.stream > 0 for one in ready) if adapter.masked else 0
        ready.append(Mounted(adapter, as_motion_weight(weight), stream))
    return ready


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(
            f"got {name}={value!r}, expected one of {', '.join(known)}", fix="choose one of them"
        )


def _check_host(network: Any) -> None:
    if any(getattr(module, "fused_projections", False) for module in network.modules()):
        raise ConfigError(
            "the host's query, key and value projections are fused, but adapters read them one by one",
            fix="call unfuse_qkv_projections() first",
        )
    if getattr(network, "_parallel_config", None) is not None:
        raise ConfigError(
            "the host splits its sequence over devices, which breaks attention between frames",
            fix="use data parallelism instead",
        )


def _num_parts(adapter: Adapter) -> int:
    return sum(
        sum(1 for _ in parts) for parts in (adapter.spatial(), adapter.temporal(), adapter.map_parts())
    )

"""The stage-1 text adapter of Extrapolating and Decoupling (arXiv 2503.00948): temporal attention reads the text.

One set of learned queries asks the text once; each answer belongs to one frame and enters every temporal
transformer behind its input projection:

    C = W_o MHA(Q W_q, E W_k, E W_v) + b_o          Q (n, width), E (B, 77, width) text tokens -> C (B, F, width)
    x <- W_cc [x ; C] + b_cc                        x (B h w, F, d), in each temporal transformer

With W_cc = [I | 0], b_cc = 0 the host's output does not change: our default ("identity"). The release starts
from random projections ("released"), which changes the output before anything is learned.

    adapter = TextAdapter.of(unet)                   hosts: DynamiCrafterUNet, diffusers UNetMotionModel
    with adapter.mounted(unet): ...                  for a while; on exit the host is as before
    adapter.join(unet)                               for good: part of a DynamiCrafterUNet and of its state
    adapter.save("a.safetensors"); TextAdapter.load("a.safetensors", unet)
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

from motionloom.denoisers.dynamicrafter.unet import TEXT_TOKENS, TRAINED_FRAMES, DynamiCrafterUNet
from motionloom.errors import StateError, WeightsError
from motionloom.weights import load_strictly, load_weights, save_weights

KIND = "text_adapter"
FORMAT_VERSION = "1"
HEADS = 8
Init = Literal["identity", "released"]


class TextAdapter(nn.Module):
    """Queries, one attention to the text, and one projection for each temporal transformer of a host.

    Args:
        layers: name of each temporal transformer in the host -> d, the width behind its input projection.
        width: of the text tokens, a multiple of 8 (the heads).
        num_queries: n, the frames the host was trained with. Another number of frames reads queries
            interpolated linearly over the clip (ours; the release knows 16 frames only).
        init: "identity" or "released".

    Attributes:
        motion: what it is called; its file's name once loaded.
        strength: x <- x + strength (W_cc [x ; C] + b_cc - x); 1 is the paper's, 0 the host alone. A mapping
            gives layers (by name in the host) their own, 1 where it says nothing.
        facts: of its training, once loaded.

    Raises:
        WeightsError: no layers, or a width that the heads do not divide.
    """

    def __init__(
        self,
        layers: Mapping[str, int],
        width: int,
        num_queries: int = TRAINED_FRAMES,
        init: Init = "identity",
    ) -> None:
        super().__init__()
        if not layers or width % HEADS:
            raise WeightsError(
                f"got a network with {len(layers)} temporal transformers and text of width {width}, "
                f"expected at least one and a multiple of {HEADS}",
                fix="the text adapter needs a network with temporal attention apart from spatial attention",
            )
        self.motion = ""
        self.facts: dict[str, Any] = {}
        self.layers = dict(layers)
        self.strength: float | Mapping[str, float] = 1.0
        self.queries = nn.Parameter(torch.randn(num_queries, width))
        self.attention = Attention(width, cross_attention_dim=width, heads=HEADS, dim_head=width // HEADS)
        self.projections = nn.ModuleDict(
            {_module_key(name): nn.Linear(d + width, d) for name, d in layers.items()}
        )
        if init == "identity":
            for name, d in layers.items():
                _set_identity(self._projection(name), d)
        self._context: Tensor | None = None
        self._handles: list[Any] = []

    @classmethod
    def of(cls, host: nn.Module, num_queries: int = TRAINED_FRAMES, init: Init = "identity") -> TextAdapter:
        """A new adapter that fits a host. Raises WeightsError when the host has no temporal transformers."""
        return cls(
            temporal_widths(host), int(_network(host).config["cross_attention_dim"]), num_queries, init
        )

    def temporal_context(self, text: Tensor, num_frames: int) -> Tensor:
        """C: text tokens (B, n, width) -> (B, F, width), one row a frame."""
        queries: Tensor = self.queries
        if num_frames != len(queries):
            queries = F.interpolate(queries.T[None], num_frames, mode="linear", align_corners=True)[0].T
        rows = queries.expand(len(text), -1, -1).to(text.dtype)
        return cast(Tensor, self.attention(rows, encoder_hidden_states=text))

    # --- in a host ------------------------------------------------------------------------------------------

    @contextmanager
    def mounted(self, host: nn.Module) -> Iterator[nn.Module]:
        """Inside, the host's temporal attention reads the text of each call; on exit the host is as before.

        Raises:
            WeightsError: the adapter was made for another layout.
            StateError: it is mounted already, or the host has a text adapter of its own.
        """
        self._hook(host)
        try:
            yield host
        finally:
            self._unhook()

    def join(self, host: DynamiCrafterUNet) -> None:
        """Become part of the network, of its parameters and of its state. Raises as `mounted` does."""
        self._hook(host)
        host.text_adapter = self

    def leave(self, host: DynamiCrafterUNet) -> None:
        """The reverse of `join`."""
        assert host.text_adapter is self, "this adapter is not the network's"
        host.text_adapter = None
        self._unhook()

    def _hook(self, host: nn.Module) -> None:
        if self._handles or any(isinstance(hook, _Listener) for hook in host._forward_pre_hooks.values()):
            raise StateError(
                "the text adapter is mounted already, or the network has another one",
                fix="use one text adapter at a time, in one network",
            )
        self.check_fits(host)
        modules = dict(_network(host).named_modules())
        self._handles.append(host.register_forward_pre_hook(_Listener(self, host), with_kwargs=True))
        for name in self.layers:
            self._handles.append(modules[name].proj_in.register_forward_hook(_Injection(self, name)))

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._context = None

    def check_fits(self, host: nn.Module, what: str = "the text adapter") -> None:
        """Raises WeightsError, naming both layouts, when the host's temporal transformers are others."""
        found = temporal_widths(host)
        if found != self.layers:
            raise WeightsError(
                f"{what} was made for {_summary(self.layers)}, the network has {_summary(found)}",
                fix="use it with the base it was trained on",
            )
        width = int(_network(host).config["cross_attention_dim"])
        if width != self.queries.shape[1]:
            raise WeightsError(
                f"{what} reads text of width {self.queries.shape[1]}, the network's is {width} wide",
                fix="use it with the base it was trained on",
            )

    def _inject(self, name: str, x: Tensor) -> Tensor:
        """x (B h w, F, d) <- W_cc [x ; C] + b_cc, where W_cc [x ; C] = W_x x + W_C C and W_C C is one for all places."""
        assert self._context is not None, "a text adapter is mounted, but the network was told no text"
        projection, d = self._projection(name), self.layers[name]
        from_text = F.linear(
            self._context.to(x.dtype), projection.weight[:, d:], projection.bias
        )  # (B, F, d)
        places = len(x) // len(from_text)
        told = F.linear(x, projection.weight[:, :d]) + from_text.repeat_interleave(places, dim=0)
        strength = self.strength.get(name, 1.0) if isinstance(self.strength, Mapping) else self.strength
        return told if strength == 1.0 else torch.lerp(x, told, strength)

    def _projection(self, name: str) -> nn.Linear:
        return cast(nn.Linear, self.projections[_module_key(name)])

    # --- files ----------------------------------------------------------------------------------------------

    def save(
        self, path: str | os.PathLike[str], base: str = "", trained: Mapping[str, Any] | None = None
    ) -> Path:
        """One safetensors file that says what it is: kind, base and its layout, training facts."""
        facts = {
            "motionloom.format_version": FORMAT_VERSION,
            "motionloom.kind": KIND,
            "motionloom.base": json.dumps({"name": base, "layers": self.layers}, sort_keys=True),
            "motionloom.config": json.dumps(
                {"width": self.queries.shape[1], "num_queries": len(self.queries)}, sort_keys=True
            ),
            "motionloom.train": json.dumps(dict(trained or {}), sort_keys=True),
        }
        return save_weights(
            path, {_file_key(name): value for name, value in self.state_dict().items()}, facts
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], host: nn.Module | None = None) -> TextAdapter:
        """A saved adapter, in evaluation mode; with a host, made sure that it fits.

        Raises:
            WeightsError: the file is damaged, of another kind or version, or made for another layout.
        """
        tensors, facts = load_weights(path)
        kind, version = facts.get("motionloom.kind"), facts.get("motionloom.format_version")
        if kind != KIND or version != FORMAT_VERSION:
            raise WeightsError(
                f'"{path}" is of kind {kind}, format {version}; expected {KIND}, format {FORMAT_VERSION}',
                fix="see what it is with `motionloom inspect`",
            )
        try:
            config = json.loads(facts["motionloom.config"])
            layers = json.loads(facts["motionloom.base"])["layers"]
            adapter = cls(layers, int(config["width"]), int(config["num_queries"]))
            adapter.facts = dict(json.loads(facts["motionloom.train"]))
        except (KeyError, TypeError, ValueError) as problem:
            raise WeightsError(
                f'"{path}" does not describe itself ({type(problem).__name__}: {problem})',
                fix="export it again",
            ) from None
        load_strictly(adapter, {_state_key(name): value for name, value in tensors.items()}, path)
        adapter.motion = Path(path).name
        if host is not None:
            adapter.check_fits(host, f'"{path}"')
        return adapter.eval()


class _Listener:
    """A pre-hook on the host: hears the text (B, n, width) and the number of frames of each call."""

    def __init__(self, adapter: TextAdapter, host: nn.Module) -> None:
        self.adapter, self.signature = adapter, inspect.signature(type(host).forward)

    def __call__(self, host: nn.Module, args: Any, kwargs: Any) -> None:
        given = self.signature.bind(host, *args, **kwargs).arguments
        if isinstance(host, DynamiCrafterUNet):
            text, latents = given["context"][:, :TEXT_TOKENS], given["latents"]
        else:
            text, latents = given["encoder_hidden_states"], given["sample"]
            text = text[:: len(text) // len(latents)]  # diffusers repeats it for each frame
        self.adapter._context = self.adapter.temporal_context(text, latents.shape[2])


class _Injection:
    """A hook on the input projection of one temporal transformer."""

    def __init__(self, adapter: TextAdapter, name: str) -> None:
        self.adapter, self.name = adapter, name

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return self.adapter._inject(self.name, output)


def temporal_widths(host: nn.Module) -> dict[str, int]:
    """name -> width behind the input projection, of every temporal transformer of a host."""
    return {
        name: module.proj_in.out_features
        for name, module in _network(host).named_modules()
        if isinstance(module, TransformerTemporalModel | AnimateDiffTransformer3D)
    }


def temporal_transformers(host: nn.Module) -> nn.ModuleDict:
    """A view of a host's temporal transformers."""
    modules = dict(_network(host).named_modules())
    return nn.ModuleDict({_module_key(name): modules[name] for name in temporal_widths(host)})


def _network(host: nn.Module) -> Any:
    return getattr(host, "network", host)


def _set_identity(projection: nn.Linear, d: int) -> None:
    with torch.no_grad():
        projection.weight.copy_(torch.eye(d, projection.in_features))
        projection.bias.zero_()


def _summary(layers: Mapping[str, int]) -> str:
    return f"{len(layers)} temporal transformers of widths {sorted(set(layers.values()))}"


def _module_key(name: str) -> str:
    return name.replace(".", "-")


def _file_key(state_key: str) -> str:
    """`projections.mid_block-temp_attentions-0.bias` -> `mid_block.temp_attentions.0.cc_projection.bias`."""
    rest = state_key.removeprefix("projections.")
    layer, _, leaf = rest.rpartition(".")
    return state_key if rest == state_key else f"{layer.replace('-', '.')}.cc_projection.{leaf}"


def _state_key(file_key: str) -> str:
    layer, found, leaf = file_key.rpartition(".cc_projection.")
    return f"projections.{_module_key(layer)}.{leaf}" if found else file_key

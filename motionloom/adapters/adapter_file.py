"""Adapter files: one self-describing .safetensors, read strictly, with a card for people beside it.

The metadata holds what tensors cannot tell: motionloom.kind "motion_adapter", .format_version, .motion, .config (the
settings), .base (name and layout of the hosts it fits, with its fingerprint) and .train (training facts); and the
modelspec.* keys that model browsers show.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from motionloom.adapters.adapter import Adapter
from motionloom.adapters.layout import Layout
from motionloom.adapters.settings import AdapterSettings
from motionloom.durable import write_text
from motionloom.errors import ConfigError, WeightsError
from motionloom.weights import load_strictly, load_weights, save_weights

KIND = "motion_adapter"
FORMAT_VERSION = "1"
SUFFIX = ".safetensors"
CARD_START = "---\nlibrary_name: motionloom\n"


def save_adapter(adapter: Adapter, path: str | os.PathLike[str]) -> Path:
    """Write an adapter, durably, and its card (the same name, .md) beside it, unless a file that is no card of ours has that
    name. The same adapter gives the same bytes.

    Raises:
        ConfigError: the name does not end in .safetensors.
        InputError, ResourceError: the place cannot be written.
    """
    target = Path(path)
    if target.suffix != SUFFIX:
        raise ConfigError(
            f'got the adapter file "{target}", expected a name ending in {SUFFIX}', fix=f"add {SUFFIX}"
        )
    written = save_weights(target, adapter.state_dict(), metadata_of(adapter))
    beside = target.with_suffix(".md")
    if not beside.exists() or beside.read_bytes().startswith(CARD_START.encode()):
        write_text(beside, card(adapter, target.name))
    return written


def load_adapter(path: str | os.PathLike[str]) -> Adapter:
    """Read an adapter, on the CPU, every key accounted for.

    Raises:
        WeightsError: missing, empty, truncated or damaged; a pickle or another kind of file; written by a newer
            version; keys missing or left over; shapes that contradict the settings (a wrong rank, say).
    """
    tensors, metadata = load_weights(path)
    adapter = _described(Path(path), metadata)
    strange = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
    if strange:
        raise WeightsError(
            f'"{path}" holds {tensors[strange[0]].dtype} under "{strange[0]}", expected floating-point numbers',
            fix="download or export it again",
        )
    described = {name: value.shape for name, value in adapter.state_dict().items()}
    if described != {name: tensor.shape for name, tensor in tensors.items()}:
        load_strictly(adapter, tensors, path)  # says what differs, before any memory is taken
    adapter.load_state_dict(tensors, strict=True, assign=True)
    return adapter


def metadata_of(adapter: Adapter) -> dict[str, str]:
    """What the file says of the adapter."""
    base = {
        "name": adapter.base,
        "fingerprint": adapter.layout.fingerprint,
        "layout": adapter.layout.model_dump(mode="json"),
    }
    return {
        "format": "pt",
        "motionloom.kind": KIND,
        "motionloom.format_version": FORMAT_VERSION,
        "motionloom.motion": adapter.motion,
        "motionloom.config": adapter.settings.model_dump_json(),
        "motionloom.base": json.dumps(base),
        "motionloom.train": json.dumps(adapter.facts, sort_keys=True),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{adapter.base or adapter.layout.host}/miva",
        "modelspec.title": adapter.motion or "motion adapter",
    }


def describe_adapter(metadata: dict[str, str]) -> dict[str, Any]:
    """Facts of an adapter's metadata, for `inspect`: no tensor is read.

    Raises:
        WeightsError: the metadata is damaged.
    """
    adapter = _described(Path("the adapter"), metadata)
    settings = adapter.settings.model_dump(mode="json", exclude_none=True)
    return {
        "motion": adapter.motion or "unnamed",
        "base": adapter.base or "unknown",
        "host": adapter.layout.summary(),
        "fingerprint": adapter.layout.fingerprint,
        "preset": settings.pop("preset"),
        "masked": adapter.masked,
        "parts": settings,
        "training": adapter.facts or "unknown",
    }


def card(adapter: Adapter, name: str) -> str:
    """A model card in Markdown, with the front matter that hubs read."""
    parts = [
        ("cross-frame attention", adapter.settings.cross_frame),
        ("text-free cross-attention", adapter.settings.text_free),
        ("temporal low rank", adapter.settings.temporal),
        ("spatial low rank", adapter.settings.spatial),
        ("masks", adapter.settings.masks),
    ]
    title = adapter.motion or "motion adapter"
    lines = [
        CARD_START.strip(),
        "pipeline_tag: image-to-video",
        f"base_model: {json.dumps(adapter.base or adapter.layout.host)}",
        "base_model_relation: adapter",
        "tags: [motionloom, miva, image-to-video]",
        "---",
        "",
        f"# {title}",
        "",
        f"A MIVA adapter (arXiv 2512.20000) of {adapter.num_parameters:,} parameters, preset `{adapter.settings.preset}`.",
        f"Fits {adapter.base or 'hosts'}: {adapter.layout.summary()} (fingerprint `{adapter.layout.fingerprint}`).",
        "",
        "```sh",
        f"motionloom animate photo.jpg --base {adapter.base or 'BASE'} --motion {name}:1 -o clip.mp4",
        "```",
        "",
        "| part | settings |",
        "|---|---|",
        *(f"| {label} | `{part.model_dump_json()}` |" for label, part in parts if part is not None),
        "",
        "| trained with | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in sorted(adapter.facts.items())),
    ]
    return "\n".join(lines) + "\n"


def _described(path: Path, metadata: dict[str, str]) -> Adapter:
    """The adapter that the metadata describes, without values."""
    kind = metadata.get("motionloom.kind")
    if kind != KIND:
        raise WeightsError(
            f'"{path}" is {f"a {kind}" if kind else "a weights file of unknown kind"}, expected a motion adapter',
            fix="give a file that `Adapter.save` wrote, or convert an official one with `motionloom convert`",
        )
    if metadata.get("motionloom.format_version") != FORMAT_VERSION:
        raise WeightsError(
            f'"{path}" has adapter format {metadata.get("motionloom.format_version")!r}, this version reads '
            f"{FORMAT_VERSION!r}",
            fix="update motionloom",
        )
    try:
        base, facts = (json.loads(metadata[f"motionloom.{key}"]) for key in ("base", "train"))
        settings = AdapterSettings.model_validate_json(metadata["motionloom.config"])
        layout = Layout.model_validate_json(json.dumps(base["layout"]))
        name, fingerprint = base["name"], base["fingerprint"]
        with torch.device("meta"):
            adapter = Adapter(
                layout, settings, str(metadata.get("motionloom.motion", "")), str(name), dict(facts)
            )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as problem:
        # foreign text may lead to any of these
        raise WeightsError(
            f'"{path}" does not describe itself as an adapter does ({type(problem).__name__})',
            fix="download or export it again",
        ) from None
    if fingerprint != layout.fingerprint:
        raise WeightsError(
            f'"{path}" says its base has the fingerprint {fingerprint}, but describes one with {layout.fingerprint}',
            fix="download or export it again",
        )
    return adapter

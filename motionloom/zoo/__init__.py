"""Shipped weights and their cards: one folder a model.

mini/codec.safetensors      WarpCodec: linear motion core, fusion network     (fp16)
mini/generator.safetensors  MapGenerator                                      (fp16)
mini/README.md              the card: data, command, time, numbers, limits
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from motionloom.codecs.warp_codec import WarpCodec
    from motionloom.denoisers.map_generator import MapGenerator

MINI = Path(__file__).parent / "mini"
FORMAT_VERSION = "1"


def save_codec(codec: WarpCodec, path: Path) -> Path:
    """Write a codec in fp16 (the linear core in fp32) with what rebuilds it."""
    import torch

    from motionloom.weights import save_weights

    motion = codec.motion
    tensors = {
        name: value.contiguous() if name.startswith("motion.") else value.to(torch.float16).contiguous()
        for name, value in codec.state_dict().items()
    }
    config = {
        "flow_modes": motion.flow_modes,
        "light_modes": motion.light_modes,
        "num_frames": motion.num_frames,
        "width": codec.width,
    }
    return save_weights(path, tensors, _metadata("latent_motion_codec", config))


def load_codec(path: Path) -> WarpCodec:
    """Read what `save_codec` wrote; every key accounted for.

    Raises:
        WeightsError: the file is missing, damaged, or not a codec.
    """
    from motionloom.codecs.linear_motion import LinearMotion
    from motionloom.codecs.warp_codec import WarpCodec
    from motionloom.weights import load_strictly, load_weights

    tensors, metadata = load_weights(path)
    config = _config(path, metadata, "latent_motion_codec")
    width = config.pop("width")
    codec = WarpCodec(LinearMotion(**config), width)
    load_strictly(codec, tensors, path)
    return codec.eval()


def save_generator(generator: MapGenerator, path: Path) -> Path:
    """Write a generator in fp16 with what rebuilds it, its motion words included."""
    import torch

    from motionloom.conditions.words import WORDS
    from motionloom.weights import save_weights

    tensors = {name: value.to(torch.float16).contiguous() for name, value in generator.state_dict().items()}
    config = {**asdict(generator.config), "vocabulary": [word.name for word in WORDS]}
    return save_weights(path, tensors, _metadata("latent_motion_generator", config))


def load_generator(path: Path) -> MapGenerator:
    """Read what `save_generator` wrote; every key and every motion word accounted for.

    Raises:
        WeightsError: the file is missing, damaged, not a generator, or knows other motion words.
    """
    from motionloom.conditions.words import WORDS
    from motionloom.denoisers.map_generator import MapGenerator, MapGeneratorConfig
    from motionloom.errors import WeightsError
    from motionloom.weights import load_strictly, load_weights

    tensors, metadata = load_weights(path)
    config = _config(path, metadata, "latent_motion_generator")
    vocabulary = config.pop("vocabulary")
    if vocabulary != [word.name for word in WORDS]:
        raise WeightsError(
            f'"{path}" knows the motions {", ".join(vocabulary)}, this version expects others',
            fix="use the weights shipped with this version, or train again",
        )
    config["multipliers"] = tuple(config["multipliers"])
    generator = MapGenerator(MapGeneratorConfig(**config))
    load_strictly(generator, tensors, path)
    return generator.eval()


def describe_motions() -> list[tuple[str, str]]:
    """(word, one line) of every motion the shipped model knows."""
    from motionloom.conditions.words import WORDS

    return [(word.name, word.line + (" (learned from real clips)" if word.learned else "")) for word in WORDS]


def _metadata(kind: str, config: Mapping[str, object]) -> dict[str, str]:
    return {
        "motionloom.format_version": FORMAT_VERSION,
        "motionloom.kind": kind,
        "motionloom.config": json.dumps(config, sort_keys=True),
    }


def _config(path: Path, metadata: dict[str, str], kind: str) -> dict[str, Any]:
    from motionloom.errors import WeightsError

    found = metadata.get("motionloom.kind")
    if found != kind:
        raise WeightsError(
            f'"{path}" is a {found or "file of unknown kind"}, expected a {kind}', fix="give the right file"
        )
    if metadata.get("motionloom.format_version") != FORMAT_VERSION:
        raise WeightsError(f'"{path}" was written by another version of the format', fix="update motionloom")
    config: dict[str, Any] = json.loads(metadata["motionloom.config"])
    return config

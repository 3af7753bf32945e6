"""A model on disk: one folder a part, and `model_index.json` with the configuration.

model_index.json
unet/ vae/ text_encoder/ image_encoder/ image_projection/     model-00001.safetensors, ... and their index
tokenizer/                                                     CLIP's vocabulary; checkpoints do not hold it
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from motionloom.denoisers.dynamicrafter.parts import DynamiCrafterConfig, Parts, fill
from motionloom.durable import write_folder_durably, write_json
from motionloom.errors import WeightsError
from motionloom.merging.checkpoint import open_checkpoint
from motionloom.weights import save_weights

INDEX, CLASS_NAME = "model_index.json", "DynamiCrafter"
SHARD_BYTES = 1 << 29


def write_folder(
    folder: Path, config: DynamiCrafterConfig, tensors: Mapping[str, Mapping[str, Tensor]]
) -> Path:
    """Write the parts, at most one shard of 512 MiB in memory; an earlier folder of this kind is replaced.

    Raises:
        InputError: the folder holds something else.
        ResourceError: the disk refuses.
    """

    def build(temporary: Path) -> None:
        for part, named in tensors.items():
            _write_part(temporary / part, named)
        write_json(
            temporary / INDEX,
            {
                "_class_name": CLASS_NAME,
                "library_name": "motionloom",
                "config": config.model_dump(mode="json"),
            },
        )

    return write_folder_durably(folder, build, is_model)


def is_model(folder: Path) -> bool:
    """Whether a folder holds such a model."""
    try:
        index: Any = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(index, dict) and index.get("_class_name") == CLASS_NAME


def read_folder(folder: Path) -> tuple[DynamiCrafterConfig, Parts]:
    """The configuration and the networks.

    Raises:
        WeightsError: no such model, or a part that is missing, damaged or of other sizes.
    """
    config = read_config(folder)
    opened = {part: open_checkpoint(_part(folder, part)) for part in Parts.__annotations__}
    try:
        return config, fill(config, opened, f'"{folder}"')
    finally:
        for checkpoint in opened.values():
            checkpoint.close()


def read_config(folder: Path) -> DynamiCrafterConfig:
    """The configuration. Raises WeightsError when there is none."""
    if not is_model(folder):
        raise WeightsError(
            f'"{folder}" holds no DynamiCrafter model',
            fix="make one with `motionloom convert model.ckpt -o FOLDER`",
        )
    try:
        return DynamiCrafterConfig.model_validate(
            json.loads((folder / INDEX).read_text(encoding="utf-8"))["config"]
        )
    except (ValidationError, KeyError) as problem:
        raise WeightsError(
            f'"{folder / INDEX}" is no configuration of this version ({type(problem).__name__})',
            fix="convert the checkpoint again",
        ) from None


def _part(folder: Path, part: str) -> Path:
    if not (folder / part).is_dir():
        raise WeightsError(f'"{folder}" has no {part}', fix="convert the checkpoint again")
    return folder / part


def _write_part(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    places: dict[str, str] = {}
    for number, shard in enumerate(_shards(tensors), start=1):
        file = f"model-{number:05d}.safetensors"
        save_weights(folder / file, shard)
        places |= dict.fromkeys(shard, file)
        shard.clear()  # before the next is read: one at a time in memory
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})


def _shards(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name in tensors:
        tensor = tensors[name]
        bytes_of = tensor.numel() * tensor.element_size()
        if shard and size + bytes_of > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += bytes_of
    if shard:
        yield shard

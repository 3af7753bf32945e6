"""An official checkpoint -> our parts, tensor by tensor: no two tensors are in memory at once but a part's last.

The released files, CIL's (arXiv 2406.15735) and EDG's hold the same 2,520 names, wrapped as Lightning or DeepSpeed
left them; an EDG stage-1 checkpoint has 40 more, the text adapter's. The size is not in the names: it is read off
what differs (gates of the image attention: 256; end of the dynamic rescale: 0.7 is 512, 0.3 is 1024).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from motionloom.denoisers.dynamicrafter.folder import write_folder
from motionloom.denoisers.dynamicrafter.official import (
    UNET_PREFIX,
    VAE_PREFIX,
    part_of,
    resampler_tensors,
    text_tensors,
    unet_tensor,
    vision_tensors,
)
from motionloom.denoisers.dynamicrafter.parts import (
    RELEASED,
    DynamiCrafterConfig,
    Parts,
    fill,
    planned,
)
from motionloom.errors import WeightsError
from motionloom.merging.checkpoint import open_checkpoint

Translate = Callable[[str, Tensor], dict[str, Tensor]]
SCALE_TABLE, GATE = "scale_arr", ".attn2.alpha"


class Translated(Mapping[str, Tensor]):
    """Tensors of one part under our names, each read and reshaped when it is asked for.

    Attributes:
        stored: name -> a tensor without memory, of the right shape.
    """

    def __init__(self, official: Mapping[str, Tensor], keys: dict[str, str], translate: Translate) -> None:
        self._official, self._translate = official, translate
        self._keys: dict[str, str] = {}
        self.stored: dict[str, Tensor] = {}
        for key, source in keys.items():
            for name, tensor in translate(key, _without_memory(official, source)).items():
                self._keys[name], self.stored[name] = key, tensor
        self._sources = keys

    def __getitem__(self, name: str) -> Tensor:
        key = self._keys[name]
        return self._translate(key, self._official[self._sources[key]])[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def is_dynamicrafter(names: Mapping[str, object]) -> bool:
    """Whether these tensor names are an official checkpoint's."""
    return any(f"{UNET_PREFIX}init_attn.0." in name for name in names) and any(
        "image_proj_model." in name for name in names
    )


def convert_dynamicrafter(
    source: str | os.PathLike[str], out: str | os.PathLike[str], config: DynamiCrafterConfig | None = None
) -> Path:
    """An official checkpoint -> a folder that `load_base` reads.

    Args:
        source: `model.ckpt`, CIL's `timenoise.ckpt` and their like, or the same tensors as safetensors.
        out: the folder; an earlier one of the same kind is replaced.
        config: sizes; None recognises the released ones.

    Raises:
        WeightsError: not such a checkpoint, or tensors missing, unknown or mis-shaped; nothing is written then.
        InputError: `out` is something else.
    """
    with open_checkpoint(source) as official:
        config = config or recognise(official, Path(source))
        tensors = part_tensors(official, config, f'"{source}"')
        planned(config, tensors, f'"{source}"')  # refuses what does not fit before anything is written
        return write_folder(Path(out), config, tensors)


def load_checkpoint(
    source: str | os.PathLike[str], config: DynamiCrafterConfig | None = None
) -> tuple[DynamiCrafterConfig, Parts]:
    """The networks straight from an official checkpoint; raises as `convert_dynamicrafter` does."""
    with open_checkpoint(source) as official:
        config = config or recognise(official, Path(source))
        return config, fill(config, part_tensors(official, config, f'"{source}"'), f'"{source}"')


def recognise(official: Mapping[str, Tensor], path: Path) -> DynamiCrafterConfig:
    """The released configuration that a checkpoint belongs to; "interp" in its path names the interpolation
    checkpoint, whose tensors are named like the others.
    """
    prefix = common_prefix(official)
    if any(name.endswith(GATE) or "framestride_embed" in name for name in official):
        config = RELEASED["dynamicrafter-256"]
    elif prefix + SCALE_TABLE in official:
        end = float(official[prefix + SCALE_TABLE][-1])
        fits = [known for known in RELEASED.values() if abs(known.base_scale - end) < 1e-3]
        if not fits:
            raise WeightsError(
                f'"{path}" rescales by {end:g}, the released models by 0.7 (512) and 0.3 (1024)',
                fix="give the configuration it was trained with",
            )
        config = fits[0]
    else:
        config = RELEASED["dynamicrafter-1024" if "1024" in str(path) else "dynamicrafter-512"]
    interpolates = "interp" in path.name.lower() or "interp" in path.resolve().parent.name.lower()
    return config.model_copy(update={"given": "first-and-last"}) if interpolates else config


def common_prefix(official: Mapping[str, object]) -> str:
    """What a trainer put in front of every name, such as "module."."""
    found = next((name for name in official if UNET_PREFIX in name), UNET_PREFIX)
    return found[: found.index(UNET_PREFIX)]


def part_tensors(
    official: Mapping[str, Tensor], config: DynamiCrafterConfig, source: str
) -> dict[str, Mapping[str, Tensor]]:
    """Folder name -> the tensors of the part, under our names and lazily.

    Raises:
        WeightsError: names that belong to no part.
    """
    prefix = common_prefix(official)
    keys: dict[str, dict[str, str]] = {part: {} for part in Parts.__annotations__}
    unknown = []
    for name in official:
        part = part_of(name.removeprefix(prefix))
        if part is None:
            unknown.append(name)
        elif part:
            keys[part][name.removeprefix(prefix)] = name
    translate: dict[str, Translate] = {
        "unet": lambda key, tensor: unet_tensor(key, tensor, config.unet),
        "text_encoder": text_tensors,
        "image_encoder": vision_tensors,
        "image_projection": resampler_tensors,
    }
    tensors: dict[str, Mapping[str, Tensor]] = {}
    for part, act in translate.items():
        translated = Translated(official, keys[part], act)
        unknown += [key for key in keys[part] if key not in translated._keys.values()]
        tensors[part] = translated
    tensors["vae"] = _autoencoder({key: official[name] for key, name in keys["vae"].items()}, config)
    if unknown:
        raise WeightsError(
            f"{source}: {len(unknown)} of {len(official)} tensors belong to no part of DynamiCrafter: "
            f"{', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}",
            fix="give an official checkpoint",
        )
    return tensors


def _autoencoder(official: dict[str, Tensor], config: DynamiCrafterConfig) -> dict[str, Tensor]:
    """diffusers' own converter; names it does not know are handed on, so that they are refused."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    blocks = [None] * len(config.autoencoder_channels)
    convert: Callable[..., dict[str, Tensor]] = convert_ldm_vae_checkpoint
    converted = convert(official, {"down_block_types": blocks, "up_block_types": blocks})
    if len(converted) != len(official):
        raise WeightsError(
            f"{len(official)} tensors of the autoencoder ({VAE_PREFIX}*) became {len(converted)}: some are unknown",
            fix="give an official checkpoint",
        )
    return converted


def _without_memory(official: Mapping[str, Tensor], name: str) -> Tensor:
    stored = getattr(official, "stored", official)
    return torch.empty(tuple(stored[name].shape), device="meta")

"""What a merge reads from: a checkpoint as it is, or a LoRA seen as the model it makes of the base."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from motionloom.errors import WeightsError
from motionloom.merging.checkpoint import Checkpoint, Stored
from motionloom.merging.low_rank import Factors, product

DOWN = re.compile(r"^(?P<place>.+?)[._]?lora[._]?(A|down)(\.\w+)??\.weight$")
FORE = (
    "base_model.model.",
    "transformer.",
    "unet.",
    "diffusion_model.",
    "lora_unet_",
    "model.diffusion_model.",
)


@dataclass(frozen=True)
class Pair:
    """The two factors of one weight by name, and their scale."""

    down: str
    up: str
    scale: float


class Source:
    """A tuned model, read piece by piece."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    @property
    def shapes(self) -> Mapping[str, Stored]:
        """name -> something with a shape."""
        return self.checkpoint.stored

    def read(self, name: str, start: int, stop: int) -> Tensor | None:
        """What is stored of elements [start, stop) of a flattened tensor; None where it is the base's."""
        return self.checkpoint.read(name, start, stop, hashed=True)

    def weights(self, stored: Tensor, base: Tensor) -> Tensor:
        """The same elements, or a part of them, as float32; `base` is the base's, float32."""
        return stored.float()


class LoraSource(Source):
    """The base plus scale B A: DARE and its kin act on the product, for masks of A and B are not masks of B A."""

    def __init__(self, checkpoint: Checkpoint, base: Mapping[str, Stored], alpha: float | None) -> None:
        super().__init__(checkpoint)
        self._base, self._pairs = base, _pairs(checkpoint, base, alpha)
        self._last: tuple[str, Tensor] | None = None

    @property
    def shapes(self) -> Mapping[str, Stored]:
        """The base's: a LoRA makes a whole model of it."""
        return self._base

    def read(self, name: str, start: int, stop: int) -> Tensor | None:
        """See `Source`."""
        if name not in self._pairs:
            return None
        if self._last is None or self._last[0] != name:
            self._last = (name, self._product(name).flatten())
        return self._last[1][start:stop]

    def weights(self, stored: Tensor, base: Tensor) -> Tensor:
        """See `Source`."""
        return base + stored

    def _product(self, name: str) -> Tensor:
        pair = self._pairs[name]
        up, down = (self.checkpoint[one].float() for one in (pair.up, pair.down))
        return product(Factors(up, down), self._base[name].shape, pair.scale)


def source(checkpoint: Checkpoint, base: Checkpoint, lora_alpha: float | None) -> Source:
    """The checkpoint as a tuned model of the base."""
    if any(DOWN.match(name) for name in checkpoint):
        return LoraSource(checkpoint, base.stored, lora_alpha)
    return Source(checkpoint)


def _pairs(checkpoint: Checkpoint, base: Mapping[str, Stored], alpha: float | None) -> dict[str, Pair]:
    """Weight of the base -> its factors. Every tensor of the file must be accounted for."""
    by_place = {place: name for name in base if name.endswith(".weight") for place in _places(name)}
    pairs: dict[str, Pair] = {}
    used: set[str] = set()
    for down in checkpoint:
        match = DOWN.match(down)
        if match is None:
            continue
        up = down[: match.start(2)] + {"A": "B", "down": "up"}[match[2]] + down[match.end(2) :]
        target = next((by_place[place] for place in _stripped(match["place"]) if place in by_place), None)
        if target is None or up not in checkpoint:
            raise WeightsError(
                f'"{checkpoint.path}" has "{down}", '
                + ("whose other factor is missing" if target else "which the base lacks"),
                fix="give the base this LoRA was trained on",
            )
        pairs[target] = Pair(down, up, _scale(checkpoint, match["place"], down, alpha))
        shape, factors = base[target].shape, (checkpoint.stored[up].shape, checkpoint.stored[down].shape)
        if factors[0][0] != shape[0] or torch.Size(factors[1][1:]).numel() != torch.Size(shape[1:]).numel():
            raise WeightsError(
                f'"{target}" has the shape {list(shape)}, its LoRA factors {list(factors[0])} and {list(factors[1])}',
                fix="give the base this LoRA was trained on",
            )
        used |= {down, up, f"{match['place']}.alpha"}
    left = [name for name in checkpoint if name not in used]
    if left:
        raise WeightsError(
            f'"{checkpoint.path}" holds {len(left)} tensors that are no LoRA factors ({", ".join(left[:5])})',
            fix="give a LoRA of the common form (lora_A and lora_B, or lora_down and lora_up)",
        )
    return pairs


def _scale(checkpoint: Checkpoint, place: str, down: str, alpha: float | None) -> float:
    stored_alpha = f"{place}.alpha"
    if alpha is None and stored_alpha in checkpoint:
        alpha = float(checkpoint[stored_alpha])
    return 1.0 if alpha is None else alpha / checkpoint.stored[down].shape[0]


def _places(name: str) -> list[str]:
    """What a LoRA file may call a weight of the base."""
    return [
        form for place in _stripped(name.removesuffix(".weight")) for form in (place, place.replace(".", "_"))
    ]


def _stripped(place: str) -> list[str]:
    """A name, and the same without each of the prefixes in use, also one after another."""
    found = [place]
    for one in found:
        found += [rest for fore in FORE if (rest := one.removeprefix(fore)) != one and rest not in found]
    return found

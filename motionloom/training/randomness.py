"""All random number generators of a process: seeded, saved as plain tensors and numbers, and restored."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motionloom.datasets.base import sample_seed


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def training_generator(seed: int, rank: int, device: torch.device) -> torch.Generator:
    """The generator objectives draw from: one per process, on the device of the networks."""
    return torch.Generator(device).manual_seed(sample_seed(seed, -1, rank))


def capture(generator: torch.Generator | None = None) -> dict[str, Any]:
    """The state of every generator: tensors under "torch", "cuda/<n>", "training", and plain lists."""
    words: Any = np.random.get_state(legacy=True)
    kind, keys, position, has_gauss, cached = words
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [random.getstate()[0], list(random.getstate()[1]), random.getstate()[2]],
        "numpy": [kind, keys.tolist(), int(position), int(has_gauss), float(cached)],
    }
    if torch.cuda.is_available():
        state |= {f"cuda/{n}": value for n, value in enumerate(torch.cuda.get_rng_state_all())}
    if generator is not None:
        state["training"] = generator.get_state()
    return state


def restore(state: Mapping[str, Any], generator: torch.Generator | None = None) -> None:
    """The inverse of `capture`."""
    torch.set_rng_state(_bytes(state["torch"]))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    if torch.cuda.is_available():
        for n in range(torch.cuda.device_count()):
            if f"cuda/{n}" in state:
                torch.cuda.set_rng_state(_bytes(state[f"cuda/{n}"]), n)
    if generator is not None:
        generator.set_state(_bytes(state["training"]))


@contextmanager
def unchanged_randomness() -> Iterator[None]:
    """Whatever is drawn inside leaves no trace outside."""
    before = capture()
    try:
        yield
    finally:
        restore(before)


def _bytes(state: Tensor) -> Tensor:
    return state.to("cpu", torch.uint8)

"""Reference cases: a manifest (json) beside its tensors (safetensors), and weights drawn from their names."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class Case:
    name: str
    manifest: dict[str, Any]
    tensors: dict[str, Tensor]

    def weights(self) -> dict[str, Tensor]:
        """Drawn by the manifest's rule; their sums are compared with `weights_check`."""
        drawn = {
            key: torch.from_numpy(weight(key, shape, std, add, self.manifest["seed"]))
            for key, shape, std, add in self.manifest["weights"]
        }
        total = sum(float(value.double().sum()) for value in drawn.values())
        expected = self.manifest["weights_check"]["sum"]
        assert abs(total - expected) < 1e-5 * max(1.0, abs(expected)), (
            "the weights were drawn by another rule"
        )
        return drawn

    def check(self, what: str, got: Tensor, expected: Tensor, tolerance: float | None = None) -> None:
        """Print the largest error, and require it within the manifest's tolerance."""
        limit = tolerance or self.manifest["verification"]["suggested_tolerance"]["max_abs"]
        error = float((got - expected).abs().max())
        print(f"\nparity {self.name}/{what}: max abs error {error:.2e}, limit {limit:.0e}")
        assert got.shape == expected.shape
        assert error <= limit


def read_case(folder: Path, name: str) -> Case:
    manifest = json.loads((folder / f"{name}.json").read_text())
    return Case(name, manifest, load_file(folder / f"{name}.safetensors"))


def weight(key: str, shape: list[int], std: float, add: float, seed: int) -> np.ndarray:
    rng = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32)
    return (np.asarray(rng.standard_normal(tuple(shape))) * std + add).astype(np.float32)

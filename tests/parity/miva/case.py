"""One reference case of MIVA: its manifest, tensors and regenerated weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.golden import weight

HERE = Path(__file__).parent


@dataclass(frozen=True)
class MivaCase:
    name: str
    manifest: dict[str, Any]
    tensors: dict[str, Tensor]

    def base_weights(self) -> dict[str, Tensor]:
        """Under diffusers' names."""
        return _drawn(self.manifest["weights"]["base"])

    def adapter_weights(self) -> dict[str, Tensor]:
        """Under the official names."""
        return _drawn(self.manifest["weights"]["adapters"][0])

    def check(self, what: str, got: Tensor) -> None:
        """Print both errors, and require them within the manifest's tolerance."""
        want = self.tensors[what]
        assert got.shape == want.shape
        difference = (got - want).double()
        relative = float(difference.norm() / want.double().norm())
        largest = float(difference.abs().max() / want.abs().max())
        limit = self.manifest["tolerance"]
        print(f"\nparity miva/{self.name}/{what}: relative L2 {relative:.1e} (limit {limit['rel_l2']:.0e})")
        assert relative <= limit["rel_l2"] and largest <= limit["max_abs_over_max"]


def read_miva_case(name: str) -> MivaCase:
    folder = HERE / name
    manifest = json.loads((folder / "manifest.json").read_text())
    return MivaCase(name, manifest, load_file(folder / "tensors.safetensors"))


def _drawn(group: dict[str, Any]) -> dict[str, Tensor]:
    drawn = {
        key: torch.from_numpy(weight(key, rule["shape"], rule["std"], rule["mean"], group["seed"]))
        for key, rule in group["tensors"].items()
    }
    for key, expected in group["checksum"].items():
        assert abs(float(drawn[key].double().sum()) - expected["sum"]) < 1e-6, "drawn by another rule"
    return drawn

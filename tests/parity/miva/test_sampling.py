"""Shared noise, DCT start and AdaIN against reference numbers.

Origin of shared_noise/, dct_init/ and adain/: random inputs and what the authors' released MIVA layers (repaired where the
release does not run) make of them, in float32; no trained weights. The manifests state rule, tolerance and own error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from motionloom.sampling.first_frame import adain
from motionloom.sampling.schedules import stable_diffusion
from motionloom.start_noise.dct import DCTStart
from motionloom.start_noise.shared import share_noise

HERE = Path(__file__).parent


def read(case: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return json.loads((HERE / case / "manifest.json").read_text()), load_file(
        HERE / case / "tensors.safetensors"
    )


def check(manifest: dict[str, Any], what: str, got: Tensor, want: Tensor) -> None:
    """Print both errors, and require them within the manifest's tolerance."""
    relative = float((got - want).norm() / want.norm())
    largest = float((got - want).abs().max() / want.abs().max())
    limits = manifest["tolerance"]
    print(f"\nparity {manifest['case']}/{what}: relative L2 {relative:.1e}, largest {largest:.1e}")
    assert got.shape == want.shape
    assert relative <= limits["rel_l2"] and largest <= limits["max_abs_over_max"]


@pytest.mark.parametrize("rho", [0.05, 0.2])
def test_shared_noise(rho: float) -> None:
    manifest, tensors = read("shared_noise")
    check(manifest, f"rho {rho}", share_noise(tensors["noise"], rho), tensors[f"shared_rho{rho}"])


def dct_start(tensors: dict[str, Tensor], timestep: int = 975, **changes: Any) -> Tensor:
    abar = stable_diffusion(changes.pop("beta_schedule", "scaled_linear")).alphas_cumprod[timestep]
    start = DCTStart(float(abar.sqrt()), float((1 - abar).sqrt()), **changes)
    return start.around(tensors["image_latent"], tensors["noise"])


def test_dct_start() -> None:
    manifest, tensors = read("dct_init")
    check(manifest, "start", dct_start(tensors), tensors["start_latent"])
    whole = dct_start(tensors, share=1.0)  # every frequency kept: the noised photo itself
    check(manifest, "noised photo", whole[:, :, 1:], tensors["noised_image"])


@pytest.mark.parametrize("mistake", [{"beta_schedule": "linear"}, {"timestep": 981}, {"share": 0.25}])
def test_dct_start_tells_mistakes(mistake: dict[str, Any]) -> None:
    manifest, tensors = read("dct_init")
    error = (dct_start(tensors, **mistake) - tensors["start_latent"]).norm() / tensors["start_latent"].norm()
    assert error > 10 * manifest["tolerance"]["rel_l2"]


def test_adain() -> None:
    manifest, tensors = read("adain")
    check(manifest, "latents", adain(tensors["latents"]), tensors["adain"])

"""Merging against the official EDG code: the released experts under fixed masks, and extrapolation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import motionloom as ml
from tests.parity.golden import Case, read_case, weight

HERE = Path(__file__).parent


def models(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(pre, tuned), drawn by the manifest's rule."""
    pre, tuned = {}, {}
    for key, shape, std, add, delta_std in case.manifest["weights"]:
        first = np.asarray(weight(key, shape, std, add, case.manifest["seed_pre"]))
        step = weight(key, shape, delta_std, 0.0, case.manifest["seed_delta"])
        pre[key], tuned[key] = torch.from_numpy(first), torch.from_numpy(np.asarray(first + step))
    total = sum(float(tensor.double().sum()) for tensor in pre.values())
    assert abs(total - case.manifest["weights_check"]["sum"]) < 1e-5
    return pre, tuned


def expected(case: Case, what: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(what + "/"): tensor
        for name, tensor in case.tensors.items()
        if name.startswith(what + "/")
    }


def check(case: Case, what: str, got: dict[str, Tensor]) -> None:
    reference = expected(case, what)
    assert got.keys() == reference.keys() and len(reference) == 25
    joined = [torch.cat([tensors[key].flatten() for key in reference]) for tensors in (got, reference)]
    case.check(what, *joined)


def test_experts_of_the_release() -> None:
    case = read_case(HERE, "edg_merge")
    pre, tuned = models(case)
    masks = {
        "deg": {key: keep.bool() for key, keep in expected(case, "mask_deg").items()},
        "adt": {key: keep.bool() for key, keep in expected(case, "mask_adt").items()},
    }
    settings = {key: value for key, value in case.manifest["settings"][0].items() if key != "prefix"}
    experts = ml.decouple(pre, tuned, masks=masks, **settings)
    check(case, "dyn", experts["degree"])
    check(case, "con", experts["control"])
    for key, keep in expected(case, "mask_deg").items():  # what is not kept is the base's, bit for bit
        assert torch.equal(experts["degree"][key][keep == 0], pre[key][keep == 0])


def test_extrapolation_of_the_release() -> None:
    case = read_case(HERE, "edg_merge")
    pre, tuned = models(case)
    for alpha in case.manifest["extrapolation_alphas"]:
        check(case, f"extrapolated_{alpha:g}", ml.extrapolate(pre, tuned, alpha))

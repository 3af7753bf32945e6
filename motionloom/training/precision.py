"""Number formats of a run: weights stay fp32, bf16 runs the forward pass under autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Context of the forward pass: nothing for "fp32", bf16 autocast on CPU and GPU for "bf16".

    bf16 keeps the exponent range of fp32, so no loss scaling is needed.
    """
    if precision == "fp32":
        return nullcontext()
    assert precision == "bf16", precision
    return torch.autocast(device_type=device.type, dtype=torch.bfloat16)

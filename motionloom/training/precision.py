"""Number formats of a run. Weights, gradients and moments stay fp32; in bf16 and fp16 the forward pass runs under autocast.

bf16 has the range of fp32. fp16 ends at 65504 and at 2^-24, so each optimizer has a loss scale S (arXiv 1710.03740, 3.2):
backward runs from S times the loss, and the gradients are divided by S before anything looks at them.

    S <- S / 2    after an update with Inf or NaN in its gradients, which is not made
    S <- 2 S      after 2000 updates in a row without
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from motionloom.errors import ConfigError

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
INITIAL_SCALE, GROWTH, BACKOFF, GROWTH_INTERVAL = 2.0**16, 2.0, 0.5, 2000  # torch's own
# A smaller S would say that gradients overflow even as they are: the run has diverged.
SMALLEST_SCALE = 1.0

EMULATED = "this processor has no {} of its own and computes it in software, up to 40 times slower than precision=fp32"

_MISSING = re.compile(
    r"not implemented for 'Half'|Low precision dtypes not supported|could not create a primitive"
)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Context of the forward pass: nothing for "fp32", autocast on any device for "bf16" and "fp16"."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device_type=device.type, dtype=HALVES[precision])


def emulated(device: torch.device, precision: str) -> bool:
    """Whether a processor computes this format in software: right, and up to 40 times slower than fp32.

    oneDNN's own test, which takes AVX-512 for bfloat16: Zen 3 and older processors lack it. Without oneDNN nothing is known,
    and the answer is no.
    """
    if device.type != "cpu" or precision == "fp32":
        return False
    supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported", None)
    return supported is not None and not supported()


class LossScale:
    """S of one optimizer: `torch.amp.GradScaler` with a count of its skips. In fp32 and bf16 S is 1, always.

        backward(scaled(loss)), once or more; unscale(optimizer); step(optimizer), if the gradients are finite; adapt()

    Attributes:
        overflows: updates not made so far.
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        self.overflows = 0
        self.enabled = precision == "fp16"
        self._scaler = torch.amp.GradScaler(
            device.type, INITIAL_SCALE, GROWTH, BACKOFF, GROWTH_INTERVAL, enabled=self.enabled
        )

    @property
    def value(self) -> float:
        """S, a power of two."""
        return float(self._scaler.get_scale())

    def scaled(self, loss: Tensor) -> Tensor:
        """S loss, a scalar."""
        return self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the optimizer's gradients by S, and note whether all are finite."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer's step, unless `unscale` found a gradient that is not finite."""
        self._scaler.step(optimizer)

    def adapt(self) -> bool:
        """Settle S for the next update. Returns whether the gradients of this one had overflowed."""
        before = self.value
        self._scaler.update()
        overflowed = self.value < before
        self.overflows += overflowed
        return overflowed

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: S, the updates since it changed, the constants of its rule, and the count."""
        return {**self._scaler.state_dict(), "overflows": self.overflows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._scaler.load_state_dict({key: value for key, value in state.items() if key != "overflows"})
        self.overflows = int(state["overflows"])


@contextmanager
def missing_operations_told(device: torch.device, precision: str) -> Iterator[None]:
    """Inside, an operation that a device does not have in fp16 is one sentence.

    Raises ConfigError.
    """
    try:
        yield
    except RuntimeError as error:
        if precision != "fp16" or not _MISSING.search(str(error)):
            raise
        raise ConfigError(
            f"precision=fp16, but {device.type} cannot compute all of this model in float16: "
            f"{str(error).splitlines()[0]}",
            fix="use precision=bf16 or precision=fp32, or train on a GPU",
        ) from error

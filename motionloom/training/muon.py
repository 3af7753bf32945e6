"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): momentum, orthogonalised, for matrices and kernels.

torch's own takes matrices alone; most of a motion autoencoder is kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the quintic that brings singular values near 1
NEWTON_SCHULZ_STEPS = 5
RMS_OF_ADAM = (
    0.2  # an update's root mean square, so that AdamW's learning rates fit (arXiv 2502.16982, section 2.2)
)


class Muon(torch.optim.AdamW):
    """Muon with Nesterov momentum for parameters of two dimensions or more, AdamW for the others.

    A kernel (out, in, ...) counts as the matrix (out, in ...). Arguments are those of AdamW; betas[0] is also the momentum.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update. Gradients of kernels are used up: they are None afterwards."""
        assert closure is None, "Muon takes no closure"
        for group in self.param_groups:
            for param in group["params"]:
                if param.ndim > 1 and param.grad is not None:
                    self._step_kernel(param, param.grad, group)
                    param.grad = None  # AdamW passes over it
        return super().step()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """AdamW asks every state for its step; kernels have none, so they are kept from it."""
        given = state["state"]
        kernels = {param: given.pop(param) for param in list(given) if "momentum" in given[param]}
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.state.update(kernels)

    def _step_kernel(self, param: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        momentum = group["betas"][0]
        state = self.state[param]
        if not state:
            state["momentum"] = torch.zeros_like(param)
        average = state["momentum"].lerp_(gradient, 1 - momentum)
        update = orthogonalised(gradient.lerp(average, momentum).flatten(1))
        scale = RMS_OF_ADAM * max(update.shape) ** 0.5
        param.mul_(1 - group["lr"] * group["weight_decay"])
        param.add_(update.view_as(param), alpha=-group["lr"] * scale)


def orthogonalised(matrix: Tensor) -> Tensor:
    """(m, n) => about U V' of its singular value decomposition U S V', by Newton-Schulz iteration, float32."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.float().T if is_tall else matrix.float()
    x = x / (x.norm() + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    directions: Tensor = (x.T if is_tall else x).to(matrix)
    return directions

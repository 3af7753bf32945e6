"""Extrapolate & Decouple (arXiv 2503.00948): one model that moves more, one that obeys more, and no training.

    tau    = tuned - pre
    adt    = DARE(tau)                     what tuning taught: controllability
    dyn    = pre - alpha tau               extrapolated away from it: more motion, if tuning had lowered motion
    deg    = DARE'(dyn - pre)              degree of motion, with a mask of its own
    res    = tau - adt                     what neither holds

Every expert of this kind is base + a deg + b adt + c res (`Coefficients`). Whether tuning lowered or raised motion
depends on the pair of models and on the metric: measure the sign of alpha (`motionloom merge --sweep`), never assume it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from motionloom.errors import ConfigError, NumericError
from motionloom.merging.checkpoint import Computed, check_pair
from motionloom.merging.draws import Draw
from motionloom.merging.linear import extrapolated, task_vector
from motionloom.merging.sparse import dare, is_thinned

Tensors = Mapping[str, Tensor]
Preset = Literal["released", "paper"]
Masks = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Coefficients:
    """An expert in the general form base + a deg + b adt + c res.

    Released: (0.75, 0, 0) and (0, 1.25, 1), which is tuned + 0.25 adt. Paper's wording: (beta_d, 0, 0) and (0, beta_c, 0).
    """

    degree: float = 0.0  # a
    control: float = 0.0  # b
    residual: float = 0.0  # c

    def expert(self, base: Tensor, deg: Tensor, adt: Tensor, tau: Tensor) -> Tensor:
        """The expert's weights for one tensor, res = tau - adt."""
        merged = torch.add(base, deg, alpha=self.degree)
        merged.add_(adt, alpha=self.control - self.residual)
        return merged.add_(tau, alpha=self.residual)


@dataclass(frozen=True)
class Decoupling:
    """The numbers of stage 3.

    Attributes:
        preset: "released" adds the control vector to the tuned model, as the official code does; in expectation the
            experts are pre - 0.1875 tau and pre + 1.25 tau. "paper" adds both vectors to the base, as the paper words it.
        drop: DARE's p.
        dyn_alpha: alpha of the extrapolation.
        dyn_beta: how much of deg the degree expert takes.
        con_alpha: factor of the whole tuned weights in the control expert ("released" only); other than 1 it scales
            weights, not a difference.
        con_beta: how much of adt the control expert takes.
    """

    preset: Preset = "released"
    drop: float = 0.7
    dyn_alpha: float = 0.25
    dyn_beta: float = 0.75
    con_alpha: float = 1.0
    con_beta: float = 0.25

    def __post_init__(self) -> None:
        if self.preset not in ("released", "paper"):
            raise ConfigError(
                f'there is no preset "{self.preset}" of decoupling', fix='use "released" or "paper"'
            )
        if not 0 <= self.drop < 1:
            raise ConfigError(
                f"drop is {self.drop}, expected 0 to below 1", fix="use 0.7, the released value"
            )
        if self.con_alpha != 1.0:
            warnings.warn(
                f"con_alpha {self.con_alpha} scales all tuned weights, not a difference: expect noise",
                stacklevel=3,
            )

    def vectors(
        self, tau: Tensor, keep_degree: Tensor | None, keep_control: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(deg, adt) of one tensor; a mask of None keeps tau whole."""
        deg = -self.dyn_alpha * tau
        if keep_degree is not None:
            deg = dare(deg, self.drop, keep_degree)
        adt = tau if keep_control is None else dare(tau, self.drop, keep_control)
        return deg, adt

    def experts(
        self, pre: Tensor, tuned: Tensor, keep_degree: Tensor | None, keep_control: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(degree, control) of one tensor, float32."""
        deg, adt = self.vectors(task_vector(pre, tuned), keep_degree, keep_control)
        degree = torch.add(pre, deg, alpha=self.dyn_beta)
        if self.preset == "paper":
            return degree, torch.add(pre, adt, alpha=self.con_beta)
        start = tuned if self.con_alpha == 1.0 else self.con_alpha * tuned
        return degree, torch.add(start, adt, alpha=self.con_beta)


# --- the doors ----------------------------------------------------------------------------------------------


def extrapolate(pre: Tensors | str, tuned: Tensors | str, alpha: float, *, keys: str = "strict") -> Tensors:
    """theta = pre - alpha (tuned - pre), tensor by tensor, computed in float32 and given back in pre's dtypes.

    Args:
        pre: name -> tensor: a dict, an open `Checkpoint`, or a path.
        tuned: the same model after tuning; dtypes may differ.
        alpha: how far; 0 is pre bit for bit, -1 the tuned model, below -1 beyond it.
        keys: what happens to tensors only one of them has; see `checkpoint.check_pair`.

    Returns:
        A dict for dicts; for files a lazy mapping that computes a tensor when it is asked for. Integers and flags are
        pre's.

    Raises:
        WeightsError: names or shapes differ, or a tensor holds NaN or infinities.
    """
    pre, tuned = _opened(pre), _opened(tuned)

    def merge(name: str, base: Tensor, other: Tensor) -> Tensor:
        return extrapolated(base, other, alpha)

    return _mapped(pre, tuned, check_pair(pre, tuned, keys), keys, merge)


def decouple(
    pre: Tensors | str,
    tuned: Tensors | str,
    preset: Preset = "released",
    seed: int = 0,
    drop: float = 0.7,
    dyn_alpha: float = 0.25,
    dyn_beta: float = 0.75,
    con_alpha: float = 1.0,
    con_beta: float = 0.25,
    masks: Masks | None = None,
    *,
    keys: str = "strict",
) -> dict[str, Tensors]:
    """The two experts of stage 3: {"degree": for the early, noisy steps, "control": for the late ones}.

    Args:
        pre, tuned: as for `extrapolate`.
        preset, drop, dyn_alpha, dyn_beta, con_alpha, con_beta: see `Decoupling`. "paper" adds con_beta adt to the base;
            its con_beta is not published, 1.0 is our choice (recipes/edg/decouple_paper.yaml).
        seed: of the masks; each tensor's masks depend on seed and name alone.
        masks: {"deg": {name: keep}, "adt": {name: keep}} replaces the seeded draw. Tensors of exactly one axis are never
            masked and need none.
        keys: see `checkpoint.check_pair`.

    Raises:
        ConfigError: an unknown preset, or a drop that cannot be.
        WeightsError: names or shapes differ, a mask is missing or misshaped, or a tensor holds NaN or infinities.
    """
    pre, tuned = _opened(pre), _opened(tuned)
    numbers = Decoupling(preset, drop, dyn_alpha, dyn_beta, con_alpha, con_beta)
    both = check_pair(pre, tuned, keys)

    def expert(which: int) -> Callable[[str, Tensor, Tensor], Tensor]:
        def merge(name: str, base: Tensor, other: Tensor) -> Tensor:
            keep_degree = _keep(name, base, "deg", seed, drop, masks) if which == 0 else None
            keep_control = _keep(name, base, "adt", seed, drop, masks) if which == 1 else None
            return numbers.experts(base, other, keep_degree, keep_control)[which]

        return merge

    return {
        "degree": _mapped(pre, tuned, both, keys, expert(0)),
        "control": _mapped(pre, tuned, both, keys, expert(1)),
    }


def _opened(tensors: Tensors | str) -> Tensors:
    from motionloom.merging.checkpoint import open_checkpoint

    return tensors if isinstance(tensors, Mapping) else open_checkpoint(tensors)


def _keep(
    name: str, base: Tensor, purpose: str, seed: int, drop: float, masks: Masks | None
) -> Tensor | None:
    """The mask of one tensor; None where nothing is masked."""
    if not is_thinned(base.ndim):
        return None
    if masks is None:
        return Draw(seed, name, purpose).keep(base.shape, 1.0 - drop)
    keep = masks.get(purpose, {}).get(name)
    if keep is None or keep.shape != base.shape:
        got = "none" if keep is None else f"one of shape {list(keep.shape)}"
        raise ConfigError(
            f'masks["{purpose}"] must hold a mask of shape {list(base.shape)} for "{name}", got {got}',
            fix="give a mask for every tensor that has not exactly one axis, or leave masks out",
        )
    return keep


def _mapped(
    pre: Tensors, tuned: Tensors, both: list[str], keys: str, merge: Callable[[str, Tensor, Tensor], Tensor]
) -> Tensors:
    """Every tensor of the result: merged where both have it, else as the policy for keys says."""
    shared = set(both)

    def compute(name: str) -> Tensor:
        if name not in shared:
            return pre[name] if name in pre else tuned[name]
        base = pre[name]
        if not base.is_floating_point():
            return base
        merged = merge(name, base.float(), tuned[name].float()).to(base.dtype)
        if not torch.isfinite(merged.float()).all():
            raise not_finite(name, {"the base": base, "the tuned model": tuned[name]})
        return merged

    names = (
        both if keys == "shared" else [*pre, *(name for name in tuned if name not in pre and keys == "union")]
    )
    lazy = Computed(names, compute)
    return dict(lazy) if isinstance(pre, dict) and isinstance(tuned, dict) else lazy


def not_finite(name: str, inputs: Mapping[str, Tensor]) -> NumericError:
    """Which input is to blame for a NaN or infinity in a merged tensor, or that the dtype is too narrow."""
    for what, tensor in inputs.items():
        if not torch.isfinite(tensor.float()).all():
            return NumericError(
                f'"{name}" of {what} holds NaN or infinities', fix="use an earlier checkpoint of that model"
            )
    return NumericError(
        f'"{name}" leaves the range of its dtype when merged', fix="use smaller weights, or dtype: bfloat16"
    )

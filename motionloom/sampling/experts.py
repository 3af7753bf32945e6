"""Two experts along the denoising steps: one where it is noisy, another where it is not (arXiv 2503.00948, stage 3).

    with Experts(network, difference, Schedule(0.5)) as experts:
        latents = sample(Switched(denoiser, experts), ...)

One network stands in memory, as the early expert, beside one difference to the late one. The difference is added in place
when the schedule says so and removed in the end, bit for bit: floating-point addition forgets (w + d - d != w), so what it
would forget is kept. Other forms of the same: `TwoNetworks` (Wan 2.2's) and `scale_at` for the weight of an adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from motionloom.denoisers.base import Denoiser, PredictionType
from motionloom.errors import ConfigError, WeightsError

NUM_TRAIN_TIMESTEPS = 1000
Blend = Literal["hard", "linear", "cosine"]
Level = Callable[[float], float]  # timestep -> the level a schedule's boundary is compared with


def timestep_fraction(timestep: float) -> float:
    """t / 1000: the paper's axis, and the noise level itself for rectified flow."""
    return timestep / NUM_TRAIN_TIMESTEPS


def noise_level(scheduler: Any) -> Level:
    """The share of noise in the latents, 0..1: sqrt(1 - abar_t), or t / 1000 for rectified flow.

    Args:
        scheduler: a diffusers scheduler.
    """
    if not hasattr(scheduler, "alphas_cumprod"):
        return timestep_fraction
    levels = (1 - scheduler.alphas_cumprod).clamp_min(0).sqrt()
    return lambda timestep: float(levels[min(len(levels) - 1, max(0, round(timestep)))])


@dataclass(frozen=True)
class Schedule:
    """How much of the late expert a step takes: 0 early, 1 late.

    Attributes:
        boundary: in units of `level`. The release switches at 0.5: the early expert where the level is above it, the late
            one at and below it.
        blend: "hard" switches once; "linear" and "cosine" pass over in `width` levels around the boundary, by mixing
            weights (ours; the release has a mix of predictions that it never calls).
        width: of the transition.
        early_at_boundary: the early expert also where the level equals the boundary: Wan 2.2's `>=`. The release has `>`.
        level: timestep -> level.
    """

    boundary: float = 0.5
    blend: Blend = "hard"
    width: float = 0.2
    early_at_boundary: bool = False
    level: Level = field(default=timestep_fraction, compare=False)

    def __post_init__(self) -> None:
        if self.blend not in ("hard", "linear", "cosine"):
            raise ConfigError(f'there is no blend "{self.blend}"', fix="use hard, linear or cosine")
        if self.blend != "hard" and self.width <= 0:
            raise ConfigError(
                f"the width of a transition is {self.width}, expected more than 0", fix="use 0.2"
            )

    def late_share(self, timestep: float) -> float:
        """0 (early expert) to 1 (late expert) at a timestep, 0..1000."""
        level = self.level(timestep)
        if self.blend == "hard":
            early = level >= self.boundary if self.early_at_boundary else level > self.boundary
            return 0.0 if early else 1.0
        along = min(1.0, max(0.0, (self.boundary - level) / self.width + 0.5))
        return along if self.blend == "linear" else 0.5 - 0.5 * math.cos(math.pi * along)


def scale_at(schedule: Schedule, timestep: float, early: float, late: float) -> float:
    """The weight of an adapter at a timestep, where the experts are one adapter at two weights.

    With a LoRA as the tuned model, pre - alpha tau is its weight -alpha: exact, and no weights are merged.
    """
    share = schedule.late_share(timestep)
    return early + share * (late - early)


# --- one network and a difference ---------------------------------------------------------------------------


class _Addition:
    """share * difference, added to a parameter in place, and what it takes to take it back exactly."""

    def __init__(self, parameter: Tensor, difference: Tensor) -> None:
        self._parameter, self._difference = parameter, difference
        self._share = 0.0  # that `_where` and `_values` belong to
        self._where = torch.empty(0, dtype=torch.int32, device=parameter.device)
        self._values = torch.empty(0, dtype=parameter.dtype, device=parameter.device)

    def prepare(self, share: float) -> None:
        """Find the entries whose sum with the difference forgets what they were, and keep them."""
        step = self._step(share).to(self._parameter.dtype)
        forgotten = _differ((self._parameter + step) - step, self._parameter).flatten()
        self._where = forgotten.nonzero().flatten().to(torch.int32)
        self._values = self._parameter.flatten()[self._where]
        self._share = share

    def enter(self, share: float) -> None:
        """Add; at a share that was prepared this is one addition and nothing else."""
        if share != self._share:
            self.prepare(share)
        self._parameter.add_(self._step(share))

    def undo(self) -> None:
        """Take back what `enter` added."""
        self._parameter.sub_(self._step(self._share))
        self._parameter.put_(self._where.long(), self._values)  # whatever the strides

    def _step(self, share: float) -> Tensor:
        return self._difference if share == 1.0 else self._difference.to(self._parameter.dtype) * share

    @property
    def extra_bytes(self) -> int:
        return self._difference.nbytes + self._where.nbytes + self._values.nbytes


class _Exchange:
    """The late expert's values where they differ, swapped with the early one's: exact for every dtype."""

    def __init__(self, parameter: Tensor, where: Tensor, values: Tensor) -> None:
        self._parameter, self._where, self._values = parameter, where, values

    def swap(self) -> None:
        place = _unpacked(self._where, self._parameter.shape)
        mine = self._parameter[place]
        self._parameter[place] = self._values
        self._values = mine

    @property
    def extra_bytes(self) -> int:
        return self._where.nbytes + self._values.nbytes


class _BitDifference:
    """A 16-bit late expert as the difference of bit patterns, int16 that wraps around: exact, and taken back exactly.

    It is low + 256 high: a byte for every entry, and another for those whose high part is not 0.
    """

    def __init__(self, parameter: Tensor, late: Tensor) -> None:
        difference = late.view(torch.int16) - parameter.view(torch.int16)
        self._low = difference.to(torch.int8)
        high = (difference - self._low) >> 8
        far = high != 0
        self._parameter, self._high = parameter, high[far].to(torch.int8)
        self._far = _packed(far) if len(self._high) else torch.empty(0, dtype=torch.uint8)
        self._sign = 1

    def swap(self) -> None:
        bits = self._parameter.view(torch.int16)
        bits.add_(self._low, alpha=self._sign)
        if len(self._high):
            bits[_unpacked(self._far, bits.shape)] += self._high.short() * (256 * self._sign)
        self._sign = -self._sign

    @property
    def extra_bytes(self) -> int:
        return self._low.nbytes + self._far.nbytes + self._high.nbytes


class Experts:
    """A network that is the early expert, and a difference that makes it the late one. Use as a context.

    Each parameter takes the shortest form that is exact. Differences with zeros (DARE) are a mask of bits and values. Dense
    ones of a float32 network are kept in bfloat16: the late expert is then early + bfloat16(difference), and so is
    `late_weight`, to which it is equal bit for bit. Dense ones of a 16-bit network are one byte or two an entry
    (`_BitDifference`). A blend
    needs sums: there a 16-bit network pays for a whole second one.

    Args:
        network: in memory as the early expert.
        difference: parameter name -> late - early, of the parameter's shape; others stay as they are.
        schedule: when.

    Raises:
        WeightsError: the difference names parameters the network lacks, or has other shapes, or is empty.
    """

    def __init__(self, network: nn.Module, difference: Mapping[str, Tensor], schedule: Schedule) -> None:
        self.schedule = schedule
        self._network = network
        parameters = {**dict(network.named_buffers()), **dict(network.named_parameters())}
        _check_fit(parameters, difference)
        self._parameters = parameters
        self._exchanges: dict[str, _Exchange | _BitDifference] = {}
        self._additions: dict[str, _Addition] = {}
        self._share = 0.0
        self._largest_extra_bytes = 0
        for name, one in difference.items():
            self._take(name, one.to(parameters[name].device))

    @torch.no_grad()
    def _take(self, name: str, difference: Tensor) -> None:
        parameter = self._parameters[name].data
        late = late_weight(parameter, difference)
        if self.schedule.blend != "hard":
            self._additions[name] = _Addition(parameter, difference.to(_dense_dtype(parameter)))
            return
        changed = _differ(late, parameter)
        exchange = _Exchange(parameter, _packed(changed), late[changed])
        if parameter.element_size() == 2:
            bits = _BitDifference(parameter, late)
            self._exchanges[name] = bits if bits.extra_bytes < exchange.extra_bytes else exchange
        elif parameter.dtype != torch.float32 or exchange.extra_bytes < parameter.nbytes / 2:
            self._exchanges[name] = exchange
        else:
            self._additions[name] = _Addition(parameter, difference.to(torch.bfloat16))
            self._additions[name].prepare(1.0)

    @torch.no_grad()
    def at(self, timestep: float) -> None:
        """Make the network the expert of a timestep, 0..1000; nothing happens while that stays the same."""
        self._become(self.schedule.late_share(timestep))

    def _become(self, share: float) -> None:
        if share == self._share:
            return
        if self._share:
            self._leave()
        if share:
            self._enter(share)
        self._share = share

    def _enter(self, share: float) -> None:
        for exchange in self._exchanges.values():
            exchange.swap()
        for addition in self._additions.values():
            addition.enter(share)
        self._largest_extra_bytes = max(self._largest_extra_bytes, self._extra_bytes())

    def _leave(self) -> None:
        for addition in self._additions.values():
            addition.undo()
        for exchange in self._exchanges.values():
            exchange.swap()

    def _extra_bytes(self) -> int:
        return sum(one.extra_bytes for one in (*self._additions.values(), *self._exchanges.values()))

    def __enter__(self) -> Experts:
        return self

    @torch.no_grad()
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._become(0.0)

    @property
    def extra_share(self) -> float:
        """Memory beyond the network, as a share of it: the most there was so far."""
        extra = max(self._largest_extra_bytes, self._extra_bytes())
        return extra / max(1, sum(one.nbytes for one in self._parameters.values()))


@dataclass(frozen=True)
class Switched:
    """A denoiser whose network changes expert along the steps: a `Denoiser` itself."""

    denoiser: Denoiser
    experts: Experts

    @property
    def prediction_type(self) -> PredictionType:
        """That of the denoiser."""
        return self.denoiser.prediction_type

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Any) -> Tensor:
        """See `Denoiser`; all samples share one timestep."""
        self.experts.at(float(timestep.flatten()[0]))
        return self.denoiser(latents, timestep, condition)


@dataclass(frozen=True)
class TwoNetworks:
    """Two whole networks, as Wan 2.2 has them (`transformer`, `transformer_2`): a `Denoiser`.

    For Wan 2.2 the schedule is Schedule(boundary_ratio, early_at_boundary=True). Only hard switches.
    """

    early: Denoiser
    late: Denoiser
    schedule: Schedule = field(default_factory=Schedule)

    @property
    def prediction_type(self) -> PredictionType:
        """That of both."""
        return self.early.prediction_type

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Any) -> Tensor:
        """See `Denoiser`; all samples share one timestep."""
        late = self.schedule.late_share(float(timestep.flatten()[0])) >= 0.5
        return (self.late if late else self.early)(latents, timestep, condition)


def late_weight(early: Tensor, difference: Tensor) -> Tensor:
    """The late expert's weight as `Experts` makes it: early + difference, the difference rounded as it is kept."""
    kept = difference.to(_dense_dtype(early))
    return early + kept.to(early.dtype)


def _dense_dtype(parameter: Tensor) -> torch.dtype:
    return torch.bfloat16 if parameter.dtype == torch.float32 else parameter.dtype


def _check_fit(parameters: Mapping[str, Tensor], difference: Mapping[str, Tensor]) -> None:
    unknown = [name for name in difference if name not in parameters]
    if unknown or not difference:
        what = (
            f"{len(unknown)} tensors the network lacks ({', '.join(unknown[:5])})" if unknown else "nothing"
        )
        raise WeightsError(
            f"the difference between the experts holds {what}", fix="give experts of this network"
        )
    for name, one in difference.items():
        if one.shape != parameters[name].shape:
            raise WeightsError(
                f'"{name}" has the shape {list(parameters[name].shape)} in the network and {list(one.shape)} in the experts',
                fix="give experts of this network",
            )


def _differ(one: Tensor, other: Tensor) -> Tensor:
    """Where two tensors of a dtype differ in any bit: -0 is not 0."""
    as_integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return one.view(as_integers) != other.view(as_integers)


def _packed(mask: Tensor) -> Tensor:
    """Bool, any shape => uint8, eight entries a byte."""
    flat = mask.flatten()
    padded = torch.cat([flat, flat.new_zeros(-len(flat) % 8)]).reshape(-1, 8)
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=mask.device)
    return (padded.to(torch.uint8) * weights).sum(1, dtype=torch.uint8)


def _unpacked(packed: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `_packed`."""
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return (packed[:, None] >> places & 1).flatten()[: shape.numel()].bool().reshape(shape)

"""The methods as sections of a recipe: settings by name, checked, and what they do to one tensor.

A method sees one tensor at a time, in float32, with its name and shape (`Slot`). One that treats every entry alone
(`whole` False) is handed flattened pieces of it, in order, so that memory and cache stay small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from motionloom.errors import ConfigError
from motionloom.training.stages import Section

if TYPE_CHECKING:
    from torch import Tensor

    from motionloom.merging.draws import Draw

Results = dict[str, Any]  # output name -> tensor; the one output of most methods is ""
SINGLE = ("",)
EXPERTS = ("degree", "control")


@dataclass
class Slot:
    """The tensor that is being merged: its name, its shape, and its random streams.

    Attributes:
        upcoming: how many entries will be asked for next, in equal parts: their masks are drawn at once.
    """

    name: str
    shape: tuple[int, ...]
    seed: int
    upcoming: int = 0
    _draws: dict[str, Draw] = field(default_factory=dict)
    _drawn: dict[str, Iterator[Tensor]] = field(default_factory=dict)

    def keep(self, purpose: str, like: Tensor, probability: float) -> Tensor:
        """The next piece of the mask with this purpose, of the shape of `like`."""
        import torch

        part, count = next(self._drawn.get(purpose, iter(())), None), like.numel()
        if part is None:
            drawn = self.draw(purpose).keep((max(count, self.upcoming),), probability)
            self._drawn[purpose] = iter(torch.split(drawn, count))
            part = next(self._drawn[purpose])
        return part.reshape(like.shape)

    def draw(self, purpose: str) -> Draw:
        """The stream with this purpose."""
        from motionloom.merging.draws import Draw

        if purpose not in self._draws:
            self._draws[purpose] = Draw(self.seed, self.name, purpose)
        return self._draws[purpose]


class Method(Section):
    """Base of every method. A subclass adds settings and implements `merge`."""

    kind: str = Field(description="a key of METHODS")
    outputs: ClassVar[tuple[str, ...]] = SINGLE
    whole: ClassVar[bool] = False  # needs whole tensors
    tuned_at_least: ClassVar[int] = 1
    tuned_at_most: ClassVar[int | None] = None
    uses_base: ClassVar[bool] = True  # False: base gives only what is not merged

    @property
    def statistics_files(self) -> list[str]:
        """Files with what the models saw of their data, one each; none for most methods."""
        return []

    def check(self, num_tuned: int) -> None:
        """Raises ConfigError when the number of tuned models does not fit."""
        most = self.tuned_at_most
        if num_tuned < self.tuned_at_least or (most is not None and num_tuned > most):
            expected = (
                f"{self.tuned_at_least}" if most == self.tuned_at_least else f"at least {self.tuned_at_least}"
            )
            raise ConfigError(
                f"method {self.kind} merges {expected} tuned models, got {num_tuned}", fix="correct `tuned`"
            )

    def merge(
        self, slot: Slot, base: Tensor, tuned: Sequence[Tensor], statistics: Sequence[Tensor | None]
    ) -> Results:
        """Output name -> merged tensor, float32, of the shape of base."""
        raise NotImplementedError


class Extrapolate(Method):
    """See `linear.extrapolated`."""

    kind: Literal["extrapolate"] = "extrapolate"
    alpha: float = Field(description="away from the tuned model; 0 is the base, -1 the tuned model")
    tuned_at_most: ClassVar[int | None] = 1

    def merge(
        self, slot: Slot, base: Tensor, tuned: Sequence[Tensor], statistics: Sequence[Tensor | None]
    ) -> Results:
        from motionloom.merging.linear import extrapolated

        return {"": extrapolated(base, tuned[0], self.alpha)}


class Decouple(Method):
    """See `decoupling.Decoupling`; two outputs."""

    kind: Literal["decouple"] = "decouple"
    preset: Literal["released", "paper"] = "released"
    drop: float = Field(0.7, ge=0, lt=1)
    dyn_alpha: float = 0.25
    dyn_beta: float = 0.75
    con_alpha: float = 1.0
    con_beta: float = 0.25
    outputs: ClassVar[tuple[str, ...]] = EXPERTS
    tuned_at_most: ClassVar[int | None] = 1

    def merge(
        self, slot: Slot, base: Tensor, tuned: Sequence[Tensor], statistics: Sequence[Tensor | None]
    ) -> Results:
        from motionloom.merging.decoupling import Decoupling

        numbers = Decoupling(**self.model_dump(exclude={"kind"}))
        degree, control = numbers.experts(base, tuned[0], *_decoupling_masks(slot, base, self.drop))
        return {"degree": degree, "control": control}


class ExpertCoefficients(Section):
    """a, b, c of base + a deg + b adt + c res: see `decoupling.Coefficients`."""

    degree: float = 0.0
    control: float = 0.0
    residual: float = 0.0


class DecoupleLinear(Method):
    """Two experts in the general linear form; a generalisation of ours that holds both presets."""

    kind: Literal["decouple-linear"] = "decouple-linear"
    drop: float = Field(0.7, ge=0, lt=1)
    dyn_alpha: float = 0.25
    degree: ExpertCoefficients
    control: ExpertCoefficients
    outputs: ClassVar[tuple[str, ...]] = EXPERTS
    tuned_at_most: ClassVar[int | None] = 1

    def merge(
        self, slot: Slot, base: Tensor, tuned: Sequence[Tensor], statistics: Sequence[Tensor | None]
    ) -> Results:
        from motionloom.merging.decoupling import Coefficients, Decoupling
        from motionloom.merging.linear import task_vector

        tau = task_vector(base, tuned[0])
        numbers = Decoupling(drop=self.drop, dyn_alpha=self.dyn_alpha)
        deg, adt = numbers.vectors(tau, *_decoupling_masks(slot, base, self.drop))
        return {
            name: Coefficients(**coefficients.model_dump()).expert(base, deg, adt, tau)
            for name, coefficients in (("degree", self.degree), ("control", self.control))
        }


def _decoupling_masks(slot: Slot, base: Tensor, drop: float) -> tuple[Tensor | None, Tensor | None]:
    from motionloom.merging.sparse import is_thinned

    if not is_thinned(len(slot.shape)):
        return None, None
    return slot.keep("deg", base, 1 - drop), slot.keep("adt", base, 1 - drop)


class Weighted(Method):
    """Several tuned models, each with a weight."""

    weights: list[float] | None = Field(None, description="one a tuned model; null gives each 1")

    def check(self, num_tuned: int) -> None:
        super().check(num_tuned)
        if self.weights is not None and len(self.weights) != num_tuned:
            raise ConfigError(
                f"got {len(self.weights)} weights for {num_tuned} tuned models", fix="give one weight each"
            )

    def weights_of(self, tuned: Sequence[Any]) -> list[float]:
        """One a model."""
        return self.weights or [1.0] * len(tuned)


class Average(Weighted):
    """See `linear.average`."""

    kind: Literal["average"] = "average"
    uses_base: ClassVar[bool] = False

    def merge(
        self, slot: Slot, base: Tensor, tuned: Sequence[Tensor], statistics: Sequence[Tensor | None]
    ) -> Results:
        from motionloom.merging.linear import average

        return {"": average(tuned, self.weights_of(tuned))}

    @model_validator(mode="after")
    def _has_a_sum(self) -> Average:
        if self.weights is not None and sum(self.weights) == 0:
            raise ValueError("the weights of an average must not add up to 0")
        return self


class TaskArithmetic(Weighted):
    """See `linear.task_arithmetic`."""

    kind: Literal["task-arithmetic"] = "task-arithmetic"
    scale: float = 1.0

    def merge(
        self, slot: Slot, base: Tensor, tuned: Sequence[Tensor], statistics: Sequence[Tensor | None]
    ) -> Results:
        from motionloom.merging.linear import task_arithmetic

        return {"": task_arithmetic(base, tuned, self.weights_of(tuned), self.scale)}


class Thinned(Weighted):
    """base + scale * (thinned task vectors, added or joined by TIES)."""

    scale: float = 1.0
    join: Literal["sum", "ties"] = Field("sum", description="ties: elect a sign, average what agrees")
    election: Literal["total", "frequency"] = "total"
    thin_one_dimensional: bool = Field(
        True, description="whether biases and gains are thinned; the released EDG code leaves them whole"
    )

    def thin(self, tau: Tensor, slot: Slot, index: int) -> Tensor:
        """One task vector (or a piece of it) made sparse."""
        raise NotImplementedError

    def merge(
        self, slot: Slot, base: Tensor, tuned: Sequence[Tensor], statistics: Sequence[Tensor | None]
    ) -> Results:
        import torch

        from motionloom.merging.linear import plus, task_vector
        from motionloom.merging.signs import elected
        from motionloom.merging.sparse import is_thinned

        taus = [task_vector(base, tensor) for tensor in tuned]
        if self.thin_one_dimensional or is_thinned(len(slot.shape)):
            taus = [self.thin(tau, slot, index) for index, tau in enumerate(taus)]
        weights = self.weights_of(tuned)
        if self.join == "ties":
            return {"": torch.add(base, elected(taus, weights, self.election), alpha=self.scale)}
        return {"": plus(base, taus, [self.scale * weight for weight in weights])}


class Dare(Thinned):
    """See `sparse.dare`; with join: ties, DARE-TIES."""

    kind: Literal["dare"] = "dare"
    drop: float = Field(0.7, ge=0, lt=1)
    rescale: Literal["expected", "norm"] = Field("expected", description="norm: mergekit's ratio of L1 norms")
    thin_one_dimensional: bool = False

    @property
    def whole(self) -> bool:  # type: ignore[override]
        """A ratio of norms needs the whole tensor."""
        return self.rescale == "norm"

    def thin(self, tau: Tensor, slot: Slot, index: int) -> Tensor:
        from motionloom.merging.sparse import dare, dare_by_norm

        keep = slot.keep(f"dare {index}", tau, 1 - self.drop)
        return dare(tau, self.drop, keep) if self.rescale == "expected" else dare_by_norm(tau, keep)


class Magnitude(Thinned):
    """See `sparse.magnitude`."""

    kind: Literal["magnitude"] = "magnitude"
    density: float = Field(0.2, gt=0, le=1)
    whole: ClassVar[bool] = True

    def thin(self, tau: Tensor, slot: Slot, index: int) -> Tensor:
        from motionloom.merging.sparse import magnitude

        return magnitude(tau, self.density)


class Ties(Magnitude):
    """TIES-Merging (arXiv 2306.01708): trim each tensor by magnitude, elect signs, average what agrees.

    Trimming is per tensor, as in peft and mergekit; the paper and the EDG code trim a model as one long vector.
    """

    kind: Literal["ties"] = "ties"  # type: ignore[assignment]
    join: Literal["sum", "ties"] = "ties"


class Breadcrumbs(Thinned):
    """See `sparse.breadcrumbs`."""

    kind: Literal["breadcrumbs"] = "breadcrumbs"
    density: float = Field(0.9, gt=0, le=1)
    outliers: float = Field(0.01, ge=0, lt=1)
    whole: ClassVar[bool] = True

    @model_validator(mode="after")
    def _fits(self) -> Breadcrumbs:
        if self.density + self.outliers > 1:
            raise ValueError("density and outliers together must not exceed 1")
        return self

    def thin(self, tau: Tensor, slot: Slot, index: int) -> Tensor:
        from motionloom.merging.sparse import breadcrumbs

        return breadcrumbs(tau, self.density, self.outliers)


class Della(Thinned):
    """See `sparse.della`."""

    kind: Literal["della"] = "della"
    density: float = Field(0.7, gt=0, lt=1)
    epsilon: float = Field(0.15, ge=0, lt=1)
    whole: ClassVar[bool] = True

    @model_validator(mode="after")
    def _are_probabilities(self) -> Della:
        if self.density <= self.epsilon or self.density + self.epsilon > 1:
            raise ValueError("density - epsilon must be above 0 and density + epsilon at most 1")
        return self

    def thin(self, tau: Tensor, slot: Slot, index: int) -> Tensor:
        from motionloom.merging.sparse import della

        return della(tau, self.density, self.epsilon, slot.draw(f"della {index}"))


class Slerp(Method):
    """See `angles.slerp`: from the base to the tuned model, or between two tuned ones."""

    kind: Literal["slerp"] = "slerp"
    t: float = Field(ge=0, le=1)
    whole: ClassVar[bool] = True
    tuned_at_most: ClassVar[int | None] = 2

    def merge(
        self, slot: Slot, base: Tensor, tuned: Sequence[Tensor], statistics: Sequence[Tensor | None]
    ) -> Results:
        from motionloom.merging.angles import slerp

        start, end = (base, tuned[0]) if len(tuned) == 1 else tuned
        return {"": slerp(start, end, self.t)}


class ModelStock(Method):
    """See `angles.model_stock`."""

    kind: Literal["model-stock"] = "model-stock"
    whole: ClassVar[bool] = True
    tuned_at_least: ClassVar[int] = 2

    def merge(
        self, slot: Slot, base: Tensor, tuned: Sequence[Tensor], statistics: Sequence[Tensor | None]
    ) -> Results:
        from motionloom.merging.angles import model_stock

        return {"": model_stock(base, tuned)}


class Statistical(Weighted):
    """Needs a file of statistics for each tuned model, with the model's own tensor names."""

    statistics: list[str] = Field(min_length=1, description="a safetensors file a tuned model")
    uses_base: ClassVar[bool] = False

    @property
    def statistics_files(self) -> list[str]:
        return self.statistics

    def check(self, num_tuned: int) -> None:
        super().check(num_tuned)
        if len(self.statistics) != num_tuned:
            raise ConfigError(
                f"got {len(self.statistics)} files of statistics for {num_tuned} tuned models",
                fix="give one file each",
            )


class Fisher(Statistical):
    """See `statistics.fisher`; tensors without statistics are averaged."""

    kind: Literal["fisher"] = "fisher"

    def merge(
        self, slot: Slot, base: Tensor, tuned: Sequence[Tensor], statistics: Sequence[Tensor | None]
    ) -> Results:
        from motionloom.merging.linear import average
        from motionloom.merging.statistics import fisher

        known = [one for one in statistics if one is not None]
        if len(known) < len(tuned):
            return {"": average(tuned, self.weights_of(tuned))}
        return {"": fisher(tuned, known, self.weights_of(tuned))}


class RegMean(Statistical):
    """See `statistics.regmean`; tensors without statistics, and all but matrices, are averaged."""

    kind: Literal["regmean"] = "regmean"
    shrink: float = Field(0.9, ge=0, le=1)
    whole: ClassVar[bool] = True

    def merge(
        self, slot: Slot, base: Tensor, tuned: Sequence[Tensor], statistics: Sequence[Tensor | None]
    ) -> Results:
        from motionloom.merging.linear import average
        from motionloom.merging.statistics import regmean

        known = [one for one in statistics if one is not None]
        if len(known) < len(tuned) or base.ndim != 2:
            return {"": average(tuned, self.weights_of(tuned))}
        return {"": regmean(tuned, known, self.shrink)}


class LowRank(Weighted):
    """base + scale * sum of task vectors reduced to a rank or to a share of their energy: see `low_rank.truncated`."""

    kind: Literal["low-rank"] = "low-rank"
    rank: int | None = Field(None, ge=1)
    energy: float | None = Field(None, gt=0, le=1)
    scale: float = 1.0
    whole: ClassVar[bool] = True

    @model_validator(mode="after")
    def _says_how_much(self) -> LowRank:
        if (self.rank is None) == (self.energy is None):
            raise ValueError("give either rank or energy")
        return self

    def merge(
        self, slot: Slot, base: Tensor, tuned: Sequence[Tensor], statistics: Sequence[Tensor | None]
    ) -> Results:
        from motionloom.merging.linear import task_vector
        from motionloom.merging.low_rank import truncated

        merged = base.clone()
        for weight, tensor in zip(self.weights_of(tuned), tuned, strict=True):
            merged.add_(
                truncated(task_vector(base, tensor), self.rank, self.energy), alpha=self.scale * weight
            )
        return {"": merged}


#: kind -> section
METHODS: dict[str, type[Method]] = {
    "extrapolate": Extrapolate,
    "decouple": Decouple,
    "decouple-linear": DecoupleLinear,
    "average": Average,
    "task-arithmetic": TaskArithmetic,
    "dare": Dare,
    "magnitude": Magnitude,
    "ties": Ties,
    "breadcrumbs": Breadcrumbs,
    "della": Della,
    "slerp": Slerp,
    "model-stock": ModelStock,
    "fisher": Fisher,
    "regmean": RegMean,
    "low-rank": LowRank,
}

"""The contract of a metric: `metric(clips, references) -> {name: value}`.

A metric has two halves, so that what is slow runs once per clip, in any order and in any process, and is kept:

    measure(item)                    one clip  -> Measured: values, curves over its frames, features
    summarise(rows, references)      all clips -> {name: Summary}

A new metric is a file with a subclass and a row of `catalog.METRICS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from motionloom.errors import InputError
from motionloom.metrics.scores import Direction, Summary, as_float, as_number
from motionloom.metrics.statistics import mean_interval, wilson_interval
from motionloom.video.clip import Clip

if TYPE_CHECKING:
    from motionloom.metrics.setup import Setup

Frames = npt.NDArray[np.uint8]  # (T, H, W, 3), 0..255
Need = Literal["picture", "reference", "prompt", "references", "camera"]


@dataclass(frozen=True, eq=False)
class Item:
    """One clip to measure, with what it may be compared with."""

    clip: Clip
    id: str = ""
    role: Literal["clip", "reference"] = "clip"
    picture: npt.NDArray[np.uint8] | None = None  # (H, W, 3): what the clip was made from
    reference: Clip | None = None  # the real clip, compared frame by frame
    prompt: str | None = None
    camera: str | None = None  # the camera motion asked for, such as "pan_left"
    cluster: str = ""  # prompt or picture; clips of one cluster are not independent
    class_name: str | None = None
    subject: str | None = None


@dataclass(frozen=True, eq=False)
class Measured:
    """What one clip gives. NaN in `values` is "undefined"."""

    values: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)  # one number a frame, or a pair
    features: Mapping[str, Tensor] = field(default_factory=dict)  # for sets: (N, d)


@dataclass(frozen=True, eq=False)
class Row:
    """A measured clip and the groups it belongs to."""

    id: str
    cluster: str
    num_frames: int
    measured: Measured
    class_name: str | None = None
    subject: str | None = None


@dataclass(frozen=True)
class Value:
    """What one of a metric's numbers is. `definition` names its source."""

    definition: str
    unit: str = ""
    direction: Direction = "higher"
    boolean: bool = False  # 0 or 1 a clip: the set's value is a fraction


class Metric(ABC):
    """See the top of the file.

    Attributes:
        name: of the metric; its values are `name`, or `name/value`.
        measured_as: identifies `measure` with every option that changes its result; metrics that share it share the
            work. Raise its number when `measure` changes.
        gives: each value by its full name.
        needs: what an item, or the set, must have.
        may_use: what adds a value where an item has it.
        min_frames: of a clip.
    """

    name: ClassVar[str]
    measured_as: str
    gives: ClassVar[Mapping[str, Value]]
    needs: ClassVar[frozenset[Need]] = frozenset()
    may_use: ClassVar[frozenset[Need]] = frozenset()
    min_frames: int = 2

    @classmethod
    def made(cls, setup: Setup) -> Metric:
        """Build it, with its networks.

        Raises:
            WeightsError: weights are missing, damaged, or non-commercial and not accepted.
            ResourceError: a package is missing.
        """
        return cls()

    @abstractmethod
    def measure(self, item: Item) -> Measured:
        """Measure one clip. Raises InputError, naming no file, for a clip that cannot be measured."""

    def summarise(self, rows: Sequence[Row], references: Sequence[Row] = ()) -> dict[str, Summary]:
        """The set's values: here the mean over clips of each clip's, with an interval over clusters."""
        return {name: summary_of_means(name, value, rows) for name, value in self.gives.items()}

    def __call__(
        self, clips: Sequence[Clip | Item], references: Sequence[Clip | Item] = ()
    ) -> dict[str, float]:
        """Value names -> the set's values. Where frames are compared, references[i] belongs to clips[i]."""
        items = [_as_item(clip, number) for number, clip in enumerate(clips)]
        real = [_as_item(clip, number) for number, clip in enumerate(references)]
        if "reference" in self.needs:
            if len(items) != len(real):
                raise InputError(
                    f"{self.name} compares frame by frame: got {len(items)} clips and {len(real)} references",
                    fix="give one reference a clip, in the same order",
                )
            items = [
                Item(**{**vars(item), "reference": other.clip})
                for item, other in zip(items, real, strict=True)
            ]
        rows = [row_of(item, self.checked(item)) for item in items]
        sets = [row_of(item, self.checked(item)) for item in real] if "references" in self.needs else []
        return {name: as_float(summary.value) for name, summary in self.summarise(rows, sets).items()}

    @torch.no_grad()
    def checked(self, item: Item) -> Measured:
        """`measure`, after the checks every metric shares."""
        if item.clip.num_frames < self.min_frames:
            raise InputError(
                f"it has {item.clip.num_frames} frames, {self.name} needs at least {self.min_frames}",
                fix="give a longer clip",
            )
        for need, there in (
            ("picture", item.picture),
            ("reference", item.reference),
            ("prompt", item.prompt),
            ("camera", item.camera),
        ):
            if need in self.needs and there is None:
                raise InputError(f"it has no {need}, which {self.name} needs", fix=f"give its {need}")
        return self.measure(item)


def _as_item(clip: Clip | Item, number: int) -> Item:
    return clip if isinstance(clip, Item) else Item(clip, id=str(number), cluster=str(number))


def row_of(item: Item, measured: Measured) -> Row:
    return Row(item.id, item.cluster, item.clip.num_frames, measured, item.class_name, item.subject)


def summary_of_means(name: str, value: Value, rows: Sequence[Row]) -> Summary:
    """Mean over clips. The interval takes a cluster (a prompt, a picture) as the unit: five seeds of one
    prompt are not five independent samples. Numbers that are not finite are counted, never averaged.
    """
    pairs = [
        (row.cluster, row.measured.values[name]) for row in rows if name in row.measured.values
    ]  # a clip may lack a value
    finite = [(cluster, number) for cluster, number in pairs if np.isfinite(number)]
    numbers = np.array([number for _, number in finite], dtype=np.float64)
    all_infinite = bool(pairs) and all(number == np.inf for _, number in pairs)
    clusters = [cluster for cluster, _ in finite]
    if value.boolean:
        interval, method = wilson_interval(numbers), "Wilson"
    else:
        interval, method = mean_interval(numbers, clusters)
    mean = float(numbers.mean()) if len(numbers) else (np.inf if all_infinite else np.nan)
    return Summary(
        value=as_number(mean),
        unit=value.unit,
        direction=value.direction,
        definition=value.definition,
        interval=interval,
        interval_method=method if interval else "",
        spread=float(numbers.std(ddof=1)) if len(numbers) > 1 else None,
        num_expected=len(rows),
        num_used=len(numbers),
        num_excluded=len(rows) - len(numbers),
        num_clusters=len(set(clusters)),
    )


def as_pixels(frames: Frames) -> Tensor:
    """uint8 (T, H, W, 3) => float (T, 3, H, W), still 0..255."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()

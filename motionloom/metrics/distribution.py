"""Distances between the set of clips and the set of references: every Fréchet number with what it must stand beside."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from motionloom.metrics.base import Item, Measured, Metric, Row, Value
from motionloom.metrics.frechet import Features, all_distances, frechet_distance, kernel_distance
from motionloom.metrics.scores import Sample, Summary, as_number
from motionloom.metrics.setup import Setup, Window

SMALL_SET = 256  # below, a Fréchet distance is mostly bias
Group = Literal["class_name", "subject"]


class SetDistance(Metric):
    """A distance between features; a subclass says which. Gives, beside `name`:

    `/infinity` extrapolated to endless sets, `/kernel` the unbiased MMD with its jackknife error, `/noise_floor` the
    distance between two halves of the references, and per class and subject, where clips have one, their mean and
    spread over the groups: `/per_class` (cFVD) and `/per_subject` (sFVD), each with `_kernel`.
    """

    needs = frozenset({"references"})
    feature: str
    ddof: int = 1
    definition: str

    def __init__(self, window: Window, small_sets: bool = False) -> None:
        self.window, self.small_sets = window, small_sets

    @classmethod
    def made(cls, setup: Setup) -> SetDistance:
        return cls(setup.window, setup.small_sets)

    @property
    def gives(self) -> Mapping[str, Value]:  # type: ignore[override]
        name, text = self.name, self.definition
        return {
            name: Value(text, "", "lower"),
            f"{name}/infinity": Value(text + "; straight line in 1/N to infinity", "", "lower"),
            f"{name}/kernel": Value(text + "; unbiased MMD, cubic kernel", "", "lower"),
            f"{name}/noise_floor": Value(text + "; between two halves of the references", "", "none"),
            f"{name}/per_class": Value(text + "; mean over classes (cFVD)", "", "lower"),
            f"{name}/per_class_kernel": Value(text + "; MMD, mean over classes", "", "lower"),
            f"{name}/per_subject": Value(text + "; mean over subjects (sFVD)", "", "lower"),
            f"{name}/per_subject_kernel": Value(text + "; MMD, mean over subjects", "", "lower"),
        }

    @abstractmethod
    def measure(self, item: Item) -> Measured:
        """Features of one clip under `self.feature`: (rows, d)."""

    def summarise(self, rows: Sequence[Row], references: Sequence[Row] = ()) -> dict[str, Summary]:
        real, own = self._stacked(references), self._stacked(rows)
        if len(real) < 2 or len(own) < 2:
            return {}
        distances = all_distances(real, own, self.ddof)
        found = {
            f"{self.name}/infinity": (distances.infinity, None),
            f"{self.name}/kernel": (distances.kernel, distances.kernel_error),
            f"{self.name}/noise_floor": (distances.noise_floor, None),
        }
        if self.small_sets or not self.is_small(rows, references):
            found = {self.name: (distances.frechet, None)} | found
        summaries = {
            name: self._summary(name, value, error, rows, references, real, own)
            for name, (value, error) in found.items()
        }
        for group, ending in (("class_name", "per_class"), ("subject", "per_subject")):
            summaries |= self._over_groups(rows, references, group, ending)  # type: ignore[arg-type]
        return summaries

    @staticmethod
    def is_small(rows: Sequence[Row], references: Sequence[Row]) -> bool:
        return min(len(rows), len(references)) < SMALL_SET

    def _stacked(self, rows: Sequence[Row]) -> Features:
        """(N, d) in an order of its own, so that the order of the clips cannot reach the last bit."""
        if not rows:
            return np.zeros((0, 1))
        stacked = np.concatenate([row.measured.features[self.feature].double().numpy() for row in rows])
        ordered: Features = stacked[np.lexsort(stacked.T[:8])]
        return ordered

    def _summary(
        self,
        name: str,
        value: float,
        error: float | None,
        rows: Sequence[Row],
        references: Sequence[Row],
        real: Features,
        own: Features,
    ) -> Summary:
        warnings = []
        if self.is_small(rows, references):
            warnings.append(
                f"{len(references)} real and {len(rows)} generated clips: the bias of a Fréchet distance is larger "
                f"than most differences below {SMALL_SET}; read the kernel distance"
            )
        if len({row.num_frames for row in (*rows, *references)}) > 1 and self.window.frames is None:
            warnings.append("clips of different lengths")
        longest = max(row.num_frames for row in rows)
        interval = (
            (value - 1.96 * error, value + 1.96 * error) if error is not None and error == error else None
        )
        return Summary(
            value=as_number(value),
            unit="",
            direction=self.gives[name].direction,
            definition=self.gives[name].definition,
            interval=interval,
            interval_method="jackknife over generated clips" if interval else "",
            num_expected=len(rows),
            num_used=len(rows),
            num_clusters=len({row.cluster for row in rows}),
            sample=Sample(
                num_real=len(references),
                num_generated=len(rows),
                num_frames=min(self.window.frames or longest, longest),
                num_features=real.shape[1],
            ),
            warnings=tuple(warnings),
        )

    def _over_groups(
        self, rows: Sequence[Row], references: Sequence[Row], group: Group, ending: str
    ) -> dict[str, Summary]:
        """Mean and spread over the groups both sets have (LFDM's cFVD and sFVD)."""
        own, real = _grouped(rows, group), _grouped(references, group)
        shared = [name for name in sorted(own) if len(own[name]) > 1 and len(real.get(name, ())) > 1]
        if len(shared) < 2:
            return {}
        pairs = [(self._stacked(real[name]), self._stacked(own[name])) for name in shared]
        smallest = min(min(len(own[name]), len(real[name])) for name in shared)
        out = {}
        for suffix, distances in (
            ("", [frechet_distance(a, b, self.ddof) for a, b in pairs]),
            ("_kernel", [kernel_distance(a, b) for a, b in pairs]),
        ):
            name = f"{self.name}/{ending}{suffix}"
            base = self._summary(name, float(np.mean(distances)), None, rows, references, *pairs[0])
            note = f"{len(shared)} groups, the smallest with {smallest} clips a side"
            out[name] = base.model_copy(
                update={
                    "spread": float(np.std(distances)),
                    "num_clusters": len(shared),
                    "warnings": (*base.warnings, note),
                }
            )
        return out


def _grouped(rows: Sequence[Row], group: Group) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        key = getattr(row, group)
        if key is not None:
            groups[key].append(row)
    return groups

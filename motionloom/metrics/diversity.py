"""Diversity: do several clips of one picture or prompt differ, or is every seed the same clip?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import ClassVar

import torch
from torch.nn import functional as F

from motionloom.metrics.base import Item, Measured, Metric, Row, Value, as_pixels, summary_of_means
from motionloom.metrics.scores import Summary

SIDE_PX = 32


class Diversity(Metric):
    """Mean |difference| in levels between clips of one cluster at 32 x 32 px, over all pairs and frames they share."""

    name = "diversity"
    measured_as = f"thumbnails-{SIDE_PX}/1"
    gives: ClassVar = {
        "diversity": Value(
            "ours: mean |difference| at 32 px between clips of one picture or prompt", "levels"
        )
    }

    def measure(self, item: Item) -> Measured:
        small = F.interpolate(as_pixels(item.clip.frames), (SIDE_PX, SIDE_PX), mode="area")
        return Measured(features={"thumbnails": small.flatten(1)})

    def summarise(self, rows: Sequence[Row], references: Sequence[Row] = ()) -> dict[str, Summary]:
        clusters: dict[str, list[torch.Tensor]] = defaultdict(list)
        for row in rows:
            clusters[row.cluster].append(row.measured.features["thumbnails"])
        compared = [
            Row(cluster, cluster, 0, Measured({self.name: _mean_distance(clips)}))
            for cluster, clips in sorted(clusters.items())
            if len(clips) > 1
        ]
        if not compared:
            return {}
        return {self.name: summary_of_means(self.name, self.gives[self.name], compared)}


def _mean_distance(clips: Sequence[torch.Tensor]) -> float:
    distances = sorted(
        float((a[: len(b)] - b[: len(a)]).abs().mean()) for a, b in combinations(clips, 2)
    )  # sorted: the order of the clips must not reach the last bit
    return sum(distances) / len(distances)

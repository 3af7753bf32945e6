"""Inception score of video (Salimans et al. 2016; on UCF101 with C3D as in TGANv2, arXiv 1811.09245)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from motionloom.metrics.base import Item, Measured, Metric, Row, Value, as_pixels
from motionloom.metrics.networks.c3d import FRAMES
from motionloom.metrics.scores import Summary
from motionloom.metrics.setup import Setup, Window

SAMPLES, LOOPS, EPS = 2048, 10, 1e-20
Floats = npt.NDArray[np.float64]


def inception_score(probabilities: Floats, splits: int = 1) -> tuple[float, float]:
    """exp(E KL(p(y|x) || p(y))), mean and deviation over splits: (N, K) rows that sum to 1 => 1..K."""
    scores = []
    for part in np.array_split(probabilities, splits):
        p = part + EPS
        scores.append(float(np.exp((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean())))
    return float(np.mean(scores)), float(np.std(scores))


class InceptionScoreC3D(Metric):
    """C3D's 101 class probabilities of the first 16 frames. One split, ten draws of 2,048 clips where there are more;
    `/splits10` is the other published convention.
    """

    name = "inception_score_c3d"
    measured_as = "inception_score_c3d/1"
    min_frames = FRAMES
    gives: ClassVar = {
        "inception_score_c3d": Value("IS, TGANv2: C3D on UCF101, 1 split, 10 draws of 2,048"),
        "inception_score_c3d/splits10": Value("IS, StyleGAN-V: C3D on UCF101, 10 splits"),
    }

    def __init__(self, c3d: torch.nn.Module, device: str = "cpu") -> None:
        self.c3d, self.device, self.window = c3d, device, Window(FRAMES)

    @classmethod
    def made(cls, setup: Setup) -> InceptionScoreC3D:
        return cls(setup.networks.load("c3d-ucf101"), setup.networks.device)

    def measure(self, item: Item) -> Measured:
        clip = (as_pixels(self.window.of(item)) / 127.5 - 1).permute(1, 0, 2, 3)[None]
        logits = self.c3d(clip.to(self.device))
        return Measured(features={"probabilities": logits.double().softmax(1).float().cpu()})

    def summarise(self, rows: Sequence[Row], references: Sequence[Row] = ()) -> dict[str, Summary]:
        if not rows:
            return {}
        stacked = np.concatenate([row.measured.features["probabilities"].double().numpy() for row in rows])
        stacked = stacked[np.lexsort(stacked.T[:8])]
        generator = np.random.default_rng(0)
        draws = [generator.permutation(len(stacked))[:SAMPLES] for _ in range(LOOPS)]
        scores = [inception_score(stacked[draw])[0] for draw in draws]
        tens = inception_score(stacked[draws[0]], 10) if len(stacked) >= 10 else (np.nan, np.nan)
        found = {self.name: (float(np.mean(scores)), float(np.std(scores))), f"{self.name}/splits10": tens}
        warnings = () if len(rows) >= SAMPLES else (f"{len(rows)} clips; published scores use {SAMPLES}",)
        return {
            name: Summary(
                value=value if np.isfinite(value) else "undefined",
                unit="",
                direction="higher",
                definition=self.gives[name].definition,
                spread=spread if np.isfinite(spread) else None,
                num_expected=len(rows),
                num_used=len(rows),
                num_clusters=len({row.cluster for row in rows}),
                warnings=warnings,
            )
            for name, (value, spread) in found.items()
        }

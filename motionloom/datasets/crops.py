"""Squares of clips where something moves: a convolutional autoencoder learns motion from them at a fraction of the cost."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from motionloom.datasets.base import Sample, TrainingDataset, sample_seed
from motionloom.errors import ConfigError


class Crops(TrainingDataset):
    """A square of every sample of `clips`: of `candidates` drawn squares, the one that changes most.

    Where it lies is a function of (seed, epoch, index).

    Args:
        clips: samples with "frames" (3, T, H, W).
        side_px: of the square; at most H and W.
        candidates: squares drawn; 1 looks everywhere alike.
        seed: of the draws.

    Raises:
        ConfigError: the square is larger than the clips.
    """

    def __init__(self, clips: TrainingDataset, side_px: int, candidates: int = 3, seed: int = 0) -> None:
        self.clips, self.side_px, self.candidates, self.seed = clips, side_px, candidates, seed
        self.refused, self.notes = clips.refused, clips.notes
        height_px, width_px = clips[0]["frames"].shape[-2:]
        if side_px > min(height_px, width_px):
            raise ConfigError(
                f"squares of {side_px} pixels do not fit into clips of {width_px}x{height_px}",
                fix="make stage.crop_px smaller, or null",
            )

    def __len__(self) -> int:
        return len(self.clips)

    def at(self, epoch: int, index: int) -> Sample:
        """Sample `index`, its "frames" (3, T, side, side)."""
        sample = self.clips.at(epoch, index)
        random = np.random.default_rng([sample_seed(self.seed, epoch, index), self.side_px])
        squares = [random_square(sample["frames"], self.side_px, random) for _ in range(self.candidates)]
        return {**sample, "frames": max(squares, key=_change).contiguous()}

    @property
    def fingerprint(self) -> str:
        return self.clips.fingerprint


def random_square(frames: Tensor, side_px: int, random: np.random.Generator) -> Tensor:
    """The same square of every frame: (..., H, W) => (..., side, side)."""
    top, left = (int(random.integers(side - side_px + 1)) for side in frames.shape[-2:])
    return frames[..., top : top + side_px, left : left + side_px]


def _change(frames: Tensor) -> float:
    """How far frames 1.. are from frame 0, in the mean."""
    return float((frames - frames[:, :1]).abs().mean(dtype=torch.float32))

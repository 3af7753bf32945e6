"""Clips at a random speed: every s-th frame of a longer window, s drawn for each sample."""

from __future__ import annotations

import numpy as np
import torch

from motionloom.datasets.base import Sample, TrainingDataset, sample_seed


class StridedClips(TrainingDataset):
    """Samples of another dataset, thinned in time.

    A sample keeps its entries; "frames" becomes (3, T, H, W), and "rate", a 0-d float tensor, says the frames per second
    of what is left: fps // stride, as DynamiCrafter was trained.

    Args:
        clips: gives "frames" of `longest_window(frames, strides)` frames.
        frames: T.
        strides: (smallest, largest), both included, drawn uniformly.
        fps: of `clips`.
        seed: of the draw, which is a function of (seed, epoch, index).
    """

    def __init__(
        self, clips: TrainingDataset, frames: int, strides: tuple[int, int], fps: float, seed: int
    ) -> None:
        self.clips, self.frames, self.strides, self.fps, self.seed = clips, frames, strides, fps, seed
        self.refused, self.notes = clips.refused, clips.notes

    def __len__(self) -> int:
        return len(self.clips)

    def at(self, epoch: int, index: int) -> Sample:
        """See `TrainingDataset`."""
        sample = self.clips.at(epoch, index)
        random = np.random.default_rng(sample_seed(self.seed + 1, epoch, index))  # not the window's own draw
        stride = int(random.integers(self.strides[0], self.strides[1], endpoint=True))
        frames = sample["frames"]
        start = int(random.integers(0, frames.shape[1] - longest_window(self.frames, (stride, stride)) + 1))
        sample["frames"] = frames[:, start::stride][:, : self.frames].contiguous()
        sample["rate"] = torch.tensor(float(max(1, self.fps // stride)))
        return sample

    @property
    def fingerprint(self) -> str:
        """See `TrainingDataset`."""
        return f"{self.clips.fingerprint}/{self.frames}/{self.strides}"


def longest_window(frames: int, strides: tuple[int, int]) -> int:
    """Frames of a clip that `frames` of them span at the largest stride."""
    return (frames - 1) * strides[1] + 1

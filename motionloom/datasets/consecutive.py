"""Pieces of clips with what lies around them: the piece before, and the last frame. What hints are learned from."""

from __future__ import annotations

import torch
from torch import Tensor

from motionloom.codecs.mcd_vae import MotionContentAutoencoder
from motionloom.datasets.base import Sample, TrainingDataset


class Consecutive(TrainingDataset):
    """Two pieces of every clip that share a frame.

    A sample is {"frames": (3, L, H, W) of the second piece, "before": (3, L, H, W) of the first, and what else it had}.

    Args:
        clips: samples with "frames" of 2 L - 1 frames.
        num_frames: L.
    """

    def __init__(self, clips: TrainingDataset, num_frames: int) -> None:
        self.clips, self.num_frames = clips, num_frames
        self.refused, self.notes = clips.refused, clips.notes

    def __len__(self) -> int:
        return len(self.clips)

    def at(self, epoch: int, index: int) -> Sample:
        """See `TrainingDataset`."""
        sample = self.clips.at(epoch, index)
        frames: Tensor = sample["frames"]
        last = self.num_frames - 1
        assert frames.shape[1] == 2 * last + 1, "two pieces that share a frame"
        return sample | {"frames": frames[:, last:], "before": frames[:, : last + 1]}

    @property
    def fingerprint(self) -> str:
        return f"consecutive:{self.num_frames}:{self.clips.fingerprint}"


class Hints:
    """What `build_latent_cache` keeps `also`, for a generator that reads hints.

    Args:
        codec: on the device where clips are encoded.
        last_frame: keep "last_frame", uint8 (B, 3, H, W).
        previous: keep "previous_mean" and "previous_logvar", (B, d, h, w), of each sample's "before".
    """

    def __init__(self, codec: MotionContentAutoencoder, last_frame: bool, previous: bool) -> None:
        self.codec, self.last_frame, self.previous = codec, last_frame, previous

    def __call__(self, samples: list[Sample]) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = {}
        if self.last_frame:
            last = torch.stack([sample["frames"][:, -1] for sample in samples])
            kept["last_frame"] = last.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        if self.previous:
            before = torch.stack([sample["before"] for sample in samples])
            device = next(self.codec.parameters()).device
            posterior = self.codec.encode_motion(before.to(device))
            kept["previous_mean"] = posterior.mean.float().cpu()
            kept["previous_logvar"] = posterior.logvar.float().cpu()
        return kept

"""Windows of few clips, encoded once: what a motion adapter trains on.

A motion is taught by about ten clips, so each is cut at several places, every window is encoded once, and the codec is not
needed again. A sample is one of a clip's windows, drawn anew in every epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from motionloom.adapters.proxy_mask import in_latent_time
from motionloom.codecs.base import Gaussian
from motionloom.codecs.image_autoencoder import ImageAutoencoder
from motionloom.codecs.wan_autoencoder import WanAutoencoder
from motionloom.datasets.base import Sample, TrainingDataset, sample_seed
from motionloom.datasets.latent_cache import CacheIdentity, LatentCache, build_latent_cache

VideoCodec = ImageAutoencoder | WanAutoencoder


class LatentWindows(TrainingDataset):
    """Encoded windows of clips.

    A sample is {"mean", "logvar": (C, f, h, w), "first_frame": (3, H, W) -1..1} and, for clips with masks, {"mask_mean",
    "mask_logvar": (C, f, h, w), "subject": (f, h, w) 0..1}.

    Args:
        cache: windows of clips, window k of clip i in row k * len(clips) + i.
        clips: what was encoded; its refusals and notes are handed on.
        windows: of each clip.
        seed: of the choice among them.
    """

    def __init__(self, cache: LatentCache, clips: TrainingDataset, windows: int, seed: int) -> None:
        assert len(cache) == windows * len(clips)
        self.cache, self.windows, self.seed = cache, windows, seed
        self.num_clips = len(clips)
        self.refused = clips.refused
        self.notes = (
            *clips.notes,
            f"{windows} windows of each of {len(clips)} clips, encoded in {cache.folder}",
        )

    def __len__(self) -> int:
        return self.num_clips

    def at(self, epoch: int, index: int) -> Sample:
        """One window of clip `index`."""
        random = np.random.default_rng(sample_seed(self.seed, epoch, index))
        return self.cache.at(0, int(random.integers(self.windows)) * self.num_clips + index)

    @property
    def fingerprint(self) -> str:
        return self.cache.fingerprint


def encode_windows(
    root: str | Path,
    codec: VideoCodec,
    clips: TrainingDataset,
    identity: CacheIdentity,
    on_sample: Callable[[int, int], None] = lambda done, total: None,
    also: Callable[[list[Sample]], dict[str, Tensor]] = lambda samples: {},
) -> LatentCache:
    """Encode every window of every clip into a folder of `root` named after the identity, unless it is there already.

    Args:
        codec: on the device it shall work on; clips are encoded one at a time.
        clips: samples with "frames" (3, T, H, W), and "masks" (1, T, H, W) 0..1 or none.
        also: samples => further tensors (B, ...) to keep, by name.

    Raises:
        ResourceError: the folder cannot be written.
    """
    device = next(codec.network.parameters()).device

    def encoded_masks(samples: list[Sample]) -> dict[str, Tensor]:
        if "masks" not in samples[0]:
            return {}
        masks = torch.stack([sample["masks"] for sample in samples])  # (B, 1, T, H, W)
        pictures = (2 * masks - 1).expand(-1, 3, -1, -1, -1).to(device)
        posterior = codec.posterior(pictures)
        return {
            "mask_mean": posterior.mean.float().cpu(),
            "mask_logvar": posterior.logvar.float().cpu(),
            "subject": on_latent_grid(masks[:, 0], posterior.mean.shape[2:]),
        }

    return build_latent_cache(
        identity.folder_in(root),
        _AsMotionCodec(codec),
        clips,
        identity,
        batch_size=1,
        device=device,
        also=lambda samples: encoded_masks(samples) | also(samples),
        on_sample=on_sample,
    )


def on_latent_grid(masks: Tensor, size: torch.Size | tuple[int, ...]) -> Tensor:
    """Masks (B, T, H, W) averaged over the places of a latent grid (f, h, w): (B, f, h, w).

    Where the codec joins frames, latent frame 0 is frame 0 and every further one the mean of the frames it holds.
    """
    return in_latent_time(F.adaptive_avg_pool2d(masks, (size[1], size[2])), size[0])


@dataclass(frozen=True)
class _AsMotionCodec:
    codec: VideoCodec

    def encode_motion(self, frames: Tensor) -> Gaussian:
        return self.codec.posterior(frames)

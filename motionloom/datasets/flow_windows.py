"""Windows of a few clips as motion latents of the small model: what one of its adapters trains on.

    clip -> squares of it, 128 px -> chained optical flow (motion_windows.py) -> `LinearMotion` latents, kept once

A sample is a first frame, the motion map that would ask for its motion and the latent that answers it: the word that
carries the adapter, at the amplitude and with the heading this window has, sometimes under a moving camera.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from motionloom.codecs.base import Gaussian
from motionloom.codecs.linear_motion import CAMERA_CHANNELS, LinearMotion, MotionField
from motionloom.conditions.motion_map import DIRECTION, Heading, Part, heading_of, motion_map
from motionloom.datasets.base import Sample, TrainingDataset, sample_seed
from motionloom.datasets.crops import random_square
from motionloom.datasets.latent_cache import LatentCache
from motionloom.datasets.motion_samples import CAMERAS, window_fields
from motionloom.datasets.motion_windows import SIZE_PX, streamed_flow
from motionloom.datasets.synthetic import draw_motion
from motionloom.motion.camera_path import displacement
from motionloom.motion.grid import places, resize_maps
from motionloom.motion.speeds import quantiles, way

SMALLEST_CROP = 0.7  # of the shorter side
LARGEST_LATENT = 6.0
UNDER_A_CAMERA = 0.3  # share of the samples
STILL = 1e-4  # frame units


class Squares(TrainingDataset):
    """Random squares of the windows of clips, at 128 px: samples {"frames": (3, T, 128, 128)}."""

    def __init__(self, clips: TrainingDataset, seed: int) -> None:
        self.clips, self.seed = clips, seed
        self.refused, self.notes = clips.refused, clips.notes

    def __len__(self) -> int:
        return len(self.clips)

    def at(self, epoch: int, index: int) -> Sample:
        frames = self.clips.at(epoch, index)["frames"]  # (3, T, H, W)
        rng = np.random.default_rng([sample_seed(self.seed, epoch, index), 1])
        side = int(min(frames.shape[-2:]) * rng.uniform(SMALLEST_CROP, 1.0))
        square = random_square(frames, side, rng).transpose(0, 1)
        return {"frames": resize_maps(square, SIZE_PX, SIZE_PX).clamp(-1, 1).transpose(0, 1)}

    @property
    def fingerprint(self) -> str:
        return f"squares:{self.clips.fingerprint}"


class FlowEncoder:
    """Clips => motion latents, by their chained flow; everything counts as local motion."""

    def __init__(self, motion: LinearMotion) -> None:
        self.motion = motion

    def encode_motion(self, frames: Tensor) -> Gaussian:
        """(B, 3, T, 128, 128), -1..1 => (B, d, 16, 16), without spread.

        Raises:
            ResourceError: OpenCV is not installed.
        """
        latents = torch.cat([self._latent(clip) for clip in frames.cpu()])
        return Gaussian(latents, torch.full_like(latents, -30.0))

    def _latent(self, clip: Tensor) -> Tensor:
        pictures: npt.NDArray[np.uint8] = ((clip.permute(1, 2, 3, 0) + 1) * 127.5).round().byte().numpy()
        field = window_fields(pictures, streamed_flow(pictures).astype(np.float16))
        return self.motion.encode(field).clamp(-LARGEST_LATENT, LARGEST_LATENT)


class TaughtMotion:
    """What the windows of a motion have in common.

    Attributes:
        photos: (N, 3, 128, 128), latents: (N, d, 16, 16), of every window.
        sizes: (N,), root-mean-square local flow, frame units; `usual` is their median, amplitude 1 of the motion.
        headings: of each window.
    """

    def __init__(self, windows: LatentCache, motion: LinearMotion) -> None:
        rows = [windows.at(0, index) for index in range(len(windows))]
        self.motion = motion
        self.photos = torch.stack([row["first_frame"] for row in rows])
        self.latents = torch.stack([row["mean"] for row in rows])
        local = motion.decode(self.latents).local  # (N, T, 2, 16, 16)
        everywhere = torch.ones(local.shape[-2:])
        self.sizes = local.square().sum(2).mean((1, 2, 3)).sqrt()
        self.usual = max(float(self.sizes.median()), STILL)
        self.headings = [heading_of(one, everywhere) for one in local]
        self.ways = quantiles(way(local))

    def __len__(self) -> int:
        return len(self.latents)

    def amplitude(self, index: int) -> float:
        """Of a window, in units of the usual."""
        return float((self.sizes[index] / self.usual).clamp(0.25, 2.0))

    def drawn_headings(self, count: int, seed: int) -> Tensor:
        """(count, 3) of the windows' headings: coherence, right, down; coherence -1 if nothing moves."""
        known = [
            (one.coherence, *one.direction)
            for one in self.headings
            if one.coherence is not None and one.direction is not None
        ]
        if not known:
            return -torch.ones(count, 3)
        picks = np.random.default_rng(seed).integers(len(known), size=count)
        return torch.tensor([known[pick] for pick in picks])


class TaughtSamples(TrainingDataset):
    """Samples of a motion for the rectified-flow loss of the small model: {"photo", "map", "offset", "latents"}.

    Args:
        taught: the windows, `windows` of each clip, window k of clip i in row k * clips + i.
        word: that carries the motion.
        clips: what the windows were cut from; its refusals and notes are handed on.
        windows: of each clip.
        seed: of the choice among them and of what varies.
    """

    def __init__(
        self, taught: TaughtMotion, word: str, clips: TrainingDataset, windows: int, seed: int
    ) -> None:
        self.taught, self.word, self.windows, self.seed = taught, word, windows, seed
        self.num_clips, self._content = len(clips), clips.fingerprint
        self.refused = clips.refused
        self.notes = (
            *clips.notes,
            f'{windows} windows of each of {len(clips)} clips; the generator is told "{word}"',
        )

    def __len__(self) -> int:
        return self.num_clips

    def at(self, epoch: int, index: int) -> Sample:
        """One window of clip `index`: a little weaker or stronger, in other colours, now and then under a camera."""
        rng = np.random.default_rng(sample_seed(self.seed, epoch, index))
        row = int(rng.integers(self.windows)) * self.num_clips + index
        strength = float(rng.uniform(0.7, 1.3))
        latents, parts = self.taught.latents[row].clone(), []
        latents[CAMERA_CHANNELS : CAMERA_CHANNELS + 2 * self.taught.motion.flow_modes] *= strength
        if rng.random() < UNDER_A_CAMERA:
            part, moved = self._camera(rng)
            latents += moved
            parts.append(part)
        everywhere = torch.ones(latents.shape[-2:])
        amplitude = self.taught.amplitude(row) * strength
        parts.append(Part(self.word, amplitude, everywhere, self.taught.headings[row]))
        maps = motion_map(parts, *latents.shape[-2:])
        if rng.random() < 0.5:
            maps[DIRECTION] = 0
        gain = torch.from_numpy(rng.uniform(0.75, 1.25, (3, 1, 1)).astype(np.float32))
        photo = (self.taught.photos[row] * gain + float(rng.uniform(-0.15, 0.15))).clamp(-1, 1)
        return {"photo": photo, "map": maps, "offset": torch.zeros(2), "latents": latents}

    def _camera(self, rng: np.random.Generator) -> tuple[Part, Tensor]:
        """A moving camera and its latent (d, h, w)."""
        h, w = self.taught.latents.shape[-2:]
        word, amplitude = str(rng.choice(CAMERAS)), float(rng.uniform(0.2, 1.2))
        rates = draw_motion(word, rng, amplitude).rates  # type: ignore[attr-defined]
        moved = displacement(rates, torch.ones(1), places(h, w)).permute(0, 3, 1, 2)  # (1, 2, h, w)
        count = self.taught.motion.num_frames
        field = MotionField(moved, torch.zeros(1, count, 2, h, w), torch.zeros(1, count, h, w))
        return Part(word, amplitude, torch.ones(h, w), Heading()), self.taught.motion.encode(field)[0]

    @property
    def fingerprint(self) -> str:
        return f"{self._content}:{self.windows}:{self.word}"

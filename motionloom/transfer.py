"""clip, photo -> Clip: the verb `transfer`. The motion of one clip moves another picture.

base = load_base("mini")
clip = transfer(base, "sea.mp4", "photo.jpg", strength=0.8)
clip.save("out.mp4")

LaMD parts a clip into what it looks like and how it moves (arXiv 2304.11603, section 3.2): the motion of one clip, decoded
with the content of another picture, is that picture in motion. Nothing is sampled, so there is no seed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from motionloom.conditions.asked import LARGEST_WEIGHT, Asked
from motionloom.denoisers.base import Base, Progress, Request
from motionloom.durable import sha256_of
from motionloom.errors import ConfigError, InputError
from motionloom.generate import LARGEST_COUNT, Mask, Photo, read_photo, stage_of, to_frames, to_pixels
from motionloom.generate import Progress as StagedProgress
from motionloom.video.clip import Clip
from motionloom.video.picture import read_mask
from motionloom.video.read import read_clip
from motionloom.video.resize import resize

SourceClip = str | os.PathLike[str] | Clip
LARGEST_SIDE_PX = 384  # of a source where its motion is measured at any size


@runtime_checkable
class MotionReader(Protocol):
    """A base whose latent holds motion alone, so that it can be read from one clip and drawn on another picture.

    Attributes:
        num_frames: moments of the source that `motion_of` reads.
        native_size_px: (height, width) it was trained at; None reads any size.
    """

    name: str
    num_frames: int
    fps: float
    native_size_px: tuple[int, int] | None

    def motion_of(self, frames: Tensor, photo: Tensor) -> Tensor:
        """A clip's motion, on the latent grid of a photo.

        Args:
            frames: (1, 3, num_frames, h, w), -1..1, of the photo's shape but not always of its size.
            photo: (1, 3, H, W), -1..1.

        Returns:
            latents (1, d, h', w').
        """
        ...

    def draw_motion(self, latents: Tensor, request: Request, progress: Progress | None = None) -> Tensor:
        """A motion on the photo: pixels (1, 3, T, H, W), -1..1; frame 0 is the photo, bit for bit.

        The request's one motion says how strong it is (1: as in the source, 0: still) and where.

        Raises:
            ConfigError: if the base cannot draw so many frames, or loops.
        """
        ...


@torch.no_grad()
def transfer(
    base: Base,
    motion_from: SourceClip,
    photo: Photo,
    *,
    strength: float = 1.0,
    start_seconds: float = 0.0,
    frames: int | None = None,
    fps: float | None = None,
    size: str = "native",
    mask: Mask = None,
    loop: bool = False,
    progress: StagedProgress | None = None,
) -> Clip:
    """Move a photo as a clip moves. The same arguments give the same clip, bit for bit, on the same machine.

    Args:
        base: what reads the motion and draws it, from `load_base`; it must have a motion latent (mini, LaMD).
        motion_from: a clip file, a folder of frames, or a Clip; it is cropped to the photo's shape.
        photo: a picture file, or uint8 (H, W, 3).
        strength: 1 moves as far as the source, 0 not at all, up to 4.
        start_seconds: where in the source the motion begins.
        frames: T, the photo included; default the base's.
        fps: frames per second of the clip; default the base's. The source's next (T - 1) / fps seconds are read.
        size: as for `generate`.
        mask: a picture file or float (H, W) 0..1, white where the motion acts; None is everywhere.
        loop: end where it began.
        progress: called with (stage, done, in all).

    Returns:
        the clip; frame 0 is the photo, `settings` says what made it.

    Raises:
        ConfigError: the base has no motion latent; a strength, size or number that cannot be.
        InputError: a photo, mask or clip that cannot be used, or a clip that is too short.
        ResourceError: the base measures optical flow and OpenCV is not installed (extra `metrics`).
    """
    if not isinstance(base, MotionReader):
        raise ConfigError(
            f'"{base.name}" has no motion latent, so a clip\'s motion cannot be read with it',
            fix="use --base mini, or the folder of a trained LaMD",
        )
    span = _span(base, strength, start_seconds, frames, fps)
    picture, settings = read_photo(photo, size, base)
    source = motion_from if isinstance(motion_from, Clip) else read_clip(motion_from)
    moments = source.frames[_moments(source, span, base.num_frames)]
    region = _region(mask, picture.shape[:2])
    request = Request(
        photo=to_pixels(picture),
        motions=(Asked("transfer", strength, region),),
        num_frames=span.frames,
        fps=span.fps,
        num_steps=0,
        loop=loop,
    )
    latents = base.motion_of(_source_pixels(moments, picture.shape[:2], base.native_size_px), request.photo)
    drawn = base.draw_motion(latents, request, stage_of(progress, "drawing"))

    settings |= {
        "base": base.name,
        "strength": strength,
        "start_seconds": start_seconds,
        "frames": span.frames,
        "fps": span.fps,
        "size": size,
        "loop": loop,
    }
    settings |= _file_settings(motion_from, mask)
    if facts := base.facts():
        settings["base_facts"] = facts
    return Clip(to_frames(drawn), span.fps, settings)


@dataclass(frozen=True)
class Span:
    """The part of the source that is read: `frames` frames at `fps`, from `start_seconds` on."""

    start_seconds: float
    frames: int
    fps: float

    @property
    def seconds(self) -> float:
        """From the first frame to the last."""
        return (self.frames - 1) / self.fps


def _span(
    base: MotionReader, strength: float, start_seconds: float, frames: int | None, fps: float | None
) -> Span:
    if not 0 <= strength <= LARGEST_WEIGHT:
        raise ConfigError(
            f"got the strength {strength}, expected a number in 0..{LARGEST_WEIGHT:g}",
            fix="1 moves as far as the source",
        )
    span = Span(
        start_seconds, base.num_frames if frames is None else frames, base.fps if fps is None else fps
    )
    if not 2 <= span.frames <= LARGEST_COUNT or not 0 < span.fps <= 240 or not 0 <= start_seconds < 1e6:
        raise ConfigError(
            f"got {span.frames} frames at {span.fps:g} fps from second {start_seconds:g} on, expected 2..{LARGEST_COUNT} "
            "frames, at most 240 fps and a start of 0 or later",
            fix="choose numbers in these ranges",
        )
    return span


def _moments(source: Clip, span: Span, count: int) -> npt.NDArray[np.intp]:
    """Numbers of the source's frames at `count` moments, evenly from the span's first frame to its last."""
    times = span.start_seconds + np.linspace(0, span.seconds, count)
    numbers = np.round(times * source.fps).astype(np.intp)
    last = source.num_frames - 1
    if numbers[-1] > last:
        left = max(0.0, last / source.fps - span.start_seconds)
        fitting = int(left * span.fps) + 1
        raise InputError(
            f"the clip shows {left:.2f} s of motion after second {span.start_seconds:g}, {span.frames} frames at "
            f"{span.fps:g} fps need {span.seconds:.2f} s",
            fix=f"--frames {fitting}" if fitting >= 2 else "begin earlier, or give a longer clip",
        )
    return numbers


def _source_pixels(
    frames: npt.NDArray[np.uint8], shape: tuple[int, ...], native: tuple[int, int] | None
) -> Tensor:
    """Frames cropped to the photo's shape, at its size or a smaller one: (1, 3, T, h, w), -1..1."""
    height, width = shape
    scale = 1.0 if native else min(1.0, LARGEST_SIDE_PX / max(height, width))
    small = resize(frames, max(16, round(width * scale)), max(16, round(height * scale)), "crop")
    return torch.stack([to_pixels(frame) for frame in small], dim=2)


def _region(mask: Mask, shape: tuple[int, ...]) -> npt.NDArray[np.float32] | None:
    if mask is None:
        return None
    region = mask if isinstance(mask, np.ndarray) else read_mask(mask, *shape)
    if region.shape != shape:
        raise InputError(
            f"got a mask of shape {region.shape}, expected that of the picture, {shape}",
            fix="resize the mask",
        )
    return region.astype(np.float32)


def _file_settings(motion_from: SourceClip, mask: Mask) -> dict[str, Any]:
    """Files by name and sha256, never where they lie."""
    settings: dict[str, Any] = {}
    for name, file in (("motion_from", motion_from), ("mask", mask)):
        if not isinstance(file, (str, os.PathLike)):
            continue
        path = Path(file)
        settings[name] = path.name
        if path.is_file():
            settings[f"{name}_sha256"] = sha256_of(path)
    return settings

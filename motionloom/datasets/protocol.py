"""How the papers turn a clip into a sample: which frames, which part of the picture.

`SAMPLINGS` are the ways to pick T of n frames. Each is a function of (n, T, random generator) that returns T indices in
order; where a clip is too short the last frame is repeated, as the papers' loaders do, except for windows, which refuse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from motionloom.video.resize import Policy, resize

Indices = npt.NDArray[np.intp]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Protocol:
    """A paper's preparation of one split.

    Args:
        sampling: a key of SAMPLINGS.
        box: the part of the picture that is used, (left, top, right, bottom) in pixels, half-open; None: all of it.
        area: shrink by averaging areas (OpenCV's INTER_AREA) instead of Lanczos filtering.
    """

    sampling: str
    box: tuple[int, int, int, int] | None = None
    area: bool = False


# Which frames


def window(count: int, frames: int, rng: np.random.Generator) -> Indices:
    """Consecutive frames from a random start."""
    return int(rng.integers(0, count - frames + 1)) + np.arange(frames)


def first(count: int, frames: int, rng: np.random.Generator) -> Indices:
    """Consecutive frames from the start."""
    return np.arange(frames)


def uniform(count: int, frames: int, rng: np.random.Generator) -> Indices:
    """floor(linspace) over the whole clip; a shorter clip is padded with its last frame (LFDM's and MAGE's tests)."""
    if count < frames:
        return np.minimum(np.arange(frames), count - 1)
    return np.floor(np.linspace(0, count - 1, frames)).astype(np.intp)


def sorted_random(count: int, frames: int, rng: np.random.Generator) -> Indices:
    """Frames drawn with repetition, sorted, the first put to 0 (LFDM's training)."""
    picked = np.sort(rng.integers(0, count, frames))
    picked[0] = 0
    return picked


def speed_3_to_6(count: int, frames: int, rng: np.random.Generator) -> Indices:
    """A stride drawn from [3, 6]: floor(linspace) of n / stride frames, cut to T or padded with the last (MAGE)."""
    stride = rng.uniform(3.0, 6.0)
    picked = np.floor(np.linspace(0, count - 1, max(1, round(count / stride)))).astype(np.intp)
    return picked[np.minimum(np.arange(frames), len(picked) - 1)]


Sampling = Callable[[int, int, np.random.Generator], Indices]

SAMPLINGS: dict[str, Sampling] = {
    "window": window,
    "first": first,
    "uniform": uniform,
    "sorted-random": sorted_random,
    "speed-3-6": speed_3_to_6,
}


def frames_needed(sampling: str, frames: int) -> int:
    """The shortest clip a sampling takes. Strides of 3 to 6 on a clip that is no longer than the sample would be mostly
    padding, so that is refused.
    """
    return {"window": frames, "first": frames, "speed-3-6": frames + 1}.get(sampling, 1)


# Which part of the picture


def prepare(frames: Pixels, protocol: Protocol, width_px: int, height_px: int, fit: Policy) -> Pixels:
    """Cut the protocol's box out of uint8 frames (T, H, W, 3) and resize to (T, height_px, width_px, 3)."""
    if protocol.box is not None:
        left, top, right, bottom = protocol.box
        frames = frames[:, top:bottom, left:right]
    if protocol.area and fit == "pad":  # then the padding of `resize` has nothing left to scale
        frames = _shrink_by_area(frames, min(width_px / frames.shape[2], height_px / frames.shape[1]))
    return resize(frames, width_px, height_px, fit)


def _shrink_by_area(frames: Pixels, scale: float) -> Pixels:
    if scale >= 1:
        return frames
    size = (max(1, round(frames.shape[2] * scale)), max(1, round(frames.shape[1] * scale)))
    return np.stack(
        [
            np.asarray(Image.fromarray(np.ascontiguousarray(frame)).resize(size, Image.Resampling.BOX))
            for frame in frames
        ]
    )

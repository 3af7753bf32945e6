"""First masks of a clip's subject, without any network: what moves, or what lies in a box, told apart by its colours.

    clips => masks, white where the subject is, under the clips' names: a start to look at and to correct by hand

As in GrabCut (Rother et al. 2004), colour models of subject and background and the labels are estimated in turn, but the
models are histograms and the labels are smoothed, not cut: enough for a subject whose colours differ from what surrounds it
and, where no box is given, a camera that stands still.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from motionloom.datasets.clips import clip_files
from motionloom.errors import ConfigError, InputError, MotionLoomError
from motionloom.video.clip import Clip
from motionloom.video.read import read_clip

Box = tuple[float, float, float, float]  # (left, top, right, bottom) as shares of the frame
Cut = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]

WORKING_SIDE_PX = 160
BINS = 12  # per colour
ROUNDS = 4
SMOOTHING_PX = 2.0
SMALLEST_MOTION = 6 / 255  # of the strongest places, mean over colours
OUTSIDE_BOX = 0.02  # probability of the subject out of its box


@dataclass(frozen=True)
class Masked:
    """What was written for one clip. `share` is the mean part of the frame that the mask covers."""

    name: str
    share: float
    note: str = ""


def write_masks(
    clips: str | Path,
    out: str | Path,
    box: Box | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cut: Cut | None = None,
) -> tuple[list[Masked], list[tuple[str, str]]]:
    """Write a mask of every clip in a folder.

    Args:
        clips: see `datasets/clips.py`.
        out: gets `<clip's name>.mp4`.
        box: of the subject in all frames of all clips; None takes what moves.
        progress: called with (clips done, clips in all).
        cut: what makes masks (T, H, W) of frames, in place of `segment`.

    Returns:
        What was written, and (name, reason) of clips that have none.

    Raises:
        ConfigError: a box that is none. InputError: there is no clip.
    """
    if box is not None:
        check_box(box)
    files = clip_files(clips)
    written, refused = [], []
    for done, (name, path) in enumerate(files):
        try:
            clip = read_clip(path)
            mask = cut(clip.frames) if cut is not None else segment(clip.frames, box)
        except MotionLoomError as error:
            refused.append((name, error.message))
        else:
            Clip(np.repeat(mask[..., None], 3, axis=-1), clip.fps, {"mask_of": path.name}).save(
                Path(out) / Path(name.removeprefix("clips/")).with_suffix(".mp4")
            )
            written.append(Masked(name, *_judged(mask)))
        progress(done + 1, len(files))
    return written, refused


def check_box(box: Box) -> None:
    """Raises ConfigError for a box that is none."""
    if not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise ConfigError(
            f"got the box {box}, expected left < right and top < bottom in 0..1", fix="correct it"
        )


def segment(frames: npt.NDArray[np.uint8], box: Box | None = None) -> npt.NDArray[np.uint8]:
    """Frames (T, H, W, 3) => masks (T, H, W), 0 or 255.

    Raises:
        InputError: nothing moves, and no box says where the subject is. ConfigError: a box that is none.
    """
    if box is not None:
        check_box(box)
    height, width = frames.shape[1:3]
    scale = min(1.0, WORKING_SIDE_PX / max(height, width))
    size = (max(8, round(height * scale)), max(8, round(width * scale)))
    small = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).float().div(255)
    small = F.interpolate(small, size, mode="bilinear", antialias=True)  # (T, 3, h, w)
    prior = _moving(small) if box is None else _in_box(len(small), size, box)
    labels = prior
    codes = _colour_codes(small)
    for _ in range(ROUNDS):
        odds = _colour_odds(codes, labels) + torch.logit(prior)
        labels = _smooth(torch.sigmoid(odds))
    mask = F.interpolate(labels[:, None], (height, width), mode="bilinear")[:, 0] > 0.5
    out: npt.NDArray[np.uint8] = mask.to(torch.uint8).mul(255).numpy()
    return out


def _moving(frames: Tensor) -> Tensor:
    """(T, 3, h, w) => (T, h, w), 0.1..0.9: how far each place is from its median over time."""
    distance = _smooth((frames - frames.median(dim=0).values).abs().mean(dim=1))
    strongest = (
        float(distance.flatten().quantile(0.995)) if distance.numel() < 2**24 else float(distance.max())
    )
    if strongest < SMALLEST_MOTION:
        raise InputError("nothing moves in it", fix="say where the subject is: --box LEFT,TOP,RIGHT,BOTTOM")
    return (distance / strongest).clamp(0.1, 0.9)


def _in_box(count: int, size: tuple[int, int], box: Box) -> Tensor:
    """(T, h, w): undecided inside, next to nothing outside."""
    prior = torch.full((count, *size), OUTSIDE_BOX)
    left, right = round(box[0] * size[1]), max(1, round(box[2] * size[1]))
    top, bottom = round(box[1] * size[0]), max(1, round(box[3] * size[0]))
    prior[:, top:bottom, left:right] = 0.5
    return prior


def _colour_codes(frames: Tensor) -> Tensor:
    """(T, 3, h, w), 0..1 => (T, h, w): the number of each colour's bin."""
    bins = (frames * BINS).long().clamp(max=BINS - 1)
    return (bins[:, 0] * BINS + bins[:, 1]) * BINS + bins[:, 2]


def _colour_odds(codes: Tensor, labels: Tensor) -> Tensor:
    """log p(colour | subject) / p(colour | background), from histograms over the whole clip: (T, h, w)."""

    def histogram(weights: Tensor) -> Tensor:
        counts = torch.zeros(BINS**3).index_add_(0, codes.flatten(), weights.flatten())
        blurred = F.avg_pool3d(counts.view(1, 1, BINS, BINS, BINS), 3, 1, 1).flatten() * 2 + counts
        return (blurred + 1e-3) / (blurred + 1e-3).sum()

    odds = (histogram(labels) / histogram(1 - labels)).log().clamp(-4, 4)
    return odds[codes]


def _smooth(maps: Tensor) -> Tensor:
    """(T, h, w) blurred over the places, by a Gaussian of SMOOTHING_PX."""
    reach = int(3 * SMOOTHING_PX)
    x = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (x / SMOOTHING_PX) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(maps[:, None], (reach,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, -1))
    return F.conv2d(rows, kernel.view(1, 1, -1, 1))[:, 0]


def _judged(mask: npt.NDArray[np.uint8]) -> tuple[float, str]:
    """The share of the frame, and what to say of it."""
    share = float(mask.mean()) / 255
    if share < 0.005:
        return share, "next to nothing was found: paint this one"
    return share, "covers most of the frame: the camera may move" if share > 0.6 else ""

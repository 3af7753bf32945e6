"""Clips in time: another frame rate, a window of frames.

Times are exact fractions, so that 59.94 to 29.97 takes every second frame and never drifts. Intervals are
half-open: frame k is on screen during [k/fps, (k+1)/fps).
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from motionloom.errors import InputError
from motionloom.video.clip import MAX_FPS, Clip

_MAX_DENOMINATOR = 1001


def rate_fraction(fps: float) -> Fraction:
    """The frame rate as an exact fraction, frames per second; 29.97 and its family become 30000/1001 and so
    on.
    """
    whole = round(fps * 1.001)
    if whole and abs(fps - whole * 1000 / 1001) < 0.005:
        return Fraction(whole * 1000, 1001)
    return max(Fraction(fps).limit_denominator(_MAX_DENOMINATOR), Fraction(1, _MAX_DENOMINATOR))


def resample_fps(clip: Clip, fps: float) -> Clip:
    """The clip at another frame rate (frames per second), same duration to the nearest frame, no blending.

    Output frame j starts at j/fps and takes the source frame whose start is nearest, the earlier one on a
    tie; so frame 0 always stays frame 0. The change is said in settings["notes"]. Raises InputError for an
    impossible rate.
    """
    if not math.isfinite(fps) or not 0 < fps <= MAX_FPS:
        raise InputError(
            f"fps is {fps}, expected above 0 and at most {MAX_FPS:g}", fix="give frames per second"
        )
    source, wanted = rate_fraction(clip.fps), rate_fraction(fps)
    if source == wanted:
        return clip if clip.fps == fps else replace(clip, fps=fps)
    indices = nearest_indices(clip.num_frames, source / wanted)
    resampled = replace(clip, frames=clip.frames[indices], fps=fps)
    return resampled.with_note(
        f"resampled from {clip.fps:.6g} to {fps:.6g} frames per second, "
        f"{clip.num_frames} to {len(indices)} frames"
    )


def nearest_indices(num_frames: int, step: Fraction) -> npt.NDArray[np.intp]:
    """Source indices for output frames j = 0, 1, ...: the integer nearest to j * step, ties down, clamped to
    the last.

    The count is num_frames / step to the nearest integer, at least 1. Shape (count,).
    """
    count = max(1, math.floor(num_frames / step + Fraction(1, 2)))
    half = Fraction(1, 2)
    picked = [min(math.ceil(j * step - half), num_frames - 1) for j in range(count)]
    return np.asarray(picked, dtype=np.intp)


def take_window(clip: Clip, start_frame: int, num_frames: int) -> Clip:
    """Frames [start_frame, start_frame + num_frames) of the clip, as a view. Raises InputError when they are
    not there.
    """
    end_frame = start_frame + num_frames
    if start_frame < 0 or num_frames < 1 or end_frame > clip.num_frames:
        raise InputError(
            f"frames {start_frame} to {end_frame} were asked for, the clip has frames 0 to {clip.num_frames}",
            fix="ask for fewer frames or use a longer clip",
        )
    return replace(clip, frames=clip.frames[start_frame:end_frame])

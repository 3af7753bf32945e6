"""image -> Clip: the verb `generate`.

base = load_base("mini")
clip = generate(base, "photo.jpg", motions=[("clouds", 0.6), ("pan-left", 0.4)], seed=0)
clip.save("out.mp4")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from motionloom.codecs.run import Loop, Once
from motionloom.conditions.asked import Asked, Weight, read_asked
from motionloom.denoisers.catalog import Base
from motionloom.durable import sha256_of
from motionloom.errors import ConfigError, InputError
from motionloom.sampling.loop import sample
from motionloom.start_noise.gaussian import Gaussian
from motionloom.video.clip import Clip
from motionloom.video.picture import read_mask, read_picture
from motionloom.video.resize import resize

Picture = npt.NDArray[np.uint8]
Photo = str | os.PathLike[str] | Picture
Motion = str | tuple[str, Weight]
Progress = Callable[[str, int, int], None]  # (stage, done, in all)

SMALLEST_SIDE_PX, LARGEST_SIDE_PX = 16, 8192
LARGEST_COUNT = 1024  # of frames, of steps


@torch.no_grad()
def generate(
    base: Base,
    photo: Photo,
    motions: Sequence[Motion] | None = None,
    *,
    prompt: str | None = None,
    frames: int | None = None,
    fps: float | None = None,
    steps: int | None = None,
    size: str = "native",
    seed: int = 0,
    overscan: bool = False,
    loop: bool = False,
    masks: Sequence[str | os.PathLike[str] | Picture | None] | None = None,
    progress: Progress | None = None,
) -> Clip:
    """Animate a photo. The same arguments give the same clip, bit for bit, on the same machine.

    Args:
        base: what animates, from `load_base`.
        photo: a picture file, or uint8 (H, W, 3).
        motions: words, or (word, weight); a weight of 1 is the motion's usual strength, a pair (first, last) runs over
            the denoising steps. None takes the base's default, which the clip's settings name.
        prompt: text, for bases that read it.
        frames: T, the photo included; the whole motion whatever T is, so more frames move more slowly.
        fps: frames per second of the clip; default the base's.
        steps: denoising steps; default the base's.
        size: "native", or "WxH" in pixels (the photo is scaled and cropped to it).
        seed: of the noise.
        overscan: show only the middle of the photo, so that a moving camera never looks beyond its edge.
        loop: end where it began.
        masks: a mask for each motion: a picture file or float (H, W) 0..1, white where the motion acts; None is everywhere.
        progress: called with (stage, done, in all).

    Returns:
        the clip; frame 0 is the photo (the part that is looked at), `settings` carries everything that made it.

    Raises:
        ConfigError: an unknown motion, a weight, size or number that cannot be.
        InputError: a photo or mask that cannot be used.
    """
    picture, settings = _photo(photo, size)
    asked = _asked(base, motions, masks, picture.shape)
    if prompt:
        raise ConfigError(
            f'"{base.name}" reads no text, got the prompt {prompt!r}',
            fix="leave out the prompt, or use motion words",
        )
    count, rate, num_steps = frames or base.num_frames, fps or base.fps, steps or base.num_steps
    _check_numbers(count, rate, num_steps)

    pixels = _pixels(picture)
    noise = Gaussian()(
        None, (1, *base.codec.latent_shape(count, *pixels.shape[-2:])), torch.Generator().manual_seed(seed)
    )
    told = base.told(pixels)
    latents = sample(
        base.woven(asked), base.schedule(), noise, told, num_steps, None, _stage(progress, "denoising")
    )
    where, run = base.where(asked, *picture.shape[:2]), Loop() if loop else Once()
    drawn = base.codec.decode(latents, pixels, count, where, run, _stage(progress, "drawing"))
    if overscan:
        top, left, height, width = base.codec.safe_view(latents, pixels, count, where, run)
        drawn = drawn[..., top : top + height, left : left + width]
    settings |= {
        "base": base.name,
        "motions": [
            [one.name, list(one.weight) if isinstance(one.weight, tuple) else one.weight] for one in asked
        ],
        "frames": count,
        "fps": rate,
        "steps": num_steps,
        "size": size,
        "seed": seed,
        "overscan": overscan,
        "loop": loop,
        "masks": [
            None if mask is None or isinstance(mask, np.ndarray) else os.fspath(mask) for mask in masks or ()
        ]
        or None,
    }
    return Clip(_frames(drawn), rate, settings)


def _photo(photo: Photo, size: str) -> tuple[Picture, dict[str, Any]]:
    """The picture at the size asked for, and what the settings say of it."""
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[-1] != 3:
            raise InputError(
                f"got a picture of type {photo.dtype} and shape {photo.shape}, expected uint8 (height, width, 3)",
                fix="convert it to 8-bit RGB",
            )
        picture, settings = photo, {}
    else:
        picture = read_picture(photo)
        settings = {"photo": os.fspath(photo), "photo_sha256": sha256_of(Path(photo))}
    if size != "native":
        width, height = _size(size)
        picture = resize(picture[None], width, height, "crop")[0]
    if min(picture.shape[:2]) < SMALLEST_SIDE_PX:
        raise InputError(
            f"the picture is {picture.shape[1]} x {picture.shape[0]} px, expected at least {SMALLEST_SIDE_PX} px a side",
            fix="give a larger picture",
        )
    return picture, settings


def _size(size: str) -> tuple[int, int]:
    width, _, height = size.partition("x")
    if not (
        width.isdecimal()
        and height.isdecimal()
        and 0 < int(width) <= LARGEST_SIDE_PX
        and 0 < int(height) <= LARGEST_SIDE_PX
    ):
        raise ConfigError(
            f'got the size "{size}", expected "native" or WIDTHxHEIGHT of at most {LARGEST_SIDE_PX} px a side',
            fix='for example "640x360"',
        )
    return int(width), int(height)


def _asked(
    base: Base, motions: Sequence[Motion] | None, masks: Sequence[Any] | None, shape: tuple[int, ...]
) -> list[Asked]:
    """The motions asked for, each with its region; the base's default where nothing is asked."""
    chosen = list(motions) if motions else [base.default_motion]
    given = [*(masks or ()), *[None] * (len(chosen) - len(masks or ()))]
    if len(given) != len(chosen):
        raise ConfigError(
            f"got {len(given)} masks for {len(chosen)} motions, expected at most one each",
            fix="leave out the others",
        )
    regions = [
        mask if mask is None or isinstance(mask, np.ndarray) else read_mask(mask, shape[0], shape[1])
        for mask in given
    ]
    for region in regions:
        if region is not None and region.shape != shape[:2]:
            raise InputError(
                f"got a mask of shape {region.shape}, expected that of the picture, {shape[:2]}",
                fix="resize the mask",
            )
    asked = read_asked(chosen, [None if r is None else r.astype(np.float32) for r in regions])
    for one in asked:
        base.check_word(one.name)
    return asked


def _check_numbers(frames: int, fps: float, steps: int) -> None:
    if not 2 <= frames <= LARGEST_COUNT or not 0 < fps <= 240 or not 1 <= steps <= LARGEST_COUNT:
        raise ConfigError(
            f"got {frames} frames at {fps:g} fps in {steps} steps, expected 2..{LARGEST_COUNT} frames, at most 240 fps and "
            f"1..{LARGEST_COUNT} steps",
            fix="choose numbers in these ranges",
        )


def _pixels(picture: Picture) -> Tensor:
    """uint8 (H, W, 3) => float (1, 3, H, W), -1..1."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def _frames(pixels: Tensor) -> npt.NDArray[np.uint8]:
    """float (1, 3, T, H, W), -1..1 => uint8 (T, H, W, 3); frame by frame, for long clips are large."""
    frames = (((frame + 1) * 127.5).round().clamp(0, 255).byte() for frame in pixels[0].unbind(1))
    return np.stack([frame.permute(1, 2, 0).numpy() for frame in frames])


def _stage(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)

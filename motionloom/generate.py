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

from motionloom.conditions.asked import Asked, Motion, read_asked
from motionloom.denoisers.base import Base, Request
from motionloom.durable import sha256_of
from motionloom.errors import ConfigError, InputError
from motionloom.sampling.loop import sample
from motionloom.video.clip import Clip
from motionloom.video.picture import read_mask, read_picture
from motionloom.video.resize import resize

Picture = npt.NDArray[np.uint8]
Photo = str | os.PathLike[str] | Picture
Mask = str | os.PathLike[str] | npt.NDArray[Any] | None
Progress = Callable[[str, int, int], None]  # (stage, done, in all)

SMALLEST_SIDE_PX, LARGEST_SIDE_PX = 16, 8192
LARGEST_COUNT = 1024  # of frames, of steps
PRESETS = ("exact", "balanced", "turbo")


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
    masks: Sequence[Mask] | None = None,
    preset: str = "exact",
    progress: Progress | None = None,
) -> Clip:
    """Animate a photo. The same arguments give the same clip, bit for bit, on the same machine.

    Args:
        base: what animates, from `load_base`.
        photo: a picture file, or uint8 (H, W, 3).
        motions: words, adapter files or adapters, each alone or as (motion, weight); a weight of 1 is the
            motion's usual strength, a pair (first, last) runs over the denoising steps. None takes the base's
            default, which the clip's settings name.
        prompt: text, for bases that read it.
        frames: T, the photo included.
        fps: frames per second of the clip; default the base's.
        steps: denoising steps; default the base's.
        size: "native", the size the base was trained at or, where it takes any, the photo's own; or "WxH" in
            pixels. The photo is scaled and cropped to it.
        seed: of the noise.
        overscan: show only the middle of the photo, so that a moving camera never looks beyond its edge.
        loop: end where it began.
        masks: a mask for each motion: a picture file or float (H, W) 0..1, white where the motion acts, of the
            clip's size; None is everywhere.
        preset: speed against fidelity; "exact" is the base as published, the only one so far.
        progress: called with (stage, done, in all).

    Returns:
        the clip; frame 0 is the photo (the part that is looked at), `settings` carries everything that made it.

    Raises:
        ConfigError: an unknown motion, a weight, size or number that cannot be.
        InputError: a photo or mask that cannot be used.
        WeightsError: an adapter that is damaged or was made for another base.
    """
    picture, settings = read_photo(photo, size, base)
    request = Request(
        photo=to_pixels(picture),
        motions=tuple(_asked(base, motions, masks, picture.shape[:2])),
        num_frames=frames or base.num_frames,
        fps=fps or base.fps,
        num_steps=steps or base.num_steps,
        prompt=prompt or None,
        overscan=overscan,
        loop=loop,
    )
    _check(base, request, preset)

    generator = torch.Generator().manual_seed(seed)
    first = base.encode(request, generator)
    noise = base.start_noise(request)(first, base.latent_shape(request), generator)
    with base.adapted(request) as denoiser:
        latents = sample(
            denoiser,
            base.schedule(request),
            noise,
            base.condition(request, first, generator),
            request.num_steps,
            generator,
            stage_of(progress, "denoising"),
        )
    drawn = base.decode(latents, request, stage_of(progress, "drawing"))

    settings |= _settings(base, request, masks) | {"size": size, "seed": seed, "preset": preset}
    if notes := [*settings.pop("notes", []), *base.notes(request)]:
        settings["notes"] = notes
    return Clip(to_frames(drawn), request.fps, settings)


def read_photo(photo: Photo, size: str, base: Base) -> tuple[Picture, dict[str, Any]]:
    """The picture at the size asked for, and what the settings say of it: its name, never where it lies."""
    settings: dict[str, Any] = {}
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[-1] != 3:
            raise InputError(
                f"got a picture of type {photo.dtype} and shape {photo.shape}, expected uint8 (height, width, 3)",
                fix="convert it to 8-bit RGB",
            )
        picture = photo
    else:
        picture = read_picture(photo)
        settings = {"photo": Path(photo).name, "photo_sha256": sha256_of(Path(photo))}
    given_height, given_width = picture.shape[:2]
    height, width = _size(size, base, given_height, given_width)
    picture = resize(picture[None], width, height, "crop")[0]
    if min(picture.shape[:2]) < SMALLEST_SIDE_PX:
        raise InputError(
            f"the picture is {picture.shape[1]} x {picture.shape[0]} px, expected at least {SMALLEST_SIDE_PX} px a side",
            fix="give a larger picture",
        )
    if size == "native" and (given_height, given_width) != (height, width):
        settings["notes"] = [
            f"the photo, {given_width} x {given_height} px, was scaled and cropped to {width} x {height} px, "
            f"the size {base.name} was trained at; --size chooses another"
        ]
    return picture, settings


def _size(size: str, base: Base, photo_height: int, photo_width: int) -> tuple[int, int]:
    """(height, width) of the clip."""
    if size == "native":
        return base.native_size_px or (photo_height, photo_width)
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
    multiple = base.size_multiple_px
    if int(width) % multiple or int(height) % multiple:
        near_width, near_height = (max(1, round(int(side) / multiple)) * multiple for side in (width, height))
        raise ConfigError(
            f'got the size "{size}", {base.name} takes only multiples of {multiple} px',
            fix=f'"{near_width}x{near_height}" is near',
        )
    return int(height), int(width)


def _asked(
    base: Base, motions: Sequence[Motion] | None, masks: Sequence[Mask] | None, shape: tuple[int, ...]
) -> list[Asked]:
    """The motions asked for, each with its region; the base's default where nothing is asked."""
    chosen = list(motions) if motions else [base.default_motion] if base.default_motion else []
    given = [*(masks or ()), *[None] * (len(chosen) - len(masks or ()))]
    if len(given) != len(chosen):
        raise ConfigError(
            f"got {len(given)} masks for {len(chosen)} motions, expected at most one each",
            fix="leave out the others",
        )
    regions = [
        mask if mask is None or isinstance(mask, np.ndarray) else read_mask(mask, *shape) for mask in given
    ]
    for region in regions:
        if region is not None and region.shape != shape:
            raise InputError(
                f"got a mask of shape {region.shape}, expected that of the picture, {shape}",
                fix="resize the mask",
            )
    return read_asked(chosen, [None if r is None else r.astype(np.float32) for r in regions], base.words)


def _check(base: Base, request: Request, preset: str) -> None:
    frames, fps, steps = request.num_frames, request.fps, request.num_steps
    if not 2 <= frames <= LARGEST_COUNT or not 0 < fps <= 240 or not 1 <= steps <= LARGEST_COUNT:
        raise ConfigError(
            f"got {frames} frames at {fps:g} fps in {steps} steps, expected 2..{LARGEST_COUNT} frames, at most 240 fps and "
            f"1..{LARGEST_COUNT} steps",
            fix="choose numbers in these ranges",
        )
    if request.prompt and not base.reads_text:
        raise ConfigError(
            f'"{base.name}" reads no text, got the prompt {request.prompt!r}',
            fix="leave out the prompt, or use motions",
        )
    if preset != "exact":
        raise ConfigError(
            f'got the preset "{preset}", {base.name} has "exact" alone'
            if preset in PRESETS
            else f'there is no preset "{preset}"',
            fix="leave it out; fewer steps are quicker",
        )
    base.check(request)


def _settings(base: Base, request: Request, masks: Sequence[Mask] | None) -> dict[str, Any]:
    """What made the clip, as JSON values: the arguments by name, files by name and sha256."""
    files = [None if mask is None or isinstance(mask, np.ndarray) else Path(mask) for mask in masks or ()]
    adapters = [one.sha256 or None for one in request.motions]
    hashes = [None if file is None else sha256_of(file) for file in files]
    settings: dict[str, Any] = {
        "base": base.name,
        "motions": [
            [one.said, list(one.weight) if isinstance(one.weight, tuple) else one.weight]
            for one in request.motions
        ],
        "frames": request.num_frames,
        "fps": request.fps,
        "steps": request.num_steps,
        "prompt": request.prompt,
        "overscan": request.overscan,
        "loop": request.loop,
        "masks": [file and file.name for file in files] or None,
    }
    if any(adapters):
        settings["adapters_sha256"] = adapters
    if any(hashes):
        settings["masks_sha256"] = hashes
    if facts := base.facts():
        settings["base_facts"] = facts
    return settings


def to_pixels(picture: Picture) -> Tensor:
    """uint8 (H, W, 3) => float (1, 3, H, W), -1..1."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_frames(pixels: Tensor) -> npt.NDArray[np.uint8]:
    """float (1, 3, T, H, W), -1..1 => uint8 (T, H, W, 3); frame by frame, for long clips are large."""
    frames = (((frame + 1) * 127.5).round().clamp(0, 255).byte() for frame in pixels[0].unbind(1))
    return np.stack([frame.permute(1, 2, 0).numpy() for frame in frames])


def stage_of(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)

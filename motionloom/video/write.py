"""Clips to disk, complete or not at all: H.264 MP4, GIF, WebP, or a folder of PNGs.

The same clip gives the same bytes: encoder threads are a fixed number rather than the machine's, no dates and
no library versions go into the container. Each format carries the clip's settings (see `embedded.py`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from PIL import Image

from motionloom.durable import write_durably, write_folder_durably
from motionloom.errors import ConfigError, InputError, ResourceError
from motionloom.video.clip import Clip
from motionloom.video.embedded import embed, extract
from motionloom.video.resample import rate_fraction

SETTINGS_NAME = "clip.json"  # inside a folder of frames
ENCODER_THREADS = 4  # x264's output depends on its threads; left alone it would take the machine's
GIF_MAX_FPS = 50.0  # GIF counts hundredths of a second, and players slow anything below two of them down
MAX_SIDE_PX = {".mp4": 8192, ".webp": 16383, ".gif": 65535}

_FRAME_NAME = re.compile(r"^frame_\d{6}\.png$")
_RGB_TO_YUV = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP | Interpolation.BITEXACT
)
EXIF_DESCRIPTION = 0x010E  # ImageDescription


def write_clip(clip: Clip, path: str | os.PathLike[str], *, crf: int = 16, quality: int = 90) -> Path:
    """Write a clip in the format its suffix names; return the path.

    - `.mp4`: H.264, yuv420p, bt709, `crf` 0 (best) to 51. Odd sizes are padded by repeating the last row or
    column;
      `read_clip` takes the padding off again.
    - `.gif`: one palette of 256 colours for all frames, at most 50 frames per second.
    - `.webp`: lossy, `quality` 1 to 100 (best).
    - no suffix: a folder of `frame_000000.png`, ... and `clip.json`. An older folder of ours is replaced; a
    folder
      that holds anything else is refused.

    Settings, exact frame rate and size travel inside each of them. Raises InputError for another suffix or a
    clip the format cannot hold, ConfigError for `crf` or `quality` out of range, ResourceError when the disk
    refuses. On every failure the previous file is untouched and nothing else is left.
    """
    if not 0 <= crf <= 51:
        raise ConfigError(f"crf is {crf}, expected 0 (best) to 51", fix="16 is visually lossless")
    if not 1 <= quality <= 100:
        raise ConfigError(f"quality is {quality}, expected 1 to 100 (best)", fix="90 is a good value")
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in ("", *MAX_SIDE_PX):
        raise InputError(
            f'cannot write clip "{target}": unknown suffix "{target.suffix}"',
            fix="use .mp4, .gif, .webp, or no suffix for a folder of PNGs",
        )
    _check_fits(clip, target, suffix)
    text = embed(clip)
    if suffix == "":
        return write_folder_durably(target, lambda folder: _fill_folder(clip, text, folder), is_clip_folder)
    write: dict[str, Callable[[Path], None]] = {
        ".mp4": lambda temporary: _write_mp4(clip, text, temporary, crf),
        ".gif": lambda temporary: _write_gif(clip, text, temporary),
        ".webp": lambda temporary: _write_webp(clip, text, temporary, quality),
    }
    verify = {".mp4": lambda done: _verify_mp4(clip, target, done)}
    return write_durably(target, write[suffix], verify.get(suffix))


def is_clip_folder(folder: Path) -> bool:
    """True when a folder holds what `write_clip` writes and nothing else, so replacing it loses nobody's
    work.
    """
    names = {entry.name for entry in folder.iterdir()}
    if SETTINGS_NAME not in names or not all(_FRAME_NAME.match(name) for name in names - {SETTINGS_NAME}):
        return False
    try:
        return extract((folder / SETTINGS_NAME).read_text("utf-8")) is not None
    except (OSError, UnicodeDecodeError):
        return False


def _check_fits(clip: Clip, target: Path, suffix: str) -> None:
    limit = MAX_SIDE_PX.get(suffix)
    if limit is not None and max(clip.width_px, clip.height_px) > limit:
        raise InputError(
            f'cannot write clip "{target}": {clip.width_px}x{clip.height_px} px; {suffix} allows {limit}',
            fix="resize the clip, or write a folder of PNGs",
        )
    if suffix == ".gif" and clip.fps > GIF_MAX_FPS:
        raise InputError(
            f'cannot write clip "{target}": {clip.fps:g} frames per second; GIF allows {GIF_MAX_FPS:g}',
            fix="write an MP4, or resample_fps(clip, 50) first",
        )


# --- MP4 ----------------------------------------------------------------------------------------------------


def _write_mp4(clip: Clip, text: str, temporary: Path, crf: int) -> None:
    rate = rate_fraction(clip.fps)
    with av.open(
        f"file:{temporary}", "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}
    ) as container:
        container.metadata["comment"] = text
        stream = container.add_stream("libx264", rate=rate)
        stream.width = clip.width_px + clip.width_px % 2
        stream.height = clip.height_px + clip.height_px % 2
        stream.pix_fmt = "yuv420p"
        # macroblock-tree rate control reads memory it never wrote where a side is no multiple of 16, and equal clips
        # gave unequal files (9 of 150 at 82x60); without it 150 of 150 were equal
        options = {"crf": str(crf), "preset": "medium", "threads": str(ENCODER_THREADS)}
        stream.options = {**options, "x264-params": "mbtree=0"}
        context = stream.codec_context
        context.time_base = 1 / rate
        context.color_range = ColorRange.MPEG
        context.colorspace = Colorspace.ITU709
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        for index, frame in enumerate(clip.frames):
            encoded = _to_yuv420p(frame)
            encoded.pts, encoded.time_base = index, 1 / rate
            container.mux(stream.encode(encoded))
        container.mux(stream.encode())


def _to_yuv420p(frame: npt.NDArray[np.uint8]) -> av.VideoFrame:
    """RGB (H, W, 3) => limited-range bt709 yuv420p of even size, the last row and column repeated where
    needed.
    """
    height, width = frame.shape[:2]
    even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
    return rgb.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=_RGB_TO_YUV,
    )


def _verify_mp4(clip: Clip, target: Path, done: Path) -> None:
    """Read the index back: a disk that lost data silently is noticed before the old file is replaced."""
    try:
        with av.open(f"file:{done}", format="mp4", metadata_errors="replace") as container:
            num_frames = container.streams.video[0].frames
    except (av.FFmpegError, IndexError):
        num_frames = 0
    if num_frames != clip.num_frames:
        raise ResourceError(
            f'cannot write clip "{target}": {num_frames} of {clip.num_frames} frames read back after writing',
            fix="check the disk",
        )


# --- GIF and WebP -------------------------------------------------------------------------------------------


def _write_gif(clip: Clip, text: str, temporary: Path) -> None:
    palette = _shared_palette(clip)
    frames = [Image.fromarray(np.ascontiguousarray(frame)).quantize(palette=palette) for frame in clip.frames]
    frames[0].save(
        temporary,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=_durations_ms(clip, tick_ms=10),
        loop=0,
        comment=text.encode("utf-8"),
        optimize=False,
    )


def _shared_palette(clip: Clip) -> Image.Image:
    """256 colours for the whole clip: a palette per frame would make still regions flicker."""
    picked = np.unique(np.linspace(0, clip.num_frames - 1, 16).round().astype(int))
    strip = clip.frames[picked].reshape(-1, clip.width_px, 3)
    every = max(1, strip.shape[0] * strip.shape[1] // 16_000)
    pixels = strip.reshape(-1, 3)[::every]
    return Image.fromarray(np.ascontiguousarray(pixels[None])).quantize(
        256, method=Image.Quantize.MEDIANCUT, kmeans=1
    )


def _write_webp(clip: Clip, text: str, temporary: Path, quality: int) -> None:
    frames = [Image.fromarray(np.ascontiguousarray(frame)) for frame in clip.frames]
    exif = Image.Exif()
    exif[EXIF_DESCRIPTION] = json.dumps(json.loads(text))  # EXIF texts are ASCII: json escapes the rest
    frames[0].save(
        temporary,
        format="WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=_durations_ms(clip, tick_ms=1),
        loop=0,
        lossless=False,
        quality=quality,
        method=4,
        exif=exif.tobytes(),
    )


def _durations_ms(clip: Clip, tick_ms: int) -> list[int]:
    """How long each frame stays, in whole ticks whose sum never drifts from the exact time by more than half
    a tick.
    """
    period_ticks = 1000 / (rate_fraction(clip.fps) * tick_ms)
    edges = [round(index * period_ticks) for index in range(clip.num_frames + 1)]
    return [(end - start) * tick_ms for start, end in pairwise(edges)]


# --- a folder of PNGs ---------------------------------------------------------------------------------------


def _fill_folder(clip: Clip, text: str, folder: Path) -> None:
    for index, frame in enumerate(clip.frames):
        picture = Image.fromarray(np.ascontiguousarray(frame))
        picture.save(folder / f"frame_{index:06d}.png", format="PNG", compress_level=4)
    (folder / SETTINGS_NAME).write_text(text, encoding="utf-8")

"""Videos made on the spot, with any codec, tag or fault a test needs."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream

# red, green, blue, white, black, skin, grey, teal: one block each, left to right
GOLDEN = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
    (200, 120, 40),
    (128, 128, 128),
    (30, 200, 180),
)
BLOCK = 32


def golden_frames(num_frames: int = 4) -> npt.NDArray[np.uint8]:
    row = np.repeat(np.array(GOLDEN, dtype=np.uint8), BLOCK, axis=0)
    return np.tile(row, (num_frames, BLOCK, 1, 1))


def golden_errors(frames: npt.NDArray[np.uint8]) -> int:
    """The largest difference from GOLDEN at the centres of the blocks, over all frames."""
    centres = frames[:, BLOCK // 2, BLOCK // 2 :: BLOCK].astype(int)
    return int(np.abs(centres - np.array(GOLDEN)).max())


def smooth_frames(num_frames: int = 6, height: int = 48, width: int = 64) -> npt.NDArray[np.uint8]:
    """Slowly moving waves: every frame differs, nothing is too sharp for 4:2:0."""
    y, x = np.mgrid[:height, :width]
    waves = [
        np.stack(
            [
                128 + 100 * np.sin(x / 17 + t / 4),
                128 + 100 * np.cos(y / 13 + t / 5),
                128 + 80 * np.sin((x + y) / 21),
            ],
            -1,
        )
        for t in range(num_frames)
    ]
    return np.stack(waves).astype(np.uint8)


def numbered_frames(num_frames: int, height: int = 32, width: int = 32) -> npt.NDArray[np.uint8]:
    """Frame k is flat grey 10 + 12 k: `numbers_of` reads k back after lossy coding."""
    levels = (10 + 12 * np.arange(num_frames)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).copy()


def numbers_of(frames: npt.NDArray[np.uint8]) -> list[int]:
    return [round((float(frame.mean()) - 10) / 12) for frame in frames]


def encode(
    path: Path,
    frames: npt.NDArray[np.uint8],
    *,
    container: str = "mp4",
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    colorspace: int | None = 1,
    full_range: bool = False,
    trc: int = 1,
    rotation: tuple[Any, ...] | None = None,
    rate: Fraction = Fraction(10),
    pts: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    comment: str = "",
) -> Path:
    """`frames` is (T, H, W, 3) or, for alpha, (T, H, W, 4). `colorspace` 1 is bt709, 6 is bt601, None writes
    no tags.
    """
    matrix = {1: "ITU709", 6: "SMPTE170M", None: "ITU601"}[colorspace]
    with av.open(str(path), "w", format=container, options=container_options or {}) as output:
        output.metadata["comment"] = comment
        stream = cast(VideoStream, output.add_stream(codec, rate=rate))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.options = dict(options) if options else {"crf": "1"} if codec == "libx264" else {}
        if rotation is not None:
            stream.set_display_rotation(*rotation)
        if colorspace is not None:
            context = stream.codec_context
            context.colorspace, context.color_primaries, context.color_trc = colorspace, 1, trc
            context.color_range = 2 if full_range else 1
        for index, frame in enumerate(frames):
            source = av.VideoFrame.from_ndarray(frame, format="rgba" if frame.shape[2] == 4 else "rgb24")
            picture = source.reformat(
                format=pix_fmt,
                dst_colorspace=matrix,
                dst_color_range="JPEG" if full_range else "MPEG",
                interpolation=Interpolation.BICUBIC
                | Interpolation.ACCURATE_RND
                | Interpolation.FULL_CHR_H_INP,
            )
            picture.pts = index if pts is None else pts[index]
            picture.time_base = 1 / rate
            output.mux(stream.encode(picture))
        output.mux(stream.encode())
    return path


def encode_sound(path: Path, container: str = "mp4", codec: str = "aac") -> Path:
    with av.open(str(path), "w", format=container) as output:
        stream = cast(AudioStream, output.add_stream(codec, rate=8000))
        stream.layout = "mono"
        for index in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, index * 1024
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def cut(path: Path, fraction: float) -> Path:
    """Truncate a file to a fraction of its bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path

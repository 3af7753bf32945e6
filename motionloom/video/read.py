"""Clips from disk: MP4, MOV, MKV, WebM, AVI through PyAV; GIF and WebP animations; folders of PNG or JPEG
frames.

    read_clip(path)      -> Clip, upright, RGB, on a constant frame grid
    read_settings(path)  -> the settings that `write_clip` put into the file

Files come from strangers. So: formats and codecs from a list, no network and no playlists, limits checked in
the header, and every failure one sentence with the file, the reason and how far we got. What was changed
without being a failure (variable frame rate, rotation of the time grid, interlacing) is said in
settings["notes"].
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, cast

import av
import av.container
import av.packet
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.reformatter import Colorspace, Interpolation
from av.video.stream import VideoStream
from PIL import Image, ImageFile

from motionloom.errors import InputError, ResourceError
from motionloom.filetypes import describe_content, open_head, remedy_for
from motionloom.video.clip import MAX_FPS, Clip
from motionloom.video.embedded import ClipFacts, extract
from motionloom.video.picture import BLACK, read_picture_with_notes
from motionloom.video.write import EXIF_DESCRIPTION, SETTINGS_NAME

CONTAINERS = ("mov", "matroska", "webm", "avi")  # mov is also mp4
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "ffv1", "prores", "rawvideo")
MAX_PIXELS_PER_FRAME = 8192 * 4608
MAX_FRAMES = 20_000
MAX_SECONDS = 1800.0
MAX_STREAMS = 32
MAX_DECODED_BYTES = 4 * 1024**3
FOLDER_FPS = 8.0  # of a folder of frames that does not say
DECODER_THREADS = 4

_EXPECTED = (
    "expected a video (MP4, MOV, MKV, WebM, AVI), a GIF or WebP animation, or a folder of PNG or JPEG frames"
)
_AGAIN = "download or encode the clip again"
_TOO_LARGE = "cut the clip or scale it down first"
_FRAME_SUFFIXES = (".png", ".jpg", ".jpeg")
# the default converter is 1 to 1.5 levels too dark on average; full chroma interpolation is unbiased
_YUV_TO_RGB = (
    Interpolation.BILINEAR
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.BITEXACT
)
_UNSPECIFIED_COLORSPACE = 2
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}


def read_clip(path: str | os.PathLike[str]) -> Clip:
    """Read a clip as uint8 RGB frames (T, H, W, 3), values 0-255, with its frame rate.

    Rotation and mirroring from the file are applied. Frames of a variable rate are put on a constant grid at
    the average rate, and a note says so. Colours follow the file's tags; an untagged video is bt709 above 576
    rows or from 1280 columns on, else bt601. Transparent pixels show black. Files of ours come back with
    their settings, their exact rate and their size before padding.

    Raises InputError, naming file and reason, for what is missing, empty, not a clip, truncated (with frames
    decoded of frames expected), without video, or beyond the limits at the top of this file; ResourceError
    when out of memory.
    """
    file = Path(path)
    try:
        if file.is_dir():
            return _read_folder(file)
        head = open_head(file, "cannot read clip", InputError)
        if _is_animation(head):
            return _read_animation(file, head)
        return _read_video(file, head)
    except MemoryError:
        raise ResourceError(f'cannot read clip "{file}": out of memory', fix=_TOO_LARGE) from None


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings inside an MP4, GIF, WebP or folder that `write_clip` wrote. Raises InputError when there
    are none.
    """
    file = Path(path)
    if file.is_dir():
        text = _folder_text(file)
    else:
        head = open_head(file, "cannot read settings of", InputError)
        if _is_animation(head):
            with _opened_animation(file) as picture:
                text = _animation_text(picture)
        else:
            with _opened_container(file, head) as container:
                text = _container_text(container)
    found = extract(text)
    if found is None:
        raise InputError(
            f'cannot read settings of "{file}": it carries none',
            fix="only clips saved by MotionLoom carry settings",
        )
    return found[0]


def _refuse(path: Path, reason: str, fix: str) -> NoReturn:
    raise InputError(f'cannot read clip "{path}": {reason}', fix=fix)


def _check_limits(path: Path, width_px: int, height_px: int, num_frames: float) -> None:
    """Everything that is known before decoding; sizes in pixels."""
    if width_px < 1 or height_px < 1:
        _refuse(path, f"its header says {width_px}x{height_px} pixels", _AGAIN)
    if width_px * height_px > MAX_PIXELS_PER_FRAME:
        reason = f"frames of {width_px}x{height_px} pixels, at most {MAX_PIXELS_PER_FRAME} pixels are allowed"
        _refuse(path, reason, _TOO_LARGE)
    if num_frames > MAX_FRAMES:
        _refuse(path, f"{num_frames:.0f} frames, at most {MAX_FRAMES} are allowed", _TOO_LARGE)
    if num_frames * width_px * height_px * 3 > MAX_DECODED_BYTES:
        size = f"{num_frames:.0f} frames of {width_px}x{height_px} pixels"
        _refuse(path, f"{size}, over {MAX_DECODED_BYTES >> 30} GiB when decoded", _TOO_LARGE)


# --- video files --------------------------------------------------------------------------------------------


@dataclass
class _Decoded:
    """Frames in display order, upright RGB; times in seconds."""

    frames: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    starts: list[Fraction | None] = field(default_factory=list)
    last_duration: Fraction = Fraction(0)
    num_discarded: int = 0  # packets that an edit list hides
    num_damaged: int = 0  # frames the decoder had to guess in part
    damage: str = ""
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _read_video(path: Path, head: bytes) -> Clip:
    with _opened_container(path, head) as container:
        stream = _video_stream(path, container)
        _check_video_header(path, container, stream)
        decoded = _decode(path, container, stream)
        _refuse_damage(path, container, stream, decoded)
        found = extract(_container_text(container))
        nominal_fps = float(stream.average_rate or stream.guessed_rate or 0)
    indices, fps = _constant_grid(decoded, nominal_fps)
    settings, facts = found if found is not None else ({}, None)
    height, width = decoded.frames[0].shape[:2]
    if facts is not None:
        if (height, width) == (facts.height_px + facts.height_px % 2, facts.width_px + facts.width_px % 2):
            height, width = facts.height_px, facts.width_px  # take our own padding off
        fps = facts.fps if abs(facts.fps / fps - 1) < 0.01 else fps
    frames = _assemble([decoded.frames[index] for index in indices], height, width)
    return _with_notes(Clip(frames, min(fps, MAX_FPS), settings), decoded.notes)


@contextmanager
def _opened_container(path: Path, head: bytes) -> Iterator[av.container.InputContainer]:
    """Open with the allow-lists. "file:" keeps a name like "http:x" a file name."""
    options = {
        "format_whitelist": ",".join((*CONTAINERS, "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")),
        "protocol_whitelist": "file",
        "max_streams": str(MAX_STREAMS + 1),
    }
    try:
        container = av.open(f"file:{path.absolute()}", options=options, metadata_errors="replace")
    except Exception as problem:  # FFmpegError, and errors of its bindings on damaged headers
        if isinstance(problem, MemoryError) and not isinstance(problem, av.FFmpegError):
            raise  # FFmpeg's own says that a damaged header asked for an absurd amount
        content = describe_content(head)
        if content in ("an MP4 or MOV video", "a Matroska or WebM video", "an AVI video"):
            _refuse(
                path, f"its index is missing or damaged, it is probably truncated ({_short(problem)})", _AGAIN
            )
        _refuse(
            path,
            f"it is {content or 'not a video we know'}, {_EXPECTED}",
            remedy_for(content, "convert it to MP4"),
        )
    with container:
        yield container


def _short(problem: BaseException) -> str:
    return getattr(problem, "strerror", None) or str(problem) or type(problem).__name__


def _video_stream(path: Path, container: av.container.InputContainer) -> VideoStream:
    if len(container.streams) > MAX_STREAMS:
        _refuse(path, f"it has more than {MAX_STREAMS} streams", "keep only the video stream")
    if not container.streams.video and not container.streams.audio:
        _refuse(path, "it has no streams: its index is empty, missing or damaged", _AGAIN)
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:  # the cover of a music file is no video
            return stream
    _refuse(
        path, "it has no video stream" + (", only sound" if container.streams.audio else ""), "give a video"
    )


def _check_video_header(path: Path, container: av.container.InputContainer, stream: VideoStream) -> None:
    context = stream.codec_context
    codec = context.codec.canonical_name if context is not None else "unknown"
    if codec not in CODECS:
        _refuse(path, f'its codec is "{codec}", allowed are {", ".join(CODECS)}', "convert it to H.264 MP4")
    seconds = _header_seconds(container, stream)
    if seconds > MAX_SECONDS:
        _refuse(path, f"it lasts {seconds:.0f} seconds, at most {MAX_SECONDS:.0f} are allowed", _TOO_LARGE)
    num_frames = stream.frames or seconds * float(stream.average_rate or 0)
    _check_limits(path, context.width, context.height, num_frames)


def _header_seconds(container: av.container.InputContainer, stream: VideoStream) -> float:
    """The duration of the video as the header gives it, 0 when it does not."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    clock = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))  # Matroska
    if clock is not None:
        return int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3])
    return (container.duration or 0) / 1e6


def _decode(path: Path, container: av.container.InputContainer, stream: VideoStream) -> _Decoded:
    decoded = _Decoded()
    stream.thread_type = "AUTO"
    stream.thread_count = DECODER_THREADS
    try:
        for packet in container.demux(stream):
            decoded.num_discarded += bool(packet.size) and packet.is_discard
            if packet.is_corrupt and packet.size:
                decoded.damage = decoded.damage or "its data ends early"
            for frame in packet.decode():
                decoded.num_damaged += frame.is_corrupt
                _keep(path, decoded, frame)
    except av.FFmpegError as problem:
        decoded.damage = _short(problem)
    if decoded.num_damaged:
        decoded.note(f"{decoded.num_damaged} of {len(decoded.frames)} frames had decoding errors")
    return decoded


def _keep(path: Path, decoded: _Decoded, frame: av.VideoFrame) -> None:
    _check_limits(path, frame.width, frame.height, len(decoded.frames) + 1)
    rgb = _upright(_rgb_of(frame), frame)
    if decoded.frames and rgb.shape != decoded.frames[0].shape:
        old, new = decoded.frames[0].shape, rgb.shape
        reason = (
            f"frame {len(decoded.frames)} is {new[1]}x{new[0]} pixels, the ones before are {old[1]}x{old[0]}"
        )
        _refuse(path, reason, "encode it with one size")
    decoded.frames.append(rgb)
    start = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
    decoded.starts.append(start)
    decoded.last_duration = (frame.duration or 0) * (frame.time_base or Fraction(0))
    if frame.interlaced_frame:
        decoded.note("interlaced: both fields are kept in one frame")
    if frame.color_trc in _HDR_TRANSFERS:
        decoded.note(
            f"HDR ({_HDR_TRANSFERS[frame.color_trc]}): shown without tone mapping, colours look pale"
        )


def _rgb_of(frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    """One decoded frame => uint8 RGB (H, W, 3), transparent pixels on black."""
    source = None
    if frame.colorspace == _UNSPECIFIED_COLORSPACE and not frame.format.is_rgb:
        large = frame.width >= 1280 or frame.height > 576
        source = Colorspace.ITU709 if large else Colorspace.ITU601
    has_alpha = any(component.is_alpha for component in frame.format.components)
    name = "rgba" if has_alpha else "rgb24"
    pixels = frame.reformat(format=name, src_colorspace=source, interpolation=_YUV_TO_RGB).to_ndarray()
    if has_alpha:
        weighted = pixels[:, :, :3].astype(np.uint16) * pixels[:, :, 3:]
        pixels = (weighted + 127) // 255
    return pixels.astype(np.uint8, copy=False)


def _upright(rgb: npt.NDArray[np.uint8], frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    """Apply the display matrix: quarter turns and mirrorings, as a view. Other angles are left alone.

    The matrix (rows a b u, c d v, x y w, 16.16 fixed point) sends column p, row q to column a p + c q, row b
    p + d q.
    """
    try:
        matrix = cast(SideDataContainer, frame.side_data)[SideDataType.DISPLAYMATRIX]
    except KeyError:
        return rgb
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    if a == d == 0 and b and c:
        rgb, a, d = rgb.swapaxes(0, 1), c, b
    elif b or c or not a or not d:
        return rgb
    return rgb[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1]


def _refuse_damage(
    path: Path, container: av.container.InputContainer, stream: VideoStream, decoded: _Decoded
) -> None:
    """Compare what was decoded with what the header promised."""
    num_frames = len(decoded.frames)
    expected = _expected_frames(path, container, stream, decoded)
    if decoded.damage or num_frames == 0 or num_frames < expected:
        if expected == 0:
            _refuse(path, "it has a video stream without frames", _AGAIN)
        detail = f" ({decoded.damage})" if decoded.damage else ""
        _refuse(path, f"truncated or damaged: {num_frames} of {expected} frames decoded{detail}", _AGAIN)


def _expected_frames(
    path: Path, container: av.container.InputContainer, stream: VideoStream, decoded: _Decoded
) -> int:
    """Frames the header promises, without those an edit list hides; 0 when it makes no promise."""
    num_frames = len(decoded.frames)
    if container.format.name.startswith("mov"):
        return max(0, (len(stream.index_entries) or stream.frames) - decoded.num_discarded)
    if stream.frames:  # AVI counts dropped frames too: fewer frames are damage only with another sign of it
        damaged = decoded.damage or decoded.num_damaged or _missing_riff_bytes(path) or not num_frames
        return stream.frames if damaged else num_frames
    seconds = _header_seconds(container, stream)
    if "DURATION" not in stream.metadata and len(container.streams) > 1:
        return num_frames  # the duration may be that of the sound
    rate = float(stream.average_rate or FOLDER_FPS)
    starts = [start for start in decoded.starts if start is not None]
    if not starts:
        return num_frames or round(seconds * rate)
    gaps = [float(after - before) for before, after in pairwise(starts)] or [1 / rate]
    steady = abs(float(np.median(gaps)) * rate - 1) < 0.1
    gap = float(np.median(gaps)) if steady else max(gaps)  # a variable rate may hold its last frame long
    missing = (seconds - float(starts[-1])) / gap - 1  # the last frame itself takes one
    if round(missing) < 1:
        return num_frames
    return max(num_frames + 1, round((seconds - float(starts[0])) * rate))


def _missing_riff_bytes(path: Path) -> int:
    """How many bytes an AVI or WebP file is shorter than its first chunk says; 0 when it does not say."""
    with open(path, "rb") as stream:
        head = stream.read(8)
    promised_bytes = int.from_bytes(head[4:8], "little")
    if head[:4] != b"RIFF" or promised_bytes == 0xFFFFFFFF:
        return 0
    return max(0, promised_bytes + 8 - path.stat().st_size)


def _constant_grid(decoded: _Decoded, nominal_fps: float) -> tuple[Sequence[int], float]:
    """Which frame to show at each tick of a constant grid, and the grid's rate."""
    num_frames = len(decoded.frames)
    known = [start for start in decoded.starts if start is not None]
    if num_frames < 2 or len(known) < num_frames:
        return range(num_frames), nominal_fps or FOLDER_FPS
    starts = np.maximum.accumulate(np.array([float(start - known[0]) for start in known]))
    return _place_on_grid(starts, float(decoded.last_duration), nominal_fps, decoded.notes)


def _place_on_grid(
    starts: npt.NDArray[np.float64], last_seconds: float, nominal_fps: float, notes: list[str]
) -> tuple[Sequence[int], float]:
    """`starts` (N,) seconds, N >= 2, from 0, never falling. Constant within a quarter of a frame: taken as it
    is.
    """
    num_frames = len(starts)
    period = float(starts[-1]) / (num_frames - 1)
    if period <= 0:
        notes.append(
            f"all frames have the same time: {nominal_fps or FOLDER_FPS:g} frames per second assumed"
        )
        return range(num_frames), nominal_fps or FOLDER_FPS
    drift = float(np.abs(starts - period * np.arange(num_frames)).max())
    if drift <= max(0.25 * period, 0.001):
        return range(num_frames), nominal_fps if abs(nominal_fps * period - 1) < 0.02 else 1 / period
    total = float(starts[-1]) + (last_seconds or period)
    fps = num_frames / total
    ticks = np.arange(num_frames) / fps
    shown = (
        np.searchsorted(starts, ticks + 1e-9, side="right") - 1
    )  # frame k is on screen in [start, next start)
    notes.append(f"variable frame rate: put on a constant grid of {fps:.6g} frames per second")
    return [int(index) for index in shown], fps


def _assemble(frames: list[npt.NDArray[np.uint8]], height_px: int, width_px: int) -> npt.NDArray[np.uint8]:
    """Stack, freeing as we go, so that the peak stays near one copy."""
    stacked = np.empty((len(frames), height_px, width_px, 3), dtype=np.uint8)
    for index in range(len(frames)):
        stacked[index] = frames[index][:height_px, :width_px]
    return stacked


def _with_notes(clip: Clip, notes: list[str]) -> Clip:
    for note in notes:
        clip = clip.with_note(note)
    return clip


def _container_text(container: av.container.InputContainer) -> str:
    return container.metadata.get("comment") or container.metadata.get("COMMENT") or ""


# --- GIF and WebP animations --------------------------------------------------------------------------------


def _is_animation(head: bytes) -> bool:
    return head.startswith(b"GIF8") or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


@contextmanager
def _opened_animation(path: Path) -> Iterator[ImageFile.ImageFile]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limits follow
            picture = Image.open(path, formats=("GIF", "WEBP"))
    except MemoryError:
        raise
    except Image.DecompressionBombError as problem:
        _refuse(path, f"its frames are too large ({_short(problem)})", _TOO_LARGE)
    except Exception as problem:  # damaged headers raise almost any class
        _refuse(path, f"damaged header ({_short(problem)})", _AGAIN)
    with picture, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield picture


def _read_animation(path: Path, head: bytes) -> Clip:
    _refuse_cut_animation(path, head)
    with _opened_animation(path) as picture:
        num_frames = _count_frames(path, picture)
        _check_limits(path, *picture.size, num_frames)
        frames: list[npt.NDArray[np.uint8]] = []
        durations: list[float] = []
        for index in range(num_frames):
            try:
                picture.seek(index)
                frames.append(_on_black(picture))
            except MemoryError:
                raise
            except Exception as problem:  # as above
                reason = f"truncated or damaged: {index} of {num_frames} frames decoded ({_short(problem)})"
                _refuse(path, reason, _AGAIN)
            duration_ms = float(picture.info.get("duration", 0) or 0)
            durations.append(duration_ms / 1000 if duration_ms > 10 or not frames else 0.1)
        found = extract(_animation_text(picture))
    settings, facts = found if found is not None else ({}, None)
    notes: list[str] = []
    indices, fps = _animation_grid(durations, facts, notes)
    _check_limits(path, frames[0].shape[1], frames[0].shape[0], len(indices))
    stacked = _assemble([frames[index] for index in indices], *frames[0].shape[:2])
    return _with_notes(Clip(stacked, fps, settings), notes)


def _count_frames(path: Path, picture: ImageFile.ImageFile) -> int:
    try:
        return int(getattr(picture, "n_frames", 1))
    except Exception as problem:  # counting walks through the whole GIF
        _refuse(path, f"truncated or damaged ({_short(problem)})", _AGAIN)


def _refuse_cut_animation(path: Path, head: bytes) -> None:
    """Pillow reads cut animations without a word, so look at the end of the file."""
    if head.startswith(b"RIFF"):
        missing_bytes = _missing_riff_bytes(path)
        if missing_bytes:
            _refuse(path, f"truncated: its header promises {missing_bytes} bytes more than it has", _AGAIN)
        return
    size_bytes = path.stat().st_size
    with open(path, "rb") as stream:
        stream.seek(max(0, size_bytes - 64))
        if not stream.read().rstrip(b"\x00\r\n ").endswith(b";"):
            _refuse(path, f"truncated: its end mark is missing after {size_bytes} bytes", _AGAIN)


def _on_black(picture: Image.Image) -> npt.NDArray[np.uint8]:
    rgba = np.asarray(picture.convert("RGBA")).astype(np.uint16)
    return ((rgba[:, :, :3] * rgba[:, :, 3:] + 127) // 255).astype(np.uint8)


def _animation_grid(
    durations: list[float], facts: ClipFacts | None, notes: list[str]
) -> tuple[Sequence[int], float]:
    """Durations in seconds => frame to show at each tick, and the rate. Writers merge equal frames."""
    edges = np.concatenate([[0.0], np.cumsum(durations)])
    if facts is not None and (len(durations) == 1 or abs(edges[-1] - facts.num_frames / facts.fps) < 0.011):
        middles = (np.arange(facts.num_frames) + 0.5) / facts.fps
        return [
            int(k) for k in np.clip(np.searchsorted(edges, middles) - 1, 0, len(durations) - 1)
        ], facts.fps
    if len(durations) == 1:
        return range(1), 1 / durations[0]
    shortest = min(durations)
    repeats = np.array(durations) / shortest
    if np.abs(repeats - repeats.round()).max() < 1e-6 and repeats.sum() <= MAX_FRAMES:
        return [
            int(k) for k in np.repeat(np.arange(len(durations)), repeats.round().astype(int))
        ], 1 / shortest
    return _place_on_grid(edges[:-1], durations[-1], len(durations) / float(edges[-1]), notes)


def _animation_text(picture: ImageFile.ImageFile) -> str:
    comment = picture.info.get("comment", b"")
    text = comment.decode("utf-8", errors="replace") if isinstance(comment, bytes) else str(comment)
    try:
        return text or str(picture.getexif().get(EXIF_DESCRIPTION, ""))
    except Exception:  # a damaged EXIF block: no settings
        return ""


# --- folders of frames --------------------------------------------------------------------------------------


def _read_folder(folder: Path) -> Clip:
    files = sorted(_frame_files(folder), key=_natural_key)
    if not files:
        _refuse(folder, "this folder has no PNG or JPEG frames", "give a folder of frames, or a video file")
    settings, fps, promised, notes = _folder_facts(folder)
    if promised is not None and len(files) != promised:
        reason = f"{len(files)} of {promised} frames are there"
        _refuse(folder, reason, f"restore the frames, or delete its {SETTINGS_NAME} to read what is left")
    frames: list[npt.NDArray[np.uint8]] = []
    for file in files:
        frame, frame_notes = read_picture_with_notes(file, background=BLACK)
        notes.extend(frame_notes)
        if not frames:
            _check_limits(folder, frame.shape[1], frame.shape[0], len(files))
        elif frame.shape != frames[0].shape:
            size, first = f"{frame.shape[1]}x{frame.shape[0]}", f"{frames[0].shape[1]}x{frames[0].shape[0]}"
            _refuse(folder, f'"{file.name}" is {size} pixels, "{files[0].name}" is {first}', "use one size")
        frames.append(frame)
    stacked = _assemble(frames, *frames[0].shape[:2])
    return _with_notes(Clip(stacked, fps, settings), notes)


def _frame_files(folder: Path) -> list[Path]:
    try:
        entries = list(folder.iterdir())
    except OSError as problem:
        raise ResourceError(
            f'cannot read clip "{folder}": {problem.strerror}', fix="check permissions"
        ) from None
    return [
        entry
        for entry in entries
        if entry.suffix.lower() in _FRAME_SUFFIXES and not entry.name.startswith(".")
    ]


def _natural_key(file: Path) -> list[tuple[int, str]]:
    """Frame 10 after frame 9: runs of digits compare as numbers."""
    parts = re.findall(r"\d+|\D+", file.name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _folder_facts(folder: Path) -> tuple[dict[str, Any], float, int | None, list[str]]:
    """Settings, frames per second, promised number of frames, notes; from clip.json, ours or a hand-written
    {"fps": 12}.
    """
    if not (folder / SETTINGS_NAME).exists():
        note = f"the folder has no {SETTINGS_NAME}: {FOLDER_FPS:g} frames per second assumed"
        return {}, FOLDER_FPS, None, [note]
    text = _folder_text(folder)
    found = extract(text)
    if found is not None:
        return found[0], found[1].fps, found[1].num_frames, []
    try:
        fps = json.loads(text)["fps"]
    except (ValueError, KeyError, TypeError, RecursionError):
        fps = None
    if type(fps) not in (int, float) or not 0 < fps <= MAX_FPS:
        reason = f'its {SETTINGS_NAME} is damaged, expected {{"fps": frames per second}}'
        _refuse(folder, reason, f"correct or delete {SETTINGS_NAME}")
    return {}, float(fps), None, []


def _folder_text(folder: Path) -> str:
    try:
        return (folder / SETTINGS_NAME).read_text("utf-8", errors="replace")
    except OSError:
        return ""

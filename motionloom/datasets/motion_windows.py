"""Windows of real clips with their optical flow: what the small model learns water, clouds, fire and traffic from.

A window is 16 frames of a square crop at 128 x 128 together with the backward flow to its first frame, measured by
OpenCV's DIS (training only: `pip install motionloom[metrics]`). Windows are cut once and cached as memory-mapped arrays,
so that two training stages and every resume read the same bytes.

The flow is measured twice. Matched directly against frame 0 it reconstructs best (what the decoder needs). But over a second
water and cars have left the places where DIS could match them, and it finds nearly nothing: chained from frame to frame
the flow keeps their speed and heading (what the generator learns).

    windows/frames.npy   uint8   (N, T, 128, 128, 3)
    windows/flow.npy     float16 (N, T, 32, 32, 2)   backward flow, frame units (1 = square root of the frame's area)
    windows/stream.npy   float16 (N, T, 32, 32, 2)   the same, chained from frame to frame
    windows/index.json   one line a window: clip, motion word, how it is held out, start frame, step, crop, flip

What is held out is held out in one of two ways: whole clips ("clip": other places, other waters), and the end of every
other clip ("end": the same fire, later). The first asks whether a word carries over to what was never seen, the second
whether a motion was learned; with a few clips a word, both must be asked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from motionloom.durable import write_json
from motionloom.errors import InputError, ResourceError

SIZE_PX = 128
FLOW_CELLS = 32
NUM_FRAMES = 16
FPS = 12.0

HeldOut = Literal["", "clip", "end"]  # trained on; the whole clip is held out; the end of a training clip is


@dataclass(frozen=True)
class Window:
    """Where one window was cut from. `step` is in source frames, `box` is (left, top, side) in source pixels."""

    clip: str
    word: str
    held_out: HeldOut
    start: int
    step: float
    box: tuple[int, int, int]
    flip: bool


def backward_flow(
    frames: npt.NDArray[np.uint8], rows: int = FLOW_CELLS, columns: int = FLOW_CELLS
) -> npt.NDArray[np.float32]:
    """Flow from every frame back to frame 0, matched directly by DIS, averaged over a grid.

    Args:
        frames: uint8 (T, H, W, 3).
        rows, columns: places of the grid.

    Returns:
        float32 (T, rows, columns, 2) in frame units: frame t at x shows what frame 0 showed at x + flow.

    Raises:
        ResourceError: OpenCV is not installed.
    """
    calc, grey = _dis(), _grey(frames)
    return _on_grid([calc(now, grey[0]) for now in grey[1:]], rows, columns)


def streamed_flow(
    frames: npt.NDArray[np.uint8], rows: int = FLOW_CELLS, columns: int = FLOW_CELLS
) -> npt.NDArray[np.float32]:
    """The same as `backward_flow`, chained: B_t(x) = b_t(x) + B_{t-1}(x + b_t(x)), b_t from frame t to t - 1."""
    import cv2

    calc, grey = _dis(), _grey(frames)
    y, x = np.mgrid[: grey[0].shape[0], : grey[0].shape[1]].astype(np.float32)
    chained = [np.zeros((*grey[0].shape, 2), np.float32)]
    for before, now in pairwise(grey):
        step = calc(now, before)
        earlier = cv2.remap(
            chained[-1], x + step[..., 0], y + step[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        chained.append(step + earlier)
    return _on_grid(chained[1:], rows, columns)


def _dis() -> Callable[[Any, Any], npt.NDArray[np.float32]]:
    """(frame, other) => dense flow from the one to the other, in pixels."""
    try:
        import cv2
    except ImportError as error:
        raise ResourceError(
            "optical flow needs OpenCV, which is not installed", fix="pip install 'motionloom[metrics]'"
        ) from error
    dis: Any = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]
    return lambda frame, other: dis.calc(frame, other, None)


def _grey(frames: npt.NDArray[np.uint8]) -> list[Any]:
    import cv2

    return [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]


def _on_grid(dense: Sequence[npt.NDArray[np.float32]], rows: int, columns: int) -> npt.NDArray[np.float32]:
    """Flows of frames 1.. in pixels => flows of frames 0.. on the grid, frame units."""
    import cv2

    height_px, width_px = dense[0].shape[:2]
    unit_px = float(np.sqrt(height_px * width_px))
    pooled = [cv2.resize(flow, (columns, rows), interpolation=cv2.INTER_AREA) / unit_px for flow in dense]
    return np.stack([np.zeros((rows, columns, 2), np.float32), *pooled])


def cut_windows(
    clips: Path,
    out: Path,
    words: dict[str, str],
    held_out: Sequence[str],
    per_clip: dict[str, int],
    held_out_end: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Cut windows from a folder of `<group>/<name>.mp4` clips and cache them with their flow.

    Args:
        clips: folder with one sub-folder per group.
        out: folder that receives the four files named at the top of this file.
        words: group -> motion word; groups without a word serve the decoder only (word "").
        held_out: file stems that are never trained on.
        per_clip: group -> windows cut from each of its clips; "" is the default.
        held_out_end: share of every other clip with a word, at its end, that is never trained on: 0 to 0.5, and at least one
            window's frames. A quarter as many windows more are cut from it.
        seed: every window is a function of (seed, clip, number).
        progress: called with (clips done, clips in all).

    Raises:
        InputError: the folder holds no clips, or a clip is too short for one window (all such clips are named).
    """
    from motionloom.video.read import read_clip

    paths = sorted(clips.glob("*/*.mp4"))
    if not paths:
        raise InputError(
            f'no clips in "{clips}": expected <group>/<name>.mp4', fix="give a folder of clip folders"
        )
    plans: list[tuple[Path, HeldOut, int]] = []
    for path in paths:
        count = per_clip.get(path.parent.name, per_clip.get("", 20))
        whole = path.stem in held_out
        plans.append((path, "clip" if whole else "", count))
        if held_out_end and not whole and words.get(path.parent.name):
            plans.append((path, "end", math.ceil(count / 4)))
    total = sum(count for *_, count in plans)
    out.mkdir(parents=True, exist_ok=True)
    frames_out = np.lib.format.open_memmap(
        out / "frames.npy", "w+", np.uint8, (total, NUM_FRAMES, SIZE_PX, SIZE_PX, 3)
    )
    flow_out, stream_out = (
        np.lib.format.open_memmap(
            out / f"{name}.npy", "w+", np.float16, (total, NUM_FRAMES, FLOW_CELLS, FLOW_CELLS, 2)
        )
        for name in ("flow", "stream")
    )
    index: list[dict[str, Any]] = []
    for done, (path, part, count) in enumerate(plans):
        clip = read_clip(path)
        word = words.get(path.parent.name, "")
        allowed = _allowed(len(clip.frames), part, held_out_end if word else 0.0)
        for number in range(count):
            rng = np.random.default_rng([seed, done, number])
            window = _choose(path, word, part, allowed, clip.frames.shape[1:3], clip.fps, rng)
            cut = _cut(clip.frames, window)
            frames_out[len(index)] = cut
            flow_out[len(index)] = backward_flow(cut)
            stream_out[len(index)] = streamed_flow(cut)
            index.append(asdict(window))
        if progress is not None:
            progress(done + 1, len(plans))
    for array in (frames_out, flow_out, stream_out):
        array.flush()
    write_json(out / "index.json", index)
    return out


def read_index(folder: Path) -> list[Window]:
    """The windows of a cache, in order.

    Raises:
        InputError: the folder is no window cache, or an unfinished one (the index is written last).
    """
    path = folder / "index.json"
    if not path.is_file():
        raise InputError(
            f'"{folder}" holds no finished window cache (index.json is missing)', fix="cut the windows again"
        )
    return [Window(**{**entry, "box": tuple(entry["box"])}) for entry in json.loads(path.read_text())]


def _allowed(num_frames: int, part: HeldOut, held_out_end: float) -> range:
    """The frames of a clip that windows of one kind may show."""
    if part == "clip" or not held_out_end:
        return range(num_frames)
    first_held_out = num_frames - max(round(num_frames * held_out_end), NUM_FRAMES)
    return range(first_held_out, num_frames) if part == "end" else range(max(first_held_out, 0))


def _choose(
    path: Path,
    word: str,
    held_out: HeldOut,
    allowed: range,
    size_px: tuple[int, ...],
    fps: float,
    rng: np.random.Generator,
) -> Window:
    height_px, width_px = size_px
    longest_step = (len(allowed) - 1) / (NUM_FRAMES - 1)
    if longest_step < 0.9:
        raise InputError(
            f'clip "{path}" has {len(allowed)} frames to cut windows from, a window needs {NUM_FRAMES}',
            fix="remove it or use a longer clip",
        )
    wanted = fps / FPS * rng.uniform(0.8, 1.25)  # source frames per window frame, speed varied a little
    step = float(np.clip(wanted, min(1.0, longest_step), longest_step))
    starts = max(1, len(allowed) - int(np.ceil(step * (NUM_FRAMES - 1))))
    start = allowed.start + int(rng.integers(0, starts))
    short = min(height_px, width_px)
    side = int(short * rng.uniform(0.7, 1.0))
    left, top = int(rng.integers(0, width_px - side + 1)), int(rng.integers(0, height_px - side + 1))
    return Window(
        f"{path.parent.name}/{path.stem}",
        word,
        held_out,
        start,
        step,
        (left, top, side),
        bool(rng.random() < 0.5),
    )


def _cut(frames: npt.NDArray[np.uint8], window: Window) -> npt.NDArray[np.uint8]:
    import cv2

    left, top, side = window.box
    picks = np.minimum(
        window.start + np.round(np.arange(NUM_FRAMES) * window.step).astype(int), len(frames) - 1
    )
    crop = frames[picks, top : top + side, left : left + side]
    method = cv2.INTER_AREA if side >= SIZE_PX else cv2.INTER_CUBIC
    cut = np.stack([cv2.resize(frame, (SIZE_PX, SIZE_PX), interpolation=method) for frame in crop])
    return np.ascontiguousarray(cut[:, :, ::-1] if window.flip else cut)

"""Do the metrics move the way they must, and what does an evaluation cost?

python benchmarks/evaluate.py corrupt CLIPS --metrics temporal_flickering,motion_dis,...
    real clips of a folder, and copies blurred, frozen, shuffled in time, flickering and sped up: each metric's
    value for each copy, and whether it moved as it must (the table of docs/evaluation.md)
python benchmarks/evaluate.py cost
    200 clips of 16 frames at 256 x 256, every metric that needs no weights: clips a second, peak memory; then
    SIGKILL in the middle, and how much is measured again
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from motionloom.errors import MotionLoomError
from motionloom.evaluate import evaluate
from motionloom.metrics.scores import as_float
from motionloom.video.clip import Clip
from motionloom.video.read import read_clip
from motionloom.video.resize import resize

Frames = npt.NDArray[np.uint8]
Values = dict[str, dict[str, float]]  # of each copy, by name
FRAMES, SIDE = 16, 128


# --- corrupt: each metric must move the right way


def blurred(frames: Frames) -> Frames:
    """A little more from frame to frame."""
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 0.3 + 0.25 * t) for t, frame in enumerate(frames)])


def frozen(frames: Frames) -> Frames:
    return np.repeat(frames[:1], len(frames), 0)


def shuffled(frames: Frames) -> Frames:
    return frames[np.random.default_rng(0).permutation(len(frames))]


def flickering(frames: Frames) -> Frames:
    levels = np.where(np.arange(len(frames)) % 2, 14, -14)[:, None, None, None]
    return np.clip(frames.astype(np.int16) + levels, 0, 255).astype(np.uint8)


CORRUPTIONS: dict[str, Callable[[Frames], Frames]] = {
    "blurred": blurred,
    "frozen": frozen,
    "shuffled": shuffled,
    "flickering": flickering,
}

# (value, copy, sign the change must have): "same" within 1 %
EXPECTED: tuple[tuple[str, str, str], ...] = (
    ("temporal_flickering", "flickering", "down"),
    ("temporal_flickering", "frozen", "up"),
    ("temporal_flickering", "shuffled", "down"),
    ("temporal_flickering", "sped up", "down"),
    ("motion_dis/px_per_second_at_256", "frozen", "down"),
    ("motion_dis/px_per_second_at_256", "sped up", "up"),
    ("motion_dis/smoothness", "shuffled", "down"),
    ("motion_dis/smoothness", "flickering", "down"),
    ("motion_dis/smoothness", "frozen", "up"),
    ("sharpness", "blurred", "down"),
    ("sharpness/kept", "blurred", "down"),
    ("sharpness", "shuffled", "same"),
    ("frozen_frames", "frozen", "up"),
    ("colour_drift/exposure", "flickering", "up"),
    ("psnr", "blurred", "down"),
    ("psnr", "frozen", "down"),
    ("psnr", "shuffled", "down"),
    ("psnr", "flickering", "down"),
    ("ssim", "blurred", "down"),
    ("ssim", "shuffled", "down"),
    ("mae", "flickering", "up"),
    ("first_frame/all_frames_ssim", "frozen", "up"),
    ("fd_random3d/kernel", "blurred", "up"),
    ("fd_random3d/kernel", "frozen", "up"),
    ("fd_random3d/kernel", "flickering", "up"),
    ("fd_random3d/kernel", "shuffled", "up"),
)


def write_copies(clips: Sequence[Path], folder: Path) -> None:
    """Real clips at 8 fps and 128 px as frames without loss, their copies, and first frames as pictures."""
    for number, path in enumerate(clips):
        clip = read_clip(path)
        step = max(1, round(clip.fps / 8))
        whole = resize(clip.frames[::step], SIDE, SIDE, "crop")
        frames = whole[:FRAMES]
        made = {"real": frames} | {name: corrupt(frames) for name, corrupt in CORRUPTIONS.items()}
        made["sped up"] = whole[::2][:FRAMES]
        name = f"{number:02d}-{path.stem}"
        for kind, copy in made.items():
            Clip(np.ascontiguousarray(copy), 8.0).save(folder / kind / name)
        from PIL import Image

        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(frames[0]).save(folder / "images" / f"{name}.png")


def corrupt(place: Path, count: int, metrics: Sequence[str] | None, out: Path | None) -> bool:
    found = usable(sorted(place.rglob("*.mp4")), count)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_copies(found, folder)
        cache = folder / "kept"
        scores = {
            kind: evaluate(
                folder / kind,
                folder / "real",
                metrics,
                images=folder / "images",
                out=None,
                cache=cache,
            )
            for kind in ("real", *CORRUPTIONS, "sped up")
        }
    values = {kind: {key: as_float(value) for key, value in score.items()} for kind, score in scores.items()}
    print(f"{len(found)} clips of {FRAMES} frames, {SIDE} px, without loss\n\n{as_table(values)}")
    right, wrong = verdicts(values)
    print(
        f"{len(right)} of {len(right) + len(wrong)} moved as they must"
        + "".join(f"\n* {one}" for one in wrong)
    )
    if out is not None:
        out.write_text(
            json.dumps({"clips": len(found), "values": values, "wrong": wrong}, indent=1, default=str)
        )
    return not wrong


def verdicts(values: Values) -> tuple[list[str], list[str]]:
    """What moved as it must, and what did not."""
    known = [row for row in EXPECTED if row[0] in values["real"] and row[0] in values[row[1]]]
    right = [f"{key} of {kind} {sign}" for key, kind, sign in known if has_moved(values, key, kind, sign)]
    wrong = [
        f"{key} of {kind} must go {sign}"
        for key, kind, sign in known
        if not has_moved(values, key, kind, sign)
    ]
    return right, wrong


def as_table(values: Values) -> str:
    """Markdown: every value of which something is expected; an arrow is how it must move, "wrong" that it did not."""
    expected = {(key, kind): sign for key, kind, sign in EXPECTED}
    keys = [key for key in values["real"] if any(key == row[0] for row in EXPECTED)]
    lines = ["| value | " + " | ".join(values) + " |", "|" + "---|" * (len(values) + 1)]
    for key in keys:
        cells = []
        for kind in values:
            sign = expected.get((key, kind))
            arrow = "" if sign is None else {"up": " ↑", "down": " ↓", "same": " ="}[sign]
            wrong = " wrong" if sign is not None and not has_moved(values, key, kind, sign) else ""
            cells.append(f"{values[kind].get(key, float('nan')):.4g}{arrow}{wrong}")
        lines.append(f"| `{key}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def has_moved(values: Values, key: str, kind: str, sign: str) -> bool:
    return moved(values["real"][key], values[kind][key], sign)


def usable(paths: Sequence[Path], count: int) -> list[Path]:
    """Clips long enough to be sped up, spread over the folder."""
    long = []
    for path in paths:
        try:
            clip = read_clip(path)
        except MotionLoomError:
            continue
        if len(clip) // max(1, round(clip.fps / 8)) >= FRAMES + 4:
            long.append(path)
    return long[:: max(1, len(long) // count)][:count]


def moved(before: float, after: float, sign: str) -> bool:
    if sign == "same":
        return abs(after - before) <= 0.01 * abs(before)
    return after > before if sign == "up" else after < before


# --- cost: clips a second, memory, resume


def write_clips(folder: Path, count: int) -> None:
    """Pans over a noise texture with a few moving discs: enough texture for flow and codecs."""
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    wide = cv2.resize(small, (420, 420), interpolation=cv2.INTER_CUBIC)
    for number in range(count):
        dx, dy = generator.uniform(-5, 5, 2)
        shifts = (np.float32([[1, 0, -82 + dx * t], [0, 1, -82 + dy * t]]) for t in range(FRAMES))
        frames = [cv2.warpAffine(wide, shift, (256, 256), borderMode=cv2.BORDER_REFLECT) for shift in shifts]
        Clip(np.stack(frames).astype(np.uint8), 8.0).save(folder / f"{number:03d}.mp4")


def num_results(cache: Path) -> int:
    return len(list(cache.rglob("*.safetensors")))


def cost(count: int, workers: int) -> bool:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clips(folder / "clips", count)
        words = [sys.executable, "-m", "motionloom", "evaluate", str(folder / "clips"), "--references"]
        words += [str(folder / "clips"), "--workers", str(workers), "--json", "--cache"]
        began = time.monotonic()
        subprocess.run(
            [*words, str(folder / "kept"), "-o", str(folder / "whole.json")],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.monotonic() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = used.ru_utime + used.ru_stime
        print(f"{count} clips of {FRAMES} frames, 256 x 256, {workers} processes: {seconds:.1f} s, ", end="")
        print(
            f"{count / seconds:.2f} clips/s; {processor:.1f} s of processor, {count / processor:.2f} clips a ",
            end="",
        )
        print(f"processor second; peak {used.ru_maxrss / 1024:.0f} MiB the largest process", flush=True)

        process = subprocess.Popen(
            [*words, str(folder / "cut"), "-o", str(folder / "whole.json")],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        began = time.monotonic()
        while num_results(folder / "cut") < num_results(folder / "kept") / 2 and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        after, kept = time.monotonic() - began, num_results(folder / "cut")
        before = (folder / "whole.json").read_bytes()
        began = time.monotonic()
        done = evaluate(
            folder / "clips",
            folder / "clips",
            out=folder / "whole.json",
            cache=folder / "cut",
            workers=workers,
            command=json.loads(before)["command"],
        )
        rest = time.monotonic() - began
        total = num_results(folder / "cut")
        print(f"killed after {after:.1f} s with {kept} of {total} results kept; ", end="")
        print(f"started again: {done.num_measured} measured in {rest:.1f} s, {total - kept} were missing")
        same = before == (folder / "whole.json").read_bytes()
        print("the same bytes" if same else "DIFFERENT bytes")
        return same and 0 < kept < total and done.num_measured == total - kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    first = kinds.add_parser("corrupt")
    first.add_argument("clips", type=Path)
    first.add_argument("--count", type=int, default=12)
    first.add_argument("--metrics")
    first.add_argument("-o", "--out", type=Path)
    second = kinds.add_parser("cost")
    second.add_argument("--count", type=int, default=200)
    second.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.kind == "corrupt":
        names = arguments.metrics.split(",") if arguments.metrics else None
        right = corrupt(arguments.clips, arguments.count, names, arguments.out)
    else:
        right = cost(arguments.count, arguments.workers)
    sys.exit(not right)


if __name__ == "__main__":
    main()

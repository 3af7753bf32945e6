"""Everything the card of `mini` claims, measured: python benchmarks/mini.py --photos P --windows W -o numbers.json

    reconstruction   held-out synthetic clips and real windows: dB over copying the first frame
    obedience        for every motion word, on held-out photos: direction, sign, rigidity, amplitude, dial
    liveliness       learned words: are flow statistics nearest to real clips of that word (ends of clips, other clips)
    headings         local motions told where to go (clouds@left): do they
    regions          a motion in one region: how much leaks into the other
    sharpness        variance of the Laplacian of the last frame over the photo's

Flow is what the codec draws with, except where "measured" (OpenCV DIS on the drawn frames). Nothing here was trained on.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motionloom.codecs.run import Once, Times
from motionloom.codecs.warp_codec import WarpCodec, Where
from motionloom.conditions.asked import Asked
from motionloom.conditions.words import WORDS, find
from motionloom.datasets.motion_samples import (
    CAMERAS,
    PAINTED,
    Part,
    fields,
    usual_speed,
    window_fields,
)
from motionloom.datasets.motion_windows import HeldOut, backward_flow, read_index
from motionloom.datasets.synthetic import draw_motion
from motionloom.datasets.synthetic.camera import PAN, RATES, TURN, ZOOM
from motionloom.datasets.synthetic.motion import Region
from motionloom.datasets.synthetic.render import render
from motionloom.datasets.synthetic.write import as_canvas, draw_view
from motionloom.denoisers.mini import MiniBase, load_mini
from motionloom.motion.camera_path import fit_rates
from motionloom.motion.grid import places, resize_maps
from motionloom.motion.sharpness import sharpness
from motionloom.sampling.loop import sample
from motionloom.training.mini_stages import held_out_photos

GRID, SIZE = 16, 128
LEARNED = tuple(word.name for word in WORDS if word.learned)
HEADED = (*LEARNED, "sky-drift", "waves")
HEADINGS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # of the scene
DIRECTIONS = {"pan-left": (1, 0), "pan-right": (-1, 0), "pan-up": (0, 1), "pan-down": (0, -1)}  # of the scene
Numbers = dict[str, Any]


def squares(paths: Sequence[Path]) -> Tensor:
    """Middle squares of photos at 128 px: (N, 3, 128, 128), -1..1."""
    out = []
    for path in paths:
        canvas = as_canvas(path)
        side = min(canvas.shape[-2:])
        top, left = (canvas.shape[1] - side) // 2, (canvas.shape[2] - side) // 2
        out.append(resize_maps(canvas[None, :, top : top + side, left : left + side], SIZE, SIZE)[0] * 2 - 1)
    return torch.stack(out)


def latents_for(base: MiniBase, photos: Tensor, asked: Sequence[Asked], seed: int, steps: int = 20) -> Tensor:
    """One latent a photo: (N, d, 16, 16)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(photos), base.codec.motion.channels, GRID, GRID, generator=generator)
    with torch.no_grad():
        told = base.denoiser.tell(photos, GRID, GRID, generator=generator)
        latents = sample(base.woven(asked), base.schedule(), noise, told, steps, None)
        return base.as_asked(latents, asked)


class LastMoment(Once):
    """Only the last frame is planned: all that its flow needs."""

    def times(self, num_frames: int) -> Times:
        one = torch.ones(1)
        return Times(one, torch.tensor([num_frames - 1]), torch.zeros(1), one, num_frames)


def last_flow(
    base: MiniBase, latent: Tensor, photo: Tensor, asked: Sequence[Asked], size: int = 32
) -> Tensor:
    """Backward flow of the last of 16 frames: (size, size, 2)."""
    plan = base.codec.plan(latent[None], photo[None], LastMoment().times(16), base.where(asked, SIZE, SIZE))
    return base.codec.flow(plan, 0, size, size)[0]


def reconstruction(base: MiniBase, photos: Sequence[Path], windows: Path, clips: int = 96) -> Numbers:
    """PSNR of frames 1.. against copying frame 0; latents from the true flow (synthetic) or DIS (real)."""
    codec, motion = base.codec, base.codec.motion
    out: Numbers = {}
    gains: dict[str, list[tuple[float, float, float]]] = {"synthetic": []}
    words = [*CAMERAS, *PAINTED]
    for index in range(clips):
        rng = np.random.default_rng([77, index])
        word = words[index % len(words)]
        amplitude = float(rng.uniform(0.5, 1.3))
        part = Part(word, amplitude, Region(), draw_motion(word, rng, amplitude))
        canvas = as_canvas(photos[index % len(photos)])
        clip = render(
            canvas, draw_view(*canvas.shape[1:], 1.0, rng), [(part.motion, Region())], 16, SIZE, SIZE
        )
        latent = motion.encode(fields([part]))
        rigid = word in CAMERAS
        one = torch.ones(SIZE, SIZE)
        where = Where(one[None] if rigid else one[None][:0], one * (not rigid), one * (not rigid), one * 0)
        gains["synthetic"].append(_decibels(codec, latent, clip.frames, where))
    frames, flows = (np.load(windows / f"{name}.npy", mmap_mode="r") for name in ("frames", "flow"))
    one = torch.ones(SIZE, SIZE)
    for row, window in enumerate(read_index(windows)):
        if window.held_out == "clip" and row % 4 == 0:
            latent = motion.encode(window_fields(np.asarray(frames[row]), np.asarray(flows[row])))
            group = window.word or "other"
            paint = one * (group == "other" or WORDS[find(group)].painted)
            where = Where(one[None][:0], one, one, paint)
            gains.setdefault(group, []).append(_decibels(codec, latent, np.asarray(frames[row]), where))
    for group, rows in gains.items():
        copy, linear, full = np.mean(rows, 0)
        out[group] = {
            "clips": len(rows),
            "copy_db": copy,
            "linear_core_db": linear,
            "codec_db": full,
            "gain_db": full - copy,
        }
    real = [row for group, rows in gains.items() if group != "synthetic" for row in rows]
    copy, linear, full = np.mean(real, 0)
    out["real, all"] = {
        "clips": len(real),
        "copy_db": copy,
        "linear_core_db": linear,
        "codec_db": full,
        "gain_db": full - copy,
    }
    return out


def _decibels(
    codec: WarpCodec, latent: Tensor, frames: np.ndarray, where: Where
) -> tuple[float, float, float]:
    clip = torch.from_numpy(frames.astype(np.float32) / 127.5 - 1).permute(3, 0, 1, 2)
    photo = clip[None, :, 0]

    def psnr(made: Tensor) -> float:
        error = (made.clamp(-1, 1) - clip)[:, 1:].square().mean((0, 2, 3)) / 4
        return float((-10 * torch.log10(error.clamp_min(1e-7))).mean())

    plan = codec.plan(latent, photo, Once().times(16), where)
    bare = replace(
        plan, correction=plan.correction * 0, keep=torch.ones_like(plan.keep), residual=plan.residual * 0
    )
    made = [
        torch.stack([photo[0], *(codec.frame(p, photo, i)[0] for i in range(1, 16))], 1) for p in (bare, plan)
    ]
    return psnr(clip[:, :1].expand_as(clip)), psnr(made[0]), psnr(made[1])


def obedience(base: MiniBase, photos: Tensor, seeds: int, usual: dict[str, float]) -> Numbers:
    """Every word, on every photo with several seeds."""
    out: Numbers = {}
    xy = places(32, 32)
    for word in WORDS:
        asked = [Asked(word.name)]
        flows, light = [], []
        for seed in range(seeds):
            latents = latents_for(base, photos, asked, 100 + seed)
            flows.append(
                torch.stack([last_flow(base, z, p, asked) for z, p in zip(latents, photos, strict=True)])
            )
            light.append(base.codec.motion.decode(latents).light.square().mean((1, 2, 3)).sqrt())
        flow = torch.stack(flows)  # (S, N, 32, 32, 2)
        size = flow.square().sum(-1).mean((2, 3)).sqrt()
        row: Numbers = {"samples": int(size.numel()), "mean_size": float(size.mean())}
        if word.kind == "rigid":
            fits = [[fit_rates(f, xy) for f in per_seed] for per_seed in flow]
            rates = torch.stack([torch.stack(per_seed) for per_seed in fits])  # (S, N, 2, 3)
            row |= _camera_row(word.name, flow, rates, xy)
        elif word.kind == "light":
            row["log_gain"] = float(torch.stack(light).mean())
        seeds_apart = (flow[:, None] - flow[None]).square().sum(-1).mean((-1, -2)).sqrt()
        others = ~torch.eye(len(flow), dtype=torch.bool)
        row["seeds_differ_by"] = float((seeds_apart[others] / size.mean().clamp_min(1e-6)).mean())
        if word.name in usual:
            row["size_over_real"] = float(size.mean()) / usual[word.name]
        out[word.name] = row
    return out


def _camera_row(name: str, flow: Tensor, rates: Tensor, xy: Tensor) -> Numbers:
    from motionloom.motion.camera_path import displacement

    affine = torch.stack([torch.stack([displacement(r, torch.ones(1), xy)[0] for r in per]) for per in rates])
    rigid = (flow - affine).square().sum(-1).mean((2, 3)).sqrt() / flow.square().sum(-1).mean((2, 3)).sqrt()
    row: Numbers = {"off_affine": float(rigid.mean()), "off_affine_worst": float(rigid.max())}
    if name in DIRECTIONS:
        want = torch.tensor(DIRECTIONS[name], dtype=torch.float32)
        mean = -flow.mean((2, 3))  # forward
        cosine = (mean @ want) / mean.norm(dim=-1)
        amplitude = (mean @ want) / PAN
        right = cosine > math.cos(math.radians(30))
    elif name.startswith("zoom"):
        rate = rates[..., [0, 1], [0, 1]].mean(-1)
        amplitude = rate / RATES[name][0, 0]
        right = amplitude > 0
        assert abs(abs(float(RATES[name][0, 0])) - ZOOM) < 1e-6
    else:
        rate = (rates[..., 1, 0] - rates[..., 0, 1]) / 2
        amplitude = rate / RATES[name][1, 0]
        right = amplitude > 0
        assert abs(abs(float(RATES[name][1, 0])) - TURN) < 1e-6
    within = (amplitude > 0.9) & (amplitude < 1.1)
    return row | {
        "right": float(right.float().mean()),
        "amplitude": float(amplitude.mean()),
        "amplitude_sd": float(amplitude.std()),
        "amplitude_within_10_percent": float(within.float().mean()),
    }


def dial(base: MiniBase, photos: Tensor) -> Numbers:
    """Size of the flow against the weight asked for."""
    out: Numbers = {}
    for word in ("pan-left", "zoom-in", "rotate-left", "clouds", "waterfall", "sea", "sway"):
        sizes = []
        for weight in (0.25, 0.5, 1.0, 1.5):
            asked = [Asked(word, weight)]
            latents = latents_for(base, photos, asked, 5)
            flow = torch.stack([last_flow(base, z, p, asked) for z, p in zip(latents, photos, strict=True)])
            sizes.append(float(flow.square().sum(-1).mean((1, 2)).sqrt().mean()))
        out[word] = {"0.25": sizes[0] / sizes[2], "0.5": sizes[1] / sizes[2], "1.5": sizes[3] / sizes[2]}
    return out


def drawn(base: MiniBase, latent: Tensor, photo: Tensor, asked: Sequence[Asked]) -> np.ndarray:
    frames = base.codec.decode(latent[None], photo[None], 16, base.where(asked, SIZE, SIZE))[0]
    return ((frames.permute(1, 2, 3, 0) + 1) * 127.5).round().byte().numpy()


@dataclass(frozen=True)
class Seen:
    """Statistics of the measured flow between consecutive frames of a clip.

    Attributes:
        speed: histogram of log10 speed in frames a frame, over -4..-0.5.
        shape: histogram of log10(speed / the clip's mean speed), over -2..1.5: how speeds are spread, whatever the amount.
        heading: length of the mean flow over the mean speed: 1 where everything moves one way.
    """

    speed: np.ndarray
    shape: np.ndarray
    heading: float


def statistics(frames: np.ndarray) -> Seen:
    import cv2

    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    flow = np.stack([dis.calc(a, b, None) for a, b in pairwise(grey)])[:, 4:-4, 4:-4] / SIZE
    speed = np.linalg.norm(flow, axis=-1)
    mean = float(speed.mean()) + 1e-6
    absolute = np.histogram(np.log10(speed + 1e-4), bins=24, range=(-4, -0.5))[0] / speed.size
    relative = np.histogram(np.log10(speed / mean + 1e-2), bins=24, range=(-2, 1.5))[0] / speed.size
    return Seen(absolute, relative, float(np.linalg.norm(flow.reshape(-1, 2).mean(0)) / mean))


def apart(one: Sequence[Seen], other: Sequence[Seen], what: str) -> float:
    """Distance of two sets of clips: earth mover's of the mean histograms (decades) + difference of mean headings."""
    a, b = (np.mean([getattr(seen, what) for seen in rows], 0) for rows in (one, other))
    mover = float(np.abs(np.cumsum(a - b)).sum() * 3.5 / 24)
    return mover + abs(
        float(np.mean([seen.heading for seen in one]) - np.mean([seen.heading for seen in other]))
    )


def liveliness(base: MiniBase, windows: Path, held_out: HeldOut = "end", per_word: int = 10) -> Numbers:
    """Generated from the first frames of held-out real clips, by every word, against those clips."""
    frames = np.load(windows / "frames.npy", mmap_mode="r")
    index = read_index(windows)
    out: Numbers = {}
    for word in LEARNED:
        rows = [row for row, window in enumerate(index) if (window.held_out, window.word) == (held_out, word)]
        rows = rows[:: max(1, len(rows) // per_word)][:per_word]
        real = [statistics(np.asarray(frames[row])) for row in rows]
        photos = torch.stack(
            [
                torch.from_numpy(np.asarray(frames[row][0]).astype(np.float32) / 127.5 - 1).permute(2, 0, 1)
                for row in rows
            ]
        )
        made = {}
        for other in WORDS:
            asked = [Asked(other.name)]
            latents = latents_for(base, photos, asked, 300)
            made[other.name] = [
                statistics(drawn(base, z, p, asked)) for z, p in zip(latents, photos, strict=True)
            ]
        half = len(real) // 2
        out[word] = {}
        for what in ("speed", "shape"):
            distances = {name: apart(seen, real, what) for name, seen in made.items()}
            order = sorted(distances, key=lambda name: distances[name])
            learned = [name for name in order if name in LEARNED]
            out[word][what] = {
                "distance": distances[word],
                "rank": order.index(word) + 1,
                "rank_among_learned": learned.index(word) + 1,
                "nearest": order[:3],
                "nearest_distances": [distances[name] for name in order[:3]],
                "real_against_real": apart(real[:half], real[half:], what),
            }
        out[word]["heading"] = float(np.mean([seen.heading for seen in made[word]]))
        out[word]["heading_real"] = float(np.mean([seen.heading for seen in real]))
    return out


def toward(flow: Tensor, want: tuple[float, float]) -> float:
    """Share of backward flows (N, ..., 2) whose mean points within 30 degrees of a direction of the scene."""
    mean = -flow.flatten(1, -2).mean(1)
    cosine = mean @ torch.tensor(want, dtype=torch.float32) / mean.norm(dim=-1).clamp_min(1e-9)
    return float((cosine > math.cos(math.radians(30))).float().mean())


def headings(base: MiniBase, photos: Tensor) -> Numbers:
    """Local motions told where to go."""
    out: Numbers = {}
    for word in HEADED:
        out[word] = {}
        for name, want in HEADINGS.items():
            asked = [Asked(word, heading=name)]
            latents = latents_for(base, photos, asked, 9)
            flow = torch.stack([last_flow(base, z, p, asked) for z, p in zip(latents, photos, strict=True)])
            out[word][name] = toward(flow, want)
    return out


def radial(base: MiniBase, photos: Tensor) -> Numbers:
    """Share of the energy of dolly-in's flow that points away from the middle."""
    asked, xy = [Asked("dolly-in")], places(32, 32)
    latents = latents_for(base, photos, asked, 9)
    flow = -torch.stack([last_flow(base, z, p, asked) for z, p in zip(latents, photos, strict=True)])
    outward = (flow * xy / xy.norm(dim=-1, keepdim=True)).sum(-1)
    return {
        "outward_energy": float(outward.square().mean() / flow.square().sum(-1).mean()),
        "outward_places": float((outward > 0).float().mean()),
    }


def regions(base: MiniBase, photos: Tensor) -> Numbers:
    """Motion one in one half, motion two in the other: what of one is seen in the other's half."""
    left = np.zeros((SIZE, SIZE), np.float32)
    left[:, : SIZE // 2] = 1
    out: Numbers = {}
    middle = slice(3, 13), slice(19, 29)  # columns of the 32-grid well inside each half
    for one, two in (
        ("pan-left", "pan-up"),
        ("pan-down", "pan-right"),
        ("zoom-in", "pan-left"),
        ("pan-up", "clouds"),
        ("waterfall", "pan-left"),
        ("fire", "sea"),
        ("rotate-left", "sway"),
        ("clouds", "waterfall"),
        ("clouds@left", "sea@right"),
        ("waterfall@down", "clouds@right"),
        ("traffic@up", "fire@left"),
    ):
        asked = [replace(_asked(one), region=left), replace(_asked(two), region=1 - left)]
        alone = [replace(_asked(one), region=left)]
        both = [
            last_flow(base, z, p, asked)
            for z, p in zip(latents_for(base, photos, asked, 7), photos, strict=True)
        ]
        single = [
            last_flow(base, z, p, alone)
            for z, p in zip(latents_for(base, photos, alone, 7), photos, strict=True)
        ]
        flow, only = torch.stack(both), torch.stack(single)
        row: Numbers = {"leak_alone": float(_size(only[:, :, middle[1]]) / _size(only[:, :, middle[0]]))}
        for name, columns, other in ((one, middle[0], middle[1]), (two, middle[1], middle[0])):
            if "@" in name:
                row[f"{name}_obeys"] = toward(flow[:, 3:29, columns], HEADINGS[name.partition("@")[2]])
            if name in DIRECTIONS:
                want = torch.tensor(DIRECTIONS[name], dtype=torch.float32)
                mean = -flow[:, 3:29, columns].mean((1, 2))
                row[f"{name}_obeys"] = float(
                    ((mean @ want) / mean.norm(dim=-1) > math.cos(math.radians(30))).float().mean()
                )
                if {one, two} <= set(DIRECTIONS):
                    there = -flow[:, 3:29, other].mean((1, 2)) @ want
                    row[f"{name}_leaks"] = float((there.abs() / (mean @ want).abs()).mean())
        out[f"{one} | {two}"] = row
    return out


def _asked(typed: str) -> Asked:
    name, _, heading = typed.partition("@")
    return Asked(name, heading=heading)


def _size(flow: Tensor) -> Tensor:
    return flow.square().sum(-1).mean().sqrt()


def sharp(base: MiniBase, paths: Sequence[Path]) -> Numbers:
    """Sharpness of the last frame over the photo's, at 512 px, and whether frame 0 is the photo."""
    from motionloom.generate import generate
    from motionloom.video.picture import read_picture
    from motionloom.video.resize import resize

    out: Numbers = {}
    for word in WORDS:
        ratios, same = [], []
        for path in paths:
            picture = read_picture(path)
            scale = 512 / max(picture.shape[:2])
            picture = resize(
                picture[None],
                round(picture.shape[1] * scale) // 2 * 2,
                round(picture.shape[0] * scale) // 2 * 2,
                "squash",
            )[0]
            clip = generate(base, picture, [(word.name, 1.0)], frames=16, seed=1)
            same.append(bool((clip.frames[0] == picture).all()))
            first, last = (
                torch.from_numpy(clip.frames[i].copy()).permute(2, 0, 1)[None].float() for i in (0, -1)
            )
            ratios.append(sharpness(last) / sharpness(first))
        out[word.name] = {
            "mean": float(np.mean(ratios)),
            "least": float(np.min(ratios)),
            "frame_0_is_the_photo": all(same),
        }
    return out


def directions_measured(base: MiniBase, photos: Tensor) -> Numbers:
    """The same pans seen by DIS on drawn frames, at 128 px."""
    out: Numbers = {}
    for word, want in DIRECTIONS.items():
        asked = [Asked(word)]
        latents = latents_for(base, photos, asked, 11)
        right = []
        for z, p in zip(latents, photos, strict=True):
            flow = -backward_flow(drawn(base, z, p, asked)[[0, 8]], 32)[1].mean((0, 1))
            right.append(
                float(flow @ np.array(want) / (np.linalg.norm(flow) + 1e-9)) > math.cos(math.radians(30))
            )
        out[word] = float(np.mean(right))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--windows", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--only", default="", help="comma-separated parts; default all")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    base = load_mini()
    paths = held_out_photos(arguments.photos, ["skimage_astronaut", "skimage_coffee", "skimage_rocket"])
    photos = squares(paths[::2])
    parts = {
        "reconstruction": lambda: reconstruction(base, paths, arguments.windows),
        "obedience": lambda: obedience(base, photos, arguments.seeds, usual_speed(arguments.windows)),
        "dial": lambda: dial(base, photos),
        "directions_measured": lambda: directions_measured(base, photos),
        "liveliness": lambda: liveliness(base, arguments.windows, "end"),
        "liveliness_elsewhere": lambda: liveliness(base, arguments.windows, "clip"),
        "headings": lambda: headings(base, photos),
        "radial": lambda: radial(base, photos),
        "regions": lambda: regions(base, photos),
        "sharpness": lambda: sharp(base, paths[1:5]),
    }
    numbers = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    numbers["photos"] = len(photos)
    for name, measure in parts.items():
        if arguments.only and name not in arguments.only.split(","):
            continue
        began = time.monotonic()
        with torch.no_grad():
            numbers[name] = measure()
        print(
            f"== {name} ({time.monotonic() - began:.0f} s)\n{json.dumps(numbers[name], indent=1)}", flush=True
        )
        arguments.out.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()

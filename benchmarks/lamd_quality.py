"""How good a trained LaMD is (arXiv 2304.11603): python benchmarks/lamd_quality.py CASE ...

    reconstruct FOLDER DATA       Tab. 3, 4, 12: PSNR of test clips against copying frame 0, whole and where something moves
    sample FOLDER DATA -o OUT     clips from first frames and captions of a world's test split, the real ones beside them; of
                                  the world `blocks` P_act and P_re too (Tab. 10), also of reconstructed and of copied clips
    classifier DATA -o FILE       train the classifier whose features `distance` uses, on the train split of `blocks`
    distance A B --classifier F   internal Fréchet video distance between two folders of clips, and within one of them
    solvers FOLDER DATA           are 20 steps within noise of 200? energy distance between sampled latents
    seams FOLDER DATA             chained clips of 64 frames: change at the seams over change elsewhere
    decompose FOLDER DATA         a clip's motion on another first frame: what follows what; a still source
    curves RUN... -o FILE         learning curves of run folders as one SVG

FOLDER is a trained LaMD (mcd_vae.safetensors, and but for `reconstruct` dmg.safetensors), DATA a world that `motionloom data
synth --world` wrote. Every case prints JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.baselines.clip_classifier import LABELS, ClipClassifier, labels_of
from motionloom.codecs.mcd_vae import MotionContentAutoencoder
from motionloom.datasets.clips import to_pixels
from motionloom.datasets.layouts import open_layout, recognise
from motionloom.datasets.published_clips import PublishedClips
from motionloom.datasets.survey import spread
from motionloom.errors import InputError, MotionLoomError
from motionloom.metrics.frechet import frechet_distance
from motionloom.sampling.loop import sample
from motionloom.training.objectives.losses import moving_places
from motionloom.training.progress import counted
from motionloom.video.clip import Clip

FEW, MANY = 20, 200  # denoising steps
AVERAGED = 5  # log lines a point of a curve


@dataclass(frozen=True)
class TestClip:
    """A clip of a test split: its name, (1, 3, T, H, W), -1..1, and its caption."""

    stem: str
    frames: Tensor
    caption: str | None

    @property
    def photo(self) -> Tensor:
        """(1, 3, H, W)."""
        return self.frames[:, :, 0]


def test_clips(data: Path, num_frames: int, size_px: tuple[int, int], limit: int) -> list[TestClip]:
    """Evenly spread over the split; at most `limit`."""
    height, width = size_px
    name = recognise(data)
    if name is None:
        raise InputError(
            f'"{data}" is no data set with a test split',
            fix="give a world of `motionloom data synth --world`",
        )
    layout = open_layout(name, data)
    clips = PublishedClips(layout, "test", num_frames, (width, height))
    entries = layout.contents("test").entries
    numbers = {entry.name: number for number, entry in enumerate(entries)}
    return [
        TestClip(
            Path(entry.name).stem if is_blocks(data) else f"{numbers[entry.name]:05d}",
            clips.at(0, numbers[entry.name])["frames"][None],
            entry.text,
        )
        for entry in spread(entries, limit)
    ]


def is_blocks(data: Path) -> bool:
    return (data / "scenes").is_dir()


# --- the autoencoder --------------------------------------------------------------------------------------------


@torch.no_grad()
def reconstructed(folder: Path, data: Path, limit: int) -> dict[str, Any]:
    """PSNR of frames 1.. of test clips (dB), by the codec and by copying frame 0, over all places and over moving ones.

    lightness_error_left, colour_error_left: squared error of the channels' mean, and of what the channels differ from it by,
    where something moves, as a share of what copying frame 0 leaves.
    """
    codec = MotionContentAutoencoder.load(folder / "mcd_vae.safetensors")
    rows, nats, split = [], [], torch.zeros(2, 2)
    for one in test_clips(data, codec.config.num_frames, codec.config.size_px, limit):
        frames, posterior = one.frames, codec.encode_motion(one.frames)
        made = codec.decode(codec.normalise(posterior.mean), one.photo).clamp(-1, 1)
        still = frames[:, :, :1].expand_as(frames)
        moves = moving_places(frames)
        moving = moves.expand_as(frames)[:, :, 1:]
        errors = [((shown - frames) / 2).square()[:, :, 1:] for shown in (made, still)]
        rows.append([_decibels(part) for error in errors for part in (error, error[moving])])
        split += torch.stack([_lightness_and_colour(shown - frames, moves[:, 0]) for shown in (made, still)])
        nats.append(float(posterior.kl().mean()))
    lightness, colour = (split[0] / split[1]).tolist()
    names = ("codec_db", "codec_moving_db", "copy_db", "copy_moving_db")
    means = np.nanmean(np.array(rows), 0)
    return {
        "clips": len(rows),
        **dict(zip(names, map(float, means), strict=True)),
        "lightness_error_left": lightness,
        "colour_error_left": colour,
        "kl_nats_per_dim": statistics.mean(nats),
    }


def _lightness_and_colour(difference: Tensor, moving: Tensor) -> Tensor:
    """(1, 3, T, H, W) and where it counts, (1, T, H, W) => squared errors of the channels' mean and of their rest: (2,)."""
    mean = difference.mean(1, keepdim=True)
    parts = (3 * mean.square().sum(1), (difference - mean).square().sum(1))
    return torch.stack([part[moving].sum() for part in parts])


def _decibels(error: Tensor) -> float:
    """Squared errors in units of the range; nan where there are none."""
    return -10 * float(error.mean().log10()) if error.numel() else float("nan")


@torch.no_grad()
def decomposed(folder: Path, data: Path, limit: int) -> dict[str, Any]:
    """The motion of clip i on the first frame of clip i + 1.

    change_where_source_moves: share of all change that lies where the source changes, or two pixels from it; those are
    share_of_places_where_source_moves of all. levels_off_the_photo: mean distance, of 0-255 levels in the channel that is
    farthest off.
    """
    codec = MotionContentAutoencoder.load(folder / "mcd_vae.safetensors")
    clips = test_clips(data, codec.config.num_frames, codec.config.size_px, limit + 1)
    inside, base_rate, kept, still_change = [], [], [], []
    for source, target in itertools.pairwise(clips):
        made = codec.decode(codec.encode(source.frames), target.photo).clamp(-1, 1)
        change = (made - target.photo[:, :, None]).abs().amax(1)  # (1, T, H, W)
        moves = _near(moving_places(source.frames)[:, 0])
        inside.append(float(change[moves].sum() / change.sum()))
        base_rate.append(float(moves.float().mean()))
        kept.append(float(change[~moves].mean()) * 127.5)
        still = target.photo[:, :, None].expand_as(source.frames)
        held = codec.decode(codec.encode(still), target.photo).clamp(-1, 1)
        still_change.append(float((held - still).abs().amax(1).mean()) * 127.5)
    return {
        "pairs": len(inside),
        "change_where_source_moves": statistics.mean(inside),
        "share_of_places_where_source_moves": statistics.mean(base_rate),
        "levels_off_the_photo_elsewhere": statistics.mean(kept),
        "levels_off_the_photo_from_a_still_source": statistics.mean(still_change),
    }


def _near(where: Tensor) -> Tensor:
    """(1, T, H, W) bool, and two pixels around."""
    return F.max_pool2d(where.float(), 5, stride=1, padding=2) > 0


# --- the generator ----------------------------------------------------------------------------------------------


@torch.no_grad()
def latents_for(base: Any, one: TestClip, count: int, steps: int, seed: int) -> Tensor:
    """(count, d, h, w): samples of a test clip's beginning and caption, each from a seed of its own."""
    from motionloom.denoisers.base import MotionCondition, Request

    prompt = one.caption if base.reads_text else None
    request = Request(one.photo, (), base.num_frames, base.fps, steps, prompt)
    told = base.told(request, one.photo)

    def repeated(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.expand(count, *value.shape[1:])

    condition = MotionCondition(
        repeated(told.tokens), repeated(told.tokens_mask), repeated(told.aligned), told.num_content_tokens
    )
    generators = [torch.Generator().manual_seed(1000 * seed + k) for k in range(count)]
    shape = base.latent_shape(request)[1:]
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    with base.adapted(request) as denoiser:
        return sample(denoiser, base.schedule(request), noise, condition, steps, generators)


@torch.no_grad()
def shown(base: Any, latents: Tensor, photo: Tensor) -> Tensor:
    """(N, d, h, w) and (1, 3, H, W) => (N, 3, T, H, W), -1..1, frame 0 the photo."""
    frames: Tensor = base.codec.decode(latents, photo.expand(len(latents), -1, -1, -1)).clamp(-1, 1)
    frames[:, :, 0] = photo
    return frames


def sampled(folder: Path, data: Path, out: Path, told: argparse.Namespace) -> dict[str, Any]:
    """OUT/{generated,real,reconstructed,copied}/<name>[_k].mp4, ready for `distance` and `motionloom evaluate`; of `blocks`
    P_act and P_re of each.
    """
    import motionloom as ml
    from motionloom.datasets.worlds.measure import measure_blocks
    from motionloom.generate import to_frames

    base: Any = ml.load_base(folder, solver=told.solver, text_scale=told.text_scale)
    steps = told.steps or base.num_steps
    clips = test_clips(data, base.num_frames, base.native_size_px, told.limit)
    names = ("generated",) if told.generated_only else ("generated", "real", "reconstructed", "copied")
    for name in names:
        (out / name).mkdir(parents=True, exist_ok=True)
    with counted("sampling") as at:
        for number, one in enumerate(clips):
            made = {
                "generated": shown(base, latents_for(base, one, told.per_frame, steps, number), one.photo)
            }
            if not told.generated_only:
                made |= _beside(base, one)
            for name in names:
                for k, frames in enumerate(made[name]):
                    file = f"{one.stem}_{k}.mp4" if name == "generated" else f"{one.stem}.mp4"
                    Clip(to_frames(frames[None]), base.fps).save(out / name / file)
            at(number + 1, len(clips))
    found: dict[str, Any] = {
        "clips": len(clips),
        "per_frame": told.per_frame,
        "solver": base.solver,
        "steps": steps,
        "text_scale": base.text_scale,
    }
    if is_blocks(data) and not told.clips_only:
        for name in names:
            with counted(f"looking at {name}") as at:
                found[name] = measure_blocks(data, out / name, limit=told.limit, progress=at)
    return found


@torch.no_grad()
def _beside(base: Any, one: TestClip) -> dict[str, Tensor]:
    """What generated clips are held against, (1, 3, T, H, W) each."""
    return {
        "real": one.frames,
        "reconstructed": shown(base, base.codec.encode(one.frames), one.photo),
        "copied": one.frames[:, :, :1].expand_as(one.frames),
    }


@torch.no_grad()
def solvers(folder: Path, data: Path, told: argparse.Namespace, samples: int = 8) -> dict[str, Any]:
    """Energy distance between latents sampled in 200 ancestral steps and in 20 of each solver, per first frame and caption.

    `again` is the distance between two sets of 200 steps: a solver whose mean is not above the mean of those and twice their
    deviation is within noise. Distances are of unit-scale latents, divided by the root of their number of entries.
    """
    import motionloom as ml

    plans = {
        "again": ("ancestral", MANY, 1),
        "dpm++": ("dpm++", FEW, 2),
        "unipc": ("unipc", FEW, 3),
        "ancestral": ("ancestral", FEW, 4),
    }
    bases = {name: ml.load_base(folder, solver=name) for name in ("ancestral", "dpm++", "unipc")}
    base: Any = bases["ancestral"]
    distances: dict[str, list[float]] = {name: [] for name in plans}
    clips = test_clips(data, base.num_frames, base.native_size_px, told.limit)
    with counted("sampling") as at:
        for number, one in enumerate(clips):
            reference = latents_for(base, one, samples, MANY, 10 * number).flatten(1)
            for name, (solver, steps, seed) in plans.items():
                drawn = latents_for(bases[solver], one, samples, steps, 10 * number + seed).flatten(1)
                distances[name].append(energy_distance(reference, drawn))
            at(number + 1, len(clips))
    summary = {name: {"mean": statistics.mean(v), "sd": statistics.stdev(v)} for name, v in distances.items()}
    limit = summary["again"]["mean"] + 2 * summary["again"]["sd"]
    within = {name: row["mean"] <= limit for name, row in summary.items() if name != "again"}
    return {"clips": len(clips), "samples": samples, "distances": summary, "within_noise": within}


def energy_distance(one: Tensor, other: Tensor) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| over the root of the dimension, unbiased: around 0 for equal distributions."""
    scale = one.shape[1] ** 0.5
    across = float(torch.cdist(one, other).mean())
    within = [float(torch.pdist(rows).mean()) for rows in (one, other)]
    return (2 * across - sum(within)) / scale


def seams(folder: Path, data: Path, told: argparse.Namespace, frames: int = 64) -> dict[str, Any]:
    """Chained clips from first frames of the test split: change at the seams over change elsewhere; goal: at most 1.5."""
    import motionloom as ml
    from motionloom.generate import to_frames
    from motionloom.sampling.chain import seam_ratio

    base: Any = ml.load_base(folder, solver=told.solver)
    ratios = {}
    clips = test_clips(data, base.num_frames, base.native_size_px, told.limit)
    for number, one in enumerate(clips):
        prompt = one.caption if base.reads_text else None
        photo = to_frames(one.frames)[0]
        clip = ml.generate(base, photo, prompt=prompt, frames=frames, steps=told.steps, seed=number)
        if told.out:
            told.out.mkdir(parents=True, exist_ok=True)
            clip.save(told.out / f"{one.stem}.mp4")
        pixels = torch.from_numpy(clip.frames).permute(3, 0, 1, 2)[None].float()
        ratios[one.stem] = seam_ratio(pixels, base.num_frames)
    values = [value for value in ratios.values() if math.isfinite(value)]
    return {
        "frames": frames,
        "mean": statistics.mean(values),
        "max": max(values),
        "still": len(ratios) - len(values),
        "clips": ratios,
    }


# --- the internal Fréchet distance ------------------------------------------------------------------------------


def trained_classifier(data: Path, out: Path, epochs: int, seed: int = 0) -> dict[str, Any]:
    """AdamW, 2e-3 with a cosine, 32 clips a step; how often each label is right on the test split."""
    torch.manual_seed(seed)
    splits = {name: _labelled(data, name) for name in ("train", "test")}
    pixels, labels = splits["train"]
    model, order = ClipClassifier(), np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1e-2)
    steps = epochs * (len(pixels) // 32)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with counted("training") as at:
        for step in range(steps):
            rows = order.choice(len(pixels), 32, replace=False)
            loss = F.binary_cross_entropy_with_logits(model(as_floats(pixels[rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            at(step + 1, steps)
    model.eval().save(out)
    pixels, labels = splits["test"]
    with torch.no_grad():
        logits = torch.cat([model(as_floats(part)) for part in pixels.split(32)])
    right = ((logits > 0) == (labels > 0)).float().mean(0)
    usual = torch.maximum(labels.mean(0), 1 - labels.mean(0))
    return {
        "train_clips": len(splits["train"][0]),
        "test_clips": len(pixels),
        "accuracy": dict(zip(LABELS, right.tolist(), strict=True)),
        "always_the_commoner_answer": dict(zip(LABELS, usual.tolist(), strict=True)),
        "mean_accuracy": float(right.mean()),
    }


def _labelled(data: Path, split: str) -> tuple[Tensor, Tensor]:
    """uint8 (N, 3, T, 64, 64) and (N, 8)."""
    from motionloom.datasets.cater_captions import parse_caption

    layout = open_layout("cater", data)
    clips = PublishedClips(layout, split, 16, (64, 64))
    entries = layout.contents(split).entries
    pixels = torch.stack(
        [(clips.at(0, i)["frames"] * 127.5 + 127.5).round().byte() for i in range(len(clips))]
    )
    return pixels, torch.stack([labels_of(parse_caption(entry.text or "")) for entry in entries])


def as_floats(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


@torch.no_grad()
def distances(one: Path, other: Path, classifier: Path) -> dict[str, Any]:
    """Fréchet distance of the classifier's features, and, as its floor, between the halves of `other`."""
    model = ClipClassifier.load(classifier)
    a, b = (_features(model, folder) for folder in (one, other))
    halves = frechet_distance(b[::2], b[1::2])
    return {"distance": frechet_distance(b, a), "clips": [len(a), len(b)], "halves_of_the_second": halves}


def _features(model: ClipClassifier, folder: Path) -> Any:
    from motionloom.video.read import read_clip

    files = sorted(folder.glob("*.mp4"))
    if len(files) < 2:
        raise InputError(
            f'"{folder}" holds {len(files)} MP4 clips, a distance needs two or more',
            fix="give it what `sample` wrote",
        )
    return (
        torch.cat([model.features(to_pixels(read_clip(file).frames)[None]) for file in files])
        .double()
        .numpy()
    )


# --- curves -----------------------------------------------------------------------------------------------------


STYLE = (
    "svg{background:#fff;font:11px sans-serif}.line{fill:none;stroke-width:1.6}.grid{stroke:#ddd}text{fill:#444}"
    ":root{--s0:#0b6bb0;--s1:#c4500b;--s2:#1b7f4b;--s3:#8b3fa8;--s4:#a8842a;--s5:#6b6b6b;--s6:#b02a57;--s7:#2a8fa8}"
)


def curves(runs: list[Path], out: Path) -> dict[str, Any]:
    """The loss of each run over its steps, averaged over AVERAGED log lines, as one SVG; its last value by run."""
    from motionloom.durable import write_durably
    from motionloom.reporting.markup import join, tag
    from motionloom.reporting.plots import Series
    from motionloom.reporting.plots import curves as drawn

    series = []
    for which, run in enumerate(runs):
        if not (run / "log.jsonl").is_file():
            raise InputError(
                f'"{run}" is no run folder: it has no log.jsonl', fix="give the --run-dir of a training"
            )
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        points = [
            (float(line["step"]), float(next(iter(line["losses"].values()))))
            for line in lines
            if "losses" in line
        ]
        parts = [points[i : i + AVERAGED] for i in range(0, len(points) - AVERAGED + 1, AVERAGED)]
        if not parts:
            raise InputError(
                f'"{run}" logged {len(points)} losses, a point of the curve needs {AVERAGED}',
                fix="train it longer",
            )
        xs, ys = ([statistics.mean(p[k] for p in part) for part in parts] for k in (0, 1))
        series.append(Series(run.name, which, ys, xs))
    names = [
        tag("text", one.label, x=300, y=20 + 14 * row, style=f"fill:var(--s{one.which})")
        for row, one in enumerate(series)
    ]
    picture = str(drawn("step", "loss", series)).removesuffix("</svg>")
    picture = picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    text = picture + f"<style>{STYLE}</style>" + str(join(names)) + "</svg>\n"
    write_durably(out, lambda path: path.write_text(text))
    return {one.label: one.ys[-1] for one in series}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cases = ("reconstruct", "sample", "classifier", "distance", "solvers", "seams", "decompose", "curves")
    parser.add_argument("case", choices=cases)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--limit", type=int, default=12, help="test clips")
    parser.add_argument("--per-frame", type=int, default=1, help="of sample: clips of each first frame")
    parser.add_argument(
        "--generated-only", action="store_true", help="of sample: not the real, reconstructed, copied clips"
    )
    parser.add_argument(
        "--solver", help="of sample, seams: ancestral, dpm++, unipc; the model's own by default"
    )
    parser.add_argument("--steps", type=int, help="of sample, seams")
    parser.add_argument("--text-scale", type=float, default=1.0, help="of sample: guidance")
    parser.add_argument(
        "--clips-only", action="store_true", help="of sample: P_act and P_re are not measured"
    )
    parser.add_argument("--epochs", type=int, default=10, help="of classifier")
    parser.add_argument("--classifier", type=Path, help="of distance")
    parser.add_argument("-o", "--out", type=Path)
    told = parser.parse_args()
    needs_out = told.case in ("sample", "classifier", "curves")
    if needs_out and told.out is None:
        parser.error(f"{told.case} needs -o")
    if told.case not in ("classifier", "curves") and len(told.paths) != 2:
        parser.error(f"{told.case} takes two paths, see above")
    if told.case == "distance" and told.classifier is None:
        parser.error("distance needs --classifier, a file that the case `classifier` wrote")
    if told.limit < 2:
        parser.error(f"got --limit {told.limit}, expected 2 or more: every case compares clips")
    try:
        found = _run(told)
    except MotionLoomError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    print(json.dumps(found, indent=1))


def _run(told: argparse.Namespace) -> Any:
    first, second = told.paths[0], told.paths[-1]
    match told.case:
        case "reconstruct":
            return reconstructed(first, second, told.limit)
        case "decompose":
            return decomposed(first, second, told.limit)
        case "sample":
            return sampled(first, second, told.out, told)
        case "classifier":
            return trained_classifier(first, told.out, told.epochs)
        case "distance":
            return distances(first, second, told.classifier)
        case "solvers":
            return solvers(first, second, told)
        case "seams":
            return seams(first, second, told)
        case _:
            return curves(told.paths, told.out)


if __name__ == "__main__":
    main()

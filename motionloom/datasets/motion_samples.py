"""What the small model trains on, made once and cached: photos with a motion map and the motion latent that answers it.

    photos.npy    uint8   (N, 128, 128, 3)      first frames
    latents.npy   float16 (N, d, 16, 16)        motion latents (LinearMotion)
    maps.npy      float16 (N, C, 16, 16)        motion maps (conditions.motion_map)
    offsets.npy   float32 (N, 2)                where the middle of the whole picture lies, frame units
    frames.npy    uint8   (N, T, 128, 128, 3)   rendered sets only
    camera.npy    float16 (N, T, 64, 64, 2)     rendered sets only: the camera's true flow

Synthetic samples draw one motion, two in two regions with soft borders, or a camera over a local motion. Real samples are
windows of clips (datasets.motion_windows), whole or confined to a region. Sample i is a function of (seed, i) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from motionloom.codecs.linear_motion import LinearMotion, MotionField
from motionloom.codecs.warp_codec import field_of_clip
from motionloom.conditions.asked import Asked
from motionloom.conditions.motion_map import CHANNELS, Heading, heading_of, motion_map
from motionloom.conditions.motion_map import Part as MapPart
from motionloom.conditions.words import INDEX, WORDS
from motionloom.datasets.motion_windows import NUM_FRAMES, SIZE_PX, read_index
from motionloom.datasets.synthetic import draw_motion, random_region
from motionloom.datasets.synthetic.motion import Motion, Region
from motionloom.datasets.synthetic.render import render, times, total_flow, total_light
from motionloom.datasets.synthetic.write import draw_view
from motionloom.denoisers.map_generator import MapGenerator
from motionloom.motion.camera_path import displacement
from motionloom.motion.grid import places
from motionloom.motion.speeds import LEVELS, quantiles, way

GRID = 16
FINE = 64
CAMERAS = tuple(word.name for word in WORDS if word.kind == "rigid")
SEEN = ("traffic",)  # words whose direction the photo shows; that of the others is drawn
PAINTED = tuple(word.name for word in WORDS if word.kind != "rigid" and not word.learned)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Part:
    """One motion of a synthetic sample."""

    word: str
    amplitude: float
    region: Region
    motion: Motion


def draw_parts(rng: np.random.Generator) -> list[Part]:
    """One motion (half of the time), two in two regions, two overlaid, or stillness."""
    kind = rng.choice(["one", "confined", "two", "overlaid", "still"], p=[0.42, 0.15, 0.25, 0.15, 0.03])
    if kind == "still":
        return []
    if kind == "one":
        return [_part(rng, _any_word(rng), Region())]
    region = random_region(rng)
    if kind == "confined":
        return [_part(rng, _any_word(rng), region)]
    if kind == "two":
        return [_part(rng, _any_word(rng), region), _part(rng, _any_word(rng), region.complement())]
    local_region = Region() if rng.random() < 0.5 else region
    return [_part(rng, str(rng.choice(CAMERAS)), Region()), _part(rng, _any_word(rng), local_region)]


def fields(parts: Sequence[Part], offset: tuple[float, float] = (0.0, 0.0)) -> MotionField:
    """The motion of a synthetic sample on the latent grid, camera and local parts told apart."""
    xy, tau = places(GRID, GRID) - torch.tensor(offset), times(NUM_FRAMES)
    rigid = [(p.motion, p.region) for p in parts if p.word in CAMERAS]
    loose = [(p.motion, p.region) for p in parts if p.word not in CAMERAS]
    camera = total_flow(rigid, xy, torch.ones(1))[0].permute(2, 0, 1)
    local = total_flow(loose, xy, tau).permute(0, 3, 1, 2)
    return MotionField(camera[None], local[None], total_light(loose, xy, tau)[None])


def window_fields(frames: npt.NDArray[np.uint8], flow: npt.NDArray[np.float16]) -> MotionField:
    """The motion of a real window on the latent grid."""
    clip = torch.from_numpy(frames.astype(np.float32) / 127.5 - 1).permute(3, 0, 1, 2)
    limited = torch.from_numpy(flow.astype(np.float32)).clamp(-0.35, 0.35)
    return field_of_clip(clip, limited, GRID, GRID)


def build_synthetic(
    canvases: Sequence[torch.Tensor],
    motion: LinearMotion,
    out: Path,
    count: int,
    seed: int,
    rendered: bool,
    progress: Progress | None = None,
) -> Path:
    """Cache `count` synthetic samples over photos (3, H, W), 0..1; `rendered` adds their frames."""
    store = Store(out, count, motion.channels, rendered)
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        parts = draw_parts(rng)
        # the crop may be a part of a wider picture, whose middle the camera turns and zooms about
        shift = (
            tuple(float(v) for v in rng.uniform(-0.25, 0.25, 2))
            if rng.random() < 0.5 and not rendered
            else (0.0, 0.0)
        )
        canvas = canvases[int(rng.integers(len(canvases)))]
        if rng.random() < 0.5:
            canvas = canvas.flip(-1)
        view = draw_view(canvas.shape[1], canvas.shape[2], 1.0, rng)
        pairs = [(part.motion, part.region) for part in parts]
        clip = render(
            canvas, view, pairs if rendered else [], NUM_FRAMES if rendered else 1, SIZE_PX, SIZE_PX
        )
        store.photos[index] = clip.frames[0]
        field = fields(parts, (shift[0], shift[1]))
        store.latents[index] = motion.encode(field)[0].numpy()
        xy = places(GRID, GRID) - torch.tensor(shift)
        store.maps[index] = motion_map(
            [MapPart(p.word, p.amplitude, p.region(xy), _heading(p, xy)) for p in parts], GRID, GRID
        ).numpy()
        store.offsets[index] = shift
        if store.frames is not None and store.camera is not None:
            rigid = [(p.motion, p.region) for p in parts if p.word in CAMERAS]
            store.frames[index] = clip.frames
            store.camera[index] = total_flow(rigid, places(FINE, FINE), times(NUM_FRAMES)).numpy()
        if progress is not None:
            progress(index + 1, count)
    return store.close()


def build_real(
    windows: Path,
    motion: LinearMotion,
    out: Path,
    count: int,
    seed: int,
    rendered: bool,
    progress: Progress | None = None,
) -> Path:
    """Cache `count` samples from the real windows to train on; without frames (for the generator) those with a word."""
    index_of = [
        (row, window)
        for row, window in enumerate(read_index(windows))
        if not window.held_out and (rendered or window.word)
    ]
    # what the decoder draws should fit the frames, what the generator draws should move as they do
    kind = "flow" if rendered else "stream"
    frames, flows = (np.load(windows / f"{name}.npy", mmap_mode="r") for name in ("frames", kind))
    usual = usual_speed(windows)
    by_word: dict[str, list[int]] = {}
    for position, (_, window) in enumerate(index_of):
        by_word.setdefault(window.word, []).append(position)
    groups = list(by_word.values())
    store = Store(out, count, motion.channels, rendered)
    xy = places(GRID, GRID)
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        group = groups[index % len(groups)]  # every word equally often
        row, window = index_of[group[int(rng.integers(len(group)))]]
        clip, flow = np.asarray(frames[row]), np.asarray(flows[row])
        if rng.random() < 0.5:
            clip, flow = clip[:, :, ::-1], flow[:, :, ::-1] * np.array([-1, 1], np.float16)
        field = window_fields(clip, flow)
        store.photos[index] = clip[0]
        parts: list[MapPart] = []
        if not rendered:
            field, parts = _confine(field, window.word, usual, xy, rng)
        store.latents[index] = motion.encode(field)[0].clamp(-6, 6).numpy()
        store.maps[index] = motion_map(parts, GRID, GRID).numpy()
        if store.frames is not None:
            store.frames[index] = clip
        if progress is not None:
            progress(index + 1, count)
    return store.close()


def usual_speed(windows: Path) -> dict[str, float]:
    """Median over training windows of each word's root-mean-square flow, frame units: amplitude 1 of that word."""
    return {
        word: float(np.median([_size(flow) for flow in flows])) for word, flows in _streams(windows).items()
    }


def seen_headings(windows: Path, count: int, seed: int = 0) -> torch.Tensor:
    """(K, count, 3), headings of training windows, mirrored half of the time: coherence, right, down.

    Coherence is -1 for words without windows; the direction is (0, 0) where the photo shows it.
    """
    out, rng = -torch.ones(len(WORDS), count, 3), np.random.default_rng(seed)
    for word, flows in _streams(windows).items():
        found = []
        for flow in flows:
            local = torch.from_numpy(flow.astype(np.float32)).permute(0, 3, 1, 2)
            heading = heading_of(local, torch.ones(local.shape[-2:]))
            if heading.coherence is not None and heading.direction is not None:
                right, down = (0.0, 0.0) if word in SEEN else heading.direction
                found.append((heading.coherence, right, down))
        picked = torch.tensor([found[int(pick)] for pick in rng.integers(len(found), size=count)])
        picked[count // 2 :, 1] *= -1
        out[INDEX[word]] = picked
    return out


@torch.no_grad()
def seen_speeds(
    windows: Path, generator: MapGenerator, motion: LinearMotion, count: int = 64
) -> torch.Tensor:
    """(K, 2, 33): quantiles of the ways places go, generated from training windows and real; 0 for words without windows."""
    from motionloom.sampling.loop import sample
    from motionloom.sampling.schedules import rectified_flow
    from motionloom.sampling.weave import MapWeave

    frames, flows = (np.load(windows / f"{name}.npy", mmap_mode="r") for name in ("frames", "stream"))
    rows: dict[str, list[int]] = {}
    for row, window in enumerate(read_index(windows)):
        if window.word and not window.held_out:
            rows.setdefault(window.word, []).append(row)
    out, rng = torch.zeros(len(WORDS), 2, LEVELS), torch.Generator().manual_seed(0)
    for word, every in rows.items():
        picks = every[:: max(1, len(every) // count)][:count]
        real = [window_fields(np.asarray(frames[row]), np.asarray(flows[row])) for row in picks]
        photos = torch.from_numpy(np.stack([frames[row][0] for row in picks]).astype(np.float32) / 127.5 - 1)
        noise = torch.randn(len(picks), motion.channels, GRID, GRID, generator=rng)
        told = generator.tell(photos.permute(0, 3, 1, 2), GRID, GRID, generator=rng)
        made = sample(MapWeave(generator, (Asked(word),)), rectified_flow(), noise, told, 20, None)
        out[INDEX[word], 0] = quantiles(way(motion.decode(made).local))
        out[INDEX[word], 1] = quantiles(
            torch.cat([way(motion.decode(motion.encode(one)).local) for one in real])
        )
    return out


def _streams(windows: Path) -> dict[str, list[npt.NDArray[np.float16]]]:
    """The chained flows of each word's training windows."""
    flows = np.load(windows / "stream.npy", mmap_mode="r")
    found: dict[str, list[npt.NDArray[np.float16]]] = {}
    for row, window in enumerate(read_index(windows)):
        if window.word and not window.held_out:
            found.setdefault(window.word, []).append(np.asarray(flows[row]))
    return found


class Store:
    """The arrays of a cache being written; `close` names it finished."""

    def __init__(self, out: Path, count: int, channels: int, rendered: bool) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out = out
        (out / "count.txt").unlink(missing_ok=True)

        def array(name: str, dtype: type, *shape: int) -> npt.NDArray[np.generic]:
            return np.lib.format.open_memmap(out / f"{name}.npy", "w+", dtype, (count, *shape))

        self.photos = array("photos", np.uint8, SIZE_PX, SIZE_PX, 3)
        self.latents = array("latents", np.float16, channels, GRID, GRID)
        self.maps = array("maps", np.float16, CHANNELS, GRID, GRID)
        self.offsets = array("offsets", np.float32, 2)
        self.frames = array("frames", np.uint8, NUM_FRAMES, SIZE_PX, SIZE_PX, 3) if rendered else None
        self.camera = array("camera", np.float16, NUM_FRAMES, FINE, FINE, 2) if rendered else None
        self.count = count

    def close(self) -> Path:
        for array in (self.photos, self.latents, self.maps, self.offsets, self.frames, self.camera):
            if array is not None:
                array.flush()  # type: ignore[attr-defined]
        (self.out / "count.txt").write_text(f"{self.count}\n")
        return self.out


def _part(rng: np.random.Generator, word: str, region: Region) -> Part:
    amplitude = float(rng.uniform(0.15, 1.6))
    return Part(word, amplitude, region, draw_motion(word, rng, amplitude))


def _any_word(rng: np.random.Generator) -> str:
    return str(rng.choice(CAMERAS if rng.random() < 0.6 else PAINTED))


def _size(flow: npt.NDArray[np.floating]) -> float:
    return float(np.sqrt((flow.astype(np.float32).clip(-0.35, 0.35) ** 2).sum(-1).mean()))


def _heading(part: Part, xy: torch.Tensor) -> Heading:
    """Of the local motion of a synthetic part; cameras have none."""
    if part.word in CAMERAS:
        return Heading()
    local = total_flow([(part.motion, Region())], xy, times(NUM_FRAMES)).permute(0, 3, 1, 2)
    return heading_of(local, part.region(xy))


def _confine(
    field: MotionField, word: str, usual: dict[str, float], xy: torch.Tensor, rng: np.random.Generator
) -> tuple[MotionField, list[MapPart]]:
    """A real motion as it is, or only inside a region, or under a moving camera; with the parts of its map."""
    size = float(field.local.square().sum(2).mean().sqrt())
    amplitude = float(np.clip(size / usual[word], 0.25, 2.0))
    strength = float(rng.uniform(0.6, 1.3))  # the same motion, a little weaker or stronger
    amplitude, region = amplitude * strength, torch.ones(GRID, GRID)
    camera = field.camera
    parts: list[MapPart] = []
    draw = rng.random()
    if draw < 0.4:
        chosen = random_region(rng)
        region = chosen(xy)
    if draw < 0.2 or draw > 0.85:
        word_there = str(rng.choice(CAMERAS))
        there = 1 - region if draw < 0.2 else torch.ones(GRID, GRID)
        much = float(rng.uniform(0.2, 1.2))
        moved = displacement(draw_motion(word_there, rng, much).rates, torch.ones(1), xy)[0]  # type: ignore[attr-defined]
        camera = camera + (there[..., None] * moved).permute(2, 0, 1)
        parts.append(MapPart(word_there, much, there))
    parts.append(MapPart(word, amplitude, region, heading_of(field.local[0], region)))
    return MotionField(camera, field.local * strength * region, field.light * region), parts


assert set(CAMERAS + PAINTED) <= set(INDEX)

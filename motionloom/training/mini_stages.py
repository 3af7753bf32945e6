"""The two stages of the small model, `mini`.

    motionloom train recipes/mini/decoder.yaml      real clips + photos => windows, linear core, fusion decoder
    motionloom train recipes/mini/generator.yaml    photos + motion maps => motion latents

The first stage cuts windows and fits the linear core; both keep what they prepare in `cache`, and find it there again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from motionloom.datasets.base import TrainingDataset, sample_seed
from motionloom.errors import InputError
from motionloom.training.stages import Section, Stage

if TYPE_CHECKING:
    from motionloom.codecs.linear_motion import LinearMotion
    from motionloom.denoisers.map_generator import MapGenerator
    from motionloom.training.objectives.base import Objective
    from motionloom.training.recipe import Recipe

SIDE_PX, PLACES = 128, 16  # a sample's picture, and its latent grid

WORDS_OF_GROUPS = {
    "clouds_timelapse": "clouds",
    "waterfall_flow": "waterfall",
    "sea_waves": "sea",
    "fire_smoke": "fire",
    "traffic": "traffic",
}


class Material(Section):
    """What the small model learns from."""

    photos: str = Field(description="folder of photographs")
    clips: str = Field(description="folder of <group>/<name>.mp4")
    cache: str = Field("data/mini", description="where windows, the linear core and samples are kept")
    groups: dict[str, str] = Field(WORDS_OF_GROUPS, description="group -> motion word")
    held_out_clips: list[str] = Field([], description="stems of clips that are never trained on")
    held_out_end: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="share of every other clip with a word, at its end, that is never trained on",
    )
    held_out_photos: list[str] = Field(
        [], description="stems of photos that are never trained on, beside every eighth"
    )
    windows: dict[str, int] = Field(
        {"": 14}, description='group -> windows cut from each clip; "" is the default'
    )
    seed: int = 0


class MiniStage(Stage):
    """What both stages share: material, and what is prepared from it."""

    material: Material
    synthetic: int = Field(ge=0, description="synthetic samples made")
    real: int = Field(ge=0, description="samples made from real windows")
    flow_modes: int = 6
    light_modes: int = 3

    def windows(self) -> Path:
        from motionloom.datasets.motion_windows import cut_windows

        folder, material = Path(self.material.cache) / "windows", self.material
        if not (folder / "index.json").is_file():
            with _bar("cutting windows") as advance:
                cut_windows(
                    Path(material.clips),
                    folder,
                    material.groups,
                    material.held_out_clips,
                    material.windows,
                    material.held_out_end,
                    material.seed,
                    advance,
                )
        return folder

    def canvases(self) -> list[torch.Tensor]:
        """Training photos, at most 384 px on the short side."""
        from motionloom.datasets.synthetic.write import as_canvas
        from motionloom.motion.grid import resize_maps

        out = []
        for path in training_photos(Path(self.material.photos), self.material.held_out_photos):
            canvas = as_canvas(path)
            short = min(canvas.shape[-2:])
            if short > 384:
                canvas = resize_maps(
                    canvas[None], round(canvas.shape[1] * 384 / short), round(canvas.shape[2] * 384 / short)
                )[0]
            out.append(canvas)
        return out

    def linear_core(self) -> LinearMotion:
        """The fitted linear core, kept in the cache."""
        from motionloom.codecs.linear_motion import LinearMotion
        from motionloom.weights import load_strictly, load_weights, save_weights

        motion = LinearMotion(self.flow_modes, self.light_modes)
        path = Path(self.material.cache) / "linear_core.safetensors"
        if path.is_file():
            tensors, _ = load_weights(path)
            load_strictly(motion, tensors, path)
        else:
            kept = fit_linear_core(motion, self.windows(), self.material.seed)
            save_weights(
                path,
                {k: v.contiguous() for k, v in motion.state_dict().items()},
                {k: str(v) for k, v in kept.items()},
            )
        return motion

    def clips(self, recipe: Recipe) -> TrainingDataset:
        """What a dry run checks: that photos and clips are there. Nothing is cut or rendered."""
        photos = training_photos(Path(self.material.photos), self.material.held_out_photos)
        clips = sorted(Path(self.material.clips).glob("*/*.mp4"))
        if self.real and not clips:
            raise InputError(
                f'no clips in "{self.material.clips}"', fix="give a folder of <group>/<name>.mp4"
            )
        sample = {name: value[0] for name, value in self.example_batch(recipe, 1).items()}
        return Planned(self.synthetic + self.real, sample, (f"{len(photos)} photos", f"{len(clips)} clips"))

    def example_batch(self, recipe: Recipe, batch_size: int) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def samples(self, name: str, rendered: bool) -> list[Path]:
        from motionloom.datasets.motion_samples import build_real, build_synthetic

        motion, cache, seed = self.linear_core(), Path(self.material.cache), self.material.seed
        synthetic, real = cache / f"{name}-synthetic-{self.synthetic}", cache / f"{name}-real-{self.real}"
        if self.synthetic and not (synthetic / "count.txt").is_file():
            with _bar("making synthetic samples") as advance:
                build_synthetic(self.canvases(), motion, synthetic, self.synthetic, seed, rendered, advance)
        if self.real and not (real / "count.txt").is_file():
            with _bar("making real samples") as advance:
                build_real(self.windows(), motion, real, self.real, seed, rendered, advance)
        return [folder for folder, count in ((synthetic, self.synthetic), (real, self.real)) if count]


class MiniDecoder(MiniStage):
    kind: Literal["mini-decoder"]
    width: int = 24
    frames_a_clip: int = Field(4, description="frames drawn from each clip in a step")

    def objective(self, recipe: Recipe, dry_run: bool = False) -> Objective:
        from motionloom.codecs.linear_motion import LinearMotion
        from motionloom.codecs.warp_codec import WarpCodec
        from motionloom.training.objectives.mini import MiniDecoderObjective

        motion = LinearMotion(self.flow_modes, self.light_modes) if dry_run else self.linear_core()
        return MiniDecoderObjective(WarpCodec(motion, self.width))

    def dataset(self, recipe: Recipe) -> TrainingDataset:
        return DrawnClips(self.samples("drawn", rendered=True), self.frames_a_clip, recipe.seed)

    def example_batch(self, recipe: Recipe, batch_size: int) -> dict[str, torch.Tensor]:
        picture, count = (3, SIDE_PX, SIDE_PX), self.frames_a_clip
        return {
            "photo": torch.zeros(batch_size, *picture),
            "frames": torch.zeros(batch_size, count, *picture),
            "index": torch.ones(batch_size, count, dtype=torch.long),
            "camera": torch.zeros(batch_size, count, 4 * PLACES, 4 * PLACES, 2),
            "latents": torch.zeros(batch_size, 2 + 2 * self.flow_modes + self.light_modes, PLACES, PLACES),
        }


class MiniGenerator(MiniStage):
    kind: Literal["mini-generator"]
    base: int = 64
    multipliers: list[int] = Field([1, 2, 3])
    res_blocks: int = 1
    content_channels: int = 48
    dropout: float = 0.0
    start_from: str | None = Field(
        None, description="an exported generator to go on from; null starts afresh"
    )
    repeat_real: int = Field(1, ge=1, description="how often each real sample counts in an epoch")

    def objective(self, recipe: Recipe, dry_run: bool = False) -> Objective:
        from motionloom.codecs.linear_motion import LinearMotion
        from motionloom.denoisers.map_generator import MapGenerator, MapGeneratorConfig
        from motionloom.training.objectives.mini import MiniGeneratorObjective
        from motionloom.zoo import load_generator

        motion = LinearMotion(self.flow_modes, self.light_modes) if dry_run else self.linear_core()
        if self.start_from is not None and not dry_run:
            return self._told_of_clips(load_generator(Path(self.start_from)).train(), motion)
        config = MapGeneratorConfig(
            latent_channels=motion.channels,
            base=self.base,
            multipliers=tuple(self.multipliers),
            res_blocks=self.res_blocks,
            content_channels=self.content_channels,
            dropout=self.dropout,
        )
        if dry_run:
            return MiniGeneratorObjective(MapGenerator(config), motion)
        return self._told_of_clips(MapGenerator(config), motion)

    def _told_of_clips(self, generator: MapGenerator, motion: LinearMotion) -> Objective:
        """The generator keeps the headings that the clips' motions had, and, exported, their speeds."""
        from motionloom.datasets.motion_samples import seen_headings, seen_speeds
        from motionloom.training.objectives.mini import MiniGeneratorObjective

        if not self.real:
            return MiniGeneratorObjective(generator, motion)
        generator.headings.copy_(seen_headings(self.windows(), generator.headings.shape[1]))

        def finish(trained: MapGenerator) -> None:
            trained.speeds.copy_(seen_speeds(self.windows(), trained, motion))

        return MiniGeneratorObjective(generator, motion, finish)

    def dataset(self, recipe: Recipe) -> TrainingDataset:
        folders = self.samples("mapped", rendered=False)
        repeats = [self.repeat_real if "-real-" in folder.name else 1 for folder in folders]
        return MappedMotions(
            [f for f, times in zip(folders, repeats, strict=True) for _ in range(times)], recipe.seed
        )

    def example_batch(self, recipe: Recipe, batch_size: int) -> dict[str, torch.Tensor]:
        from motionloom.conditions.motion_map import CHANNELS

        return {
            "photo": torch.zeros(batch_size, 3, SIDE_PX, SIDE_PX),
            "map": torch.zeros(batch_size, CHANNELS, PLACES, PLACES),
            "offset": torch.zeros(batch_size, 2),
            "latents": torch.zeros(batch_size, 2 + 2 * self.flow_modes + self.light_modes, PLACES, PLACES),
        }


class Planned(TrainingDataset):
    """Samples that are not made yet: their number and shape."""

    def __init__(self, count: int, sample: dict[str, torch.Tensor], notes: tuple[str, ...]) -> None:
        self.count, self.sample, self.notes = count, sample, notes

    def __len__(self) -> int:
        return self.count

    def at(self, epoch: int, index: int) -> dict[str, Any]:
        return self.sample


class CachedSamples(TrainingDataset):
    """Caches of `datasets.motion_samples`, one after the other."""

    def __init__(self, folders: list[Path], seed: int) -> None:
        self.folders, self.seed = folders, seed
        self.counts = [int((folder / "count.txt").read_text()) for folder in folders]

    def __len__(self) -> int:
        return sum(self.counts)

    def place(self, index: int) -> tuple[Path, int]:
        """Which cache a sample is in, and its row there."""
        for folder, count in zip(self.folders, self.counts, strict=True):
            if index < count:
                return folder, index
            index -= count
        raise IndexError(index)

    def row(self, name: str, index: int) -> npt.NDArray[Any]:
        folder, row = self.place(index)
        return np.array(_open(folder / f"{name}.npy")[row])


class DrawnClips(CachedSamples):
    """Rendered samples for the decoder: a photo, some later frames, the motion between."""

    def __init__(self, folders: list[Path], frames_a_clip: int, seed: int) -> None:
        super().__init__(folders, seed)
        self.frames_a_clip = frames_a_clip

    def at(self, epoch: int, index: int) -> dict[str, Any]:
        rng = np.random.default_rng(sample_seed(self.seed, epoch, index))
        frames = self.row("frames", index)
        picks = np.sort(rng.choice(np.arange(1, len(frames)), self.frames_a_clip, replace=False))
        return {
            "photo": _pixels(frames[0]),
            "frames": torch.stack([_pixels(frames[pick]) for pick in picks]),
            "index": torch.from_numpy(picks),
            "camera": torch.from_numpy(self.row("camera", index)[picks].astype(np.float32)),
            "latents": torch.from_numpy(self.row("latents", index).astype(np.float32)),
        }


class MappedMotions(CachedSamples):
    """Samples for the generator: a photo, a motion map, the motion latent."""

    def at(self, epoch: int, index: int) -> dict[str, Any]:
        rng = np.random.default_rng(sample_seed(self.seed, epoch, index))
        photo = _pixels(self.row("photos", index))
        gain = torch.from_numpy(
            rng.uniform(0.75, 1.25, (3, 1, 1)).astype(np.float32)
        )  # colours vary, motion stays
        return {
            "photo": (photo * gain + float(rng.uniform(-0.15, 0.15))).clamp(-1, 1),
            "map": _partly_told(torch.from_numpy(self.row("maps", index).astype(np.float32)), rng),
            "offset": torch.from_numpy(self.row("offsets", index)),
            "latents": torch.from_numpy(self.row("latents", index).astype(np.float32)),
        }


def _partly_told(maps: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A motion map without its direction half of the time, and without any heading one time in six."""
    from motionloom.conditions.motion_map import COHERENCE, DIRECTION

    draw = float(rng.random())
    if draw < 0.5:
        maps[DIRECTION] = 0
    if draw < 1 / 6:
        maps[COHERENCE] = 0
    return maps


def training_photos(folder: Path, held_out: list[str]) -> list[Path]:
    """Photos to train on: all but the named ones and every eighth of the others.

    Raises:
        InputError: nothing is left.
    """
    chosen = _candidates(folder, held_out)[0]
    if not chosen:
        raise InputError(f'no photo to train on in "{folder}"', fix="give a folder with at least two photos")
    return chosen


def held_out_photos(folder: Path, held_out: list[str]) -> list[Path]:
    """The photos `training_photos` leaves out."""
    return _candidates(folder, held_out)[1]


def fit_linear_core(motion: LinearMotion, windows: Path, seed: int, synthetic: int = 500) -> dict[str, float]:
    """Fit the modes on real training windows and synthetic motions. Returns the shares of energy they keep."""
    from motionloom.datasets.motion_samples import draw_parts, fields, window_fields
    from motionloom.datasets.motion_windows import read_index

    frames, flows = (np.load(windows / f"{name}.npy", mmap_mode="r") for name in ("frames", "flow"))
    rows = [row for row, window in enumerate(read_index(windows)) if not window.held_out]
    found = [window_fields(np.asarray(frames[row]), np.asarray(flows[row])) for row in rows]
    found += [fields(draw_parts(np.random.default_rng([seed, 1, index]))) for index in range(synthetic)]
    local, light, camera = (
        torch.cat([getattr(field, name) for field in found]) for name in ("local", "light", "camera")
    )
    return motion.fit(local, light, camera)


_OPENED: dict[Path, npt.NDArray[Any]] = {}


def _open(path: Path) -> npt.NDArray[Any]:
    """A cached array, memory-mapped once per process."""
    if path not in _OPENED:
        _OPENED[path] = np.load(path, mmap_mode="r")
    return _OPENED[path]


def _pixels(picture: npt.NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (H, W, 3) => float (3, H, W), -1..1."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 127.5 - 1


def _candidates(folder: Path, held_out: list[str]) -> tuple[list[Path], list[Path]]:
    from motionloom.datasets.synthetic.write import find_photos

    named = [path for path in find_photos(folder) if path.stem in held_out]
    others = [path for path in find_photos(folder) if path.stem not in held_out]
    return [p for i, p in enumerate(others) if i % 8], named + others[::8]


class _bar:
    """A progress bar with ETA on stderr: `with _bar("doing") as advance: advance(done, total)`."""

    def __init__(self, title: str) -> None:
        self.bar = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.task = self.bar.add_task(title, total=None)

    def __enter__(self) -> Any:
        self.bar.start()
        return lambda done, total: self.bar.update(self.task, completed=done, total=total)

    def __exit__(self, *exc: object) -> None:
        self.bar.stop()

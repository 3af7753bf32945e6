"""The world `blocks` on disk, in CATER-GEN's layout, with the truth that the official set lacks.

videos/CATER_train_000000.mp4              the clip
scenes/CATER_train_000000.json             CATER's scene file: objects, movements, positions in every frame; written last
masks/CATER_train_000000.npz               "masks" (T, H, W) uint8: 0 the table, n + 1 object n
{train,test}_{explicit,ambiguous}.json     captions, when all clips are there
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from motionloom.datasets.cater_captions import (
    Mode,
    Statement,
    cell_of,
    describe_subject,
    quadrant_of,
    write_caption,
)
from motionloom.datasets.worlds.blocks.camera import Camera
from motionloom.datasets.worlds.blocks.render import Solid, render_scene
from motionloom.datasets.worlds.blocks.scene import Block, Movement, Scene, Variant, draw_scene
from motionloom.datasets.worlds.write import Unit, World
from motionloom.durable import write_durably, write_json
from motionloom.errors import ConfigError, InputError
from motionloom.video.clip import Clip

MODES: tuple[Mode, ...] = ("explicit", "ambiguous")
_SPLITS = ("train", "test")
_OFFICIAL_ACTIONS = {
    "slide": "_slide",
    "rotate": "_rotate",
    "pick-place": "_pick_place",
    "contain": "_contain",
}


@dataclass(frozen=True)
class BlocksWorld(World):
    """Args: count, test_count: clips of the splits; frames, size_px, fps: of each clip; movements: how many blocks move in
    a clip, None takes the variant's own (v2 two, v1 one).
    """

    name = "blocks"

    count: int
    test_count: int = 0
    seed: int = 0
    variant: Variant = "v2"
    frames: int = 16
    size_px: int = 128
    fps: float = 8.0
    movements: int | None = None

    def __post_init__(self) -> None:
        if min(self.count, self.test_count) < 0 or self.frames < 2 or self.size_px < 16 or self.size_px % 2:
            raise ConfigError(
                f"cannot write {self.count} + {self.test_count} clips of {self.frames} frames at {self.size_px} px",
                fix="use 2 frames or more and an even size of 16 px or more",
            )

    def facts(self) -> dict[str, Any]:
        """Without the counts: a folder may grow."""
        return {key: value for key, value in asdict(self).items() if key not in ("count", "test_count")}

    def units(self) -> list[Unit]:
        counts = zip(_SPLITS, (self.count, self.test_count), strict=True)
        return [(split, number) for split, count in counts for number in range(count)]

    def is_written(self, folder: Path, unit: Unit) -> bool:
        return (folder / "scenes" / f"{clip_name(unit)}.json").is_file()

    def scene(self, unit: Unit) -> Scene:
        return draw_scene(self._generator(unit, 0), self.variant, self.movements)

    def write_unit(self, folder: Path, unit: Unit) -> None:
        scene, name = self.scene(unit), clip_name(unit)
        frames, masks = render_scene(scene, self.frames, self.size_px)
        captions = {mode: self.caption(scene, unit, mode) for mode in MODES}
        settings = {"world": self.name, "seed": [self.seed, *unit], "caption": captions["explicit"].strip()}
        video = Clip(frames, self.fps, settings).save(folder / "videos" / f"{name}.mp4", crf=12)
        write_durably(folder / "masks" / f"{name}.npz", partial(_save_masks, masks))
        facts = describe_scene(scene, self.frames, self.size_px)
        captioned = {"captions": captions, "video": f"videos/{video.name}"}
        write_json(folder / "scenes" / f"{name}.json", {**captioned, **facts})

    def caption(self, scene: Scene, unit: Unit, mode: Mode) -> str:
        rng = self._generator(unit, 1 + MODES.index(mode))
        return write_caption(statements_of(scene, mode, rng))

    def finish(self, folder: Path) -> None:
        for split in _SPLITS:
            units = [unit for unit in self.units() if unit[0] == split]
            found = [_read_json(folder / "scenes" / f"{clip_name(unit)}.json") for unit in units]
            for mode in MODES:
                listed = {
                    str(number): {"video": facts["video"], "caption": facts["captions"][mode]}
                    for number, facts in enumerate(found)
                }
                write_json(folder / f"{split}_{mode}.json", listed)

    def _generator(self, unit: Unit, purpose: int) -> np.random.Generator:
        split, number = unit
        return np.random.default_rng([self.seed, _SPLITS.index(split), number, purpose])


def clip_name(unit: Unit) -> str:
    return f"CATER_{unit[0]}_{unit[1]:06d}"


def statements_of(scene: Scene, mode: Mode, rng: np.random.Generator) -> list[Statement]:
    """What a scene's caption says, mover by mover."""
    said = []
    for movement in sorted(scene.movements, key=lambda one: one.mover):
        subject = _words(scene, movement.mover, mode, rng)
        contained = () if movement.contained is None else _words(scene, movement.contained, mode, rng)
        place = None
        if movement.action in ("slide", "pick-place"):
            place = cell_of(*movement.target) if mode == "explicit" else quadrant_of(*movement.target)
        said.append(Statement(subject, movement.action, place, contained))
    return said


def _words(scene: Scene, number: int, mode: Mode, rng: np.random.Generator) -> tuple[str, ...]:
    block = scene.blocks[number]
    if scene.facts.get("variant") == "v1":
        return (block.shape,)
    return describe_subject(block.size, block.colour, block.material, block.shape, mode, rng)


# The scene file


def describe_scene(scene: Scene, frames: int, size_px: int) -> dict[str, Any]:
    """A scene as CATER writes it ("objects", "movements"), and exactly, under "scene"."""
    ticks, camera = scene.ticks(frames), Camera.of(scene)
    names = [f"{_official_shape(block.shape).capitalize()}_{n}" for n, block in enumerate(scene.blocks)]
    objects = []
    for number, block in enumerate(scene.blocks):
        solids = [Solid.of(block, scene.pose(number, float(tick))) for tick in ticks]
        places = np.array([solid.middle for solid in solids], np.float64)
        pixels = camera.project(places, size_px)
        objects.append(
            {
                "instance": names[number],
                "shape": _official_shape(block.shape),
                "size": block.size,
                "color": block.colour,
                "material": block.material,
                "rotation": math.degrees(block.yaw_rad),
                "3d_coords": _rounded(places[0]),
                "pixel_coords": _rounded(pixels[0]),
                "locations": {str(k): _rounded(place) for k, place in enumerate(places)},
                "pixels": {str(k): _rounded(place) for k, place in enumerate(pixels)},
            }
        )
    last = frames - 1
    movements: dict[str, Any] = {name: [] for name in names}
    for one in scene.movements:
        start, end = (round(tick / ticks[-1] * last) for tick in (one.start_tick, one.end_tick))
        other = None if one.contained is None else names[one.contained]
        movements[names[one.mover]].append([_OFFICIAL_ACTIONS[one.action], other, start, end])
    exact = {**asdict(scene), "blocks": [asdict(block) for block in scene.blocks]}
    return {"objects": objects, "movements": movements, "scene": exact}


def read_scene(path: str | Path) -> Scene:
    """The scene of a file written here. Raises InputError when it is not one."""
    facts = _read_json(Path(path))
    try:
        exact = facts["scene"]
        return Scene(
            tuple(Block(**{**block, "position": tuple(block["position"])}) for block in exact["blocks"]),
            tuple(Movement(**{**one, "target": tuple(one["target"])}) for one in exact["movements"]),
            tuple(exact["camera_offset"]),
            tuple(exact["lamp_offset"]),
            dict(exact["facts"]),
        )
    except (KeyError, TypeError) as problem:
        raise InputError(
            f'"{path}" holds no scene of the world blocks ({problem})', fix="give scenes/*.json of that world"
        ) from None


def _official_shape(shape: str) -> str:
    return "spl" if shape == "snitch" else shape


def _rounded(values: npt.NDArray[np.float64]) -> list[float]:
    return [round(float(value), 4) for value in values]


def _save_masks(masks: npt.NDArray[np.uint8], path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, masks=masks)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise InputError(f'cannot read "{path}": {problem}', fix="delete it and run again") from None
    if not isinstance(facts, dict):
        raise InputError(f'"{path}" holds no scene', fix="delete it and run again")
    return facts

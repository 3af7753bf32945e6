"""One number of a recipe tried at several values, and what each does to the motion, measured on photos.

Whether a task vector raises or lowers motion depends on the pair of models and on the metric: here the sign is measured,
never assumed. The rule that picks a value: among those that keep at least a share (`fidelity`) of the base's smoothness,
consistency and first-frame similarity, the one that moves most.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from motionloom.denoisers.base import Base
from motionloom.denoisers.catalog import BASES, load_base
from motionloom.durable import write_folder_durably, write_json
from motionloom.errors import ConfigError, InputError
from motionloom.generate import generate
from motionloom.merge import merge
from motionloom.merging.dial import DialledBase
from motionloom.merging.methods import EXPERTS
from motionloom.merging.recipe import MergeRecipe, load_merge_recipe, varied
from motionloom.metrics.base import Item
from motionloom.metrics.first_frame import FirstFrame
from motionloom.metrics.flow_motion import MotionByLucasKanade
from motionloom.video.clip import Clip
from motionloom.video.picture import read_picture
from motionloom.video.resize import resize
from motionloom.weights import load_strictly, load_weights, save_weights

Picture = npt.NDArray[np.uint8]
Progress = Callable[[str, int, int], None]

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
PROBE_SIDE_PX = 256  # shorter side of a probe where the base takes any size
MOST_VALUES, MOST_PHOTOS = 32, 16
CLEAR_CORRELATION = 0.5  # of value and motion degree: below it, the direction is called unclear
SHEET_CELL_PX = 128


@dataclass(frozen=True)
class Measurement:
    """Means over the probes at one value; `value` None is the base."""

    value: float | None
    motion_degree: float  # mean optical flow, px a second at a short side of 256 px
    first_frame: float  # SSIM of frame 0 and the photo
    consistency: float  # 1 - mean |frame - next frame warped back| / 255
    smoothness: float  # 1 - error of odd frames made from their neighbours / 255
    note: str = ""

    def keeps(self, base: Measurement, share: float) -> bool:
        """Whether each quality is at least this share of the base's."""
        pairs = (
            (self.first_frame, base.first_frame),
            (self.consistency, base.consistency),
            (self.smoothness, base.smoothness),
        )
        return all(math.isfinite(mine) and mine >= share * theirs for mine, theirs in pairs)


@dataclass(frozen=True)
class SweepResult:
    """What a sweep measured and picked."""

    out: Path
    name: str
    fidelity: float
    base: Measurement
    measured: list[Measurement]

    @property
    def picked(self) -> Measurement | None:
        """By the rule at the top of the file; None when no value keeps the qualities."""
        fit = [
            one
            for one in self.measured
            if one.keeps(self.base, self.fidelity) and math.isfinite(one.motion_degree)
        ]
        return max(fit, key=lambda one: one.motion_degree, default=None)

    @property
    def direction(self) -> str:
        """What a larger value does to the motion degree: "raises", "lowers" or "unclear" (by rank correlation)."""
        known = [(one.value, one.motion_degree) for one in self.measured if math.isfinite(one.motion_degree)]
        if len(known) < 3:
            return "unclear"
        values, degrees = (np.argsort(np.argsort(column)) for column in zip(*known, strict=True))
        correlation = float(np.corrcoef(values, degrees).flatten()[1])
        if abs(correlation) < CLEAR_CORRELATION:
            return "unclear"
        return "raises" if correlation > 0 else "lowers"

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN is null."""
        rows = [_plain(one) for one in self.measured]
        return {
            "out": str(self.out),
            "number": self.name,
            "rule": f"largest motion_degree that keeps {self.fidelity:g} of the base's first_frame, consistency, smoothness",
            "direction": self.direction,
            "picked": None if self.picked is None else self.picked.value,
            "base": _plain(self.base),
            "measured": rows,
        }

    def table(self) -> str:
        """For people."""
        lines = [f"{self.name:>10}  motion  first frame  consistency  smoothness"]
        for one in (self.base, *self.measured):
            value = "base" if one.value is None else f"{one.value:g}"
            mark = " <" if one is self.picked else ""
            lines.append(
                f"{value:>10}  {one.motion_degree:6.2f}  {one.first_frame:11.4f}  {one.consistency:11.4f}  "
                f"{one.smoothness:10.4f}{mark} {one.note}".rstrip()
            )
        followed = math.isfinite(self.base.motion_degree)
        none = "none keeps the base's qualities" if followed else "none, the base's motion cannot be followed"
        picked = none if self.picked is None else f"{self.picked.value:g}"
        lines.append(
            f"picked: {picked}; a larger {self.name}: {self.direction} motion; pictures in {self.out}"
        )
        return "\n".join(lines)


def parse_sweep(text: str) -> tuple[str, list[float]]:
    """`alpha=0,0.25,0.5` as (name, values). Raises ConfigError when it is neither."""
    name, equals, listed = text.partition("=")
    try:
        values = [float(value) for value in listed.split(",")] if equals else []
    except ValueError:
        values = []
    if not name.strip() or not 0 < len(values) <= MOST_VALUES or not all(map(math.isfinite, values)):
        raise ConfigError(
            f"got --sweep {text!r}, expected NUMBER=VALUE,VALUE,... with at most {MOST_VALUES} values",
            fix="for example --sweep alpha=-0.5,-0.25,0,0.25,0.5",
        )
    return name.strip().removeprefix("method."), values


def run_sweep(
    recipe: str | Path | Mapping[str, Any] | MergeRecipe,
    name: str,
    values: Iterable[float],
    probe: Path,
    out: Path | None = None,
    overrides: Iterable[str] = (),
    fidelity: float = 0.9,
    progress: Progress | None = None,
    **animating: Any,
) -> SweepResult:
    """Merge at each value, animate the probes, measure; write `sweep.json` and `sheet.png`.

    Args:
        recipe: its base must be one that animates: a name `motionloom bases` lists, or a folder that `load_base` reads.
        name: a number of its method.
        values: to try; the base itself is always measured beside them.
        probe: a photo, or a folder of them.
        out: the folder to write; `merged/sweep-NAME` when None.
        overrides: "key.path=value", applied to the recipe.
        fidelity: share of the base's qualities that a picked value keeps.
        progress: called with (stage, done, in all).
        animating: arguments of `generate`, such as frames and steps.

    Raises:
        ConfigError, InputError, WeightsError: as `merge` and `generate`.
    """
    settled = load_merge_recipe(recipe, overrides)
    recipes = [varied(settled, name, value) for value in values]
    photos = _photos(Path(probe))
    folder = Path(out) if out is not None else Path("merged") / f"sweep-{name}"
    tell = progress or (lambda stage, done, total: None)

    base = load_base(settled.base)
    stills = [_fitted(photo, base) for photo in photos]
    clips = [_animated(base, stills, animating)]
    measured = [_measured(None, clips[0], stills)]
    for index, one in enumerate(recipes):
        value = float(getattr(one.method, name))
        try:
            clips.append(_animated(_merged_base(one), stills, animating))
            measured.append(_measured(value, clips[-1], stills))
        except ConfigError as problem:
            if "changes none" not in problem.message:
                raise
            clips.append(clips[0])  # the value that is the base, such as alpha 0
            measured.append(Measurement(**{**asdict(measured[0]), "value": value, "note": "the base"}))
        tell("sweep", index + 1, len(recipes))

    result = SweepResult(folder, name, fidelity, measured[0], measured[1:])

    def build(part: Path) -> None:
        write_json(part / "sweep.json", result.to_json())
        _sheet(clips, ["base", *[f"{name} {one.value:g}" for one in measured[1:]]]).save(part / "sheet.png")

    write_folder_durably(folder, build, lambda there: (there / "sweep.json").is_file())
    return result


def _photos(probe: Path) -> list[Picture]:
    paths = (
        [probe]
        if probe.is_file()
        else sorted(p for p in probe.glob("*") if p.suffix.lower() in PHOTO_SUFFIXES)
    )
    if not paths:
        raise InputError(f'there is no photo at "{probe}"', fix="give a photo or a folder of photos")
    return [read_picture(path) for path in paths[:MOST_PHOTOS]]


def _fitted(photo: Picture, base: Base) -> Picture:
    """At the base's own size, or at a short side that measures quickly."""
    height, width = photo.shape[:2]
    if base.native_size_px is not None:
        height, width = base.native_size_px
    else:
        scale = min(1.0, PROBE_SIDE_PX / min(height, width))
        height, width = round(height * scale), round(width * scale)
    fitted: Picture = resize(photo[None], width, height, "crop")[0]
    return fitted


def _merged_base(recipe: MergeRecipe) -> Base:
    """The base a recipe makes, through a folder that is gone once it is loaded."""
    export = "experts" if recipe.method.outputs == EXPERTS else "full"
    values = {**recipe.model_dump(mode="json"), "exports": [export]}
    with tempfile.TemporaryDirectory(prefix="motionloom-sweep-") as folder:
        merged, named = Path(folder, "merged"), Path(folder, "network.safetensors")
        if recipe.base == "mini" or recipe.base not in BASES:
            merge(values, merged)
            return load_base(merged)
        base = load_base(
            recipe.base
        )  # has no file of its own, or one in another form: its network becomes one
        network = base.denoiser.network
        save_weights(named, network.state_dict())
        merge({**values, "base": str(named)}, merged)
        if export == "experts":
            return DialledBase(base, merged)
        load_strictly(network, load_weights(merged / named.name)[0], merged / named.name)
        return base


def _animated(base: Base, stills: list[Picture], animating: Mapping[str, Any]) -> list[Clip]:
    arguments = {"seed": 0, **animating}
    if base.native_size_px is None:
        arguments = {"overscan": False, **arguments}
    return [generate(base, still, **arguments) for still in stills]


def _measured(value: float | None, clips: list[Clip], stills: list[Picture]) -> Measurement:
    items = [Item(clip, picture=still) for clip, still in zip(clips, stills, strict=True)]
    flow, first = MotionByLucasKanade(), FirstFrame()
    rows = [{**flow.checked(item).values, **first.checked(item).values} for item in items]
    mean = {key: float(np.mean([row.get(key, math.nan) for row in rows])) for key in rows[0]}
    return Measurement(
        value,
        motion_degree=mean["motion_lk/px_per_second_at_256"],
        first_frame=mean.get("first_frame/ssim", math.nan),
        consistency=1 - mean["motion_lk/warp_error"] / 255,
        smoothness=mean["motion_lk/smoothness"],
    )


def _plain(one: Measurement) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in asdict(one).items()
    }


def _sheet(clips: list[list[Clip]], labels: list[str]) -> Image.Image:
    """A row a value; of each probe the first, the middle and the last frame."""
    columns = 3 * len(clips[0])
    sheet = Image.new("RGB", (SHEET_CELL_PX * (columns + 1), SHEET_CELL_PX * len(clips)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (of_value, label) in enumerate(zip(clips, labels, strict=True)):
        draw.text((6, SHEET_CELL_PX * row + SHEET_CELL_PX // 2), label, fill="black")
        frames = [clip.frames[at] for clip in of_value for at in (0, clip.num_frames // 2, -1)]
        for column, frame in enumerate(frames, 1):
            cell = Image.fromarray(frame).resize((SHEET_CELL_PX, SHEET_CELL_PX))
            sheet.paste(cell, (SHEET_CELL_PX * column, SHEET_CELL_PX * row))
    return sheet

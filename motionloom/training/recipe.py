"""A recipe is one YAML file that says everything about one training run.

    stage: {kind: lamd-autoencoder, ...}      what is trained; `kind` picks a row of `stages.STAGES`
    data:  {folder: clips, frames: 16, ...}   on what
    steps, batch_size, learning_rate, ...     how

    recipe = load_recipe("recipes/lamd/bair_autoencoder.yaml", ["steps=100", "data.folder=clips"])

Reading is strict. YAML 1.1 traps are closed (`1e-4` is a number, `on` and `no` are words, times are not base
60), a key given twice, an alias or a Python object is an error, and every error names the line. This file
knows no torch, so a wrong recipe is refused at once.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, field_validator, model_validator

from motionloom.errors import ConfigError, InputError
from motionloom.training.stages import STAGES, Section, Stage, stage_class

MAX_RECIPE_BYTES = 1_000_000
MAX_NESTING = 16
_Model = TypeVar("_Model", bound=Section)
_Path = tuple[str | int, ...]
_Lines = dict[_Path, int]  # 1-based line of each value of a recipe; 0 for an override
# Fields that change what is written or shown but not the numbers of a step: a run may change them when it
# resumes. `steps` is here too: a longer run is the usual wish, and it only moves the end of the learning-rate
# schedule.
CHANGEABLE_ON_RESUME = (
    "steps",
    "save_every_steps",
    "save_every_minutes",
    "keep_last",
    "sample_every",
    "log_every",
    "trackers",
    "data.num_workers",
    "data.cache_mb",
)


class ClipData(Section):
    """The clips a stage trains on (`datasets/clips.py` reads them)."""

    folder: str = Field(min_length=1, description="holds clips/*.mp4 (+ .txt), or metadata.jsonl")
    layout: str = Field("clips", description="clips, or a key of datasets.layouts.LAYOUTS: bair, natops, ...")
    split: str = Field("train", description="of a published data set")
    captions: Literal["ambiguous", "explicit"] | None = Field(
        None, description="of CATER-GEN; null: the ambiguous ones, as in the paper"
    )
    view: Literal["image_aux1", "image_main"] | None = Field(
        None, description="of BAIR's two cameras; null: image_aux1, as in the papers"
    )
    sampling: str | None = Field(None, description="key of datasets.protocol.SAMPLINGS; null: the set's own")
    frames: int = Field(ge=1, description="frames per training sample")
    fps: float | None = Field(
        None, gt=0, description="clips are resampled to this; null keeps each clip's own"
    )
    size_px: int | list[int] = Field(description="side of the square, or [width, height]")
    fit: Literal["crop", "pad", "squash"] = Field("crop", description="what happens to another aspect ratio")
    flip: bool = Field(False, description="mirror half of the samples left to right")
    skip_bad: bool = Field(False, description="go on without unusable clips, and report them")
    num_workers: int = Field(0, ge=0, le=64, description="loader processes; 0 loads in the training process")
    cache_mb: int = Field(512, ge=0, description="decoded, resized clips kept in memory, per process")

    @field_validator("layout")
    @classmethod
    def _is_a_layout(cls, value: str) -> str:
        from motionloom.datasets.layouts import LAYOUTS

        if value not in ("clips", *LAYOUTS):
            raise ValueError(f"expected clips or one of {', '.join(LAYOUTS)}")
        return value

    @model_validator(mode="after")
    def _keys_fit_the_layout(self) -> ClipData:
        if self.layout == "clips" and (self.split != "train" or self.sampling is not None):
            raise ValueError("split and sampling belong to published data sets: give their layout too")
        for key, layout in (("captions", "cater"), ("view", "bair")):
            if getattr(self, key) is not None and self.layout != layout:
                raise ValueError(f"{key} belongs to layout: {layout}, got layout: {self.layout}")
        return self

    @field_validator("size_px")
    @classmethod
    def _is_a_size(cls, value: int | list[int]) -> int | list[int]:
        sides = value if isinstance(value, list) else [value, value]
        if len(sides) != 2 or min(sides) < 8 or any(side % 2 for side in sides):
            raise ValueError("expected one even number of pixels, 8 or more, or [width, height]")
        return value

    @property
    def width_px(self) -> int:
        return self.size_px[0] if isinstance(self.size_px, list) else self.size_px

    @property
    def height_px(self) -> int:
        return self.size_px[1] if isinstance(self.size_px, list) else self.size_px


class OptimizerSettings(Section):
    kind: Literal["adam", "adamw", "adamw8bit", "muon"] = Field(
        "adam",
        description="adamw8bit is adamw where bitsandbytes is not installed; muon: adamw for vectors alone",
    )
    betas: list[float] = Field([0.9, 0.999], min_length=2, max_length=2)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0, description="on matrices and kernels, not on biases and norms")

    @field_validator("betas")
    @classmethod
    def _are_decays(cls, value: list[float]) -> list[float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("expected two numbers in [0, 1)")
        return value


class Recipe(Section):
    """Everything about one run. A step is one optimizer update; `batch_size` counts over all processes."""

    stage: SerializeAsAny[Stage]
    data: ClipData | None = None
    steps: int = Field(ge=1)
    batch_size: int = Field(1, ge=1, description="samples per micro-step, over all processes")
    accumulation: int = Field(1, ge=1, description="micro-steps whose gradients are averaged into one step")
    learning_rate: float = Field(gt=0)
    learning_rates: dict[str, float] = Field({}, description="exceptions, by optimizer name")
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["cosine", "constant"] = "constant"
    optimizer: OptimizerSettings = Field(default_factory=lambda: OptimizerSettings.model_validate({}))
    clip_norm: float | None = Field(None, gt=0, description="gradient norm per optimizer; null does not clip")
    ema_decay: float | None = Field(None, gt=0, lt=1, description="null keeps no averaged weights")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="of the forward pass, see precision.py"
    )
    seed: int = Field(0, ge=0, lt=2**31)
    save_every_steps: int | None = Field(1000, ge=1)
    save_every_minutes: float | None = Field(None, gt=0)
    keep_last: int = Field(3, ge=1, description="checkpoints kept")
    sample_every: int | None = Field(None, ge=1, description="steps between previews; null makes none")
    log_every: int = Field(10, ge=1)
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _warmup_ends(self) -> Recipe:
        if self.schedule == "cosine" and self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be smaller than steps ({self.steps})")
        return self

    def clip_data(self) -> ClipData:
        """The `data` section, for stages that cannot do without it. Raises ConfigError when it is missing."""
        if self.data is None:
            raise ConfigError(
                f"the recipe has no `data` section; stage {self.stage.kind!r} needs one",
                fix="add `data: {folder: ..., frames: ..., size_px: ...}`",
            )
        return self.data

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Every value, defaults included; `load_recipe` reads it back to an equal recipe."""
        return to_yaml(self)


def load_recipe(source: str | Path | Mapping[str, Any] | Recipe, overrides: Iterable[str] = ()) -> Recipe:
    """Recipe from a YAML file, a mapping or a recipe, with `key.path=value` overrides applied.

    Raises InputError when the file cannot be read, and ConfigError, naming file, line and key, when it is
    wrong.
    """
    values = source.to_dict() if isinstance(source, Recipe) else source
    return read_sections(Recipe, values, overrides, KindOfSection("stage", Stage, STAGES, stage_class))


@dataclass(frozen=True)
class KindOfSection:
    """A section of a recipe whose `kind` decides which keys are right.

    Attributes:
        key: of the section.
        base: class of every kind.
        kinds: the names that are known.
        class_of: kind -> class.
    """

    key: str
    base: type[Section]
    kinds: Iterable[str]
    class_of: Callable[[str], type[Section]]


def read_sections(
    model: type[_Model],
    source: str | Path | Mapping[str, Any],
    overrides: Iterable[str],
    varying: KindOfSection,
) -> _Model:
    """A validated recipe of any model, from a YAML file or a mapping, with `key.path=value` overrides applied.

    Raises InputError when the file cannot be read, and ConfigError, naming file, line and key, when it is
    wrong.
    """
    lines: _Lines = {}
    if isinstance(source, Mapping):
        name, values = "recipe", _copied(source)
    else:
        name = str(source)
        values = parse_yaml(_read(Path(source)), name, lines)
        if not isinstance(values, dict):
            raise ConfigError(f"{name}: expected a mapping of keys to values, got {_kind_of(values)}")
    for override in overrides:
        _apply_override(values, override, lines)
    told: list[str] = []
    if varying.key in values:  # first, because its kind decides which keys are right
        values[varying.key] = _of_kind(values[varying.key], varying, name, lines, told)
    try:
        recipe = model.model_validate(values)
    except ValidationError as error:
        told += [
            line for loc, line in _explain(error, name, lines, model) if loc != (varying.key,) or not told
        ]
    if told:
        raise ConfigError("; ".join(told), fix="correct the recipe and run again")
    return recipe


def to_yaml(recipe: Section) -> str:
    """Every value of a recipe, defaults included, as YAML that reads back to an equal one."""
    return str(yaml.dump(recipe.model_dump(mode="json"), Dumper=_StrictDumper, sort_keys=False, width=110))


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Lines `key: old -> new` for every field that may not change when a run resumes."""
    before, after = dict(_flattened(old.to_dict())), dict(_flattened(new.to_dict()))
    missing = "(absent)"
    return [
        f"{key}: {before.get(key, missing)} -> {after.get(key, missing)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, missing) != after.get(key, missing)
        and not any(key == name or key.startswith(name + ".") for name in CHANGEABLE_ON_RESUME)
    ]


# --- strict YAML --------------------------------------------------------------------------------------------

_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_A_NUMBER = re.compile(r"[-+]?\.inf|\.nan", re.IGNORECASE)


def parse_yaml(text: str, name: str, lines: _Lines | None = None) -> Any:
    """Plain data from YAML 1.2 text; `lines` collects the 1-based line of every value by its path.

    Raises ConfigError, naming `name` and the line, on bad syntax, duplicate keys, aliases and tags.
    """
    if len(text.encode()) > MAX_RECIPE_BYTES:
        raise ConfigError(f"{name}: larger than {MAX_RECIPE_BYTES} bytes, which no recipe is")
    try:
        node = yaml.compose(text, Loader=_StrictLoader)
        return None if node is None else _plain(node, name, (), {} if lines is None else lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{where}: {error.problem or error}", fix="correct the YAML") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: {error}", fix="correct the YAML") from None


class _StrictLoader(yaml.SafeLoader):
    """Composes nodes only: no aliases, bounded nesting. Values are read by `_plain`."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        start: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed", problem_mark=start)
        if self.depth >= MAX_NESTING:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_NESTING} levels", problem_mark=start)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _plain(node: Any, name: str, path: _Path, lines: _Lines) -> Any:
    line = node.start_mark.line + 1
    lines[path] = line
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.startswith("tag:yaml.org,2002:python"):
        raise ConfigError(
            f"{name}, line {line}: tags are not allowed, got {node.tag!r}", fix="write plain values"
        )
    if isinstance(node, yaml.ScalarNode):
        return (
            node.value
            if node.style in ("'", '"', "|", ">")
            else _plain_scalar(node.value, f"{name}, line {line}")
        )
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, name, (*path, i), lines) for i, item in enumerate(node.value)]
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key, key_line = key_node.value, key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{name}, line {key_line}: a key must be one word")
        if key in values:
            first = lines[(*path, key)]
            raise ConfigError(f"{name}, line {key_line}: key {key!r} given twice, first in line {first}")
        values[key] = _plain(value_node, name, (*path, key), lines)
        lines[(*path, key)] = key_line
    return values


def _plain_scalar(text: str, where: str) -> Any:
    if text.lower() in _WORDS and text in (text.lower(), text.capitalize(), text.upper()):
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text):
        if len(text) > 30:
            raise ConfigError(f"{where}: a whole number of {len(text)} digits is too long")
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_A_NUMBER.fullmatch(text):
        raise ConfigError(f"{where}: {text} is not a usable number", fix="give a finite number")
    return text


class _StrictDumper(yaml.SafeDumper):
    """Quotes every text that `_plain_scalar` would read as something else."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> Any:
    try:
        is_plain = _plain_scalar(text, "") == text
    except ConfigError:
        is_plain = False
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_plain else '"')


_StrictDumper.add_representer(str, _represent_text)


# --- reading, overriding, explaining ------------------------------------------------------------------------


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"no recipe at {path}", fix="check the path; recipes live in recipes/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the recipe {path}: {error}", fix="give a UTF-8 YAML file") from None


def _apply_override(values: dict[str, Any], override: str, lines: _Lines) -> None:
    key, equals, text = override.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise ConfigError(f"got the override {override!r}, expected key=value", fix="for example steps=1000")
    here = values
    for part in path[:-1]:
        if not isinstance(here.get(part), dict):
            here[part] = {}
        here = here[part]
    here[path[-1]] = parse_yaml(text, f"override {override!r}")
    lines[path] = 0  # 0: not from a line of the file


def _of_kind(value: Any, varying: KindOfSection, name: str, lines: _Lines, told: list[str]) -> Any:
    """The section that a mapping with a `kind` describes; what is wrong with it goes to `told`."""
    if isinstance(value, varying.base):
        return value
    key = varying.key
    where = _where((key, "kind"), name, lines)
    if not isinstance(value, Mapping) or "kind" not in value:
        told.append(f"{where}: {key}: expected a mapping with a `kind`, one of {', '.join(varying.kinds)}")
        return None
    kind = str(value["kind"])
    if kind not in varying.kinds:
        told.append(f"{where}: {key}.kind: unknown kind {kind!r}{_did_you_mean(kind, varying.kinds)}")
        return None
    cls = varying.class_of(kind)
    try:
        return cls.model_validate(dict(value))
    except ValidationError as error:
        told += [line for _, line in _explain(error, name, lines, cls, (key,))]
        return None


def _explain(
    error: ValidationError, name: str, lines: _Lines, model: type[Section], prefix: tuple[str, ...] = ()
) -> Iterator[tuple[_Path, str]]:
    """(path, sentence with file, line and key) of every problem pydantic found."""
    for detail in error.errors(include_url=False):
        path = (*prefix, *detail["loc"])
        where = _where(path, name, lines)
        key = ".".join(str(part) for part in path) or "recipe"
        if detail["type"] == "extra_forbidden":
            hint = _did_you_mean(str(path[-1]), _section(model, detail["loc"][:-1]))
            yield path, f"{where}: unknown key {key!r}{hint}"
        elif detail["type"] == "missing":
            yield path, f"{where}: {key!r} is missing"
        else:
            reason = detail["msg"].removeprefix("Value error, ")
            got = "" if detail["loc"] == () else f", got {_short(detail.get('input'))}"
            yield path, f"{where}: {key}: {reason[:1].lower() + reason[1:]}{got}"


def _where(path: _Path, name: str, lines: _Lines) -> str:
    """File and line of the value at `path`, or of the nearest value around it."""
    line = next((lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in lines), None)
    if line == 0:
        return "override"
    return f"{name}, line {line}" if line else name


def _section(model: type[BaseModel], path: _Path) -> Iterable[str]:
    """Keys that are right in the section at `path` below `model`."""
    for part in path:
        field = model.model_fields.get(str(part))
        options = () if field is None else (field.annotation, *get_args(field.annotation))
        inner = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        if not inner:
            return ()
        model = inner[0]
    return model.model_fields


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(sorted(names))}" if names else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _kind_of(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def learning_rate_at(recipe: Recipe, optimizer: str, step: int) -> float:
    """Learning rate of the update that follows `step` finished ones: linear warm-up, then constant or cosine
    to 0.
    """
    peak = recipe.learning_rates.get(optimizer, recipe.learning_rate)
    if step < recipe.warmup_steps:
        return peak * (step + 1) / recipe.warmup_steps
    if recipe.schedule == "constant":
        return peak
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

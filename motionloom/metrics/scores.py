"""scores.json: what `motionloom evaluate` writes and everything that shows results reads.

    Scores
    ├── summary      {value name: Summary}      what the whole set scores, with interval, unit, direction, counts
    ├── clips        [ClipScores]               every clip that was scored: its facts, its values, its curves over frames
    ├── failures     [Failure]                  every clip or metric of a clip that could not be, with the reason
    ├── left_out     [LeftOut]                  every metric asked for that did not run, with what would make it run
    ├── weights      [WeightsUsed]              networks that took part: file, sha256, licence
    ├── protocol     ProtocolCheck | None       the published protocol asked for, and every deviation from it
    └── versions, command, settings             what made it; no dates and no durations: equal work gives equal bytes

Value names: `metric` where a metric gives one value, else `metric/value` (`fvd`, `fvd/kvd`, `dynamic_degree/compat`).
The same names key `summary` and, for values that exist for each clip, `ClipScores.values`; curves (one number a frame
or a pair of frames) have names of their own. Values of a whole set (Fréchet distances) are in `summary` alone.
A number JSON cannot hold is a word: "inf" (equal pictures have infinite PSNR) or "undefined"; it enters no mean, and
`Summary.num_excluded` counts it.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from motionloom.durable import write_text
from motionloom.errors import InputError

SCHEMA_VERSION = 1
Number = float | Literal["inf", "-inf", "undefined"]
Direction = Literal["higher", "lower", "none"]  # what is better; "none" describes and does not judge


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sample(_Model):
    """What a distance between two sets was measured on; Fréchet distances shrink as these grow."""

    num_real: int
    num_generated: int
    num_frames: int = Field(description="frames of each clip the features saw")
    num_features: int = Field(description="dimensions of one feature")


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")


Rounded = Annotated[float, AfterValidator(_rounded)]


class Summary(_Model):
    """What the whole set scores in one value."""

    value: Number
    unit: str = Field(description='such as "dB", "px", "fraction"; "" for a plain score')
    direction: Direction
    definition: str = Field(description='source and variant, such as "VBench temporal_flickering, compat"')
    interval: tuple[Rounded, Rounded] | None = Field(
        default=None, description="95 %, of the mean over prompts"
    )
    interval_method: str = ""
    spread: Rounded | None = Field(
        default=None, description="standard deviation over clips, or over groups (cFVD, sFVD)"
    )
    num_expected: int = Field(description="clips found")
    num_used: int
    num_excluded: int = Field(default=0, description='clips whose number is "inf" or "undefined"')
    num_clusters: int = Field(default=0, description="prompts or pictures: the independent units")
    sample: Sample | None = None
    warnings: tuple[str, ...] = Field(
        default=(), description="what a reader must know before quoting the value"
    )


class ClipScores(_Model):
    """One clip that was scored."""

    id: str = Field(
        description="pairs this clip with those of other runs: the manifest's id, else the file's stem"
    )
    file: str
    sha256: str
    num_frames: int
    fps: float
    width_px: int
    height_px: int
    cluster: str = Field(
        description="prompt or picture it was made from; clips of one cluster are not independent"
    )
    picture: str | None = None
    picture_sha256: str | None = None
    reference: str | None = Field(
        default=None, description="id of the real clip it is compared with frame by frame"
    )
    reference_sha256: str | None = None
    prompt: str | None = None
    seed: int | None = None
    class_name: str | None = None
    subject: str | None = None
    notes: tuple[str, ...] = Field(
        default=(), description="what reading changed (variable frame rate, padding, ...)"
    )
    values: dict[str, Number] = {}
    curves: dict[str, list[Number]] = Field(default={}, description="one number a frame, or a pair of frames")


class Failure(_Model):
    file: str
    reason: str
    metric: str | None = Field(default=None, description="None when the clip itself cannot be used")
    role: Literal["clip", "reference"] = "clip"


class LeftOut(_Model):
    metric: str
    reason: str
    fix: str


class WeightsUsed(_Model):
    name: str
    file: str
    sha256: str
    licence: str


class ProtocolCheck(_Model):
    name: str
    about: str
    source: str
    deviations: tuple[str, ...] = Field(default=(), description="empty: the protocol was followed")


class Scores(_Model):
    """See the top of the file. `partial`: something failed or was left out, and the means do not hold all."""

    schema_version: Literal[1] = 1
    command: str
    versions: dict[str, str]
    settings: dict[str, Any] = Field(description="device, dtype and every option that changes a number")
    clips_from: str
    references_from: str | None = None
    num_references: int = 0
    protocol: ProtocolCheck | None = None
    partial: bool
    summary: dict[str, Summary]
    clips: list[ClipScores]
    failures: list[Failure] = []
    left_out: list[LeftOut] = []
    weights: list[WeightsUsed] = []

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write as JSON, whole or not at all. The same scores are the same bytes."""
        text = json.dumps(self.model_dump(mode="json"), ensure_ascii=False, allow_nan=False, indent=1)
        return write_text(path, text + "\n")


def as_number(value: float) -> Number:
    """A float as scores.json holds it: NaN is "undefined", infinities are words, the rest has 9 digits (the last bits
    of a sum depend on the machine).
    """
    if math.isnan(value):
        return "undefined"
    return float(f"{value:.9g}") if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def as_float(number: Number) -> float:
    """The other way round: "undefined" is NaN."""
    return math.nan if number == "undefined" else float(number)


def load_scores(path: str | os.PathLike[str]) -> Scores:
    """Read scores.json, or the folder that holds it.

    Raises:
        InputError: it is missing, not JSON, not of ours, or of a version this MotionLoom does not know.
    """
    file = Path(path)
    file = file / "scores.json" if file.is_dir() else file
    try:
        content = json.loads(file.read_text("utf-8"))
    except OSError as problem:
        raise InputError(
            f'cannot read scores "{file}": {problem.strerror}',
            fix="give the file `motionloom evaluate` wrote",
        ) from None
    except (ValueError, RecursionError):
        raise InputError(f'cannot read scores "{file}": it is not JSON', fix="evaluate again") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(
            f'cannot read scores "{file}": schema version {version!r}, this MotionLoom reads {SCHEMA_VERSION}',
            fix="evaluate again with this version",
        )
    try:
        return Scores.model_validate(content)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f'cannot read scores "{file}": {where}: {first["msg"]}', fix="evaluate again"
        ) from None

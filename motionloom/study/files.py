"""The files of a study, checked when they are read."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from motionloom.errors import InputError, ResourceError

KEY, VIEWER, ANSWERS, PAGE, CLIPS = "key.json", "viewer", "answers", "index.html", "clips"
NO_DIFFERENCE = "none"
MAX_ANSWER_FILE_BYTES = 4_000_000
PARTICIPANT = re.compile(r"[0-9a-f]{16}")

QUESTIONS = {
    "overall": "Which clip do you prefer?",
    "motion": "In which clip does the motion fit best what was asked?",
    "fidelity": "Which clip is most faithful to the picture?",
    "naturalness": "Which clip moves most naturally?",
}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Screen(_Model):
    """What a viewer is shown at once: clip names from left to right, and what they are for."""

    case: int
    clips: tuple[str, ...]
    kind: Literal["vote", "repeat", "control"]


class ClipKey(_Model):
    case: int
    method: str | None = Field(description="None for the damaged copy in a control")


class Key(_Model):
    """key.json: the whole study with the methods' names."""

    version: Literal[1] = 1
    study: str = Field(description="identifies the study; answers carry it")
    title: str
    mode: Literal["pairs", "best"]
    methods: tuple[str, ...]
    folders: tuple[str, ...]
    questions: tuple[str, ...]
    cases: tuple[str, ...]
    clips: dict[str, ClipKey]
    sheets: tuple[tuple[Screen, ...], ...]
    notes: tuple[str, ...] = ()


class Joined(_Model):
    """First line of a participant's file. No names, no addresses."""

    study: str
    participant: str = Field(pattern=PARTICIPANT.pattern)
    sheet: int = Field(ge=0)
    consent: Literal[True]


class Answer(_Model):
    """Every other line. The last answer to a question of a screen counts."""

    participant: str = Field(pattern=PARTICIPANT.pattern)
    screen: int = Field(ge=0)
    question: str = Field(max_length=40)
    choice: str = Field(max_length=40, description="the name of a clip, or NO_DIFFERENCE")
    seconds: float = Field(ge=0, le=1e6)
    loops: int = Field(ge=1, le=10**6, description="full plays before the answer")


M = TypeVar("M", bound=BaseModel)


def read_key(folder: Path) -> Key:
    """Raises InputError: not a study, or a damaged one."""
    file = folder / KEY
    try:
        return Key.model_validate_json(file.read_bytes())
    except OSError:
        raise InputError(
            f'"{folder}" is not a study: it has no {KEY}', fix="motionloom study build FOLDER... -o STUDY"
        ) from None
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f'"{file}" is damaged: {where}: {first["msg"]}', fix="build the study again"
        ) from None


class Sheet:
    """One participant's answers so far."""

    def __init__(self, joined: Joined, answers: list[Answer], num_damaged: int = 0) -> None:
        self.joined, self.num_damaged = joined, num_damaged
        self.answers: dict[tuple[int, str], Answer] = {}
        self.num_changed = 0
        for answer in answers:
            self.add(answer)

    def add(self, answer: Answer) -> None:
        place = (answer.screen, answer.question)
        self.num_changed += place in self.answers and self.answers[place].choice != answer.choice
        self.answers[place] = answer


def read_sheet(file: Path, key: Key) -> Sheet:
    """A participant's file. Lines that were torn by a crash, or do not belong here, are counted.

    Raises:
        InputError: its first line is not of this study, so nothing in it can be used.
    """
    lines = file.read_bytes().splitlines() if file.stat().st_size <= MAX_ANSWER_FILE_BYTES else []
    joined = _parsed(Joined, lines[0]) if lines else None
    if joined is None or joined.study != key.study or joined.sheet >= len(key.sheets):
        raise InputError(f'"{file}" holds no answers to this study', fix="move it out of the answers folder")
    parsed = [_parsed(Answer, line) for line in lines[1:] if line.strip()]
    good = [one for one in parsed if one is not None and problem_of(one, joined, key) is None]
    return Sheet(joined, good, len(parsed) - len(good))


def _parsed(model: type[M], line: bytes) -> M | None:
    try:
        return model.model_validate_json(line)
    except ValidationError:
        return None


def problem_of(answer: Answer, joined: Joined, key: Key) -> str | None:
    """Why an answer cannot be one to this sheet."""
    screens = key.sheets[joined.sheet]
    if answer.participant != joined.participant:
        return "another participant"
    if answer.screen >= len(screens):
        return f"screen {answer.screen} of {len(screens)}"
    if answer.question not in key.questions:
        return "a question this study does not ask"
    if answer.choice not in (*screens[answer.screen].clips, NO_DIFFERENCE):
        return "a clip that was not on this screen"
    return None


def append_line(file: Path, line: BaseModel) -> None:
    """One line at the end, on the disk before we return. A line torn by a crash is closed first.

    Raises ResourceError when the disk refuses.
    """
    data = json.dumps(line.model_dump(mode="json"), allow_nan=False).encode() + b"\n"
    try:
        with open(file, "ab+") as stream:
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                data = data if stream.read(1) == b"\n" else b"\n" + data
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as problem:
        raise ResourceError(f'cannot write "{file}": {problem.strerror}', fix="free some space") from problem

"""Folders of clips, one a method => a study folder in which nothing tells the methods apart."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from motionloom.durable import write_folder_durably, write_json
from motionloom.errors import ConfigError, InputError
from motionloom.labels import named_paths
from motionloom.metrics.sources import Source, find_sources, listed, with_pictures, with_prompts
from motionloom.study.design import DAMAGED, Mode, Trial, draw_sheets
from motionloom.study.files import ANSWERS, CLIPS, KEY, PAGE, QUESTIONS, VIEWER, ClipKey, Key, Screen
from motionloom.video.clip import Clip
from motionloom.video.picture import read_picture
from motionloom.video.read import read_clip
from motionloom.video.resample import resample_fps
from motionloom.video.resize import fit_within, resize
from motionloom.video.write import write_clip

MAX_SIDE_PX = 768
MAX_METHODS = 8
SHAPE_TOLERANCE = 0.02  # of the aspect ratio
CRF = 14
MIN_BOX_BYTES = 8
DAMAGE = 12  # the damaged copy has this many times fewer pixels a side

Frames = npt.NDArray[np.uint8]
Place = str | os.PathLike[str]


def build_study(
    places: Sequence[Place],
    out: Place,
    *,
    mode: Mode = "pairs",
    questions: Sequence[str] = ("overall",),
    images: Place | None = None,
    prompts: Place | None = None,
    votes_each: int | None = None,
    title: str = "Which clip is better?",
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Make a study folder and return its path.

    Args:
        places: one folder (or manifest) of clips a method, "name=folder" names it; clips of one name are one case.
        out: the study folder; a study that is there already is never replaced.
        mode: "pairs" shows two methods at a time, "best" all.
        questions: keys of `files.QUESTIONS`.
        images: input pictures, named like the clips; clips of ours know theirs.
        prompts: a JSON object, clip name -> prompt, shown with the clips.
        votes_each: screens a viewer sees, before repeats and controls.
        title: what viewers read first.
        seed: of the questionnaires. Clip names come from a secret of their own.
        progress: called with (stage, done, in all).

    Raises:
        InputError: clips are missing, cannot be read, or differ in shape.
        ConfigError: fewer than two methods, an unknown question.
        ResourceError: the disk refuses.
    """
    methods = named_paths(places)
    _check(methods, questions)
    by_method = [_sources(folder, images, prompts) for _, folder in methods]
    cases = _common_cases([name for name, _ in methods], by_method)
    pictures = _pictures(by_method, cases, needed="fidelity" in questions)
    secret = secrets.token_bytes(32)
    sheets = draw_sheets(len(cases), len(methods), mode, votes_each=votes_each, seed=seed)
    report = progress or (lambda stage, done, total: None)

    def name_of(case: int, what: str) -> str:
        return hmac.new(secret, f"{case}\0{what}".encode(), hashlib.sha256).hexdigest()[:24]

    def names(trial: Trial) -> tuple[str, ...]:
        return tuple(
            name_of(trial.case, "damaged" if method == DAMAGED else f"method {method}")
            for method in trial.methods
        )

    controlled = {trial.case: trial for sheet in sheets for trial in sheet if trial.kind == "control"}
    key = Key(
        study=secrets.token_hex(8),
        title=title,
        mode=mode,
        methods=tuple(name for name, _ in methods),
        folders=tuple(str(folder.absolute()) for _, folder in methods),
        questions=tuple(questions),
        cases=tuple(cases),
        clips={
            name_of(case, f"method {number}"): ClipKey(case=case, method=name)
            for case in range(len(cases))
            for number, (name, _) in enumerate(methods)
        }
        | {name_of(case, "damaged"): ClipKey(case=case, method=None) for case in sorted(controlled)},
        sheets=tuple(
            tuple(Screen(case=trial.case, clips=names(trial), kind=trial.kind) for trial in sheet)
            for sheet in sheets
        ),
    )

    def fill(folder: Path) -> None:
        clips = folder / VIEWER / CLIPS
        clips.mkdir(parents=True)
        (folder / ANSWERS).mkdir()
        notes: list[str] = []
        shown: list[dict[str, str | None]] = []
        for number, case in enumerate(cases):
            report("cases", number, len(cases))
            own = [by_id[case] for by_id in by_method]
            alike = _made_alike(case, [read_clip(source.file) for source in own], notes)
            named = {name_of(number, f"method {i}"): clip for i, clip in enumerate(alike)}
            if number in controlled:
                method = max(controlled[number].methods)
                named[name_of(number, "damaged")] = _damaged(alike[method])
            _write_alike(clips, named)
            picture = None
            if pictures[number] is not None:
                picture = f"{name_of(number, 'picture')}.png"
                _write_picture(clips / picture, pictures[number])
            prompt = next((source.prompt for source in own if source.prompt), None)
            shown.append({"picture": picture, "prompt": prompt})
        report("cases", len(cases), len(cases))
        noted = key.model_copy(update={"notes": tuple(notes)})
        (folder / VIEWER / PAGE).write_text(_page(noted, shown), "utf-8")
        write_json(folder / KEY, noted.model_dump(mode="json"))

    return write_folder_durably(out, fill)


# --- which clips


def _check(methods: Sequence[tuple[str, Path]], questions: Sequence[str]) -> None:
    if not 2 <= len(methods) <= MAX_METHODS:
        raise ConfigError(
            f"a study compares 2 to {MAX_METHODS} methods, got {len(methods)}",
            fix="give a folder of clips for each",
        )
    unknown = [question for question in questions if question not in QUESTIONS]
    if unknown or not questions or len(set(questions)) < len(questions):
        raise ConfigError(
            f"the questions are {', '.join(questions) or 'none'}, expected some of {', '.join(QUESTIONS)}, each once",
            fix="--question overall",
        )


def _sources(folder: Path, images: Place | None, prompts: Place | None) -> dict[str, Source]:
    sources, _ = find_sources(folder)
    sources = with_pictures(sources, Path(images)) if images is not None else sources
    sources = with_prompts(sources, Path(prompts)) if prompts is not None else sources
    return {source.id: source for source in sources}


def _common_cases(methods: Sequence[str], by_method: Sequence[dict[str, Source]]) -> list[str]:
    """Clip ids every method has; a method that lacks one is an error that names it."""
    everything = sorted({case for sources in by_method for case in sources})
    for name, sources in zip(methods, by_method, strict=True):
        missing = [case for case in everything if case not in sources]
        if missing:
            raise InputError(
                f'method "{name}" has no clip for {listed(missing)}',
                fix="make these clips, or take them out of the other folders",
            )
    return everything


def _pictures(
    by_method: Sequence[dict[str, Source]], cases: Sequence[str], needed: bool
) -> list[Path | None]:
    found = [next((own[case].picture for own in by_method if own[case].picture), None) for case in cases]
    missing = [case for case, picture in zip(cases, found, strict=True) if picture is None]
    if needed and missing:
        raise InputError(
            f"the question about fidelity needs the picture of {listed(missing)}", fix="--images DIR"
        )
    return found


# --- alike


def _made_alike(case: str, clips: Sequence[Clip], notes: list[str]) -> list[Clip]:
    """Same size, rate and length: the smallest picture, the highest rate, the shortest clip."""
    aspects = [clip.width_px / clip.height_px for clip in clips]
    if max(aspects) / min(aspects) - 1 > SHAPE_TOLERANCE:
        sizes = ", ".join(f"{clip.width_px}x{clip.height_px}" for clip in clips)
        raise InputError(
            f'the clips of "{case}" have different shapes ({sizes} px), which would tell the methods apart',
            fix="crop them to one shape first",
        )
    smallest = min(clips, key=lambda clip: clip.width_px * clip.height_px)
    width, height = fit_within(smallest.width_px, smallest.height_px, MAX_SIDE_PX)
    fps = max(clip.fps for clip in clips)
    timed = [resample_fps(clip, fps) for clip in clips]
    frames = min(clip.num_frames for clip in timed)
    alike = [Clip(resize(clip.frames[:frames], width, height, "squash"), fps) for clip in timed]
    if any(
        (old.width_px, old.height_px, old.fps, old.num_frames) != (width, height, fps, frames)
        for old in clips
    ):
        notes.append(f"{case}: shown at {width}x{height} px, {frames} frames, {fps:g} fps")
    return alike


def _damaged(clip: Clip) -> Clip:
    """An obviously worse copy: coarse blocks."""
    small = resize(clip.frames, max(2, clip.width_px // DAMAGE), max(2, clip.height_px // DAMAGE), "squash")
    rows = np.arange(clip.height_px) * small.shape[1] // clip.height_px
    columns = np.arange(clip.width_px) * small.shape[2] // clip.width_px
    return Clip(np.ascontiguousarray(small[:, rows][:, :, columns]), clip.fps)


def _write_alike(folder: Path, named: dict[str, Clip]) -> None:
    """Equal bytes in length, too: an MP4 may end in an empty `free` box."""
    paths = [write_clip(clip, folder / f"{name}.mp4", crf=CRF) for name, clip in sorted(named.items())]
    size = max(path.stat().st_size for path in paths) + MIN_BOX_BYTES
    for path in paths:
        missing = size - path.stat().st_size
        with open(path, "ab") as stream:
            stream.write(missing.to_bytes(4, "big") + b"free" + bytes(missing - MIN_BOX_BYTES))
        os.utime(path, (0, 0))


def _write_picture(path: Path, source: Path | None) -> None:
    assert source is not None
    pixels = read_picture(source)
    frames = resize(pixels[None], *fit_within(pixels.shape[1], pixels.shape[0], MAX_SIDE_PX), "squash")
    Image.fromarray(frames[0]).save(path, "PNG")
    os.utime(path, (0, 0))


def _page(key: Key, cases: Sequence[dict[str, str | None]]) -> str:
    """The page with the study inside; methods, kinds of screens and case names stay in the key."""
    content = {
        "study": key.study,
        "title": key.title,
        "questions": [{"id": name, "text": QUESTIONS[name]} for name in key.questions],
        "cases": cases,
        "sheets": [[{"case": one.case, "clips": one.clips} for one in sheet] for sheet in key.sheets],
    }
    text = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
    template = files("motionloom.study").joinpath("page.html").read_text("utf-8")
    return template.replace("__STUDY__", text)

"""Which clips are scored, and what belongs to each: a folder, or a manifest.

    clips/a.mp4, clips/walk/b.mp4      a folder: ids "a" and "walk/b"; a subfolder is a class
    manifest.jsonl                     {"video": "a.mp4", "image": "a.png", "prompt": "...", "seed": 0, ...} a line,
                                       paths relative to the manifest

Pictures, references and prompts are matched by id, else by file stem; an ambiguous or missing partner is an error that
lists the names, never a guess. A clip that MotionLoom made names its photo itself.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from motionloom.durable import sha256_of
from motionloom.errors import InputError
from motionloom.video.read import read_settings

CLIP_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".gif", ".webp")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
COMPANIONS = (".txt", ".json", ".jsonl", ".md", ".yaml", ".yml", ".csv", ".tsv", *PICTURE_SUFFIXES)
CLIP_FOLDER_MARK = "clip.json"
LISTED = 10


@dataclass(frozen=True)
class Source:
    """One clip to score, not yet read."""

    id: str
    file: Path
    picture: Path | None = None
    reference: Path | None = None
    reference_id: str | None = None
    prompt: str | None = None
    seed: int | None = None
    fps: float | None = None
    class_name: str | None = None
    subject: str | None = None
    camera: str | None = None
    made_of: str | None = None  # what the clip itself says it was made of

    @property
    def cluster(self) -> str:
        """Clips of one prompt or picture are not independent."""
        return self.prompt or (str(self.picture) if self.picture else None) or self.made_of or self.id


class _Line(BaseModel):
    """A line of a manifest."""

    model_config = ConfigDict(extra="forbid")
    video: str
    id: str | None = None
    image: str | None = None
    reference: str | None = None
    prompt: str | None = None
    seed: int | None = None
    fps: float | None = Field(None, gt=0, le=1000)
    class_name: str | None = Field(None, alias="class")
    subject: str | None = None
    method: str | None = None
    camera: str | None = None


def find_sources(place: str | os.PathLike[str]) -> tuple[list[Source], list[str]]:
    """The clips of a folder or manifest, by id, and the names of files that are no clips.

    Raises:
        InputError: it is missing or holds no clip, two clips have one id, or a line of the manifest is wrong.
    """
    path = Path(place)
    ignored: list[str] = []
    if path.is_dir():
        sources = list(_in_folder(path, ignored))
    elif path.suffix == ".jsonl":
        sources = _in_manifest(path)
    else:
        raise InputError(
            f'cannot read clips from "{path}": expected a folder of clips or a manifest.jsonl',
            fix="check the path" if not path.exists() else "give its folder",
        )
    if not sources:
        raise InputError(
            f'cannot read clips from "{path}": no clip in it',
            fix=f"expected files such as {', '.join(CLIP_SUFFIXES[:4])}",
        )
    _refuse_twins(path, [source.id for source in sources])
    return sorted(sources, key=lambda source: source.id), sorted(ignored)


def _in_folder(folder: Path, ignored: list[str]) -> list[Source]:
    found: list[Source] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") or part.endswith(".cache") for part in name.parts) or any(
            (folder / parent / CLIP_FOLDER_MARK).is_file() for parent in name.parents if parent != Path(".")
        ):
            continue
        if path.is_dir():
            if (path / CLIP_FOLDER_MARK).is_file():
                found.append(_source(path, name))
        elif path.suffix.lower() in CLIP_SUFFIXES:
            found.append(_source(path, name.with_suffix("")))
        elif path.suffix.lower() not in COMPANIONS:
            ignored.append(name.as_posix())
    return found


def _source(path: Path, name: Path) -> Source:
    photo = _photo_inside(path)
    return Source(
        id=name.as_posix(),
        file=path,
        class_name=name.parts[0] if len(name.parts) > 1 else None,
        picture=photo[0] if photo else None,
        made_of=photo[1] if photo else None,
    )


def _photo_inside(clip: Path) -> tuple[Path | None, str] | None:
    """The photo a clip of ours says it was made of, if it lies beside it and is the same file, and its sha256."""
    try:
        settings = read_settings(clip)
    except Exception:  # a clip that cannot be read fails by name later
        return None
    photo, sha256 = settings.get("photo"), settings.get("photo_sha256")
    if not isinstance(photo, str) or not isinstance(sha256, str):
        return None
    beside = (clip.parent / Path(photo).name, Path(photo))
    return next((path for path in beside if path.is_file() and sha256_of(path) == sha256), None), sha256


def _in_manifest(path: Path) -> list[Source]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f'cannot read manifest "{path}": {problem}', fix="give a UTF-8 .jsonl") from None
    sources = []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            line = _Line.model_validate_json(text)
        except ValidationError as problem:
            first = problem.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(
                f'manifest "{path}", line {number}: {where}: {first["msg"]}', fix="correct that line"
            ) from None
        base = path.parent
        video = base / line.video
        sources.append(
            Source(
                id=line.id or Path(line.video).with_suffix("").as_posix(),
                file=video,
                picture=base / line.image if line.image else None,
                reference=base / line.reference if line.reference else None,
                reference_id=line.reference,
                prompt=line.prompt,
                seed=line.seed,
                fps=line.fps,
                class_name=line.class_name,
                subject=line.subject,
                camera=line.camera,
            )
        )
    return sources


def _refuse_twins(place: Path, ids: Sequence[str]) -> None:
    twins = sorted({name for name in ids if ids.count(name) > 1}) if len(set(ids)) < len(ids) else []
    if twins:
        raise InputError(
            f'"{place}" has several clips called {listed(twins)}',
            fix="rename them, or give ids in a manifest",
        )


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


# --- partners


def with_pictures(sources: Sequence[Source], folder: Path) -> list[Source]:
    """Each clip with the picture of its name. Raises InputError listing the clips without exactly one."""
    if not folder.is_dir():
        raise InputError(f'there is no folder of pictures "{folder}"', fix="check --images")
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in PICTURE_SUFFIXES]
    partners = _partners(
        sources, {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}, files
    )
    missing = [source.id for source in sources if source.id not in partners and source.picture is None]
    if missing:
        raise InputError(
            f'"{folder}" has no picture, or several, for {listed(missing)}',
            fix="name pictures like their clips",
        )
    return [replace(source, picture=partners.get(source.id, source.picture)) for source in sources]


def with_references(sources: Sequence[Source], references: Sequence[Source]) -> list[Source]:
    """Each clip with the real clip of its name, where there is exactly one."""
    by_id = {reference.id: reference for reference in references}
    by_stem: dict[str, list[Source]] = defaultdict(list)
    for reference in references:
        by_stem[Path(reference.id).name].append(reference)
    out = []
    for source in sources:
        same = by_stem[Path(source.id).name]
        partner = by_id.get(source.id) or (same[0] if len(same) == 1 else None)
        if source.reference is None and partner is not None:
            source = replace(source, reference=partner.file, reference_id=partner.id)
        out.append(source)
    return out


def with_prompts(sources: Sequence[Source], file: Path) -> list[Source]:
    """Each clip with its prompt, of a JSON object {id or stem: prompt}. Raises InputError listing those without."""
    try:
        prompts = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as problem:
        raise InputError(
            f'cannot read prompts "{file}": {problem}', fix='give {"clip name": "prompt"} as JSON'
        ) from None
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise InputError(f'"{file}" is not an object of texts', fix='give {"clip name": "prompt"} as JSON')
    out = [
        replace(source, prompt=prompts.get(source.id, prompts.get(Path(source.id).name, source.prompt)))
        for source in sources
    ]
    missing = [source.id for source in out if source.prompt is None]
    if missing:
        raise InputError(f'"{file}" has no prompt for {listed(missing)}', fix="add them")
    return out


def _partners(sources: Sequence[Source], by_id: Mapping[str, Path], files: Sequence[Path]) -> dict[str, Path]:
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        by_stem[path.stem].append(path)
    found = {}
    for source in sources:
        same = by_stem[Path(source.id).name]
        if source.id in by_id and len([path for path in same if path.stem == Path(source.id).name]) == 1:
            found[source.id] = by_id[source.id]
        elif len(same) == 1:
            found[source.id] = same[0]
    return found

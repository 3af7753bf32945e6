"""What a file is, from its header alone: no model is loaded, no frame decoded, no pickle opened.

    describe(path)            any of our files, or a folder => nested facts, to print or to write as JSON
    describe_clips(folder)    a folder of training clips => each clip's facts, or why it cannot be read

A file is known by its first bytes, not by its name, so a renamed file is told for what it is.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from motionloom.errors import InputError, MotionLoomError
from motionloom.filetypes import describe_content, open_head

Facts = dict[str, Any]

CLIP_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".gif", ".webp")
TEXT_SUFFIXES = (".yaml", ".yml", ".json", ".jsonl")
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"GIF8")
DEMUXERS = {"Matroska": "matroska", "AVI": "avi"}  # word of describe_content -> FFmpeg's name
MAX_TEXT_BYTES = 16_000_000


def describe(path: Path | str) -> Facts:
    """What a file or folder is: `path`, `kind`, `size_bytes`, and what its kind has to say.

    Raises:
        InputError: it is not there, damaged, or nothing we know.
        WeightsError: a weights file with a damaged header; the message says what is wrong with it.
    """
    path = Path(path)
    return _describe_folder(path) if path.is_dir() else _describe_file(path)


def _describe_file(path: Path) -> Facts:
    head = open_head(path, "cannot inspect", InputError)
    kind, facts = _by_first_bytes(path, head)
    return {"path": str(path), "kind": kind, "size_bytes": path.stat().st_size, **facts}


def _by_first_bytes(path: Path, head: bytes) -> tuple[str, Facts]:
    content = describe_content(head)
    if path.suffix == ".safetensors" or head[8:10] == b'{"':
        return _weights_facts(path)
    if "video" in content:
        demuxer = next((one for word, one in DEMUXERS.items() if word in content), "mov")
        return "clip", _video_facts(path, demuxer)
    if head.startswith(PICTURES) or head[8:12] == b"WEBP":
        facts = _picture_facts(path)
        return ("clip" if "settings" in facts else "picture"), facts
    if "pickle" in content or "zip archive" in content:
        return "checkpoint or archive", {
            "note": f"not opened: {content}; weights are read from safetensors only"
        }
    if path.suffix.lower() in TEXT_SUFFIXES and path.stat().st_size <= MAX_TEXT_BYTES:
        return _text_facts(path)
    raise InputError(
        f'"{path}" is {content or "nothing MotionLoom knows"}, which is not one of our files',
        fix="give weights (.safetensors), a clip, a picture, a recipe (.yaml), a .json, a .jsonl or a folder",
    )


# Weights


def _weights_facts(path: Path) -> tuple[str, Facts]:
    from motionloom.weights import read_metadata, read_tensor_layout

    tensors, metadata = read_tensor_layout(path), read_metadata(path)
    by_dtype: Counter[str] = Counter()
    for layout in tensors.values():
        by_dtype[_name(layout.dtype)] += math.prod(layout.shape)
    first = {
        name: f"{_name(tensors[name].dtype)} {list(tensors[name].shape)}" for name in sorted(tensors)[:8]
    }
    facts = {
        "tensors": len(tensors),
        "parameters": sum(by_dtype.values()),
        "parameters_by_dtype": dict(by_dtype),
        "first_tensors": first,
        "metadata": {key: _parsed(value) for key, value in sorted(metadata.items())},
    }
    kind = metadata.get("motionloom.kind")
    if kind == "motion_adapter":
        from motionloom.adapters.adapter_file import describe_adapter

        del facts["metadata"]  # the same, less readable
        facts = {**describe_adapter(metadata), **facts}
    return (f"weights: {kind}" if kind else "weights"), facts


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _parsed(value: str) -> Any:
    """Metadata values are text; ours may be JSON."""
    try:
        return json.loads(value) if value[:1] in ("{", "[", '"') else value
    except ValueError:
        return value


# Clips and pictures


def _video_facts(path: Path, container_format: str) -> Facts:
    """Size, rate and length as the container says. The demuxer is forced, so that no other file is opened."""
    import av

    try:
        with av.open(str(path), format=container_format, metadata_errors="replace") as container:
            if not container.streams.video:
                raise InputError(f'"{path}" holds no video', fix="give a clip")
            stream = container.streams.video[0]
            duration = container.duration / av.time_base if container.duration else None
            facts: Facts = {
                "codec": stream.codec_context.name if stream.codec_context else "unknown",
                "width_px": stream.width,
                "height_px": stream.height,
                "fps": float(stream.average_rate) if stream.average_rate else None,
                "frames": stream.frames or None,
                "duration_seconds": duration,
            }
    except (av.FFmpegError, ValueError) as problem:
        raise InputError(
            f'cannot read clip "{path}": {problem}', fix="re-encode it as H.264 MP4"
        ) from problem
    return {**facts, **_settings_facts(path)}


def _settings_facts(path: Path) -> Facts:
    return {"settings": _settings(path) or "none: not written by MotionLoom"}


def _settings(path: Path) -> Facts:
    from motionloom.video.read import read_settings

    try:
        return read_settings(path)
    except MotionLoomError:  # it carries none
        return {}


def _picture_facts(path: Path) -> Facts:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")) as picture:
            frames = int(getattr(picture, "n_frames", 1))
            facts: Facts = {
                "format": picture.format,
                "width_px": picture.width,
                "height_px": picture.height,
                "frames": frames,
                "colour": picture.mode,
            }
            milliseconds = picture.info.get("duration")
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as problem:
        raise InputError(f'cannot read picture "{path}": {problem}', fix="save it again as PNG") from problem
    # GIF and WebP merge equal frames: a clip of ours may hold one
    if frames > 1 or (facts["format"] in ("GIF", "WEBP") and _settings(path)):
        facts["fps"] = round(1000 / milliseconds, 3) if milliseconds else None
        facts.update(_settings_facts(path))
    return facts


# Text: recipes, logs, scores


def _text_facts(path: Path) -> tuple[str, Facts]:
    suffix = path.suffix.lower()
    try:
        text = path.read_text(encoding="utf-8")
        if suffix == ".jsonl":
            return "log", _log_facts(text)
        if suffix == ".json":
            return "JSON", {"content": _outermost(json.loads(text))}
    except (ValueError, RecursionError) as problem:
        raise InputError(f'"{path}" is damaged: {problem}', fix="write it again") from problem
    from motionloom.training.recipe import parse_yaml

    return "recipe", {"content": parse_yaml(text, str(path))}


def _log_facts(text: str) -> Facts:
    lines = [line for line in text.splitlines() if line.strip()]
    return {"entries": len(lines), "last": json.loads(lines[-1]) if lines else None}


def _outermost(value: Any) -> Any:
    """Long lists and deep objects cut short."""
    if isinstance(value, dict):
        return {
            key: f"{len(item)} entries" if isinstance(item, dict | list) and len(item) > 12 else item
            for key, item in value.items()
        }
    return f"{len(value)} entries" if isinstance(value, list) else value


# Folders


def _model_facts(folder: Path) -> Facts:
    """What a model in parts is: its class, and the parameters of each part from the headers of its files."""
    from motionloom.weights import read_tensor_layout

    parts: dict[str, int] = {}
    for file in sorted(folder.glob("*/*.safetensors")):
        count = sum(math.prod(layout.shape) for layout in read_tensor_layout(file).values())
        parts[file.parent.name] = parts.get(file.parent.name, 0) + count
    try:
        kind = json.loads((folder / "model_index.json").read_bytes())["_class_name"]
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f'"{folder / "model_index.json"}" is damaged', fix="convert or download it again"
        ) from None
    return {"model": kind, "parameters": parts}


def _describe_folder(folder: Path) -> Facts:
    facts: Facts = {"path": str(folder)}
    if (folder / "recipe.yaml").is_file():
        return {**facts, "kind": "run folder", **_run_facts(folder)}
    if (folder / "model_index.json").is_file():
        return {**facts, "kind": "model folder", **_model_facts(folder)}
    if (folder / "MANIFEST.json").is_file():
        return {**facts, "kind": "weights folder", **_manifest_facts(folder)}
    if (folder / "clip.json").is_file():
        frames = len(list(folder.glob("*.png")))
        return {
            **facts,
            "kind": "clip",
            "format": "folder of PNGs",
            "frames": frames,
            **_settings_facts(folder),
        }
    if clips := find_clips(folder):
        return {**facts, "kind": "clip folder", "clips": len(clips)}
    raise InputError(
        f'"{folder}" is no folder of ours: no recipe.yaml, no MANIFEST.json, no clips',
        fix="give a run, weights or clips",
    )


def _run_facts(folder: Path) -> Facts:
    log = folder / "log.jsonl"
    checkpoints = folder / "checkpoints"
    return {
        "recipe": _describe_file(folder / "recipe.yaml")["content"],
        "checkpoints": sorted(entry.name for entry in checkpoints.iterdir() if not entry.name.startswith("."))
        if checkpoints.is_dir()
        else [],
        "last_log_entry": _last_complete_line(log) if log.is_file() else None,
    }


def _last_complete_line(log: Path) -> Any:
    """The last JSON line; a line cut short by a crash is passed over."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65536))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            return json.loads(line)
        except ValueError:
            continue
    return None


def _manifest_facts(folder: Path) -> Facts:
    from motionloom.durable import verify_manifest

    problems = verify_manifest(folder)
    return {
        "files": sorted(entry.name for entry in folder.iterdir()),
        "problems": problems or "none: every checksum matches",
    }


def find_clips(folder: Path) -> list[Path]:
    """The clips `metadata.jsonl` lists, else those below `clips/`, else those below the folder.

    Raises:
        InputError: a line of `metadata.jsonl` names no file below the folder.
    """
    listing = folder / "metadata.jsonl"
    if listing.is_file():
        lines = listing.read_text(encoding="utf-8", errors="replace").splitlines()
        return [_listed_clip(folder, line) for line in lines if line.strip()]
    place = folder / "clips" if (folder / "clips").is_dir() else folder
    return sorted(
        path for path in place.rglob("*") if path.suffix.lower() in CLIP_SUFFIXES and path.is_file()
    )


def _listed_clip(folder: Path, line: str) -> Path:
    try:
        path = folder / str(json.loads(line)["file_name"])
    except (ValueError, KeyError, TypeError):
        path = None
    if path is None or not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f'"{folder / "metadata.jsonl"}" has the line {line[:80]!r}, expected a file_name in the folder',
            fix='write lines such as {"file_name": "a.mp4", "text": "..."}',
        )
    return path


def describe_clips(folder: Path | str) -> Facts:
    """Each clip of a folder with its size, rate and length, and each that cannot be read with the reason.

    Raises:
        InputError: the folder is not there, or holds no clip.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f'there is no folder "{folder}"', fix="check the path")
    clips = find_clips(folder)
    if not clips:
        raise InputError(
            f'no clips in "{folder}"',
            fix=f"put {', '.join(CLIP_SUFFIXES)} there, or into {folder / 'clips'}",
        )
    used: list[Facts] = []
    refused: list[Facts] = []
    for clip in clips:
        name = clip.relative_to(folder).as_posix()
        try:
            facts = describe(clip)
        except MotionLoomError as problem:
            refused.append({"clip": name, "reason": problem.message})
            continue
        kept: Facts = {
            key: facts[key]
            for key in ("width_px", "height_px", "fps", "frames", "duration_seconds")
            if key in facts
        }
        used.append({"clip": name, **kept, "caption": _caption(clip)})
    return {"folder": str(folder), "used": used, "refused": refused}


def _caption(clip: Path) -> str | None:
    text = clip.with_suffix(".txt")
    return text.read_text(encoding="utf-8", errors="replace").strip()[:200] if text.is_file() else None

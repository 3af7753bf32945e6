"""Files that are either complete or absent: every output of MotionLoom is written through this module.

A file is first written under `.{name}.{pid}.{rand}.part` in its own folder, flushed to the disk, checked, and
only then renamed over the old one; so a crash, a full disk or a second writer leaves the previous file, never
half of a new one. Folders get the same treatment, and a manifest of sha256 sums (written last) tells whether
a folder is complete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from motionloom.errors import InputError, MotionLoomError, ResourceError

MANIFEST_NAME = "MANIFEST.json"
MANIFEST_VERSION = 2  # written only where files are listed in sections; 1 is a sum a file
MAX_NAME_BYTES = 200  # leaves room for the temporary name within the 255 bytes of common file systems
HASHED_BYTES = 1 << 18  # read and hashed at once: a size that stays in the cache
FOREIGN_PART_SECONDS = 24 * 3600.0  # the pid of a part made on another machine says nothing: wait a day

_PART = re.compile(r"^\.(?P<name>.+)\.(?P<pid>\d+)\.(?P<rand>[0-9A-Za-z]+)(?P<old>\.old)?\.part$", re.DOTALL)
_HOST_MARK = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES})


def write_durably(
    path: str | os.PathLike[str],
    write: Callable[[Path], None],
    verify: Callable[[Path], None] | None = None,
    *,
    bytes_needed: int | None = None,
) -> Path:
    """Write one file completely or not at all; return its path.

    `write(temporary)` fills the temporary file, whose name ends in `.part` (so pass the format explicitly to
    writers that guess it from the suffix). `verify(temporary)` may raise to reject what was written. Missing
    parent folders are created. `bytes_needed`, when known, is compared with the free space (times 1.1) before
    anything is written. A symbolic link is followed: the file it points to is replaced, the link stays.

    Raises InputError when `path` cannot name a file, ResourceError when the disk or the permissions refuse.
    Whatever is raised, the temporary file is gone and the previous file is untouched.
    """
    target = _resolve_target(Path(path))
    mode = _mode_of(target)
    if mode is not None and stat.S_ISDIR(mode):
        raise InputError(
            f'cannot write "{target}": it is a folder, expected a file name', fix="give a file name"
        )
    if mode is not None and not stat.S_ISREG(mode):
        raise InputError(f'cannot write "{target}": it is not a regular file', fix="choose another file name")
    _prepare_parent(target, bytes_needed)
    temporary = _part_name(target)
    with _cleaning_up(target, temporary, bytes_needed):
        os.close(os.open(str(temporary), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        write(temporary)
        _sync(temporary)
        if verify is not None:
            verify(temporary)
        os.replace(temporary, target)
        _sync_folder(target.parent)
    return target


def write_folder_durably(
    path: str | os.PathLike[str],
    build: Callable[[Path], None],
    replaceable: Callable[[Path], bool] | None = None,
) -> Path:
    """Build a folder under a `.part` name and rename it into place; return its path.

    `build(temporary)` fills an empty folder. An existing non-empty folder at `path` is replaced only when
    `replaceable(path)` says so, and otherwise raises InputError before anything is built.
    Raises InputError and ResourceError as `write_durably` does; the previous folder stays on every failure.
    """
    target = _resolve_target(Path(path))
    _refuse_foreign_folder(target, replaceable)
    _prepare_parent(target, None)
    temporary = _part_name(target)
    with _cleaning_up(target, temporary, None):
        temporary.mkdir()
        build(temporary)
        for folder, _, names in os.walk(temporary):
            for name in names:
                _sync(Path(folder, name))
            _sync_folder(Path(folder))
        _refuse_foreign_folder(target, replaceable)  # it may have changed while we were building
        _swap_folder(temporary, target)
        _sync_folder(target.parent)
    return target


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write `value` as indented UTF-8 JSON, durably. NaN and Inf are refused (ValueError): JSON has no word
    for them.
    """
    return write_text(path, json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write `text` as UTF-8, durably."""
    data = text.encode("utf-8")
    return write_durably(path, lambda temporary: _write_bytes(temporary, data), bytes_needed=len(data))


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file's bytes, in hexadecimal. Raises OSError when the file cannot be read."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- manifest: the completion mark of a folder --------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """A run of bytes of a file: its length, and their sha256 in hexadecimal."""

    size_bytes: int
    sha256: str


def write_manifest(
    folder: str | os.PathLike[str], known: Mapping[Path, Sequence[Section]] | None = None
) -> Path:
    """Write MANIFEST.json with the size and sha256 of every file below `folder`; call it last, it marks
    completion.

    Args:
        folder: complete but for the manifest.
        known: path -> what its writer hashed while it wrote, in order and without gaps; other files are read again.
    """
    root = Path(folder)
    files = {
        file.relative_to(root).as_posix(): _listed(file, (known or {}).get(file))
        for file in sorted(root.rglob("*"))
        if file.is_file() and file != root / MANIFEST_NAME and not _PART.match(file.name)
    }
    version = MANIFEST_VERSION if any("sections" in entry for entry in files.values()) else 1
    return write_json(root / MANIFEST_NAME, {"format_version": version, "files": files})


def _listed(file: Path, known: Sequence[Section] | None) -> dict[str, Any]:
    """The manifest's entry of a file: one sum, or one for each of its sections."""
    size_bytes = file.stat().st_size
    sections = known or [Section(size_bytes, sha256_of(file))]
    assert sum(section.size_bytes for section in sections) == size_bytes, f"{file} was changed since written"
    if len(sections) == 1:
        return {"size_bytes": size_bytes, "sha256": sections[0].sha256}
    return {"size_bytes": size_bytes, "sections": [asdict(section) for section in sections]}


def verify_manifest(folder: str | os.PathLike[str]) -> list[str]:
    """Compare a folder with its manifest; return one sentence per problem, none when every listed file is
    intact.

    Files that the manifest does not list are no problem: they do not change what it vouches for.
    """
    manifest = Path(folder) / MANIFEST_NAME
    try:
        content = json.loads(manifest.read_bytes())
        version, files = content["format_version"], content["files"]
        if version in range(1, MANIFEST_VERSION + 1):
            listed = [(str(name), _sections_of(entry)) for name, entry in files.items()]
    except FileNotFoundError:
        return [f'"{manifest}" is missing: the folder was not completed']
    except OSError as problem:
        return [f'"{manifest}" cannot be read: {problem.strerror}']
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return [f'"{manifest}" is damaged: it is not a manifest of ours']
    if version not in range(1, MANIFEST_VERSION + 1):
        return [
            f'"{manifest}" has format version {version!r}, '
            f"this MotionLoom reads versions 1 to {MANIFEST_VERSION}"
        ]
    return [found for entry in listed if (found := _problem_of(Path(folder), *entry))]


def _sections_of(entry: dict[str, Any]) -> list[Section]:
    """The inverse of `_listed`; any error means damage."""
    sections = [Section(int(one["size_bytes"]), str(one["sha256"])) for one in entry.get("sections", [entry])]
    if sum(section.size_bytes for section in sections) != int(entry["size_bytes"]):
        raise ValueError("sections of another file")
    return sections


def _problem_of(root: Path, name: str, sections: list[Section]) -> str:
    file = root / name
    if not file.resolve().is_relative_to(root.resolve()):
        return f'"{name}" lies outside the folder'
    try:
        actual_bytes, size_bytes = file.stat().st_size, sum(section.size_bytes for section in sections)
        if actual_bytes != size_bytes:
            return f'"{file}" has {actual_bytes} bytes, expected {size_bytes}'
        with open(file, "rb") as stream:
            intact = all(_sha256_of_next(stream, one.size_bytes) == one.sha256 for one in sections)
        return "" if intact else f'"{file}" does not match its checksum: its bytes were changed'
    except FileNotFoundError:
        return f'"{file}" is missing'
    except OSError as problem:
        return f'"{file}" cannot be read: {problem.strerror}'


def _sha256_of_next(stream: BinaryIO, size_bytes: int) -> str:
    digest = hashlib.sha256()
    while size_bytes and (chunk := stream.read(min(size_bytes, HASHED_BYTES))):
        digest.update(chunk)
        size_bytes -= len(chunk)
    return digest.hexdigest()


# --- leftovers of killed processes --------------------------------------------------------------------------


def sweep_stale_parts(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove the temporary files and folders that killed processes left in `folder`; return what was removed.

    A part of a living process stays. A part made on another machine (a shared disk) stays for a day. A folder
    that was moved aside for a swap which never finished is moved back instead of being removed.
    """
    removed = []
    for part in sorted(Path(folder).glob(".*.part")):
        match = _PART.match(part.name)
        if match is None or not _is_stale(part, int(match["pid"]), match["rand"]):
            continue
        with contextlib.suppress(OSError):  # another process may sweep the same folder
            target = part.with_name(match["name"])
            if match["old"] and not target.exists():
                os.replace(part, target)
                continue
            _remove(part)
            removed.append(part)
    return removed


def _is_stale(part: Path, pid: int, rand: str) -> bool:
    if len(rand) == 14 and not rand.startswith(_HOST_MARK):
        with contextlib.suppress(OSError):
            return time.time() - part.lstat().st_mtime > FOREIGN_PART_SECONDS
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


# --- the steps ----------------------------------------------------------------------------------------------


def _resolve_target(path: Path) -> Path:
    """Follow symbolic links; refuse names no file system takes."""
    if "\x00" in str(path):
        raise InputError(
            f"cannot write {str(path)!r}: a path cannot contain a NUL character", fix="correct the path"
        )
    target = Path(os.path.realpath(path)) if path.is_symlink() else path.absolute()
    name_bytes = len(os.fsencode(target.name))
    if name_bytes > MAX_NAME_BYTES:
        raise InputError(
            f'cannot write "{target}": its name has {name_bytes} bytes, at most {MAX_NAME_BYTES} are allowed',
            fix="choose a shorter name",
        )
    if not target.name:
        raise InputError(f'cannot write "{target}": it names no file', fix="give a file name")
    return target


def _mode_of(target: Path) -> int | None:
    """The type and permissions of what lies at `target`, or None when nothing does."""
    try:
        return target.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as problem:
        raise ResourceError(
            f'cannot write "{target}": {problem.strerror}', fix="choose a folder you can write to"
        ) from problem


def _refuse_foreign_folder(target: Path, replaceable: Callable[[Path], bool] | None) -> None:
    mode = _mode_of(target)
    if mode is None:
        return
    if not stat.S_ISDIR(mode):
        raise InputError(f'cannot write folder "{target}": a file has that name', fix="choose another name")
    if any(target.iterdir()) and not (replaceable is not None and replaceable(target)):
        raise InputError(
            f'cannot write folder "{target}": it exists and holds files this command did not write',
            fix="choose a new folder name, or empty that folder yourself",
        )


def _prepare_parent(target: Path, bytes_needed: int | None) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(target.parent).free
    except OSError as problem:
        raise ResourceError(
            f'cannot write "{target}": its folder cannot be created ({problem.strerror})',
            fix="choose a folder you can write to",
        ) from problem
    if bytes_needed is not None and bytes_needed * 1.1 > free_bytes:
        raise ResourceError(
            f'cannot write "{target}": it needs {bytes_needed} bytes, {free_bytes} bytes are free',
            fix="free some space or choose another disk",
        )


def _part_name(target: Path, suffix: str = "") -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.{_HOST_MARK}{secrets.token_hex(4)}{suffix}.part")


@contextlib.contextmanager
def _cleaning_up(target: Path, temporary: Path, bytes_needed: int | None) -> Iterator[None]:
    """Remove the temporary name on every failure, Ctrl-C included, and turn refusals of the disk into
    ResourceError.
    """
    try:
        yield
    except BaseException as problem:
        written_bytes = _size_bytes(temporary)
        if not (isinstance(problem, FileExistsError) and problem.filename == str(temporary)):
            with contextlib.suppress(OSError):  # the first problem is the one to report
                _remove(temporary)
        if isinstance(problem, MotionLoomError) or not _is_disk_error(problem):
            raise
        raise _as_resource_error(problem, target, bytes_needed, written_bytes) from problem


def _is_disk_error(problem: BaseException) -> bool:
    """OSErrors of Python, and FFmpeg's own exception classes that carry the errno of a disk."""
    return isinstance(problem, OSError) or getattr(problem, "errno", None) in _DISK_ERRORS


def _as_resource_error(
    problem: BaseException, target: Path, bytes_needed: int | None, written_bytes: int
) -> ResourceError:
    reason = getattr(problem, "strerror", None) or str(problem)
    needed = (
        f"{bytes_needed} bytes needed" if bytes_needed is not None else f"{written_bytes} bytes were written"
    )
    try:
        free = f"{shutil.disk_usage(target.parent).free} bytes free"
    except OSError:
        free = "free space unknown"
    return ResourceError(
        f'cannot write "{target}": {reason} ({needed}, {free})',
        fix="free some space or choose a folder you can write to; the previous file is untouched",
    )


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut. Windows has no such call for folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as problem:
        if problem.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
        ):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def _swap_folder(temporary: Path, target: Path) -> None:
    """Put `temporary` at `target`. The old folder is moved aside first, since a rename cannot replace a full
    folder; a kill between the two renames leaves it as `.old.part`, which `sweep_stale_parts` moves back.
    """
    if not target.exists():
        os.replace(temporary, target)
        return
    aside = _part_name(target, ".old")
    os.replace(target, aside)
    try:
        os.replace(temporary, target)
    except OSError:
        os.replace(aside, target)
        raise
    _remove(aside)

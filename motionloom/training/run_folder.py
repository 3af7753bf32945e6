"""A run folder: what one training run has read, said and saved.

    runs/name/
      recipe.yaml                the resolved recipe: the same call again resumes
      log.jsonl                  one JSON object a line: progress, and events such as "resumed" or "skipped"
      checkpoints/step-000123/   tensors (safetensors), state.json, and MANIFEST.json, written last
      samples/step-000100.mp4    previews
      final/                     the result in shipping form
      run.lock                   pid and host of the run that owns the folder

A checkpoint is built under another name and renamed when it is complete and verified, and older ones are
deleted only after that; whatever kills the process, the folder holds a checkpoint that verifies or none at
all.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from motionloom.durable import (
    sweep_stale_parts,
    verify_manifest,
    write_folder_durably,
    write_json,
    write_manifest,
    write_text,
)
from motionloom.errors import MotionLoomError, NumericError, ResourceError, StateError, UserError
from motionloom.training.recipe import Recipe, differences, load_recipe
from motionloom.weights import save_weights

if sys.platform != "win32":  # on Windows the lock rests on pid and host alone
    import fcntl

_CHECKPOINT = re.compile(r"step-(\d{6,})")
_HELD: set[Path] = set()  # folders this process has locked


@dataclass
class Checkpoint:
    """A training state: groups of plain tensors, each one safetensors file, and plain numbers."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    numbers: dict[str, Any] = field(default_factory=dict)


class RunFolder:
    """One run's folder, locked. Use as a context; see the top of the file for what it holds. A run that is refused before
    it began leaves nothing behind.

    Args:
        path: the folder; it is created when missing.
        recipe: the resolved recipe of this run.
        say: told what happens, one sentence at a time.

    Raises:
        StateError: another run holds the folder, or it was started with a different recipe.
        ResourceError: the folder cannot be written.
    """

    def __init__(self, path: Path, recipe: Recipe, say: Callable[[str], None] = lambda _: None) -> None:
        self.path = path
        self.recipe = recipe
        self.say = say
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.final = path / "final"
        self.log_path = path / "log.jsonl"
        self._lock: _Lock | None = None
        self._made: list[Path] = []  # by this run, innermost first

    def __enter__(self) -> RunFolder:
        wanted = (self.checkpoints, *self.checkpoints.parents)
        self._made = [folder for folder in wanted if not folder.exists()]
        make_folder(self.checkpoints)
        self._lock = _Lock(self.path / "run.lock")
        recovered = self._lock.take()
        try:
            if recovered:
                self.say(f"recovered the lock of {recovered}, which is no longer running")
            for folder in (self.path, self.checkpoints, self.samples):
                sweep_stale_parts(folder)
            self._settle_recipe()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._lock is None:
            return
        if isinstance(error, UserError) and self.path in self._made:
            self._remove_if_bare()
        self._lock.release()

    def _remove_if_bare(self) -> None:
        """Remove the folder, and those made for it, where it holds nothing that was trained, said or prepared."""
        bare = {self.checkpoints, self.path / "recipe.yaml", self.path / "run.lock"}
        if not set(self.path.rglob("*")) <= bare:
            return
        with contextlib.suppress(OSError):  # what stays does no harm
            (self.path / "recipe.yaml").unlink()
            (self.path / "run.lock").unlink()
            for folder in self._made:
                folder.rmdir()

    def _settle_recipe(self) -> None:
        """Write the resolved recipe, or check that it is the one this folder was started with."""
        target = self.path / "recipe.yaml"
        if target.exists() and any(self.checkpoints.iterdir()):
            changed = differences(load_recipe(target), self.recipe)
            if changed:
                raise StateError(
                    f"{self.path} was started with another recipe: " + "; ".join(changed),
                    fix="run the original recipe to continue, or give another run folder",
                )
        write_text(target, self.recipe.to_yaml())

    # --- checkpoints ----------------------------------------------------------------------------------------

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, verify it, and only then delete those older than the last `keep_last`.

        Raises:
            NumericError: a tensor holds NaN or infinity; nothing is written.
            ResourceError: the disk is full or not writable; older checkpoints are untouched.
        """
        self._refuse_nonfinite(checkpoint)
        target = self.checkpoints / f"step-{checkpoint.step:06d}"

        def build(part: Path) -> None:
            for name, tensors in checkpoint.tensors.items():
                save_weights(part / f"{name}.safetensors", tensors)
            write_json(part / "state.json", {"step": checkpoint.step, **checkpoint.numbers})
            write_manifest(part)
            problems = verify_manifest(part)
            if problems:
                raise ResourceError(
                    f"the checkpoint {target} does not read back: {'; '.join(problems)}", fix="check the disk"
                )

        # a folder of this name can only be one that did not verify when we resumed
        write_folder_durably(target, build, replaceable=lambda _: True)
        self._delete_old()
        return target

    def read(self, step: int) -> Checkpoint:
        """The checkpoint of a step, on CPU, unverified."""
        return _read_checkpoint(self.checkpoints / f"step-{step:06d}")

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that verifies, on CPU, and a sentence for each newer one that did not."""
        skipped: list[str] = []
        for folder in reversed(self.saved()):
            problems = verify_manifest(folder)
            if not problems:
                try:
                    return _read_checkpoint(folder), skipped
                except (OSError, SafetensorError, ValueError, KeyError) as error:
                    problems = [f"{type(error).__name__}: {error}"]
            skipped.append(f"skipped checkpoint {folder.name}: {'; '.join(problems)}")
        return None, skipped

    def saved(self) -> list[Path]:
        """Checkpoint folders, oldest first, whether they verify or not."""
        found = [path for path in self.checkpoints.glob("step-*") if _CHECKPOINT.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))

    def _delete_old(self) -> None:
        """Keep the last `keep_last` that verify; a damaged one never counts as kept."""
        kept = 0
        for folder in reversed(self.saved()):
            if kept >= self.recipe.keep_last:
                shutil.rmtree(folder, ignore_errors=True)
            elif not verify_manifest(folder):
                kept += 1

    def _refuse_nonfinite(self, checkpoint: Checkpoint) -> None:
        for group, tensors in checkpoint.tensors.items():
            for key, value in tensors.items():
                if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                    raise NumericError(
                        f"step {checkpoint.step}: {group} tensor {key!r} holds NaN or infinity; "
                        f"nothing was saved, last good checkpoint: {self.last_good()}",
                        fix="start a new run with a lower learning_rate, a clip_norm, or precision=fp32",
                    )

    def last_good(self) -> str:
        """Name of the newest checkpoint that verifies, for messages."""
        good = [folder for folder in self.saved() if not verify_manifest(folder)]
        return str(good[-1]) if good else "none"

    # --- log ------------------------------------------------------------------------------------------------

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line; NaN and infinity become null."""
        line = json.dumps(_finite(record), allow_nan=False) + "\n"
        try:
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise _cannot_write(self.log_path, error) from error

    def rewind_log(self, step: int) -> None:
        """Drop the progress lines after `step`, which come again, and a torn last line; keep events."""
        if not self.log_path.exists():
            return
        kept = []
        for line in self.log_path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if "event" in record or record.get("step", 0) <= step:
                kept.append(line)
        write_text(self.log_path, "".join(line + "\n" for line in kept))

    def export(self, write: Callable[[Path], None]) -> Path:
        """Fill `final/` with `write(folder)`: complete and with a manifest, or not there at all."""

        def build(part: Path) -> None:
            write(part)
            write_manifest(part)

        return write_folder_durably(self.final, build, replaceable=lambda _: True)


# --- files --------------------------------------------------------------------------------------------------


def make_folder(path: Path) -> None:
    """Create a folder and its parents. Raises ResourceError with the reason."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> MotionLoomError:
    return ResourceError(
        f"cannot write {path}: {error.strerror or error}", fix="free space or give a writable run folder"
    )


def _read_checkpoint(folder: Path) -> Checkpoint:
    numbers = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    tensors = {file.stem: safetensors.torch.load_file(file) for file in sorted(folder.glob("*.safetensors"))}
    return Checkpoint(int(numbers.pop("step")), tensors, numbers)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


# --- lock ---------------------------------------------------------------------------------------------------


class _Lock:
    """Owns a run folder: a POSIX record lock, which the kernel drops when the process dies, and pid and host
    in the file for machines that share it over a network. The file stays; an empty one is free.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def take(self) -> str | None:
        """Returns who held the lock before, if that process died. Raises StateError when it is alive."""
        key = self.path.resolve()
        if key in _HELD:
            raise self._held(f"pid {os.getpid()} (this process)")
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        try:
            owner = _owner(handle)
            if not _try_lock(handle) or (owner and _is_alive(owner)):
                raise self._held(_named(owner))
            _rewrite(
                handle, {"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid())}
            )
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        _HELD.add(key)
        return _named(owner) if owner else None

    def release(self) -> None:
        if self._handle is None:
            return
        _rewrite(self._handle, None)
        os.close(self._handle)
        self._handle = None
        _HELD.discard(self.path.resolve())

    def _held(self, owner: str) -> StateError:
        return StateError(
            f"{self.path.parent} is in use by {owner}",
            fix=f"wait for that run, give another run folder, or delete {self.path} if that run is gone",
        )


def _try_lock(handle: int) -> bool:
    if sys.platform != "win32":
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _owner(handle: int) -> dict[str, Any]:
    """Whoever the lock file names; empty when it is free or unreadable."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        owner = json.loads(os.read(handle, 4096) or b"{}")
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) and isinstance(owner.get("pid"), int) else {}


def _named(owner: Mapping[str, Any]) -> str:
    return f"pid {owner.get('pid', 'unknown')} on {owner.get('host', 'an unknown host')}"


def _rewrite(handle: int, owner: Mapping[str, Any] | None) -> None:
    os.ftruncate(handle, 0)
    if owner:
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, json.dumps(owner).encode())
    os.fsync(handle)


def _is_alive(owner: Mapping[str, Any]) -> bool:
    """A process of another host counts as alive: we cannot know."""
    if owner.get("host") != socket.gethostname():
        return True
    pid = int(owner["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    started = owner.get("started")
    return started is None or started == _started(
        pid
    )  # the same pid started at another time is another process


def _started(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot, from Linux's /proc; None where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]  # a zombie no longer runs

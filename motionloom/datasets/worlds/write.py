"""A world => a folder: in parallel, resumable, every byte a function of the seed alone.

A world says which units make up the folder (a clip, a file of trajectories) and writes one; each unit draws from its own
generator, so neither the number of processes nor an interruption changes anything. `world.json` is written first and says
whose folder it is; a run with other settings is refused. Finished units are kept.
"""

from __future__ import annotations

import json
import multiprocessing
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, ClassVar

from motionloom.datasets.cater import WORLD_FACTS
from motionloom.durable import sweep_stale_parts, write_json
from motionloom.errors import ConfigError, InputError, ResourceError, StateError

FORMAT = 1
CHUNK = 16  # units a process takes at a time
Unit = tuple[str, int]  # (split, number)
Progress = Callable[[int, int], None]


class World(ABC):
    """How one world is written."""

    name: ClassVar[str]

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """The settings that decide every byte, as JSON."""

    @abstractmethod
    def units(self) -> list[Unit]:
        """The parts of the folder, in order."""

    @abstractmethod
    def is_written(self, folder: Path, unit: Unit) -> bool:
        """True when an earlier run finished this unit."""

    @abstractmethod
    def write_unit(self, folder: Path, unit: Unit) -> None:
        """Write one unit, durably; what `is_written` looks at comes last."""

    def finish(self, folder: Path) -> None:  # noqa: B027  a world may have nothing to add
        """What is written once all units are there."""


def write_world(world: World, folder: str | Path, workers: int = 1, progress: Progress | None = None) -> Path:
    """Write a world, or what is missing of it.

    Args:
        world: what to write.
        folder: where to; made when missing. A folder of the same world is completed.
        workers: processes. 1 writes in this one.
        progress: called with (units done, units in all).

    Raises:
        ConfigError: `workers` is below 1.
        InputError: the folder holds something else.
        StateError: the folder holds this world with other settings.
        ResourceError: the disk is full, or a worker was killed.
    """
    root, told = Path(folder), progress or (lambda done, total: None)
    if workers < 1:
        raise ConfigError(f"{workers} workers asked for", fix="use 1 or more")
    _claim(root, world)
    units = world.units()
    missing = [unit for unit in units if not world.is_written(root, unit)]
    done = len(units) - len(missing)
    told(done, len(units))
    if workers == 1:
        for number, unit in enumerate(missing, start=done + 1):
            world.write_unit(root, unit)
            told(number, len(units))
    else:
        _write_in_parallel(world, root, missing, workers, lambda count: told(done + count, len(units)))
    world.finish(root)
    return root


def _claim(root: Path, world: World) -> None:
    """Make the folder ours: write world.json, or compare it with what is there."""
    path, facts = root / WORLD_FACTS, {"format": FORMAT, "world": world.name, **world.facts()}
    if root.exists() and not root.is_dir():
        raise InputError(f'cannot write to "{root}": a file has that name', fix="choose another folder")
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if found != facts:
            said = "it is damaged" if not isinstance(found, dict) else _differences(found, facts)
            raise StateError(
                f'"{root}" holds another world: {said}', fix="choose another folder, or the same settings"
            )
        for inside in (root, *(path for path in root.rglob("*") if path.is_dir())):
            sweep_stale_parts(inside)
        return
    if root.is_dir() and any(root.iterdir()):
        raise InputError(
            f'cannot write to "{root}": it holds files that are not a world', fix="choose an empty folder"
        )
    write_json(path, facts)


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    return "; ".join(
        f"{key}: {found.get(key)} there, {wanted.get(key)} asked for"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    )


def _write_in_parallel(
    world: World, root: Path, missing: list[Unit], workers: int, written: Callable[[int], None]
) -> None:
    chunk = max(1, min(CHUNK, len(missing) // workers))
    chunks = [missing[start : start + chunk] for start in range(0, len(missing), chunk)]
    count = 0
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        pending = {pool.submit(_write_units, world, root, part): len(part) for part in chunks}
        try:
            while pending:
                finished, _ = wait(pending, return_when=FIRST_EXCEPTION, timeout=0.5)
                for future in finished:
                    future.result()
                    count += pending.pop(future)
                    written(count)
        except BrokenProcessPool:
            raise ResourceError(
                "a worker process was killed, perhaps for lack of memory",
                fix="use fewer --workers and run again",
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _write_units(world: World, root: Path, units: Sequence[Unit]) -> None:
    for unit in units:
        world.write_unit(root, unit)

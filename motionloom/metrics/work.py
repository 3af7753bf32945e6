"""Measuring clips, in this process or in several: each clip is read once, for every metric that lacks it."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from motionloom.errors import InputError, MotionLoomError, UserError
from motionloom.metrics.base import Item, Metric
from motionloom.metrics.cache import Cache, content_sha256, key_of
from motionloom.metrics.catalog import make_metric, row_of
from motionloom.metrics.networks.table import Networks
from motionloom.metrics.setup import Setup, Window
from motionloom.metrics.sources import Source
from motionloom.video.clip import Clip
from motionloom.video.picture import read_picture
from motionloom.video.read import read_clip

Role = Literal["clip", "reference"]


@dataclass(frozen=True)
class Plan:
    """Everything a process needs to build the metrics; plain values, for it travels to other processes."""

    cache: Path
    metrics: tuple[str, ...]
    reference_metrics: tuple[str, ...] = ()  # those that need features of the references
    window: Window = field(default_factory=Window)
    small_sets: bool = False
    weights: Path | None = None
    device: str = "cpu"
    accept_nc: bool = False
    plugins: tuple[tuple[str, str], ...] = ()

    def setup(self) -> Setup:
        networks = Networks(self.weights, self.device, self.accept_nc, dict(self.plugins))
        return Setup(self.window, self.small_sets, networks)


@dataclass(frozen=True)
class Done:
    """One clip, measured: where the cache holds each metric's result, or why there is none."""

    source: Source
    role: Role
    sha256: str = ""
    picture_sha256: str | None = None
    reference_sha256: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)  # metric -> key
    problem: str = ""  # the clip cannot be used at all
    failures: tuple[tuple[str, str], ...] = ()  # (metric, reason)
    num_measured: int = 0  # not found in the cache


class Worker:
    """Measures clips with the metrics of a plan."""

    def __init__(
        self, plan: Plan, metrics: dict[str, Metric] | None = None, setup: Setup | None = None
    ) -> None:
        self.plan, self.cache = plan, Cache(plan.cache)
        setup = setup or plan.setup()
        self.metrics = (
            {name: make_metric(name, setup) for name in plan.metrics} if metrics is None else metrics
        )
        self.weights = {
            name: [
                setup.networks.used[net].sha256 for net in row_of(name).networks if net in setup.networks.used
            ]
            for name in self.metrics
        }

    def __call__(self, source: Source, role: Role) -> Done:
        names = self.plan.metrics if role == "clip" else self.plan.reference_metrics
        try:
            return self._measure(source, role, names)
        except UserError as problem:
            return Done(source, role, problem=problem.message)
        except OSError as problem:
            return Done(source, role, problem=f"cannot read {problem.filename}: {problem.strerror}")

    def _measure(self, source: Source, role: Role, names: Sequence[str]) -> Done:
        clip = _Lazy(source)
        done = Done(
            source,
            role,
            sha256=_hash(source.file),
            picture_sha256=_hash(source.picture) if source.picture and role == "clip" else None,
            reference_sha256=_hash(source.reference) if source.reference and role == "clip" else None,
        )
        identity = {"file": done.sha256, "decoder": DECODER, "fps": source.fps}
        facts_key = key_of(kind="facts", **identity)
        facts = self.cache.read_facts(facts_key)
        if facts is None:
            facts = clip.facts()
            self.cache.write_facts(facts_key, facts)
        if facts["num_frames"] < 2:
            raise InputError("it has 1 frame, expected at least 2", fix="give a clip")
        keys: dict[str, str] = {}
        failures: list[tuple[str, str]] = []
        measured = 0
        for name in names:
            key = key_of(**identity, **self._identity(name, done, role))
            if not self.cache.has(key) or self.cache.read(key) is None:
                try:
                    self.cache.write(key, self.metrics[name].checked(clip.item(role)))
                except UserError as problem:
                    failures.append((name, problem.message))
                    continue
                except Exception as problem:
                    if isinstance(problem, MotionLoomError | MemoryError):
                        raise
                    raise MotionLoomError(
                        f'metric {name} failed on "{source.file}": {type(problem).__name__}: {problem}'
                    ) from problem
                measured += 1
            keys[name] = key
        return replace(done, facts=facts, keys=keys, failures=tuple(failures), num_measured=measured)

    def _identity(self, name: str, done: Done, role: Role) -> dict[str, Any]:
        """What one metric's result depends on beside the clip."""
        metric = self.metrics[name]
        wanted = metric.needs | metric.may_use
        return {
            "metric": metric.measured_as,
            "weights": self.weights[name],
            "device": self.plan.device.partition(":")[0],
            "role": role,
            "picture": done.picture_sha256 if "picture" in wanted else None,
            "reference": done.reference_sha256 if "reference" in wanted else None,
            "prompt": done.source.prompt if "prompt" in wanted else None,
            "camera": done.source.camera if "camera" in wanted else None,
        }


class _Lazy:
    """A source that is decoded at most once, and only if a metric asks for it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._clip: Clip | None = None
        self._item: Item | None = None

    @property
    def clip(self) -> Clip:
        if self._clip is None:
            clip = read_clip(self.source.file)
            self._clip = clip if self.source.fps is None else replace(clip, fps=self.source.fps)
        return self._clip

    def facts(self) -> dict[str, Any]:
        clip = self.clip
        return {
            "num_frames": clip.num_frames,
            "fps": clip.fps,
            "width_px": clip.width_px,
            "height_px": clip.height_px,
            "notes": list(clip.settings.get("notes", [])),
        }

    def item(self, role: Role) -> Item:
        if self._item is None:
            source = self.source
            self._item = Item(
                self.clip,
                source.id,
                role,
                read_picture(source.picture) if source.picture and role == "clip" else None,
                read_clip(source.reference) if source.reference and role == "clip" else None,
                source.prompt,
                source.camera,
                source.cluster,
                source.class_name,
                source.subject,
            )
        return self._item


DECODER = f"av {importlib.metadata.version('av')}"


def _hash(path: Path) -> str:
    try:
        return content_sha256(path)
    except FileNotFoundError:
        raise InputError(f'there is no "{path}"', fix="check the path") from None


# --- several processes


def run(
    plan: Plan,
    jobs: Sequence[tuple[Source, Role]],
    workers: int,
    worker: Worker,
    progress: Callable[[str, int, int], None] | None,
) -> Iterator[Done]:
    """Measure every job, in any order. `worker` serves when one process is enough."""
    report = progress or (lambda stage, done, total: None)
    report("clips", 0, len(jobs))
    if workers == 1 or len(jobs) < 2:
        for number, job in enumerate(jobs, 1):
            yield worker(*job)
            report("clips", number, len(jobs))
        return
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, context, _start, (plan, threads)) as pool:
        futures = [pool.submit(_work, *job) for job in jobs]
        try:
            for number, future in enumerate(as_completed(futures), 1):
                yield future.result()
                report("clips", number, len(jobs))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # clips in flight are finished and kept
            raise


_worker: Worker | None = None


def _start(plan: Plan, threads: int) -> None:
    """In a new process: the parent handles Ctrl-C, and when the parent dies we go."""
    import torch

    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _worker = Worker(plan)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(source: Source, role: Role) -> Done:
    assert _worker is not None
    return _worker(source, role)

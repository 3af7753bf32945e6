"""Inputs => merged files, piece by piece: two models are never in memory, not even one.

`Merge` knows what is merged; `write_merged` walks the base's files in their own order, reads a piece of every input, merges,
checks and writes it. Methods that need whole tensors get them one at a time.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from motionloom.durable import Section
from motionloom.errors import ConfigError, NumericError, WeightsError
from motionloom.merging.checkpoint import Checkpoint, Stored, WeightsFile, check_pair, open_checkpoint
from motionloom.merging.decoupling import not_finite
from motionloom.merging.groups import select
from motionloom.merging.methods import Slot
from motionloom.merging.pipeline import Background, ahead, keep_freed_memory, one_thread
from motionloom.merging.recipe import MergeRecipe
from motionloom.merging.sources import Source, source
from motionloom.weights import encoded_header, new_header

PIECE_ELEMENTS = 1 << 20  # read, hashed and written at once
CACHED_ELEMENTS = 1 << 16  # merged at once: 256 KiB of float32 stay in a core's cache
WRITTEN_BYTES = (
    1 << 18
)  # larger writes make the kernel look for larger pages, which takes it longer than writing
FLUSHED_BYTES = 1 << 23
Progress = Callable[[str, int, int], None]  # (stage, done, in all)


@dataclass
class Merge:
    """A recipe with its models opened and compared.

    Attributes:
        names: of the result, in the order they are written.
        merged: those that the method changes; the others are copied.
        home: name -> the checkpoint a copied tensor comes from.
    """

    recipe: MergeRecipe
    base: Checkpoint
    tuned: list[Source]
    statistics: list[Checkpoint]
    names: list[str]
    merged: set[str]
    home: dict[str, Checkpoint]
    changed: dict[str, set[str]] = field(default_factory=dict)  # output -> names, filled while merging
    written: dict[Path, list[Section]] = field(default_factory=dict)  # what the manifest need not hash again

    def stored(self, name: str) -> Stored:
        """Where a tensor of the result has its shape and dtype from."""
        return self.home[name].stored[name]

    def dtype(self, name: str) -> torch.dtype:
        """Of a tensor of the result."""
        own, asked = self.stored(name).dtype, self.recipe.dtype
        return own if asked == "keep" or not own.is_floating_point else getattr(torch, asked)

    def inputs(self) -> list[tuple[str, Checkpoint]]:
        """(role, checkpoint) of everything that is read."""
        tuned = [(f"tuned {index}", one.checkpoint) for index, one in enumerate(self.tuned)]
        return [
            ("base", self.base),
            *tuned,
            *[(f"statistics {i}", one) for i, one in enumerate(self.statistics)],
        ]

    def result(self, name: str) -> dict[str, Tensor]:
        """Output -> one whole merged tensor, float32; what the method does not change is the home's."""
        stored = self.stored(name)
        got: dict[str, list[Tensor]] = {output: [] for output in self.recipe.method.outputs}
        with one_thread(not self.recipe.method.whole):
            for piece in self.pieces(name):
                for output, merged in piece.results.items():
                    got[output].append(merged.float())
        return {output: torch.cat(pieces).reshape(stored.shape) for output, pieces in got.items()}

    def pieces(self, name: str) -> Iterator[Piece]:
        """One tensor in order."""
        return self._merged(name) if name in self.merged else self._copied(name)

    def _copied(self, name: str) -> Iterator[Piece]:
        stored, dtype = self.stored(name), self.dtype(name)
        for start, stop in _ranges(stored.num_elements, PIECE_ELEMENTS):
            own = self.home[name].read(name, start, stop, hashed=True)
            same = own.to(dtype)
            if own.is_floating_point() and not _is_finite(same):
                raise not_finite(name, {f'"{self.home[name].path}"': own})
            yield Piece(name, own, dict.fromkeys(self.recipe.method.outputs, same))

    def _merged(self, name: str) -> Iterator[Piece]:
        stored, method, dtype = self.stored(name), self.recipe.method, self.dtype(name)
        slot = Slot(name, stored.shape, self.recipe.seed)
        step = stored.num_elements if method.whole else PIECE_ELEMENTS
        for start, stop in _ranges(stored.num_elements, step):
            own = self.base.read(name, start, stop, hashed=True)
            tuned = [one.read(name, start, stop) for one in self.tuned]
            told = [_statistic(one, name, start, stop, method.whole) for one in self.statistics]
            results = {output: torch.empty(stop - start, dtype=dtype) for output in method.outputs}
            slot.upcoming = stop - start
            if method.whole:
                shaped = [None if one is None else one.reshape(stored.shape) for one in tuned]
                self._merge(slot, own.reshape(stored.shape), shaped, told, results)
            else:
                self._merge_in_runs(slot, own, tuned, told, results)
            if not all(_is_finite(merged) for merged in results.values()):
                base = own.float()
                raise self._not_finite(name, base, self._weights(base, tuned))
            yield Piece(name, own, results)

    def _merge_in_runs(
        self,
        slot: Slot,
        own: Tensor,
        tuned: Sequence[Tensor | None],
        told: Sequence[Tensor | None],
        results: Mapping[str, Tensor],
    ) -> None:
        """`_merge`, a few entries at a time: what lies in the cache costs a third."""
        filled = zip(*map(_runs, results.values()), strict=True)
        for run, others, facts, merged in zip(
            _runs(own), _runs_of(tuned), _runs_of(told), filled, strict=False
        ):
            self._merge(slot, run, others, facts, dict(zip(results, merged, strict=True)))

    def _merge(
        self,
        slot: Slot,
        own: Tensor,
        tuned: Sequence[Tensor | None],
        told: Sequence[Tensor | None],
        results: Mapping[str, Tensor],
    ) -> None:
        """Fill `results`, flattened, from the same elements of every input."""
        base = own.float()
        for output, merged in self.recipe.method.merge(slot, base, self._weights(base, tuned), told).items():
            results[output].copy_(merged.flatten())

    def _weights(self, base: Tensor, tuned: Sequence[Tensor | None]) -> list[Tensor]:
        """Of every tuned model, float32, from what it stores (`Source.read`)."""
        return [
            base.clone() if stored is None else one.weights(stored, base)
            for one, stored in zip(self.tuned, tuned, strict=True)
        ]

    def _not_finite(self, name: str, base: Tensor, tuned: Sequence[Tensor]) -> NumericError:
        named = {
            f'the tuned model "{one.checkpoint.path}"': t for one, t in zip(self.tuned, tuned, strict=True)
        }
        return not_finite(name, {f'the base "{self.base.path}"': base, **named})

    def close(self) -> None:
        """Close every input."""
        for _, checkpoint in self.inputs():
            checkpoint.close()


@dataclass
class Piece:
    """A run of entries of one tensor, flattened: the home's own, and output -> result in the result's dtype."""

    name: str
    own: Tensor
    results: dict[str, Tensor]

    def changed(self, output: str) -> bool:
        """Whether the method, and not the dtype alone, changed anything."""
        pairs = zip(_runs(self.own), _runs(self.results[output]), strict=True)
        return any(not torch.equal(own.to(merged.dtype), merged) for own, merged in pairs)


def opened(recipe: MergeRecipe) -> Merge:
    """Open and compare everything a recipe names; no tensor is read.

    Raises:
        InputError, WeightsError: a model is missing or damaged, or the models do not fit together.
        ConfigError: a group that is not there, or a merge that could change nothing.
    """
    with ExitStack() as stack:
        models = {
            path: stack.enter_context(open_checkpoint(path))
            for path in dict.fromkeys(
                [recipe.base, *(one.path for one in recipe.tuned), *recipe.method.statistics_files]
            )
        }
        base = models[recipe.base]
        tuned = [source(models[one.path], base, one.lora_alpha) for one in recipe.tuned]
        statistics = [models[path] for path in recipe.method.statistics_files]
        shared = set(base)
        for one in tuned:
            shared &= set(check_pair(base.stored, one.shapes, recipe.keys, f'"{one.checkpoint.path}"'))
        merge = Merge(recipe, base, tuned, statistics, [], set(), {})
        for name in base:
            if recipe.keys != "shared" or name in shared:
                merge.home[name] = base
        if recipe.keys == "union":
            for one in tuned:
                merge.home.update({name: one.checkpoint for name in one.shapes if name not in merge.home})
        merge.names = list(merge.home)
        floating = [name for name in base if name in shared and base.stored[name].dtype.is_floating_point]
        merge.merged = set(select(floating, recipe.groups))
        stack.pop_all()
    if not merge.merged:
        raise ConfigError(
            "there is nothing to merge: no tensor of numbers is shared", fix="check base and tuned"
        )
    return merge


def _statistic(statistics: Checkpoint, name: str, start: int, stop: int, whole: bool) -> Tensor | None:
    if name not in statistics:
        return None
    if whole:
        return statistics[name].float()
    if stop > statistics.stored[name].num_elements:
        raise WeightsError(
            f'"{name}" of "{statistics.path}" has the shape {list(statistics.stored[name].shape)}, not the tensor\'s',
            fix="give statistics of this model",
        )
    return statistics.read(name, start, stop).float()


def _ranges(count: int, step: int) -> Iterable[tuple[int, int]]:
    return ((start, min(start + step, count)) for start in range(0, count, max(1, step)))


def _runs(piece: Tensor) -> tuple[Tensor, ...]:
    return torch.split(piece, CACHED_ELEMENTS)


def _runs_of(pieces: Sequence[Tensor | None]) -> Iterable[Sequence[Tensor | None]]:
    """The runs of several pieces, together; None stays None, and of no pieces there is no end."""
    if not pieces:
        return repeat(())
    return zip(*(repeat(None) if one is None else _runs(one) for one in pieces), strict=False)


def _is_finite(piece: Tensor) -> bool:
    """Whether no entry is NaN or infinite: one pass for the extremes, in which NaN survives."""
    lowest, highest = (piece if piece.dtype.itemsize > 1 else piece.float()).aminmax()
    return math.isfinite(lowest) and math.isfinite(highest)


# --- writing ------------------------------------------------------------------------------------------------


class PiecewiseFile:
    """A safetensors file written front to back, with the checksum `weights.py` checks. Use as a context.

    Args:
        path: of the file.
        tensors: (name, dtype, shape) in the order they will be written: widest dtype first, so that each starts at a
            multiple of its width.
        metadata: texts.

    Attributes:
        path: of the file.
        sections: what was written, as a manifest lists it; empty before the end.
    """

    def __init__(
        self,
        path: Path,
        tensors: Sequence[tuple[str, torch.dtype, tuple[int, ...]]],
        metadata: dict[str, str],
    ) -> None:
        self._header, self._size_bytes = new_header(tensors, metadata)
        self._digest, self._written_bytes = hashlib.sha256(), 0
        self._background = Background()
        self.path, self.sections = path, list[Section]()
        self._stream = open(path, "wb")  # noqa: SIM115  (closed by __exit__)
        self._flushed_bytes = 0
        self._start_bytes = self._stream.write(encoded_header(self._header, bytes(32)))

    def write(self, piece: Tensor) -> None:
        """The next elements: hashed and written in a thread, so leave them alone."""
        self._background.run(self._write, piece.contiguous().flatten().view(torch.uint8).numpy().data)

    def _write(self, raw: memoryview) -> None:
        for start, stop in _ranges(len(raw), WRITTEN_BYTES):
            self._digest.update(raw[start:stop])
            self._stream.write(raw[start:stop])
        self._written_bytes += len(raw)
        self._flush()

    def _flush(self) -> None:
        """Let the system start to write what it was given, for the end to be short."""
        end = self._start_bytes + self._written_bytes
        if end - self._flushed_bytes >= FLUSHED_BYTES and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(
                self._stream.fileno(), self._flushed_bytes, end - self._flushed_bytes, os.POSIX_FADV_DONTNEED
            )
            self._flushed_bytes = end

    def __enter__(self) -> PiecewiseFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stream, closing(self._background):
            if kind is None:
                self._background.wait()
                assert self._written_bytes == self._size_bytes, (
                    "fewer bytes were written than the header says"
                )
                start = encoded_header(self._header, self._digest.digest())
                self._stream.seek(0)
                self._stream.write(start)
                self.sections = [
                    Section(len(start), hashlib.sha256(start).hexdigest()),
                    Section(self._size_bytes, self._digest.hexdigest()),
                ]


def write_merged(merge: Merge, folder: Path | None, progress: Progress | None) -> None:
    """Write every output as files like the base's below `folder`; None only computes. Fills `merge.changed`."""
    outputs = merge.recipe.method.outputs
    merge.changed = {output: set() for output in outputs}
    total = sum(merge.stored(name).size_bytes for name in merge.names)
    done = 0
    keep_freed_memory()
    for place, names in files_of(merge):
        with ExitStack() as stack:
            stack.enter_context(one_thread(not merge.recipe.method.whole))
            files = {
                output: stack.enter_context(_output_file(merge, folder / output / place, names))
                for output in outputs
                if folder is not None
            }
            own = [name for name, _ in names if merge.stored(name).num_elements]
            for piece in stack.enter_context(
                closing(ahead(piece for name in own for piece in merge.pieces(name)))
            ):
                _note_change(merge, piece)
                for output, file in files.items():
                    file.write(piece.results[output])
                done += piece.own.nbytes
                if progress is not None:
                    progress("merging (bytes)", done, total)
        merge.written.update({file.path: file.sections for file in files.values()})
    if not any(merge.changed.values()):
        raise ConfigError(
            f"the merge changes none of the {len(merge.merged)} tensors it looks at",
            fix="choose other numbers, groups or models: the result would be the base",
        )


def _note_change(merge: Merge, piece: Piece) -> None:
    """Fills `merge.changed`."""
    if piece.name in merge.merged:
        for output, changed in merge.changed.items():
            if piece.name not in changed and piece.changed(output):
                changed.add(piece.name)


def files_of(merge: Merge) -> list[tuple[Path, list[tuple[str, str]]]]:
    """(place below the folder, [(name in the merge, name in the file)]) of every file of the result."""
    name_of = {id(found): name for name, found in merge.base.stored.items()}
    root = merge.base.path if merge.base.path.is_dir() else merge.base.path.parent
    places = []
    kept = set(merge.names)
    for file in merge.base.files:
        inside = [(name_of[id(found)], own) for own, found in file.tensors.items()]
        inside = [(name, own) for name, own in inside if name in kept]
        kept -= {name for name, _ in inside}
        places.append((file.path.relative_to(root).with_suffix(".safetensors"), inside))
    for name in merge.names:
        if name in kept:  # what only a tuned model has goes beside the part it belongs to
            part, _, own = name.rpartition("/")
            home = next((names for place, names in places if part and place.parent.as_posix() == part), None)
            if home is None:
                places[-1][1].append((name, name))
            else:
                home.append((name, own))
    return [
        (place, sorted(names, key=lambda pair: -merge.dtype(pair[0]).itemsize))
        for place, names in places
        if names
    ]


def _output_file(merge: Merge, path: Path, names: list[tuple[str, str]]) -> PiecewiseFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = [(own, merge.dtype(name), merge.stored(name).shape) for name, own in names]
    return PiecewiseFile(path, tensors, _metadata_of(merge, names))


def _metadata_of(merge: Merge, names: list[tuple[str, str]]) -> dict[str, str]:
    """What the base's file said of itself, for its readers go by it, and that this is a merge."""
    file: WeightsFile = merge.stored(names[0][0]).file
    return {**file.metadata, "motionloom.merge": merge.recipe.method.model_dump_json()}

"""Weights on disk as a lazy mapping from names to tensors: nothing is read before it is asked for.

    open_checkpoint("unet/")           a folder of safetensors: one file, shards with an index, a diffusers pipeline
    open_checkpoint("x.safetensors")   one file
    open_checkpoint("model.ckpt")      a PyTorch archive: tensors are located in it, no pickle is trusted

Every tensor is a range of bytes of one file, and is read with a plain `pread`: memory is what is asked for, where memory
maps would count every page ever touched.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from motionloom.errors import ConfigError, InputError, WeightsError
from motionloom.filetypes import describe_content, open_head
from motionloom.merging.pipeline import Background
from motionloom.weights import read_metadata, read_tensor_layout

PICKLED_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
WRAPPERS = ("state_dict", "module", "model")  # keys under which trainers put the weights
DEEPSPEED_PREFIX = "_forward_module."
HASH_BYTES = 1 << 22
READ_AHEAD_BYTES = 1 << 25
SETTLED_NS = 2 * 10**9  # a file that changed less than this ago may change again within one tick of its clock
EXPERTS_FOLDER = "experts"  # differences that lie beside a base and are no part of it


@dataclass(frozen=True)
class Stored:
    """One tensor on disk: its bytes are [start_byte, start_byte + size_bytes) of its file."""

    file: WeightsFile = field(repr=False)
    dtype: torch.dtype
    shape: tuple[int, ...]
    start_byte: int

    @property
    def num_elements(self) -> int:
        """Of the tensor; 1 for one without axes."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """On disk."""
        return self.num_elements * self.dtype.itemsize


class Identity(NamedTuple):
    """What tells whether a file is the one it was; `changed_ns` cannot be set back."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, descriptor: int) -> Identity:
        """Of an open file."""
        facts = os.fstat(descriptor)
        return cls(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


_known_hashes: dict[Identity, str] = {}  # of files hashed in this process


@dataclass(eq=False)
class WeightsFile:
    """An open file of weights. Bytes read in the file's order are hashed on the way; `sha256` reads the others.

    A file that was hashed before in this process, and has not changed since, is not hashed again.
    """

    path: Path
    metadata: dict[str, str]
    tensors: dict[str, Stored] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._digest, self._hashed_bytes = hashlib.sha256(), 0  # the hashing thread's own until it is done
        self._hashing: Background | None = None
        self._announced_bytes = 0
        self._identity = Identity.of(self._descriptor)

    def read_into(self, start_byte: int, view: memoryview, hashed: bool = False) -> None:
        """Fill `view` with the bytes from `start_byte`; hashed: in a thread, so leave them alone.

        Raises:
            WeightsError: the file ends before.
        """
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], start_byte + done)
            if count == 0:
                raise WeightsError(
                    f'cannot read weights "{self.path}": it became shorter while it was read',
                    fix="leave the file alone during a merge, and run again",
                )
            done += count
        if hashed:
            self._announce(start_byte + len(view))
            if self._identity not in _known_hashes:
                self._hashing = self._hashing or Background()
                self._hashing.run(self._hash, start_byte, view)

    def _announce(self, read_up_to_byte: int) -> None:
        """Let the system fetch what will be read next: a disk then works while we compute."""
        start = max(self._announced_bytes, read_up_to_byte)
        end = read_up_to_byte + READ_AHEAD_BYTES
        if end - start >= READ_AHEAD_BYTES // 4 and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, start, end - start, os.POSIX_FADV_WILLNEED)
            self._announced_bytes = end

    def sha256(self) -> str:
        """Of the whole file, in hexadecimal."""
        known = _known_hashes.get(self._identity)
        if known is None:
            self._end_hashing(finish=True)
            self._hash_up_to(self.path.stat().st_size, gap_bytes=None)
            known = self._digest.hexdigest()
            settled = time.time_ns() - self._identity.changed_ns > SETTLED_NS
            if settled and self._identity == Identity.of(self._descriptor):
                _known_hashes[self._identity] = known
        return known

    def _hash(self, start_byte: int, view: memoryview) -> None:
        self._hash_up_to(start_byte)
        if self._hashed_bytes == start_byte:
            self._digest.update(view)
            self._hashed_bytes += len(view)

    def _hash_up_to(self, end_byte: int, gap_bytes: int | None = 1 << 23) -> None:
        """Hash the bytes between what is hashed and `end_byte`, if they are few; None: however many."""
        gap = end_byte - self._hashed_bytes
        if gap <= 0 or (gap_bytes is not None and gap > gap_bytes):
            return
        buffer = memoryview(bytearray(min(gap, HASH_BYTES)))
        while self._hashed_bytes < end_byte:
            view = buffer[: end_byte - self._hashed_bytes]
            self.read_into(self._hashed_bytes, view)
            self._digest.update(view)
            self._hashed_bytes += len(view)

    def _end_hashing(self, finish: bool) -> None:
        if self._hashing is not None:
            if finish:
                self._hashing.wait()
            self._hashing.close()
            self._hashing = None

    def close(self) -> None:
        """Give the file back; safe to call twice."""
        self._end_hashing(finish=False)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        if hasattr(self, "_hashing"):
            self.close()


class Checkpoint(Mapping[str, Tensor]):
    """A lazy mapping from names to tensors (CPU, the file's dtype); each access reads.

    Attributes:
        path: what was opened.
        files: in the order of their names, each with its tensors.
        stored: name -> where it lies.
    """

    def __init__(self, path: Path, files: list[WeightsFile], stored: dict[str, Stored]) -> None:
        self.path, self.files, self.stored = path, files, stored

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor."""
        found = self.stored[name]
        return self.read(name, 0, found.num_elements).reshape(found.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def read(self, name: str, start: int, stop: int, hashed: bool = False) -> Tensor:
        """Elements [start, stop) of a flattened tensor; hashed: see `WeightsFile.read_into`."""
        found = self.stored[name]
        raw = torch.empty((stop - start) * found.dtype.itemsize, dtype=torch.uint8)
        if raw.numel():
            at = found.start_byte + start * found.dtype.itemsize
            found.file.read_into(at, raw.numpy().data, hashed)
        return raw.view(found.dtype)

    def close(self) -> None:
        """Close every file."""
        for file in self.files:
            file.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Computed(Mapping[str, Tensor]):
    """A lazy mapping whose tensors are computed when they are asked for."""

    def __init__(self, names: list[str], compute: Callable[[str], Tensor]) -> None:
        self._names, self._compute = dict.fromkeys(names), compute

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._compute(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


# --- opening ------------------------------------------------------------------------------------------------


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Weights at a path, or the name of a shipped base ("mini").

    In a folder, tensors keep their names as long as no name occurs in two files; where one does, every name gets its
    file's place in front ("text_encoder/model.embed.weight").

    Raises:
        InputError: there is nothing there, or no weights in it.
        WeightsError: a file is damaged, a shard is missing, or a pickle holds more than weights.
    """
    file = Path(path)
    if str(path) == "mini" and not file.exists():
        from motionloom.zoo import MINI

        file = MINI
    if not file.exists():
        _refuse_name_of_base(str(path))
    if file.is_dir():
        return _open_folder(file)
    opened = _open_file(file)
    return Checkpoint(file, [opened], dict(opened.tensors))


def _refuse_name_of_base(name: str) -> None:
    """A base is asked for by its name, which says where its weights are to those who animate alone."""
    from motionloom.denoisers.catalog import BASES

    if name in BASES:
        raise InputError(
            f'"{name}" is the name of a base, and a merge reads files',
            fix="give the folder or the file of its weights; a sweep takes bases by name",
        )


def _open_file(path: Path) -> WeightsFile:
    head = open_head(path, "cannot read weights", WeightsError)
    content = describe_content(head)
    if "zip archive" in content or (path.suffix in PICKLED_SUFFIXES and head[8:9] != b"{"):
        return _open_archive(path, content)
    layouts = read_tensor_layout(path)
    opened = WeightsFile(path, read_metadata(path))
    start_byte = 8 + int.from_bytes(head[:8], "little")
    for name, layout in layouts.items():
        opened.tensors[name] = Stored(opened, layout.dtype, layout.shape, start_byte + layout.start_byte)
    return opened


def _open_folder(folder: Path) -> Checkpoint:
    paths = sorted(
        path
        for path in folder.rglob("*.safetensors")
        if not path.name.startswith(".") and path.relative_to(folder).parts[0] != EXPERTS_FOLDER
    )
    if not paths:
        raise InputError(
            f'no weights in "{folder}": it holds no .safetensors file',
            fix="give a folder of safetensors, one file, or a .ckpt",
        )
    for index in sorted(folder.rglob("*.safetensors.index.json")):
        _check_index(index)
    files = [_open_file(path) for path in paths]
    names = [name for file in files for name in file.tensors]
    if len(set(names)) == len(names):
        return Checkpoint(
            folder, files, {name: found for file in files for name, found in file.tensors.items()}
        )
    stored = {
        f"{_place(folder, file.path)}/{name}": found for file in files for name, found in file.tensors.items()
    }
    if len(stored) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise WeightsError(
            f'two files of one folder below "{folder}" hold "{twice}"',
            fix="give one of the variants: the path of a file, or a folder with one of them",
        )
    return Checkpoint(folder, files, stored)


def _place(folder: Path, file: Path) -> str:
    inside = file.relative_to(folder)
    return inside.parent.as_posix() if inside.parent != Path(".") else inside.stem


def _check_index(index: Path) -> None:
    """Every shard that an index names must be there and hold what the index says."""
    try:
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        by_shard: dict[str, set[str]] = {}
        for name, shard in shards.items():
            by_shard.setdefault(str(shard), set()).add(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise WeightsError(
            f'cannot read the index "{index}": {type(problem).__name__}', fix="download it again"
        ) from problem
    for shard, names in by_shard.items():
        path = index.parent / shard
        if not path.is_file():
            raise WeightsError(
                f'"{index.name}" names the shard "{shard}", which is missing in "{index.parent}"',
                fix="download the missing shard",
            )
        absent = sorted(names - set(read_tensor_layout(path)))
        if absent:
            raise WeightsError(
                f'"{path}" lacks {len(absent)} tensors of its index ({", ".join(absent[:5])})',
                fix="download shards and index of one version",
            )


def _open_archive(path: Path, content: str) -> WeightsFile:
    """A `torch.save` archive. Its pickle is read by the weights-only reader, its tensors stay where they are."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    _check_members(path, content)
    try:
        with FakeTensorMode():  # shapes, dtypes and places alone: no tensor is read
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # the reader raises several classes
        reason = str(problem).split("\n")[0][:160]
        raise WeightsError(
            f'cannot read weights "{path}": the weights-only reader refuses it ({reason})',
            fix="export the plain state dict as safetensors",
        ) from problem
    opened = WeightsFile(path, {})
    for name, tensor in _state_dict(path, loaded).items():
        offset = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
        if offset is None or not tensor.is_contiguous():
            raise WeightsError(
                f'cannot read weights "{path}": "{name}" is a view, not a tensor of its own',
                fix="export it as safetensors",
            )
        start_byte = int(offset) + int(tensor.storage_offset()) * tensor.dtype.itemsize
        opened.tensors[name] = Stored(opened, tensor.dtype, tuple(tensor.shape), start_byte)
    return opened


def _check_members(path: Path, content: str) -> None:
    """Tensors must lie uncompressed in the archive: a deflated member may be of any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as problem:
        raise WeightsError(
            f'cannot read weights "{path}": it is {content or "no PyTorch archive"}, damaged or truncated ({problem})',
            fix="download or copy the file again; a pickle of the old form must be saved again by a recent torch",
        ) from problem
    squeezed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    if squeezed:
        raise WeightsError(
            f'cannot read weights "{path}": its member "{squeezed[0]}" is compressed, which torch.save never does',
            fix="save it again with torch.save",
        )


def _state_dict(path: Path, loaded: Any) -> dict[str, Tensor]:
    """The weights inside what a trainer saved (Lightning, DeepSpeed, or plain)."""
    while isinstance(loaded, dict):
        wrapper = next((key for key in WRAPPERS if isinstance(loaded.get(key), dict)), None)
        if wrapper is None:
            break
        loaded = loaded[wrapper]
    tensors = {k: v for k, v in loaded.items() if isinstance(v, Tensor)} if isinstance(loaded, dict) else {}
    if not tensors:
        raise WeightsError(f'"{path}" holds no state dict', fix="give the weights of a model")
    return {str(name).removeprefix(DEEPSPEED_PREFIX): tensor for name, tensor in tensors.items()}


# --- comparing ----------------------------------------------------------------------------------------------

KEY_POLICIES = ("strict", "partial", "union", "shared")


def check_pair(
    base: Mapping[str, Any], tuned: Mapping[str, Any], keys: str, what: str = "the tuned model"
) -> list[str]:
    """The names both hold, once their differences are declared and their shapes agree.

    Args:
        base, tuned: names -> anything with a shape.
        keys: "strict" refuses any difference; "partial" lets the tuned model lack tensors (they stay the base's);
            "union" also keeps tensors that only the tuned model has (a text adapter); "shared" drops whatever one of
            them lacks, as the released code does.
        what: names the tuned model in errors.

    Raises:
        ConfigError: an unknown policy.
        WeightsError: undeclared differences, other shapes, or nothing in common.
    """
    if keys not in KEY_POLICIES:
        raise ConfigError(f'got keys "{keys}"', fix=f"use one of {', '.join(KEY_POLICIES)}")
    missing = [name for name in base if name not in tuned] if keys == "strict" else []
    unexpected = [name for name in tuned if name not in base] if keys in ("strict", "partial") else []
    problems = [
        f"{what} {verb} {len(names)} tensors ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
        for verb, names in (("lacks", missing), ("adds", unexpected))
        if names
    ]
    if problems:
        raise WeightsError(
            "the models do not hold the same tensors: " + "; ".join(problems),
            fix="give models of one kind, or declare it with keys: partial, union or shared",
        )
    both = [name for name in base if name in tuned]
    if not both:
        raise WeightsError(f"the base and {what} have no tensor in common", fix="give models of one kind")
    shapes = _shapes(base), _shapes(tuned)
    for name in both:
        if shapes[0](name) != shapes[1](name):
            raise WeightsError(
                f'"{name}" has the shape {list(shapes[0](name))} in the base and {list(shapes[1](name))} in {what}',
                fix="give models of one architecture",
            )
    return both


def _shapes(tensors: Mapping[str, Any]) -> Callable[[str], tuple[int, ...]]:
    known = tensors.stored if isinstance(tensors, Checkpoint) else tensors
    return lambda name: tuple(known[name].shape)

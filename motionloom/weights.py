"""Weights on disk: safetensors and nothing else, refused with the file and the reason before a tensor is
read.

A safetensors file is 8 bytes (header length, little-endian), a JSON header, and the tensors' bytes without
gaps. We check the whole header ourselves, because the library's errors name neither the file nor what to do.
Files written here carry a checksum of header and tensors in their metadata, so one flipped byte is noticed.

    save_weights(path, tensors, metadata)   dict of tensors -> file, durable, same bytes for same tensors
    load_weights(path)                      file -> (tensors, metadata)
    load_strictly(module, tensors, path)    tensors -> module, every key accounted for
    load_pretrained(model_class, folder)    a published folder -> a module of transformers
    read_metadata(path), read_tensor_layout(path)   only the header is read
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import safetensors
import torch
from torch import nn

from motionloom.durable import write_durably
from motionloom.errors import ResourceError, WeightsError
from motionloom.filetypes import describe_content, open_head, remedy_for

MAX_HEADER_BYTES = 32 * 1024 * 1024  # real headers stay below 3 MB; a larger one is an attack or not a header
MAX_TENSOR_AXES = 16
CHECKSUM_KEY = "motionloom.checksum"  # sha256 of the header without it, followed by the sha256 of the data
OLD_CHECKSUM_KEY = (
    "motionloom.sha256"  # sha256 of the header followed by the data themselves: read, not written
)
METADATA_KEY = "__metadata__"

_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class TensorLayout:
    """One tensor as the header describes it: its bytes are [start_byte, end_byte) of the data section."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start_byte: int
    end_byte: int


@dataclass(frozen=True)
class _Header:
    """A header that passed every check. `raw` is its JSON as read, needed for the checksum."""

    raw: dict[str, Any]
    metadata: dict[str, str]
    tensors: dict[str, TensorLayout]
    data_start_byte: int


def save_weights(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write tensors (any device, any stride) as safetensors, durably; return the path.

    The same tensors and metadata always give the same bytes: widest dtype first (alignment), then by name.
    Tensors that share memory are written once each. Raises WeightsError for a dtype that cannot be stored,
    ResourceError when the disk refuses.
    """
    target = Path(path)
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    unheld = next(((name, tensor) for name, tensor in ordered if tensor.dtype not in _NAMES), None)
    if unheld is not None:
        raise WeightsError(
            f'cannot write weights "{target}": "{unheld[0]}" has dtype {unheld[1].dtype}, which it cannot hold',
            fix="convert it first",
        )
    described = [(name, tensor.dtype, tensor.shape) for name, tensor in ordered]
    header, data_bytes = new_header(described, metadata or {})
    start = encoded_header(header, _digest(b"", (_bytes_of(tensor) for _, tensor in ordered)))

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as stream:
            stream.write(start)
            for _, tensor in ordered:
                stream.write(_bytes_of(tensor))

    return write_durably(
        target, write, lambda done: _check(done, _read_header(done)), bytes_needed=len(start) + data_bytes
    )


def new_header(
    tensors: Iterable[tuple[str, torch.dtype, Sequence[int]]], metadata: Mapping[str, str]
) -> tuple[dict[str, Any], int]:
    """The header of (name, dtype, shape) stored one after another, and the length of the data in bytes."""
    assert CHECKSUM_KEY not in metadata, f"{CHECKSUM_KEY} is written here alone"
    header: dict[str, Any] = {METADATA_KEY: dict(metadata)}
    position = 0
    for name, dtype, shape in tensors:
        assert name != METADATA_KEY, f"a tensor cannot be called {METADATA_KEY}"
        end = position + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [position, end]}
        position = end
    return header, position


def encoded_header(header: Mapping[str, Any], data_digest: bytes) -> bytes:
    """What a file starts with, of the same length for any digest: the header's length, and its JSON with the checksum.

    Args:
        header: metadata and tensors as safetensors has them, without the checksum.
        data_digest: sha256 of everything behind the header, 32 bytes.
    """
    checksum = _digest(_canonical(header), [data_digest]).hex()
    complete = {**header, METADATA_KEY: {**header[METADATA_KEY], CHECKSUM_KEY: checksum}}
    text = json.dumps(complete, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    assert len(text) <= MAX_HEADER_BYTES, "a header that large could not be read back"
    return len(text).to_bytes(8, "little") + text


def load_weights(
    path: str | os.PathLike[str], *, allow_nonfinite: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read every tensor (on the CPU, in the file's dtypes) and the metadata of a safetensors file.

    Raises WeightsError, naming the file and the reason, for a path that is missing or a folder; an empty or
    truncated file; a Git-LFS pointer, web page, pickle or archive in disguise; a header that lies about
    sizes, dtypes or offsets; trailing bytes; a checksum that does not match; and, unless `allow_nonfinite`, a
    tensor with NaN or Inf. All but the last two are found without reading a tensor.
    """
    file = Path(path)
    header = _read_header(file)
    _check(file, header)
    tensors: dict[str, torch.Tensor] = {}
    try:
        with safetensors.safe_open(file, framework="pt", device="cpu") as opened:
            for name in header.tensors:
                tensors[name] = opened.get_tensor(name)
    except MemoryError:
        raise ResourceError(
            f'cannot read weights "{file}": out of memory', fix="close other programs"
        ) from None
    except Exception as problem:  # the library raises several classes of its own
        _refuse(file, f"safetensors cannot read it ({problem})", "download or export the file again")
    if not allow_nonfinite:
        for name, tensor in tensors.items():
            _refuse_nonfinite(file, name, tensor)
    return tensors, header.metadata


def load_strictly(
    module: nn.Module, tensors: Mapping[str, torch.Tensor], path: str | os.PathLike[str]
) -> None:
    """Copy tensors into the module's parameters and buffers; every key of both sides must match in name and
    shape.

    Raises WeightsError with the first five missing, unexpected and mis-shaped keys and their counts; the
    module is then unchanged. `path` is only named in the error. Values are cast to the module's own dtype.
    """
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    misshaped = [
        f"{name} (file {list(tensors[name].shape)}, model {list(own[name].shape)})"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    groups = (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped))
    problems = [f"{len(names)} {kind} ({_first_five(names)})" for kind, names in groups if names]
    if problems:
        raise WeightsError(
            f'weights "{path}" do not fit {type(module).__name__}: {"; ".join(problems)} of {len(own)} keys',
            fix="use the weights made for this model, or convert them with `motionloom convert`",
        )
    module.load_state_dict(dict(tensors), strict=True)


def load_pretrained(model_class: Any, folder: Path, **options: Any) -> nn.Module:
    """A network of transformers in evaluation mode and float32, from a folder of safetensors, never from the network.

    Args:
        model_class: with `from_pretrained`, which takes the options.
        folder: as published.

    Raises:
        WeightsError: files or keys are missing.
    """
    if not any(folder.glob("*.safetensors")):
        raise WeightsError(
            f'cannot load {model_class.__name__} from "{folder}": no .safetensors in it',
            fix="download the folder with its model.safetensors",
        )
    try:
        model, report = model_class.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
            **options,
        )
    except (OSError, ValueError, RuntimeError) as problem:
        raise WeightsError(
            f'cannot load {model_class.__name__} from "{folder}": {str(problem).splitlines()[0]}',
            fix="download the folder again",
        ) from problem
    missing = sorted(report["missing_keys"])
    if missing:
        raise WeightsError(
            f'"{folder}" is no {model_class.__name__}: {len(missing)} keys are missing ({", ".join(missing[:5])})',
            fix="give the folder of the published weights",
        )
    module: nn.Module = model
    return module.eval()


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata of a safetensors file; reads and checks only its header. Raises WeightsError as
    load_weights does.
    """
    return _read_header(Path(path)).metadata


def read_tensor_layout(path: str | os.PathLike[str]) -> dict[str, TensorLayout]:
    """Name, dtype and shape of every tensor; reads and checks only the header. Raises WeightsError as
    load_weights does.
    """
    return _read_header(Path(path)).tensors


def _first_five(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


# --- reading the header -------------------------------------------------------------------------------------


def _refuse(path: Path, reason: str, fix: str) -> NoReturn:
    raise WeightsError(f'cannot read weights "{path}": {reason}', fix=fix)


def _read_header(path: Path) -> _Header:
    head = open_head(path, "cannot read weights", WeightsError)
    size_bytes = path.stat().st_size
    header_bytes = int.from_bytes(head[:8], "little")
    if size_bytes < 8 or head[8:9] != b"{" or header_bytes > min(MAX_HEADER_BYTES, size_bytes - 8):
        _refuse_start(path, head, header_bytes, size_bytes)
    with open(path, "rb") as stream:
        stream.seek(8)
        raw = _parse_json(path, stream.read(header_bytes))
    metadata = _checked_metadata(path, raw.get(METADATA_KEY, {}))
    tensors = {
        name: _checked_layout(path, name, entry) for name, entry in raw.items() if name != METADATA_KEY
    }
    _check_offsets(path, tensors, size_bytes - 8 - header_bytes)
    shown = {key: value for key, value in metadata.items() if key not in (CHECKSUM_KEY, OLD_CHECKSUM_KEY)}
    return _Header(raw, shown, tensors, 8 + header_bytes)


def _refuse_start(path: Path, head: bytes, header_bytes: int, size_bytes: int) -> NoReturn:
    """The first bytes cannot start a safetensors file: say what they are instead."""
    again = "download or copy the file again"
    if size_bytes < 8:
        _refuse(path, f"truncated: it has {size_bytes} bytes, a header alone needs more than 8", again)
    content = describe_content(head)
    if "pickle" in content or "archive" in content:
        _refuse(path, f"it is {content}, only safetensors is read", "convert it with `motionloom convert`")
    if content:
        _refuse(
            path, f"it is {content}, expected safetensors", remedy_for(content, "give a .safetensors file")
        )
    if header_bytes > MAX_HEADER_BYTES:
        _refuse(
            path, f"its header claims {header_bytes} bytes, at most {MAX_HEADER_BYTES} are allowed", again
        )
    if header_bytes > size_bytes - 8:
        _refuse(
            path, f"truncated: it has {size_bytes} bytes, its header alone ends at {header_bytes + 8}", again
        )
    _refuse(path, "it does not start with a safetensors header", "give a .safetensors file")


def _parse_json(path: Path, text: bytes) -> dict[str, Any]:
    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) != len({key for key, _ in pairs}):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            _refuse(path, f'its header has the key "{twice}" twice', "export the weights again")
        return dict(pairs)

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=refuse_duplicates)
    except (ValueError, RecursionError) as problem:
        reason = problem.msg if isinstance(problem, json.JSONDecodeError) else type(problem).__name__
        _refuse(path, f"its header is not valid JSON ({reason})", "download or export the file again")
    if not isinstance(value, dict):
        _refuse(path, "its header is not a JSON object", "export the weights again")
    return value


def _checked_metadata(path: Path, metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(path, "its metadata is not a table of texts", "export the weights again")
    return metadata


def _checked_layout(path: Path, name: str, entry: object) -> TensorLayout:
    again = "export the weights again"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f'tensor "{name}" is not described by dtype, shape and data_offsets', again)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        _refuse(
            path, f'tensor "{name}" has the unknown dtype {dtype!r}, known are {", ".join(_DTYPES)}', again
        )
    if not _are_sizes(shape) or len(shape) > MAX_TENSOR_AXES:
        _refuse(path, f'tensor "{name}" has the impossible shape {str(shape)[:80]}', again)
    if not _are_sizes(offsets) or len(offsets) != 2:
        _refuse(path, f'tensor "{name}" has the impossible offsets {str(offsets)[:80]}', again)
    expected_bytes = _DTYPES[dtype].itemsize
    for size in shape:
        expected_bytes *= size
    if expected_bytes != offsets[1] - offsets[0]:
        _refuse(
            path,
            f'tensor "{name}" has shape {str(shape)[:80]} and dtype {dtype}, needing {expected_bytes} bytes, '
            f"but its offsets span {offsets[1] - offsets[0]}",
            again,
        )
    return TensorLayout(_DTYPES[dtype], tuple(shape), offsets[0], offsets[1])


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_offsets(path: Path, tensors: Mapping[str, TensorLayout], data_bytes: int) -> None:
    """The tensors must tile [0, data_bytes) without gap or overlap: nothing hides between or behind."""
    position = 0
    for name, layout in sorted(tensors.items(), key=lambda item: (item[1].start_byte, item[1].end_byte)):
        if layout.start_byte != position:
            kind = "overlaps the one before it" if layout.start_byte < position else "leaves a hole before it"
            _refuse(
                path,
                f'tensor "{name}" {kind} (starts at {layout.start_byte}, expected {position})',
                "export it again",
            )
        position = layout.end_byte
    if position > data_bytes:
        overhead = path.stat().st_size - data_bytes
        _refuse(
            path,
            f"truncated: it has {overhead + data_bytes} bytes, its header promises {overhead + position}",
            "download or copy the file again",
        )
    if position < data_bytes:
        _refuse(
            path, f"{data_bytes - position} bytes follow the last tensor", "download or export the file again"
        )


# --- checking and writing the tensors -----------------------------------------------------------------------


def _check(path: Path, header: _Header) -> None:
    """Compare the checksum, when the file carries one."""
    carried = header.raw.get(METADATA_KEY, {})
    canonical = _canonical({**header.raw, METADATA_KEY: header.metadata})
    data = _chunks(path, header.data_start_byte)
    if CHECKSUM_KEY in carried:
        expected, found = carried[CHECKSUM_KEY], _digest(canonical, [_digest(b"", data)])
    elif OLD_CHECKSUM_KEY in carried:
        expected, found = carried[OLD_CHECKSUM_KEY], _digest(canonical, data)
    else:
        return
    if found.hex() != expected:
        _refuse(
            path,
            "checksum mismatch in tensor file: its bytes were changed",
            "download or copy the file again",
        )


def _canonical(header: Mapping[str, Any]) -> bytes:
    """A header without its checksum, whatever the order and white space it was written with."""
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode("ascii")


def _digest(start: bytes, data: Iterable[bytes | memoryview]) -> bytes:
    """sha256 of bytes one after another."""
    digest = hashlib.sha256(start)
    for chunk in data:
        digest.update(chunk)
    return digest.digest()


def _chunks(path: Path, start_byte: int) -> Iterator[bytes]:
    with open(path, "rb") as stream:
        stream.seek(start_byte)
        while chunk := stream.read(1 << 22):
            yield chunk


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """A tensor's elements as little-endian bytes, without a copy where it already lies so in memory."""
    assert sys.byteorder == "little", "safetensors are little-endian; this machine is not"
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    array: npt.NDArray[np.uint8] = flat.view(torch.uint8).numpy()
    return array.data


def _refuse_nonfinite(path: Path, name: str, tensor: torch.Tensor) -> None:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return
    values = (
        tensor.float() if tensor.dtype.itemsize == 1 else tensor
    )  # 8-bit floats have no isfinite of their own
    bad = int(values.numel() - torch.isfinite(values).sum())
    if bad:
        _refuse(
            path,
            f'tensor "{name}" has {bad} NaN or Inf of {tensor.numel()} values',
            "use an earlier checkpoint; training diverged or the file was damaged",
        )

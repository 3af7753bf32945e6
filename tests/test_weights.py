"""Weights come back bit for bit, or one sentence says which file and why."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import resource
import struct
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from motionloom import weights as weights_module
from motionloom.durable import sha256_of
from motionloom.errors import ResourceError, WeightsError
from motionloom.weights import load_strictly, load_weights, read_metadata, read_tensor_layout, save_weights

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(4, 3, generator=generator),
        "a.bias": torch.randn(4, generator=generator).to(torch.bfloat16),
        "steps": torch.tensor(7),
        "empty": torch.zeros(0, 5),
    }


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    bits = [value.detach().contiguous().reshape(-1).view(torch.uint8) for value in (first, second)]
    return first.dtype == second.dtype and first.shape == second.shape and torch.equal(*bits)


def test_round_trip(tmp_path: Path) -> None:
    metadata = {"kind": "adapter", "motion": "wäterfall 🌊"}
    path = save_weights(tmp_path / "w.safetensors", some_tensors(), metadata)
    tensors, again = load_weights(path)
    assert again == metadata == read_metadata(path)
    assert set(tensors) == set(some_tensors())
    assert all(same_bits(tensors[name], value) for name, value in some_tensors().items())
    assert os.listdir(tmp_path) == ["w.safetensors"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.arange(24).reshape(2, 3, 4).remainder(7).to(dtype)
    path = save_weights(tmp_path / "w", {"x": values, "scalar": values[0, 0, 1]})
    tensors, _ = load_weights(path)
    assert same_bits(tensors["x"], values) and same_bits(tensors["scalar"], values[0, 0, 1])
    theirs = safetensors.torch.load_file(path)  # the library itself reads our file the same way
    assert same_bits(theirs["x"], values)


def test_views_shared_memory_and_gradients(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"t": base.T, "slice": base[:, 1:3], "again": base, "parameter": nn.Parameter(base)}
    loaded, _ = load_weights(save_weights(tmp_path / "w", tensors))
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())


def test_files_of_the_library_are_read(tmp_path: Path) -> None:
    safetensors.torch.save_file({"x": torch.ones(2)}, tmp_path / "w", metadata={"by": "someone"})
    assert load_weights(tmp_path / "w")[1] == {"by": "someone"}
    safetensors.torch.save_file({}, tmp_path / "none")
    assert load_weights(tmp_path / "none") == ({}, {})


def test_same_tensors_same_bytes(tmp_path: Path) -> None:
    tensors = some_tensors()
    first = save_weights(tmp_path / "a", tensors, {"x": "1"})
    second = save_weights(tmp_path / "b", dict(reversed(tensors.items())), {"x": "1"})
    assert sha256_of(first) == sha256_of(second)


def test_data_is_aligned(tmp_path: Path) -> None:
    path = save_weights(
        tmp_path / "w", {"a": torch.zeros(3, dtype=torch.uint8), "b": torch.zeros(2, dtype=torch.float64)}
    )
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0
    assert read_tensor_layout(path)["b"].start_byte == 0


def test_layout_without_tensors(tmp_path: Path) -> None:
    layout = read_tensor_layout(save_weights(tmp_path / "w", some_tensors()))
    assert layout["a.weight"].shape == (4, 3) and layout["a.bias"].dtype == torch.bfloat16


def test_dtypes_that_cannot_be_stored(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match='"x" has dtype torch.complex128'):
        save_weights(tmp_path / "w", {"x": torch.zeros(1, dtype=torch.complex128)})
    assert os.listdir(tmp_path) == []


def test_failing_disk_keeps_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_weights(tmp_path / "w", some_tensors())
    before = path.read_bytes()
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(ResourceError, match="No space left"):
        save_weights(path, {"other": torch.zeros(3)})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["w"]


def test_what_was_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that flips a bit while writing is noticed before the old file is replaced."""
    path = save_weights(tmp_path / "w", {"x": torch.ones(4)})
    before = path.read_bytes()
    calls: list[int] = []

    def flip_second(tensor: torch.Tensor) -> memoryview:
        calls.append(1)
        return memoryview(bytes(16)) if len(calls) == 2 else original(tensor)

    original = weights_module._bytes_of
    monkeypatch.setattr(weights_module, "_bytes_of", flip_second)
    with pytest.raises(WeightsError, match="checksum"):
        save_weights(path, {"x": torch.ones(4)})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["w"]


# --- files that are no weights ------------------------------------------------------------------------------


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


class Malicious:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (os.mkdir, ("marker-of-executed-code",))


def torch_zip(path: Path) -> None:
    torch.save({"x": Malicious()}, path)


def torch_legacy(path: Path) -> None:
    torch.save({"x": Malicious()}, path, _use_new_zipfile_serialization=False)


def legacy_tar(path: Path) -> None:
    pickled = path.with_name("pickle")
    pickled.write_bytes(pickle.dumps(Malicious()))
    with tarfile.open(path, "w") as archive:
        archive.add(pickled, "pickle")
    pickled.unlink()


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


GOOD = raw({"x": entry()}, bytes(8))
CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "it is a folder"),
    "empty": (content(b""), "empty file (0 bytes)"),
    "git-lfs pointer": (
        content(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        "Git-LFS pointer",
    ),
    "web page": (content(b"<!DOCTYPE html>\n<html><body>Not found</body></html>"), "it is a web page"),
    "server error": (content(b'{"error": "Repository not found", "status": 404}'), "it is a JSON text"),
    "plain text": (content(b"Access denied, please log in to continue."), "it is plain text"),
    "truncated at 1 byte": (content(GOOD[:1]), "truncated: it has 1 bytes"),
    "truncated at 7 bytes": (content(GOOD[:7]), "truncated: it has 7 bytes"),
    "truncated in the header": (
        content(GOOD[:30]),
        f"truncated: it has 30 bytes, its header alone ends at {len(GOOD) - 8}",
    ),
    "truncated in the data": (
        content(GOOD[:-1]),
        f"truncated: it has {len(GOOD) - 1} bytes, its header promises {len(GOOD)}",
    ),
    "header of 2^63 bytes": (
        content(raw({"x": entry()}, bytes(8), 2**63)),
        "its header claims 9223372036854775808 bytes",
    ),
    "header of 200 MB": (
        content(raw({"x": entry()}, bytes(8), 200_000_000)),
        "its header claims 200000000 bytes",
    ),
    "header of 0 bytes": (content(raw(b"", bytes(8))), "does not start with a safetensors header"),
    "header is no JSON": (content(raw(b"{not json at all", bytes(8))), "its header is not valid JSON"),
    "header is no UTF-8": (content(raw(b'{"\xff\xfe": 1}', bytes(8))), "its header is not valid JSON"),
    "header is a deep list": (content(raw(b'{"a":' + b"[" * 100_000)), "its header is not valid JSON"),
    "header has a huge number": (
        content(raw(b'{"x":{"dtype":"F32","shape":[' + b"9" * 5000 + b"]}}")),
        "not valid JSON",
    ),
    "header is a list": (content(raw(b"[1]")), "does not start with a safetensors header"),
    "overlapping offsets": (content(raw({"x": entry(), "y": entry(offsets=(4, 12))}, bytes(12))), "overlaps"),
    "same offsets twice": (content(raw({"x": entry(), "y": entry()}, bytes(8))), "overlaps"),
    "hole between tensors": (
        content(raw({"x": entry(), "y": entry(offsets=(12, 20))}, bytes(20))),
        "leaves a hole",
    ),
    "hole before tensors": (content(raw({"x": entry(offsets=(4, 12))}, bytes(12))), "leaves a hole"),
    "trailing bytes": (content(GOOD + b"hidden"), "6 bytes follow the last tensor"),
    "bytes without tensors": (content(raw({}, b"hidden")), "6 bytes follow the last tensor"),
    "shape overflows": (content(raw({"x": entry(shape=(2**40, 2**40))}, bytes(8))), "but its offsets span 8"),
    "shape is too large": (content(raw({"x": entry(shape=(2**63,))}, bytes(8))), "impossible shape"),
    "shape is negative": (content(raw({"x": entry(shape=(-2, -1))}, bytes(8))), "impossible shape"),
    "shape is a float": (content(raw({"x": entry(shape=(2.0,))}, bytes(8))), "impossible shape"),
    "shape is true": (content(raw({"x": entry(shape=(True, 2))}, bytes(8))), "impossible shape"),
    "shape has 17 axes": (content(raw({"x": entry(shape=(1,) * 16 + (2,))}, bytes(8))), "impossible shape"),
    "shape is no list": (content(raw({"x": entry(shape=2)}, bytes(8))), "impossible shape"),
    "shape does not fit": (
        content(raw({"x": entry(shape=(3,))}, bytes(8))),
        "12 bytes, but its offsets span 8",
    ),
    "offsets reversed": (content(raw({"x": entry(offsets=(8, 0))}, bytes(8))), "but its offsets span -8"),
    "offsets of three": (content(raw({"x": entry(offsets=(0, 4, 8))}, bytes(8))), "impossible offsets"),
    "unknown dtype": (content(raw({"x": entry("F31")}, bytes(8))), "the unknown dtype 'F31'"),
    "dtype is no text": (content(raw({"x": entry(["F32"])}, bytes(8))), "the unknown dtype ['F32']"),
    "entry is no table": (content(raw({"x": 3}, bytes(8))), 'tensor "x" is not described'),
    "entry lacks a field": (
        content(raw({"x": {"dtype": "F32", "shape": [2]}}, bytes(8))),
        'tensor "x" is not described',
    ),
    "metadata is no table": (
        content(raw({"__metadata__": [], "x": entry()}, bytes(8))),
        "its metadata is not",
    ),
    "metadata holds numbers": (
        content(raw({"__metadata__": {"a": 1}, "x": entry()}, bytes(8))),
        "its metadata is not",
    ),
    "duplicate key": (
        content(
            raw(
                b'{"x":' + json.dumps(entry()).encode() + b',"x":' + json.dumps(entry()).encode() + b"}",
                bytes(8),
            )
        ),
        'the key "x" twice',
    ),
    "torch zip": (torch_zip, "it is a zip archive"),
    "torch legacy": (torch_legacy, "it is a Python pickle, which can run code"),
    "bare pickle": (content(pickle.dumps(Malicious())), "it is a Python pickle"),
    "old tar": (legacy_tar, "it is a tar archive"),
    "gguf": (content(b"GGUF" + bytes(60)), "it is a GGUF model"),
    "noise": (content(np.random.default_rng(5).bytes(4000)), "its header claims"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("read", [load_weights, read_metadata, read_tensor_layout])
def test_refused_with_file_and_reason(
    case: str, read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, reason = CASES[case]
    path = tmp_path / "bad model.safetensors"
    make(path)
    before = os.listdir(tmp_path)
    monkeypatch.setattr(safetensors, "safe_open", lambda *args, **options: pytest.fail("a tensor was read"))
    rss_before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        read(path)
    assert time.perf_counter() - started < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss_before < 50_000  # kB
    sentence = str(caught.value)
    assert (
        sentence.startswith("cannot read weights")
        and "bad model.safetensors" in sentence
        and "\n" not in sentence
    )
    assert reason in sentence and caught.value.fix and caught.value.exit_code == 2
    assert os.listdir(tmp_path) == before  # no marker of executed code either


def test_a_large_header_is_refused_although_the_file_holds_it(tmp_path: Path) -> None:
    """A sparse file: 200 MB that claim to be one header. Reading it as JSON would take the memory and the time."""
    with open(tmp_path / "w", "wb") as stream:
        stream.write(struct.pack("<Q", 200_000_000) + b'{"')
        stream.truncate(200_001_000)
    with pytest.raises(WeightsError, match="its header claims 200000000 bytes, at most 33554432 are allowed"):
        load_weights(tmp_path / "w")


@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.999])
def test_truncation_anywhere(fraction: float, tmp_path: Path) -> None:
    data = save_weights(tmp_path / "w", {"x": torch.ones(1000), "y": torch.ones(500)}).read_bytes()
    (tmp_path / "w").write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(WeightsError, match=f"truncated: it has {int(len(data) * fraction)} bytes"):
        load_weights(tmp_path / "w")


def test_one_flipped_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    tensors = {"x": torch.linspace(-1, 1, 64), "y": torch.arange(8)}
    path = save_weights(tmp_path / "w", tensors, {"motion": "clouds"})
    data = path.read_bytes()
    for position in range(0, len(data), 3):
        changed = bytearray(data)
        changed[position] ^= 1 << (position % 8)
        path.write_bytes(changed)
        try:
            loaded, metadata = load_weights(path)
        except WeightsError as problem:
            assert '/w"' in str(problem)
            continue
        # white space of the header, or the name of the checksum itself: what the file says is still true
        assert metadata["motion"] == "clouds"
        assert all(same_bits(loaded[name], value) for name, value in tensors.items())


def test_flipped_tensor_byte_says_checksum(tmp_path: Path) -> None:
    path = save_weights(tmp_path / "w", {"x": torch.ones(64)})
    data = bytearray(path.read_bytes())
    data[-10] ^= 16
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="checksum mismatch in tensor file"):
        load_weights(path)
    assert read_metadata(path) == {}  # the header is intact


def test_checksum_of_earlier_versions_is_compared(tmp_path: Path) -> None:
    """sha256 over the canonical header followed by the data, in one."""
    values = torch.ones(64)
    header: dict[str, Any] = {
        "__metadata__": {"motion": "clouds"},
        "x": {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]},
    }
    data = values.numpy().tobytes()
    canonical = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    header["__metadata__"]["motionloom.sha256"] = hashlib.sha256(canonical + data).hexdigest()
    text = json.dumps(header).encode()
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(text)) + text + data)
    tensors, metadata = load_weights(tmp_path / "w")
    assert torch.equal(tensors["x"], values) and metadata == {"motion": "clouds"}
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(text)) + text + data[:-1] + b"\x01")
    with pytest.raises(WeightsError, match="checksum mismatch in tensor file"):
        load_weights(tmp_path / "w")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.complex64]
)
def test_nonfinite_values_name_the_tensor(bad: float, dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.ones(5)
    values[3] = bad
    path = save_weights(tmp_path / "w", {"fine": torch.ones(2), "block.3.weight": values.to(dtype)})
    with pytest.raises(WeightsError, match='tensor "block.3.weight" has 1 NaN or Inf of 5 values'):
        load_weights(path)
    assert set(load_weights(path, allow_nonfinite=True)[0]) == {"fine", "block.3.weight"}


def test_library_errors_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_weights(tmp_path / "w", {"x": torch.ones(2)})

    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(safetensors, "safe_open", fail)
    with pytest.raises(WeightsError, match=r'/w": safetensors cannot read it \(unforeseen\)'):
        load_weights(path)


# --- strict loading -----------------------------------------------------------------------------------------


class Model(nn.Module):
    def __init__(self, num_layers: int = 8) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(num_layers))
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("cache", torch.ones(3), persistent=False)


def test_matching_tensors_are_loaded() -> None:
    source, target = Model(), Model()
    load_strictly(target, source.state_dict(), "w.safetensors")
    assert all(
        torch.equal(a, b)
        for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )


def test_every_mismatch_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    model = Model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tensors = {name: value + 1 for name, value in model.state_dict().items()}
    for index in range(3):
        del tensors[f"layers.{index}.weight"], tensors[f"layers.{index}.bias"]
    tensors |= {"extra": torch.zeros(1), "scale": torch.zeros(4)}
    with pytest.raises(WeightsError) as caught:
        load_strictly(model, tensors, "my.safetensors")
    sentence = str(caught.value)
    assert '"my.safetensors" do not fit Model' in sentence
    assert (
        "6 missing (layers.0.weight, layers.0.bias, layers.1.weight, layers.1.bias, layers.2.weight, ...)"
        in sentence
    )
    assert "1 unexpected (extra)" in sentence and "1 mis-shaped (scale (file [4], model [3]))" in sentence
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("change", ["missing", "unexpected", "mis-shaped"])
def test_one_mismatch_is_enough(change: str) -> None:
    model = Model(1)
    tensors = dict(model.state_dict())
    if change == "missing":
        del tensors["scale"]
    elif change == "unexpected":
        tensors["more"] = torch.zeros(1)
    else:
        tensors["scale"] = torch.zeros(1)
    with pytest.raises(WeightsError, match=f"1 {change}"):
        load_strictly(model, tensors, "w")


def test_values_are_cast_to_the_model() -> None:
    model = Model(1)
    load_strictly(model, {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}, "w")
    assert model.layers[0].weight.dtype == torch.float32

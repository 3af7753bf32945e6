"""TFRecord files and tf.train.Example messages without TensorFlow: just enough to read and write BAIR's form.

    file     = record*;  record = length (uint64) | masked CRC-32C of it (uint32) | data | masked CRC-32C of data (uint32)
    Example  = {1: Features};  Features = {1: map<name, Feature>}
    Feature  = {1: bytes list} | {2: float list} | {3: int64 list}

All numbers are little-endian. Sources: the documentation of tf.io.TFRecordWriter, of protocol buffers' wire format, and
RFC 3720 for CRC-32C.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from motionloom.errors import InputError

MAX_RECORD_BYTES = 1 << 30
_HEAD_BYTES, _TAIL_BYTES = 12, 4
_MASK_DELTA = 0xA282EAD8
_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected
_LANES_FROM_BYTES = 4096

Value = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


@dataclass(frozen=True)
class Record:
    """Where a record's data lies in its file."""

    offset: int
    size_bytes: int


def index_records(path: Path) -> tuple[list[Record], str]:
    """The records of a file, found by their lengths alone, and why the rest cannot be used ("" when all is well).

    A damaged length ends the walk: nothing after it can be found.
    """
    records: list[Record] = []
    total = path.stat().st_size
    with path.open("rb") as stream:
        offset = 0
        while offset < total:
            stream.seek(offset)
            head = stream.read(_HEAD_BYTES)
            if len(head) < _HEAD_BYTES:
                return records, f"truncated after record {len(records)}"
            size, checksum = struct.unpack("<QI", head)
            if masked_crc32c(head[:8]) != checksum or size > MAX_RECORD_BYTES:
                return records, f"the length of record {len(records)} is damaged (checksum)"
            if offset + _HEAD_BYTES + size + _TAIL_BYTES > total:
                return records, f"truncated within record {len(records)}"
            records.append(Record(offset + _HEAD_BYTES, size))
            offset += _HEAD_BYTES + size + _TAIL_BYTES
    return records, ""


def read_record(path: Path, record: Record) -> bytes:
    """The data of a record, checked. Raises InputError, naming the file, when it was changed or cannot be read."""
    try:
        with path.open("rb") as stream:
            stream.seek(record.offset)
            data = stream.read(record.size_bytes)
            tail = stream.read(_TAIL_BYTES)
    except OSError as problem:
        raise InputError(
            f'cannot read "{path}": {problem.strerror}', fix="check the data set's folder"
        ) from None
    if len(data) < record.size_bytes or len(tail) < _TAIL_BYTES:
        raise _damaged(path, record, "truncated")
    if masked_crc32c(data) != struct.unpack("<I", tail)[0]:
        raise _damaged(path, record, "its checksum does not match")
    return data


def _damaged(path: Path, record: Record, reason: str) -> InputError:
    return InputError(
        f'record at byte {record.offset} of "{path}" is damaged: {reason}', fix="download the file again"
    )


def write_record(stream: IO[bytes], data: bytes) -> None:
    """Append one record."""
    length = struct.pack("<Q", len(data))
    stream.write(length + struct.pack("<I", masked_crc32c(length)))
    stream.write(data)
    stream.write(struct.pack("<I", masked_crc32c(data)))


# tf.train.Example


def parse_example(data: bytes, wanted: Collection[str] | None = None) -> dict[str, Value]:
    """Feature name -> bytes as uint8 (n,), or numbers as float32 (n,). Lists of several byte strings are joined.

    Args:
        data: an Example message.
        wanted: names to read; others are stepped over. None reads all.

    Raises:
        InputError: it is not an Example.
    """
    try:
        view = memoryview(data)
        features: dict[str, Value] = {}
        for _, message in _fields(view):
            for _, entry in _fields(message):
                parts = dict(_fields(entry))
                name = bytes(parts[1]).decode()
                if wanted is None or name in wanted:
                    features[name] = _feature(parts[2])
        return features
    except (KeyError, ValueError, IndexError, TypeError, struct.error, RecursionError):
        raise InputError(
            "a record is no tf.train.Example message", fix="check that the file is what it says"
        ) from None


def _feature(message: memoryview) -> Value:
    for kind, values in _fields(message):
        parts = [part for _, part in _fields(values)]
        if kind == 1:
            return np.frombuffer(b"".join(parts), np.uint8)
        if kind == 2:
            return np.frombuffer(b"".join(parts), "<f4").astype(np.float32)
        numbers = [number for part in parts for number in _varints(part)]
        return np.array(numbers, np.float32)
    return np.zeros(0, np.uint8)


def _fields(message: memoryview) -> Iterable[tuple[int, memoryview]]:
    """(field number, payload) of a message; only payloads with a length, or of four bytes, are expected."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 5:
            yield key >> 3, message[at : at + 4]
            at += 4
            continue
        if key & 7 == 0:
            start = at
            _, at = _varint(message, at)
            yield key >> 3, message[start:at]
            continue
        if key & 7 != 2:
            raise ValueError(key)
        size, at = _varint(message, at)
        if at + size > len(message):
            raise ValueError(size)
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(shift)


def _varints(message: memoryview) -> Iterable[int]:
    at = 0
    while at < len(message):
        value, at = _varint(message, at)
        yield value - (1 << 64) if value >= 1 << 63 else value


def build_example(features: Mapping[str, bytes | npt.NDArray[np.float32]]) -> bytes:
    """An Example message: bytes become byte lists, arrays become float lists. Names in the order given."""
    entries = []
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = _field(1, _field(1, value))
        else:
            feature = _field(2, _field(1, np.asarray(value, "<f4").tobytes()))
        entries.append(_field(1, _field(1, name.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _encoded(len(payload)) + payload


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# CRC-32C


def masked_crc32c(data: bytes) -> int:
    """TFRecord's checksum: CRC-32C, turned by 15 bits and shifted by a constant."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli). Long data is cut into lanes that numpy runs side by side; a lane's remainder, moved past
    what follows it, is added, since the remainder is linear in the data.
    """
    if len(data) < _LANES_FROM_BYTES:
        return ~_run(data, 0xFFFFFFFF) & 0xFFFFFFFF
    lanes = int(len(data) ** 0.5)
    length = len(data) // lanes
    head = np.frombuffer(data, np.uint8, lanes * length).reshape(lanes, length)
    table = np.array(_table(), np.uint32)
    state = np.zeros(lanes, np.uint32)
    state[0] = 0xFFFFFFFF
    for column in np.ascontiguousarray(head.T):
        state = table[(state ^ column) & 0xFF] ^ (state >> 8)
    past = _moved_past(length)
    crc = 0
    for remainder in state.tolist():
        crc = (
            past[0][crc & 255]
            ^ past[1][crc >> 8 & 255]
            ^ past[2][crc >> 16 & 255]
            ^ past[3][crc >> 24]
            ^ remainder
        )
    return ~_run(data[lanes * length :], crc) & 0xFFFFFFFF


def _run(data: bytes, crc: int) -> int:
    table = _table()
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc


@functools.cache
def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


@functools.lru_cache(maxsize=32)
def _moved_past(length: int) -> tuple[tuple[int, ...], ...]:
    """Four tables, by byte of the remainder, that move a remainder past `length` zero bytes."""
    bits = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32)).astype(np.uint32)
    table = np.array(_table(), np.uint32)
    for _ in range(length):
        bits = table[bits & 0xFF] ^ (bits >> 8)
    images = bits.tolist()
    tables = []
    for byte in range(4):
        row = [0] * 256
        for value in range(1, 256):
            low = value & -value
            row[value] = row[value ^ low] ^ images[8 * byte + low.bit_length() - 1]
        tables.append(tuple(row))
    return tuple(tables)

"""TFRecords: the published checksum values, every damage is found, Examples survive a round trip."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from motionloom.datasets.tfrecord import (
    build_example,
    crc32c,
    index_records,
    masked_crc32c,
    parse_example,
    read_record,
    write_record,
)
from motionloom.errors import InputError


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"123456789", 0xE3069283),  # the check value of CRC-32C
        (bytes(32), 0x8A9136AA),  # RFC 3720, B.4: 32 zeros, 32 ones, ascending, descending
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_of_the_standard(data: bytes, value: int) -> None:
    assert crc32c(data) == value


def test_long_data_in_lanes_equals_one_by_one() -> None:
    """The remainder is linear: CRC(x) for every split of x must not depend on how it is computed."""
    data = np.random.default_rng(0).integers(0, 256, 70_001, np.uint8).tobytes()
    slow = 0xFFFFFFFF
    for byte in data:
        slow ^= byte
        for _ in range(8):
            slow = slow >> 1 ^ (0x82F63B78 if slow & 1 else 0)
    assert crc32c(data) == slow ^ 0xFFFFFFFF
    assert crc32c(data[:5000]) != crc32c(data[:4999] + b"\0")


def test_masking_as_tensorflow_writes_it() -> None:
    """An empty record's length has masked checksum 0x07980329 in every TFRecord file."""
    assert masked_crc32c(bytes(8)) == 0x07980329


def record_file(path: Path, *records: bytes) -> Path:
    stream = io.BytesIO()
    for record in records:
        write_record(stream, record)
    path.write_bytes(stream.getvalue())
    return path


def test_records_round_trip(tmp_path: Path) -> None:
    path = record_file(tmp_path / "a", b"one", b"", b"x" * 9000)
    records, problem = index_records(path)
    assert problem == "" and [read_record(path, record) for record in records] == [b"one", b"", b"x" * 9000]


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = record_file(tmp_path / "a", b"some data", b"more")
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        records, problem = index_records(path)
        if not problem:
            with pytest.raises(InputError, match="checksum does not match"):
                for record in records:
                    read_record(path, record)


def test_every_cut_is_found(tmp_path: Path) -> None:
    path = record_file(tmp_path / "a", b"some data", b"more")
    whole = path.read_bytes()
    first = len(record_file(tmp_path / "b", b"some data").read_bytes())
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        records, problem = index_records(path)
        assert (problem == "") == (length == first) and len(records) == int(length >= first)


def test_examples_round_trip_and_refuse() -> None:
    floats = np.array([1.5, -2.0], np.float32)
    data = build_example({"a/b": b"\0\xff" * 200, "c": floats})
    found = parse_example(data)
    assert found["a/b"].tobytes() == b"\0\xff" * 200 and np.array_equal(found["c"], floats)
    assert set(parse_example(data, {"c"})) == {"c"}
    for bad in (b"\x0a\xff", b"nonsense", data[:-3], b"\x0a\x05\x0a\x03\x0a\x01x"):
        with pytest.raises(InputError, match=r"no tf\.train\.Example"):
            parse_example(bad)


def test_an_example_as_tensorflow_encodes_it() -> None:
    """Bytes worked out from the schema by hand, with an unpacked int64 list and packed negative numbers."""
    ints = bytes([0x1A, 0x0D, 0x0A, 0x0B, 0x07]) + b"\xff" * 9 + b"\x01"  # int64_list {value: [7, -1]}
    entry = b"\x0a\x01n" + bytes([0x12, len(ints)]) + ints
    features = bytes([0x0A, len(entry)]) + entry
    found = parse_example(bytes([0x0A, len(features)]) + features)
    assert found["n"].tolist() == [7.0, -1.0]

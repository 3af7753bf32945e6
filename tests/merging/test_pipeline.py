"""Threads of a merge: order is kept, waiting is bounded, and what fails in a thread fails in the merge."""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from motionloom.merging.pipeline import Background, ahead, one_thread
from motionloom.merging.streaming import PiecewiseFile
from motionloom.weights import load_weights


def test_background_keeps_the_order() -> None:
    done: list[int] = []
    background = Background(most=2)
    for number in range(50):
        background.run(done.append, number)
        assert number - len(done) <= 2
    background.wait()
    background.close()
    background.close()
    assert done == list(range(50))


def test_background_raises_what_a_call_raised() -> None:
    background = Background(most=2)
    background.run(lambda: None)
    background.run([].remove, 1)
    with pytest.raises(ValueError, match="not in list"):
        background.wait()
    background.close()


def test_ahead_gives_the_same_items_from_another_thread() -> None:
    threads = set()

    def counted() -> Iterator[int]:
        for number in range(20):
            threads.add(threading.get_ident())
            yield number

    assert list(ahead(counted())) == list(range(20))
    assert threading.get_ident() not in threads and len(threads) == 1
    assert list(ahead(iter(()))) == []


def test_ahead_raises_at_its_place_and_stops_when_left() -> None:
    made: list[int] = []

    def failing() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            if number == 6:
                raise OSError(errno.EIO, "broken")
            yield number

    got = []
    with pytest.raises(OSError, match="broken"):
        got.extend(iter_into(got, ahead(failing())))
    assert got == list(range(6))
    made.clear()
    left = ahead(failing(), most=2)
    assert next(left) == 0
    left.close()
    assert len(made) <= 4  # not the rest


def test_one_thread_for_a_while() -> None:
    before, seen = torch.get_num_threads(), []
    with pytest.raises(KeyboardInterrupt), one_thread():
        other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert seen == [1] == [torch.get_num_threads()]
        raise KeyboardInterrupt
    assert torch.get_num_threads() == before
    with one_thread(False):
        assert torch.get_num_threads() == before


def iter_into(got: list[int], items: Iterator[int]) -> Iterator[int]:
    for item in items:
        got.append(item)
    return iter(())


def test_a_full_disk_is_noticed_in_the_end() -> None:
    piece = torch.zeros(1 << 20, dtype=torch.uint8)
    with (
        pytest.raises(OSError, match="No space left"),
        PiecewiseFile(Path("/dev/full"), [("a", torch.uint8, (1 << 20,))], {}) as file,
    ):
        file.write(piece)


def test_pieces_are_written_in_order_with_their_checksum() -> None:
    whole = torch.arange(10_000, dtype=torch.float32)
    with PiecewiseFile(Path("a.safetensors"), [("a", torch.float32, (100, 100))], {"who": "me"}) as file:
        for piece in whole.split(37):
            file.write(piece)
    data, start = Path("a.safetensors").read_bytes(), 0
    for section in file.sections:
        assert hashlib.sha256(data[start : start + section.size_bytes]).hexdigest() == section.sha256
        start += section.size_bytes
    assert start == len(data)
    tensors, metadata = load_weights("a.safetensors")  # compares the checksum
    assert torch.equal(tensors["a"], whole.reshape(100, 100)) and metadata == {"who": "me"}

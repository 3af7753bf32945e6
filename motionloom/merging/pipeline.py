"""Reading, merging, hashing and writing at the same time: threads, for whatever of them lets go of the interpreter."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
LARGEST_KEPT_BYTES = 31 << 20  # glibc learns from blocks of up to 32 MiB


class Background:
    """Calls that run one after another in a thread of their own.

    Args:
        most: calls that may wait; `run` blocks beyond it, so that what they hold on to stays bounded.
    """

    def __init__(self, most: int = 4) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()
        self._most = most

    def run(self, call: Callable[..., None], *args: object) -> None:
        """Call later. Raises what an earlier call raised."""
        while len(self._waiting) >= self._most:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(call, *args))

    def wait(self) -> None:
        """Until all calls are done. Raises what one of them raised."""
        while self._waiting:
            self._waiting.popleft().result()

    def close(self) -> None:
        """Drop what still waits and end the thread; safe to call twice."""
        self._thread.shutdown(cancel_futures=True)
        self._waiting.clear()


def ahead(items: Iterator[Item], most: int = 4) -> Generator[Item, None, None]:
    """The same items, made in a thread while earlier ones are used; at most `most` wait."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        following = deque(thread.submit(next, items, end) for _ in range(most))
        while (item := following.popleft().result()) is not end:
            following.append(thread.submit(next, items, end))
            yield item  # type: ignore[misc]


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """torch computes in the calling thread alone: sharing out what takes microseconds costs more than it saves.

    Holds for the calling thread and for those that it starts; the rest of the program keeps its number of threads.
    """
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if wanted:
            torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let the next blocks of a few MiB come from memory already owned.

    glibc returns freed blocks to the system until it has seen a larger one freed (mallopt(3), M_MMAP_THRESHOLD): the page
    faults of taking them again cost ten times the arithmetic of a merge. Other allocators do not mind.
    """
    torch.empty(LARGEST_KEPT_BYTES, dtype=torch.uint8)

"""What a person sees while a run trains: a bar with time left on stderr, and sentences above it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class ProgressBar:
    """A bar over `total` steps. Use as a context.

    Args:
        total: steps of the whole run.
        shown: True and False decide; None shows the bar when stderr is a terminal. Sentences are said either
            way
            unless False.
    """

    def __init__(self, total: int, shown: bool | None) -> None:
        self._says = shown is not False
        console = Console(file=sys.stderr)
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=shown is False or (shown is None and not console.is_terminal),
        )
        self._task = self._bar.add_task("training", total=total, note="")

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def at(self, step: int, note: str = "") -> None:
        self._bar.update(self._task, completed=step, note=note)

    def say(self, sentence: str) -> None:
        if self._says:
            self._bar.console.print(sentence, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def counted(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where that is a terminal, for what comes before training.

    with counted("checking clips") as done: done(3, 100)
    """
    console = Console(file=sys.stderr)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)

"""What every command shares: how results are printed and progress is drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the result, or the error, as JSON.")]
Progress = Callable[[str, int, int], None]  # (stage, done, total)


def show(value: Any) -> None:
    """The result, on stdout: text and paths as they are, facts as JSON."""
    text = (
        str(value)
        if isinstance(value, str | Path)
        else json.dumps(_jsonable(value), indent=2, ensure_ascii=False)
    )
    typer.echo(text)


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def outline(value: Any, indent: str = "") -> str:
    """Nested facts as indented `name: value` lines."""
    if isinstance(value, dict):
        lines = []
        for key, item in value.items():
            nested = isinstance(item, dict | list) and item
            lines.append(
                f"{indent}{key}:" + ("\n" + outline(item, indent + "  ") if nested else f" {_plain(item)}")
            )
        return "\n".join(lines)
    if isinstance(value, list):
        return "\n".join(f"{indent}- {outline(item, indent + '  ').lstrip()}" for item in value)
    return indent + _plain(value)


def _plain(value: Any) -> str:
    return "none" if value is None or value in ([], {}) else one_line(str(value))


@contextmanager
def progress_bar(shown: bool) -> Iterator[Progress]:
    """A callback that draws each stage as one bar on stderr, with the time left."""
    if not shown:
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars = Bars(*columns, console=Console(stderr=True))
    tasks: dict[str, Any] = {}

    def advance(stage: str, done: int, total: int) -> None:
        if not tasks:
            bars.start()  # not before: an error on the way here prints its line and nothing else
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    try:
        yield advance
    finally:
        if tasks:
            bars.stop()


def one_line(text: str) -> str:
    """Without line breaks and control characters: file names and foreign messages may hold both."""
    return "".join(char if char.isprintable() else " " for char in " ".join(text.split()))

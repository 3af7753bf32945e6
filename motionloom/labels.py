"""Names for folders that a person compares."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from motionloom.errors import ConfigError


def named_paths(places: Sequence[str | os.PathLike[str]]) -> list[tuple[str, Path]]:
    """(name, path) of each place: the name is given as "name=path", else the shortest end of the path no other has.

    Raises:
        ConfigError: two places have one name, or a place is given twice.
    """
    given = [_split(os.fspath(place)) for place in places]
    parts = [path.absolute().resolve().parts for _, path in given]
    if len(set(parts)) < len(parts):
        twice = next(path for (_, path), own in zip(given, parts, strict=True) if parts.count(own) > 1)
        raise ConfigError(f'"{twice}" is given twice', fix="give each folder once")
    names = [name or _shortest(own, parts) for (name, _), own in zip(given, parts, strict=True)]
    if len(set(names)) < len(names):
        twice_named = next(name for name in names if names.count(name) > 1)
        raise ConfigError(
            f'two folders are called "{twice_named}"', fix="name them: first=folder/a second=folder/b"
        )
    return [(name, path) for name, (_, path) in zip(names, given, strict=True)]


def _split(place: str) -> tuple[str, Path]:
    name, equals, path = place.partition("=")
    if equals and name and path and os.sep not in name and not Path(place).exists():
        return name, Path(path)
    return "", Path(place)


def _shortest(own: tuple[str, ...], every: Sequence[tuple[str, ...]]) -> str:
    for count in range(1, len(own) + 1):
        if sum(other[-count:] == own[-count:] for other in every) == 1:
            return "/".join(own[-count:]).lstrip("/")
    return "/".join(own)

"""Results of metrics on clips, kept by what they are made of and never by path.

The key is a hash of the clip's bytes, of everything it is compared with, of the decoder, the metric's version and
options, its networks' weights and the kind of device. A changed file is another key; an interrupted run finds again
what it finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from motionloom.durable import sha256_of, write_json
from motionloom.errors import MotionLoomError
from motionloom.metrics.base import Measured
from motionloom.metrics.scores import as_float, as_number
from motionloom.weights import load_weights, save_weights


def content_sha256(path: Path) -> str:
    """Of a file's bytes, or of a folder's names and bytes. Raises OSError."""
    if not path.is_dir():
        return sha256_of(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listing = [f"{file.relative_to(path).as_posix()} {sha256_of(file)}" for file in files]
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()


def key_of(**parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Cache:
    """A folder of small files; several processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, key: str) -> bool:
        return self._tensors(key).is_file()

    def read(self, key: str) -> Measured | None:
        """None when there is none, or it is damaged and must be measured again."""
        try:
            features, metadata = load_weights(self._tensors(key))
            numbers = json.loads(metadata["numbers"])
        except (MotionLoomError, KeyError, ValueError):
            return None
        return Measured(
            {name: as_float(number) for name, number in numbers["values"].items()},
            {name: [as_float(number) for number in curve] for name, curve in numbers["curves"].items()},
            features,
        )

    def write(self, key: str, measured: Measured) -> None:
        numbers = {
            "values": {name: as_number(float(number)) for name, number in measured.values.items()},
            "curves": {name: [as_number(float(n)) for n in curve] for name, curve in measured.curves.items()},
        }
        features = {name: tensor.cpu().contiguous() for name, tensor in measured.features.items()}
        save_weights(self._tensors(key), features, {"numbers": json.dumps(numbers, allow_nan=False)})

    def read_facts(self, key: str) -> dict[str, Any] | None:
        try:
            facts = json.loads(self._facts(key).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return facts if isinstance(facts, dict) else None

    def write_facts(self, key: str, facts: Mapping[str, Any]) -> None:
        write_json(self._facts(key), dict(facts))

    def _tensors(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _facts(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

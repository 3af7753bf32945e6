"""LPIPS v0.1 with VGG16 as a network of the table."""

from __future__ import annotations

from pathlib import Path

from motionloom.training.objectives.losses import LPIPS


def load_lpips(path: Path) -> LPIPS:
    return LPIPS(path)

"""A small 3-D classifier of clips of blocks: what moves how, and into which quadrant. Its features are what the internal
Fréchet distance is measured in, in place of I3D's, whose weights cannot be had everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionloom.datasets.cater_captions import Statement
from motionloom.weights import load_strictly, load_weights, save_weights

ACTIONS = ("slide", "rotate", "pick-place", "contain")
LABELS = (
    *ACTIONS,
    *(f"to {number}" for number in (1, 2, 3, 4)),
)  # quadrants that something slides or is placed to
SIDE_PX, FEATURES = 32, 64


class ClipClassifier(nn.Module):
    """Clips, their change from frame 0 beside them, at 32 px => 64 features => 8 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_stage(6, 16, (1, 2, 2)),
            *_stage(16, 32, (2, 2, 2)),
            *_stage(32, 64, (2, 2, 2)),
            *_stage(64, 64, (2, 1, 1)),
        )
        self.features_out = nn.Linear(2 * 64, FEATURES)
        self.logits_out = nn.Linear(FEATURES, len(LABELS))

    def features(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W), -1..1 => (B, 64)."""
        small = F.interpolate(clips.flatten(0, 1), (SIDE_PX, SIDE_PX), mode="area").unflatten(
            0, clips.shape[:2]
        )
        x = self.body(torch.cat([small, small - small[:, :, :1]], dim=1))
        pooled = torch.cat([x.mean((2, 3, 4)), x.amax((2, 3, 4))], dim=1)
        return F.silu(self.features_out(pooled))

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W), -1..1 => (B, 8) logits."""
        logits: Tensor = self.logits_out(self.features(clips))
        return logits

    def save(self, path: Path) -> Path:
        return save_weights(path, dict(self.state_dict()), {"kind": "clip_classifier"})

    @classmethod
    def load(cls, path: Path) -> ClipClassifier:
        model = cls()
        load_strictly(model, load_weights(path)[0], path)
        return model.eval()


def labels_of(statements: Sequence[Statement]) -> Tensor:
    """(8,), 1 where something in the caption does this or goes there."""
    said = {one.action for one in statements} | {
        f"to {one.place}" for one in statements if one.place is not None
    }
    return torch.tensor([float(label in said) for label in LABELS])


def _stage(in_width: int, width: int, stride: tuple[int, int, int]) -> list[nn.Module]:
    return [nn.Conv3d(in_width, width, 3, stride, padding=1), nn.GroupNorm(8, width), nn.SiLU()]

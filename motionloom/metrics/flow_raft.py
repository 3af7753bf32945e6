"""RAFT as VBench and EvalCrafter run it: 20 updates, borders repeated up to a multiple of 8 on both sides."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from motionloom.errors import InputError
from motionloom.metrics.base import as_pixels
from motionloom.metrics.flow import Frame

SMALLEST_PX = 128
UPDATES = 20


class RaftField(NamedTuple):
    """Flow in pixels: of the padded frame, as the releases average it, and of the frame itself. (H, W, 2)."""

    padded: Tensor
    inside: Tensor


class RaftFlow:
    name = "raft"

    def __init__(self, raft: torch.nn.Module, device: str = "cpu") -> None:
        self.raft, self.device = raft, device

    def __call__(self, first: Frame, second: Frame) -> RaftField:
        """Raises InputError for frames with a side below 128 px: the last pooling would leave nothing."""
        height, width = first.shape[:2]
        if min(height, width) < SMALLEST_PX:
            raise InputError(
                f"it is {width}x{height} px, RAFT needs at least {SMALLEST_PX} px a side", fix="larger clips"
            )
        down, right = -height % 8, -width % 8
        top, left = down // 2, right // 2
        pair = [
            F.pad(as_pixels(frame[None]), (left, right - left, top, down - top), mode="replicate").to(
                self.device
            )
            for frame in (first, second)
        ]
        flow = (
            self.raft(*(2 * pixels / 255 - 1 for pixels in pair), UPDATES)[0].permute(1, 2, 0).float().cpu()
        )
        return RaftField(flow, flow[top : top + height, left : left + width])

"""Aesthetic quality (VBench, arXiv 2311.17982): LAION's linear head on CLIP ViT-L/14; with the loss MIVA reports."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from motionloom.metrics.background_consistency import for_clip
from motionloom.metrics.base import Item, Measured, Metric, Value, as_pixels
from motionloom.metrics.consistency import in_batches
from motionloom.metrics.first_frame import fitted
from motionloom.metrics.networks.clip import CLIP, AestheticHead
from motionloom.metrics.setup import Setup


class AestheticQuality(Metric):
    """Mean over frames of the head's score / 10; `/loss` is the input picture's score minus that (MIVA, appendix C.2),
    the picture at the clip's size.
    """

    name = "aesthetic_quality"
    measured_as = "aesthetic_quality/1"
    may_use = frozenset({"picture"})
    min_frames = 1
    gives: ClassVar = {
        "aesthetic_quality": Value("VBench aesthetic_quality, 0..1"),
        "aesthetic_quality/loss": Value("MIVA: the picture's score minus the frames' mean", "", "lower"),
    }

    def __init__(self, clip: CLIP, head: AestheticHead, device: str = "cpu") -> None:
        self.clip, self.head, self.device = clip, head, device

    @classmethod
    def made(cls, setup: Setup) -> AestheticQuality:
        networks = setup.networks
        clip, head = networks.load("clip-vit-large-patch14"), networks.load("laion-aesthetic")
        return cls(clip, head, networks.device)  # type: ignore[arg-type]

    def measure(self, item: Item) -> Measured:
        pictures = [*item.clip.frames] + ([fitted(item)] if item.picture is not None else [])
        pixels = (for_clip(as_pixels(one[None]), self.clip.side_px).to(self.device) for one in pictures)
        features = in_batches(self.clip, pixels).to(self.device)
        scores = (self.head(features) / 10).cpu().double().numpy()
        frames = scores[: item.clip.num_frames]
        values = {self.name: float(frames.mean())}
        if item.picture is not None:
            values[f"{self.name}/loss"] = float(scores[-1] - frames.mean())
        return Measured(values, {self.name: np.asarray(frames).tolist()})

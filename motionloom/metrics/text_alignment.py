"""Text alignment: does CLIP find the prompt in the frames? It sees no motion."""

from __future__ import annotations

from typing import ClassVar

from torch.nn import functional as F

from motionloom.metrics.background_consistency import for_clip
from motionloom.metrics.base import Item, Measured, Metric, Value, as_pixels
from motionloom.metrics.consistency import in_batches
from motionloom.metrics.networks.clip import CLIP
from motionloom.metrics.setup import Setup


class TextAlignment(Metric):
    """Mean over frames of the cosine between CLIP ViT-B/32 features of prompt and frame."""

    name = "text_alignment"
    measured_as = "text_alignment/1"
    needs = frozenset({"prompt"})
    min_frames = 1
    gives: ClassVar = {
        "text_alignment": Value("cosine of CLIP ViT-B/32 text and frame features, mean over frames")
    }

    def __init__(self, clip: CLIP, device: str = "cpu") -> None:
        self.clip, self.device = clip, device

    @classmethod
    def made(cls, setup: Setup) -> TextAlignment:
        return cls(setup.networks.load("clip-vit-base-patch32"), setup.networks.device)  # type: ignore[arg-type]

    def measure(self, item: Item) -> Measured:
        assert item.prompt is not None
        frames = (
            for_clip(as_pixels(frame[None]), self.clip.side_px).to(self.device) for frame in item.clip.frames
        )
        features = in_batches(self.clip, frames)
        prompt = self.clip.read(item.prompt).float().cpu()
        curve: list[float] = F.cosine_similarity(features, prompt).tolist()
        return Measured({self.name: sum(curve) / len(curve)}, {self.name: curve})

"""VideoMAE (arXiv 2203.12602) through transformers: features of a video transformer, less taken with single frames
than I3D's (Ge et al., arXiv 2404.12391).
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from motionloom.weights import load_pretrained


class VideoMAE(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        config = model.config
        self.frames, self.side_px = int(config.num_frames), int(config.image_size)  # type: ignore[union-attr, arg-type]

    def forward(self, clips: Tensor) -> Tensor:
        """(B, T, 3, side, side), ImageNet-normalised, T the model's own => (B, d), the mean token."""
        tokens: Tensor = self.model(pixel_values=clips).last_hidden_state
        return tokens.mean(1)


def load_videomae(path: Path) -> VideoMAE:
    from transformers import VideoMAEModel

    return VideoMAE(load_pretrained(VideoMAEModel, path))

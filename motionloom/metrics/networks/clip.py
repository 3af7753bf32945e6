"""CLIP (arXiv 2103.00020) through transformers, and LAION's linear aesthetic head."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionloom.weights import load_pretrained, load_strictly, load_weights

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class CLIP(nn.Module):
    """Both towers."""

    def __init__(self, model: nn.Module, folder: Path) -> None:
        super().__init__()
        self.model, self.folder = model, folder
        self.side_px = int(model.config.vision_config.image_size)  # type: ignore[union-attr, arg-type]

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, side, side), CLIP-normalised => (N, d), after the projection."""
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output  # type: ignore[operator]
        features: Tensor = self.model.visual_projection(pooled)  # type: ignore[operator]
        return features

    def read(self, text: str) -> Tensor:
        """A prompt => (1, d), after the projection."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        tokens = tokenizer([text], truncation=True, return_tensors="pt").to(next(self.parameters()).device)
        pooled = self.model.text_model(**tokens).pooler_output  # type: ignore[operator]
        features: Tensor = self.model.text_projection(pooled)  # type: ignore[operator]
        return features


def load_clip(path: Path) -> CLIP:
    from transformers import CLIPModel

    return CLIP(load_pretrained(CLIPModel, path), path)


class AestheticHead(nn.Linear):
    """Features of CLIP ViT-L/14, L2-normalised => 0..10."""

    def __init__(self, width: int = 768) -> None:
        super().__init__(width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(N, 768) => (N,)."""
        return super().forward(F.normalize(features, dim=-1))[:, 0]


def load_aesthetic_head(path: Path) -> AestheticHead:
    tensors, _ = load_weights(path)
    weight = tensors.get("weight", torch.zeros(1, 768))
    head = AestheticHead(weight.shape[-1])
    load_strictly(head, tensors, path)
    return head

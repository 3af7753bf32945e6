"""DINO's ViT-B/16 (arXiv 2104.14294) through transformers, with DINO's own position codes at other sizes.

transformers' `ViTModel` equals DINO at 224 x 224. Elsewhere the codes are interpolated, and DINO scales by
(places + 0.1) / 14 where transformers asks for an exact size, which shifts every code a little; the CLS token of a
224 x 398 frame then differs by 0.35 %.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionloom.weights import load_pretrained


class DINO(nn.Module):
    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit
        embeddings: Any = vit.embeddings
        patch_px = int(vit.config.patch_size)  # type: ignore[union-attr, arg-type]
        embeddings.interpolate_pos_encoding = partial(
            _position_codes, embeddings.position_embeddings, patch_px
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W), ImageNet-normalised => (N, d), the CLS token after the final norm."""
        tokens = self.vit(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
        cls: Tensor = tokens[:, 0]
        return cls


def load_dino(path: Path) -> DINO:
    from transformers import ViTModel

    vit = load_pretrained(ViTModel, path, add_pooling_layer=False)
    for module in vit.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6  # DINO's; the hub's configuration says 1e-12
    return DINO(vit)


def _position_codes(codes: Tensor, patch_px: int, tokens: Tensor, height: int, width: int) -> Tensor:
    """DINO's rule: the codes (1, 1 + n, d) for n = h w patches of a height x width picture."""
    side = round((codes.shape[1] - 1) ** 0.5)
    rows, columns = height // patch_px, width // patch_px
    if (rows, columns) == (side, side):
        return codes
    grid = codes[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = ((rows + 0.1) / side, (columns + 0.1) / side)
    wide = F.interpolate(grid, scale_factor=scale, mode="bicubic")
    assert wide.shape[-2:] == (rows, columns)
    return torch.cat([codes[:, :1], wide.permute(0, 2, 3, 1).flatten(1, 2)], 1)

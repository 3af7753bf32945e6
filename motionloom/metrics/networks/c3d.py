"""C3D fine-tuned on UCF101, as TGANv2's release runs it: the classifier of the inception score of video."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionloom.weights import load_strictly, load_weights

FRAMES, SIDE_PX = 16, 112
WIDTHS = {
    "conv1a": (3, 64),
    "conv2a": (64, 128),
    "conv3a": (128, 256),
    "conv3b": (256, 256),
    "conv4a": (256, 512),
    "conv4b": (512, 512),
    "conv5a": (512, 512),
    "conv5b": (512, 512),
}
POOLED_AFTER = ("conv1a", "conv2a", "conv3b", "conv4b", "conv5b")


def load_c3d(path: Path) -> C3D:
    c3d = C3D()
    load_strictly(c3d, load_weights(path)[0], path)
    return c3d


class C3D(nn.Module):
    mean: Tensor

    def __init__(self, num_classes: int = 101) -> None:
        super().__init__()
        for name, (width_in, width) in WIDTHS.items():
            self.add_module(name, nn.Conv3d(width_in, width, 3, padding=1))
        self.fc6, self.fc7 = nn.Linear(512 * 4 * 4, 4096), nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, num_classes)
        self.register_buffer("mean", torch.zeros(3, FRAMES, 128, 171))

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, 16, H, W), RGB -1..1 => (B, 101) logits."""
        x = prepared(clips, self.mean)
        for name in WIDTHS:
            x = self.get_submodule(name)(x).relu()
            if name in POOLED_AFTER:
                window = (1, 2, 2) if name == "conv1a" else (2, 2, 2)
                x = F.max_pool3d(x, window, window, ceil_mode=True)  # Chainer covers the border
        return self.fc8(self.fc7(self.fc6(x.flatten(1)).relu()).relu())  # type: ignore[no-any-return]


def prepared(clips: Tensor, mean: Tensor) -> Tensor:
    """RGB -1..1 => BGR times 128, at 112 with aligned corners, plus 128, less the training set's mean clip (its crop at
    8 from the corner): (B, 3, 16, H, W), (3, 16, 128, 171) => (B, 3, 16, 112, 112).
    """
    frames = (clips.flip(1) * 128).transpose(1, 2).flatten(0, 1)
    small = F.interpolate(frames, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=True)
    x = small.view(len(clips), FRAMES, 3, SIDE_PX, SIDE_PX).transpose(1, 2)
    return x + 128 - mean[:, :, 8 : 8 + SIDE_PX, 8 : 8 + SIDE_PX]

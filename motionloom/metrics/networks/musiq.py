"""MUSIQ (Ke et al., arXiv 2108.05997): quality of a picture from patches of it at three sizes.

Parameter names, and arithmetic where the two differ, are those of the PyTorch port VBench measures with (pyiqa). Google's
own model resizes with a Gaussian where the port is bicubic, and divides kernels by a biased deviation where the port's is
unbiased: the same weights then give other scores, and published VBench values are the port's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionloom.weights import load_strictly, load_weights

PATCH_PX = 32
LONGER_SIDES_PX = (224, 384)  # and the picture's own
GRID = 10  # positions are hashed to 10 x 10


def load_musiq(path: Path) -> MUSIQ:
    musiq = MUSIQ()
    load_strictly(musiq, load_weights(path)[0], path)
    return musiq


class MUSIQ(nn.Module):
    """A small convolution network makes a token of each patch, a transformer reads all patches of all sizes.

    The port pads the tokens of each size to one number and masks them; what is masked does not reach the score, so here
    there is no padding.
    """

    def __init__(self, width: int = 384, num_blocks: int = 14, num_heads: int = 6) -> None:
        super().__init__()
        self.conv_root = StandardConv2d(3, 64, 7, 2)
        self.gn_root = nn.GroupNorm(32, 64, eps=1e-6)
        self.block1 = Bottleneck(64, 256)
        self.embedding = nn.Linear(256 * (PATCH_PX // 4) ** 2, width)
        self.transformer_encoder = Encoder(width, num_blocks, num_heads)
        self.head = nn.Linear(width, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W), 0..1 => (B,); trained on SPAQ, 0..100, higher is better."""
        tokens = []
        for scale, scaled in enumerate(scales(2 * pictures - 1)):
            patches = cut(scaled)
            positions = hashed_positions(*(-(-side // PATCH_PX) for side in scaled.shape[-2:]))
            embedded = self.embed(patches.flatten(0, 1)).view(*patches.shape[:2], -1)
            tokens.append(self.transformer_encoder.place(embedded, positions, scale))
        score: Tensor = self.head(self.transformer_encoder(torch.cat(tokens, 1)))[:, 0]
        return score

    def embed(self, patches: Tensor) -> Tensor:
        """(N, 3, 32, 32) => (N, width); features are read with channels last, as in TensorFlow."""
        x = self.gn_root(self.conv_root(F.pad(patches, (2, 3, 2, 3)))).relu()
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2)
        embedded: Tensor = self.embedding(self.block1(x).permute(0, 2, 3, 1).flatten(1))
        return embedded


def scales(pictures: Tensor) -> Iterator[Tensor]:
    """The pictures at each longer side (bicubic, not antialiased), then as they are."""
    height, width = pictures.shape[-2:]
    for longer in LONGER_SIDES_PX:
        ratio = longer / max(height, width)
        size = (round(height * ratio), round(width * ratio))
        yield F.interpolate(pictures, size, mode="bicubic", align_corners=False)
    yield pictures


def cut(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) => (B, patches, 3, 32, 32), row by row; zeros around what does not divide, the odd one last."""
    missing_h, missing_w = (-side % PATCH_PX for side in pictures.shape[-2:])
    around = (missing_w // 2, missing_w - missing_w // 2, missing_h // 2, missing_h - missing_h // 2)
    columns = F.unfold(F.pad(pictures, around), PATCH_PX, stride=PATCH_PX)
    return columns.transpose(1, 2).reshape(len(pictures), -1, 3, PATCH_PX, PATCH_PX)


def hashed_positions(rows: int, columns: int) -> Tensor:
    """Which of the 10 x 10 positions each patch takes, its hash-based spatial embedding: (rows * columns,)."""
    down, across = (
        F.interpolate(torch.arange(GRID)[None, None].float(), count, mode="nearest")[0, 0].long()
        for count in (rows, columns)
    )
    return (down[:, None] * GRID + across).flatten()


class Encoder(nn.Module):
    """Tokens, their places and a class token through the blocks; what the class token says."""

    def __init__(self, width: int, num_blocks: int, num_heads: int) -> None:
        super().__init__()
        self.posembed_input = PositionCodes(width)
        self.scaleembed_input = ScaleCodes(width)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.transformer = nn.ModuleDict(
            {f"encoderblock_{i}": Block(width, 3 * width, num_heads) for i in range(num_blocks)}
        )
        self.encoder_norm = nn.LayerNorm(width, eps=1e-6)

    def place(self, tokens: Tensor, positions: Tensor, scale: int) -> Tensor:
        """Add where in the picture, and in which of the three sizes, each token lies."""
        return (
            tokens + self.posembed_input.position_emb[0, positions] + self.scaleembed_input.scale_emb[scale]
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, width) => (B, width)."""
        x = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], 1)
        for block in self.transformer.values():
            x = block(x)
        said: Tensor = self.encoder_norm(x[:, 0])
        return said


class PositionCodes(nn.Module):
    """Where in the picture: one code for each of the 10 x 10 positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.position_emb = nn.Parameter(torch.zeros(1, GRID * GRID, width))


class ScaleCodes(nn.Module):
    """At which of the three sizes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_emb = nn.Parameter(torch.zeros(len(LONGER_SIDES_PX) + 1, width))


class Block(nn.Module):
    """Attention and a perceptron, norms before each."""

    def __init__(self, width: int, hidden: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))
        return x


class Attention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        read = F.scaled_dot_product_attention(query, key, value)
        mixed: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return mixed


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions beside a projection, with group norms."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv1, self.gn1 = StandardConv2d(width_in, width_in, 1), nn.GroupNorm(32, width_in, eps=1e-4)
        self.conv2, self.gn2 = StandardConv2d(width_in, width_in, 3), nn.GroupNorm(32, width_in, eps=1e-4)
        self.conv3, self.gn3 = StandardConv2d(width_in, width, 1), nn.GroupNorm(32, width, eps=1e-4)
        self.conv_proj, self.gn_proj = StandardConv2d(width_in, width, 1), nn.GroupNorm(32, width, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.gn1(self.conv1(x)).relu()
        inner = self.gn2(self.conv2(F.pad(inner, (1, 1, 1, 1)))).relu()
        out: Tensor = (self.gn3(self.conv3(inner)) + self.gn_proj(self.conv_proj(x))).relu()
        return out


class StandardConv2d(nn.Conv2d):
    """Convolution without bias and padding; each kernel is shifted and scaled to mean 0, deviation 1
    (Qiao et al., arXiv 1903.10520).
    """

    def __init__(self, width_in: int, width: int, kernel: int, stride: int = 1) -> None:
        super().__init__(width_in, width, kernel, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (deviation + 1e-5), stride=self.stride)

"""RAFT (arXiv 2003.12039), the large model, with the parameter names of torchvision's `raft_large`.

Optical flow by a recurrent search in the correlations of all pairs of places. Those weights, `C_T_V1`, are the original
`raft-things`, the ones VBench and EvalCrafter use.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionloom.weights import load_strictly, load_weights

LEVELS, RADIUS = 4, 4
HIDDEN = 128


def load_raft(path: Path) -> RAFT:
    raft = RAFT()
    load_strictly(raft, load_weights(path)[0], path)
    return raft


class RAFT(nn.Module):
    """Flow from the first frame to the second."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_encoder = Encoder(nn.InstanceNorm2d)
        self.context_encoder = Encoder(nn.BatchNorm2d)
        self.update_block = UpdateBlock()
        self.mask_predictor = MaskPredictor()

    def forward(self, first: Tensor, second: Tensor, updates: int = 20) -> Tensor:
        """(B, 3, H, W) twice, -1..1, sides multiples of 8 and at least 128 => (B, 2, H, W), pixels, (x, y)."""
        features = self.feature_encoder(torch.cat([first, second]))
        correlations = all_pairs(*features.chunk(2))
        hidden, context = self.context_encoder(first).split([HIDDEN, HIDDEN], dim=1)
        hidden, context = hidden.tanh(), context.relu()
        start = coordinates(features.shape[-2:], first)  # (1, 2, h, w)
        places = start.repeat(len(first), 1, 1, 1)
        for _ in range(updates):
            looked_up = look_up(correlations, places)
            hidden, step = self.update_block(hidden, context, looked_up, places - start)
            places = places + step
        return upsample(places - start, self.mask_predictor(hidden))


def all_pairs(a: Tensor, b: Tensor) -> list[Tensor]:
    """Correlation of every place of a with every place of b, and b pooled: (B h w, 1, h/2^l, w/2^l) a level."""
    batch, channels, height, width = a.shape
    volume = a.flatten(2).transpose(1, 2) @ b.flatten(2) / channels**0.5
    pyramid = [volume.reshape(batch * height * width, 1, height, width)]
    for _ in range(LEVELS - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    return pyramid


def look_up(pyramid: list[Tensor], places: Tensor, radius: int = RADIUS) -> Tensor:
    """Correlations around where each place points: (B, 2, h, w) => (B, levels (2 radius + 1)^2, h, w)."""
    batch, _, height, width = places.shape
    reach = torch.linspace(-radius, radius, 2 * radius + 1, device=places.device)
    # the official window runs along x in its first axis
    window = torch.stack(torch.meshgrid(reach, reach, indexing="ij"), dim=-1)
    centres = places.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    found = []
    for level, volume in enumerate(pyramid):
        sides = torch.tensor([volume.shape[-1] - 1, volume.shape[-2] - 1]).to(places)
        grid = 2 * (centres / 2**level + window) / sides - 1
        found.append(F.grid_sample(volume, grid, align_corners=True).view(batch, height, width, -1))
    return torch.cat(found, dim=-1).permute(0, 3, 1, 2).contiguous()


def upsample(flow: Tensor, mask: Tensor) -> Tensor:
    """Each fine place is a convex combination of the 3 x 3 coarse ones around it (appendix B), eight times finer."""
    batch, _, height, width = flow.shape
    weights = mask.view(batch, 1, 9, 8, 8, height, width).softmax(dim=2)
    around = F.unfold(8 * flow, 3, padding=1).view(batch, 2, 9, 1, 1, height, width)
    fine = (weights * around).sum(dim=2)  # (B, 2, 8, 8, h, w)
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(batch, 2, 8 * height, 8 * width)


def coordinates(size: tuple[int, ...] | torch.Size, like: Tensor) -> Tensor:
    """Where each place of a grid lies: (1, 2, h, w), (x, y), in the device and dtype of `like`."""
    ys, xs = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return torch.stack([xs, ys])[None].to(like)


def _conv(
    width_in: int,
    width: int,
    kernel: int,
    stride: int = 1,
    norm: type[nn.Module] | None = None,
    relu: bool = True,
) -> nn.Sequential:
    """Convolution, norm, ReLU, numbered as in the released weights."""
    layers: list[nn.Module] = [nn.Conv2d(width_in, width, kernel, stride, padding=kernel // 2)]
    layers += [norm(width)] if norm is not None else []
    layers += [nn.ReLU()] if relu else []
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """Pictures at an eighth of their size: (B, 3, H, W) => (B, 256, H/8, W/8)."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.convnormrelu = _conv(3, 64, 7, 2, norm)
        self.layer1 = nn.Sequential(Residual(64, 64, 1, norm), Residual(64, 64, 1, norm))
        self.layer2 = nn.Sequential(Residual(64, 96, 2, norm), Residual(96, 96, 1, norm))
        self.layer3 = nn.Sequential(Residual(96, 128, 2, norm), Residual(128, 128, 1, norm))
        self.conv = nn.Conv2d(128, 256, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        features: Tensor = self.conv(self.layer3(self.layer2(self.layer1(self.convnormrelu(pictures)))))
        return features


class Residual(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.convnormrelu1 = _conv(width_in, width, 3, stride, norm)
        self.convnormrelu2 = _conv(width, width, 3, 1, norm)
        self.downsample = _conv(width_in, width, 1, stride, norm, relu=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (self.downsample(x) + self.convnormrelu2(self.convnormrelu1(x))).relu()
        return out


class UpdateBlock(nn.Module):
    """One step of the search: correlations and flow => a better hidden state and a step of the flow."""

    def __init__(self) -> None:
        super().__init__()
        self.motion_encoder = MotionEncoder()
        self.recurrent_block = RecurrentBlock()
        self.flow_head = FlowHead()

    def forward(
        self, hidden: Tensor, context: Tensor, correlations: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor]:
        motion = self.motion_encoder(flow, correlations)
        hidden = self.recurrent_block(hidden, torch.cat([context, motion], 1))
        return hidden, self.flow_head(hidden)


class MotionEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convcorr1 = _conv(LEVELS * (2 * RADIUS + 1) ** 2, 256, 1)
        self.convcorr2 = _conv(256, 192, 3)
        self.convflow1 = _conv(2, 128, 7)
        self.convflow2 = _conv(128, 64, 3)
        self.conv = _conv(192 + 64, 128 - 2, 3)

    def forward(self, flow: Tensor, correlations: Tensor) -> Tensor:
        both = [self.convcorr2(self.convcorr1(correlations)), self.convflow2(self.convflow1(flow))]
        return torch.cat([self.conv(torch.cat(both, 1)), flow], 1)


class RecurrentBlock(nn.Module):
    """Two gated units, across and down."""

    def __init__(self) -> None:
        super().__init__()
        self.convgru1 = ConvGRU((1, 5))
        self.convgru2 = ConvGRU((5, 1))

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.convgru2(self.convgru1(hidden, x), x)
        return out


class ConvGRU(nn.Module):
    def __init__(self, kernel: tuple[int, int]) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.convz, self.convr, self.convq = (
            nn.Conv2d(HIDDEN + HIDDEN + 128, HIDDEN, kernel, padding=padding) for _ in range(3)
        )

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        both = torch.cat([hidden, x], 1)
        update, reset = self.convz(both).sigmoid(), self.convr(both).sigmoid()
        new = self.convq(torch.cat([reset * hidden, x], 1)).tanh()
        mixed: Tensor = (1 - update) * hidden + update * new
        return mixed


class FlowHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(HIDDEN, 256, 3, padding=1)
        self.conv2 = nn.Conv2d(256, 2, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        step: Tensor = self.conv2(self.conv1(hidden).relu())
        return step


class MaskPredictor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convrelu = _conv(HIDDEN, 256, 3)
        self.conv = nn.Conv2d(256, 8 * 8 * 9, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        mask: Tensor = 0.25 * self.conv(self.convrelu(hidden))
        return mask

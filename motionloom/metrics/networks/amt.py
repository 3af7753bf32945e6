"""AMT-S (Li et al., arXiv 2304.09790): the frame between two frames, with the parameter names of the released weights.

Flows to both frames are searched coarse to fine in the correlations of all pairs of places; three flows a pixel are
warped and merged. The code here is ours; the release and its weights are CC BY-NC 4.0.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionloom.errors import InputError
from motionloom.metrics.networks.raft import LEVELS, all_pairs, coordinates, look_up
from motionloom.weights import load_strictly, load_weights

RADIUS = 3
WIDTHS = (20, 32, 44, 56)  # of the features at a half, a quarter, an eighth, a sixteenth
SIDE_CHANNELS = 20
NUM_FLOWS = 3
MULTIPLE_PX, MIN_SIDE_PX = 16, 128


def load_amt(path: Path) -> AMT:
    amt = AMT()
    load_strictly(amt, load_weights(path)[0], path)
    return amt


class AMT(nn.Module):
    """The middle of two frames, t = 1/2.

    Flows are four channels: (x, y) from the middle to the first frame, then to the second.
    """

    def __init__(self) -> None:
        super().__init__()
        self.feat_encoder = CorrelationEncoder()
        self.encoder = Pyramid()
        self.decoder4 = Decoder(2 * WIDTHS[3] + 1, 2 * WIDTHS[3], 4 + WIDTHS[2])
        self.decoder3 = Decoder(3 * WIDTHS[2] + 4, 3 * WIDTHS[2], 4 + WIDTHS[1])
        self.decoder2 = Decoder(3 * WIDTHS[1] + 4, 3 * WIDTHS[1], 4 + WIDTHS[0])
        self.decoder1 = Decoder(3 * WIDTHS[0] + 4, 3 * WIDTHS[0], 8 * NUM_FLOWS)
        self.update4, self.update3, self.update2 = (Update(width) for width in (44, 32, 20))
        self.comb_block = nn.Sequential(
            *_conv(3 * NUM_FLOWS, 6 * NUM_FLOWS), nn.Conv2d(6 * NUM_FLOWS, 3, 3, padding=1)
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(B, 3, H, W) twice, 0..1, sides of more than 112 px => (B, 3, H, W), 0..1.

        Raises InputError for smaller frames: their correlations cannot be pooled four times.
        """
        height, width = first.shape[-2:]
        missing_h, missing_w = -height % MULTIPLE_PX, -width % MULTIPLE_PX
        if min(height + missing_h, width + missing_w) < MIN_SIDE_PX:
            raise InputError(
                f"it is {width}x{height}, AMT-S needs sides of more than {MIN_SIDE_PX - MULTIPLE_PX} px",
                fix="leave motion_smoothness out, or give larger clips",
            )
        left, top = missing_w // 2, missing_h // 2
        around = (left, missing_w - left, top, missing_h - top)
        middle = self._middle(*(F.pad(frame, around, mode="replicate") for frame in (first, second)))
        return middle[..., top : top + height, left : left + width]

    def _middle(self, first: Tensor, second: Tensor) -> Tensor:
        mean = torch.cat([first, second], 2).mean((1, 2, 3), keepdim=True)
        first, second = first - mean, second - mean
        ones, others = self.encoder(first), self.encoder(second)  # features, fine to coarse
        search = Search(*self.feat_encoder(torch.cat([first, second])).chunk(2))

        half = torch.full_like(ones[3][:, :1], 0.5)
        flows, features = self.decoder4(torch.cat([ones[3], others[3], half], 1)).tensor_split([4], 1)
        flows, features = search.better(self.update4, flows, features, 1)
        flows, features = self.decoder3.finer(features, ones[2], others[2], flows)
        flows, features = search.better(self.update3, flows, features, 2)
        flows, features = self.decoder2.finer(features, ones[1], others[1], flows)
        flows, features = search.better(self.update2, flows, features, 4)
        return self._merge(
            first, second, mean, flows, self.decoder1.read(features, ones[0], others[0], flows)
        )

    def _merge(self, first: Tensor, second: Tensor, mean: Tensor, flows: Tensor, read: Tensor) -> Tensor:
        """Three warps of both frames, mixed by masks, their mean and what a convolution adds."""
        finer = 2 * resize(flows, 2)
        to_first, to_second, masks, residuals = torch.split(
            read, [2 * NUM_FLOWS, 2 * NUM_FLOWS, NUM_FLOWS, 3 * NUM_FLOWS], 1
        )
        guesses = []
        for k in range(NUM_FLOWS):
            mask = masks[:, k : k + 1].sigmoid()
            ours = warp(first, finer[:, :2] + to_first[:, 2 * k : 2 * k + 2])
            theirs = warp(second, finer[:, 2:] + to_second[:, 2 * k : 2 * k + 2])
            guesses.append(mask * ours + (1 - mask) * theirs + mean + residuals[:, 3 * k : 3 * k + 3])
        merged: Tensor = torch.stack(guesses).mean(0) + self.comb_block(torch.cat(guesses, 1))
        return merged.clamp(0, 1)


class Search:
    """Correlations of each frame with the other, and where flows point in them."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        self.ways = all_pairs(first, second), all_pairs(second, first)
        self.places = coordinates(first.shape[-2:], first)

    def better(self, update: Update, flows: Tensor, features: Tensor, finer: int) -> tuple[Tensor, Tensor]:
        """Flows and features that are `finer` times the correlations' size, bettered by what is found there.

        A flow from the middle to one frame, twice and from that frame's place, is a flow between the frames.
        """
        coarse = resize(flows, 1 / finer) / finer
        found = [
            look_up(way, self.places + 2 * flow, RADIUS)
            for way, flow in zip(self.ways, (coarse[:, 2:], coarse[:, :2]), strict=True)
        ]
        step, change = update(resize(features, 1 / finer), coarse, torch.cat(found, 1))
        return flows + finer * resize(step, finer), features + resize(change, finer)


def resize(x: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return x
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def warp(picture: Tensor, flow: Tensor) -> Tensor:
    """What lies at each pixel plus its flow (x, y) in pixels; beyond the edge lies the edge."""
    height, width = picture.shape[-2:]
    places = (coordinates((height, width), picture) + flow).permute(0, 2, 3, 1)
    grid = 2 * places / torch.tensor([width - 1, height - 1]).to(picture) - 1
    return F.grid_sample(picture, grid, padding_mode="border", align_corners=True)


class Decoder(nn.Module):
    """A level of the search: twice finer flows and features."""

    def __init__(self, width_in: int, width: int, width_out: int) -> None:
        super().__init__()
        self.convblock = nn.Sequential(
            _conv(width_in, width), Residual(width), nn.ConvTranspose2d(width, width_out, 4, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.convblock(x)
        return out

    def read(self, features: Tensor, ours: Tensor, theirs: Tensor, flows: Tensor) -> Tensor:
        """Both frames' features, warped to the middle, beside the middle's."""
        warped = warp(ours, flows[:, :2]), warp(theirs, flows[:, 2:])
        return self.forward(torch.cat([features, *warped, flows], 1))

    def finer(self, features: Tensor, ours: Tensor, theirs: Tensor, flows: Tensor) -> tuple[Tensor, Tensor]:
        step, features = self.read(features, ours, theirs, flows).tensor_split([4], 1)
        return step + 2 * resize(flows, 2), features


class Residual(nn.Module):
    """Five convolutions; the second and the fourth see the last 20 channels only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv3 = _conv(width, width), _conv(width, width)
        self.conv2, self.conv4 = _conv(SIDE_CHANNELS, SIDE_CHANNELS), _conv(SIDE_CHANNELS, SIDE_CHANNELS)
        self.conv5 = nn.Conv2d(width, width, 3, padding=1)
        self.prelu = nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        y = _on_last(self.conv2, self.conv1(x))
        y = _on_last(self.conv4, self.conv3(y))
        out: Tensor = self.prelu(x + self.conv5(y))
        return out


def _on_last(layer: nn.Module, x: Tensor) -> Tensor:
    others, last = x[:, :-SIDE_CHANNELS], x[:, -SIDE_CHANNELS:]
    return torch.cat([others, layer(last)], 1)


class Update(nn.Module):
    """A step of flows and features from the correlations they point to."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(2 * LEVELS * (2 * RADIUS + 1) ** 2, 64, 1)
        self.convf1 = nn.Conv2d(4, 40, 7, padding=3)
        self.convf2 = nn.Conv2d(40, 20, 3, padding=1)
        self.conv = nn.Conv2d(84, 68, 3, padding=1)
        self.gru = _two_convs(68 + 4 + width, 76)
        self.feat_head = _two_convs(76, width)
        self.flow_head = _two_convs(76, 4)

    def forward(self, features: Tensor, flows: Tensor, correlations: Tensor) -> tuple[Tensor, Tensor]:
        """=> the step of the flows and of the features."""
        found = _leaky(self.convc1(correlations))
        moved = _leaky(self.convf2(_leaky(self.convf1(flows))))
        both = _leaky(self.conv(torch.cat([found, moved], 1)))
        hidden = self.gru(torch.cat([both, flows, features], 1))
        return self.flow_head(hidden), self.feat_head(hidden)


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)


def _two_convs(width_in: int, width: int, hidden: int = 76) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width_in, hidden, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(hidden, width, 3, padding=1)
    )


class Pyramid(nn.Module):
    """Features at a half, a quarter, an eighth and a sixteenth of the size."""

    def __init__(self) -> None:
        super().__init__()
        for level, (width_in, width) in enumerate(zip((3, *WIDTHS[:-1]), WIDTHS, strict=True), 1):
            self.add_module(f"pyramid{level}", nn.Sequential(_conv(width_in, width, 2), _conv(width, width)))

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for level in self.children():
            x = level(x)
            found.append(x)
        return found


class CorrelationEncoder(nn.Module):
    """Features to correlate, at an eighth of the size: (B, 3, H, W) => (B, 84, H/8, W/8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 7, 2, padding=3)
        self.layer1 = nn.Sequential(Bottleneck(32, 32, 1), Bottleneck(32, 32, 1))
        self.layer2 = nn.Sequential(Bottleneck(32, 64, 2), Bottleneck(64, 64, 1))
        self.layer3 = nn.Sequential(Bottleneck(64, 96, 2), Bottleneck(96, 96, 1))
        self.conv2 = nn.Conv2d(96, 84, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.instance_norm(self.conv1(x)).relu()
        features: Tensor = self.conv2(self.layer3(self.layer2(self.layer1(x))))
        return features


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions with instance norms."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width // 4, 1)
        self.conv2 = nn.Conv2d(width // 4, width // 4, 3, stride, padding=1)
        self.conv3 = nn.Conv2d(width // 4, width, 1)
        project = nn.Sequential(nn.Conv2d(width_in, width, 1, stride), nn.InstanceNorm2d(width))
        self.downsample = project if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in (self.conv1, self.conv2, self.conv3):
            y = F.instance_norm(layer(y)).relu()
        out: Tensor = (self.downsample(x) + y).relu()
        return out


def _conv(width_in: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width_in, width, 3, stride, padding=1), nn.PReLU(width))

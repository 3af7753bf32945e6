"""The generator of the small model: a photo and a motion map => the flow of a motion latent.

LaMD's `MotionUNet`, smaller, with everything it is told aligned to the latent's places: the motion map, where the place
lies in the picture, and features of the photo. One forward pass serves any number of motions in any regions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from motionloom.codecs.fusion_net import Block
from motionloom.conditions.motion_map import CHANNELS, Heading
from motionloom.conditions.words import WORDS, find
from motionloom.denoisers.base import MotionCondition, PredictionType
from motionloom.denoisers.motion_unet import MotionUNet, MotionUNetConfig
from motionloom.motion.grid import places
from motionloom.motion.speeds import LEVELS

HEADINGS = 32  # kept a word
PHOTO_CELL = 8  # photo pixels per place of the latent grid, along each side


@dataclass(frozen=True)
class MapGeneratorConfig:
    """Sizes of a `MapGenerator`.

    Attributes:
        latent_channels: d of the motion latent.
        map_channels: of the motion map.
        base: width of the U-Net's finest level.
        multipliers: width of each level in units of `base`.
        res_blocks: per level.
        content_channels: photo features per place.
        dropout: in the residual blocks.
    """

    latent_channels: int = 17
    map_channels: int = CHANNELS
    base: int = 64
    multipliers: tuple[int, ...] = (1, 2, 3)
    res_blocks: int = 2
    content_channels: int = 48
    dropout: float = 0.0


class MapGenerator(nn.Module):
    """A `Denoiser` whose condition is a photo and a motion map.

    Attributes:
        headings: (K, 32, 3), for each word learned from clips 32 headings seen in them (coherence, right, down), of
            which sampling draws one; coherence -1 for the other words, whose heading stays untold.
        speeds: (K, 2, 33), for each word learned from clips the quantiles of the ways places go, as generated and in the
            clips (motion/speeds.py); all 0 for the other words.
    """

    headings: Tensor
    speeds: Tensor

    prediction_type: PredictionType = "flow"

    def __init__(self, config: MapGeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MapGeneratorConfig()
        self.register_buffer("headings", -torch.ones(len(WORDS), HEADINGS, 3))
        self.register_buffer("speeds", torch.zeros(len(WORDS), 2, LEVELS))
        self.photo = PhotoEncoder(config.content_channels)
        self.unet = MotionUNet(
            MotionUNetConfig(
                in_channels=config.latent_channels,
                out_channels=config.latent_channels,
                base=config.base,
                multipliers=config.multipliers,
                res_blocks=config.res_blocks,
                attention_levels=(1, 2),
                heads=4,
                context_width=None,
                dropout=config.dropout,
                concat_channels=config.map_channels + 2 + config.content_channels,
            ),
            prediction_type="flow",
        )

    def tell(
        self,
        photo: Tensor,
        height: int,
        width: int,
        offset: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Told:
        """What the network is told beside the motion map, once for all steps.

        Args:
            photo: (B, 3, 8 height, 8 width), -1..1.
            height, width: the latent grid.
            offset: (B, 2), where the middle of the whole picture lies if the photo is a part of it, frame units.
            generator: draws a heading for every word and photo, as a wind is drawn; None leaves them untold.
        """
        xy = places(height, width).to(photo).expand(len(photo), -1, -1, -1)
        if offset is not None:
            xy = xy - offset[:, None, None]
        headings = picks = None
        if generator is not None:
            picks = torch.randint(HEADINGS, (len(photo), len(WORDS)), generator=generator)
            headings = self.headings.cpu()[torch.arange(len(WORDS)), picks]
        return Told(torch.cat([2 * xy.permute(0, 3, 1, 2), self.photo(photo)], 1), headings, picks)

    def forward(self, latents: Tensor, timestep: Tensor, condition: MotionCondition) -> Tensor:
        """(B, d, h, w), (B,) in 0..1000 => noise - latents, (B, d, h, w)."""
        prediction: Tensor = self.unet(latents, timestep, condition)
        return prediction


@dataclass(frozen=True)
class Told:
    """A photo's places and features, (B, 2 + c, h, w), a heading for every word, (B, K, 3), and the numbers (B, K) drawn."""

    photo: Tensor
    headings: Tensor | None = None
    picks: Tensor | None = None

    def heading(self, sample: int, word: str, among: Tensor | None = None) -> Heading:
        """The heading drawn for a word; `among` those (32, 3) of an adapter that the word carries."""
        if self.headings is None or self.picks is None:
            return Heading()
        own = self.headings[sample, find(word)]
        drawn = own if among is None else among[self.picks[sample, find(word)]]
        if drawn[0] < 0:
            return Heading()
        coherence, right, down = drawn.tolist()
        return Heading(coherence, (right, down) if right or down else None)

    def with_map(self, motion_map: Tensor) -> MotionCondition:
        """Joined with a motion map (B, CHANNELS, h, w)."""
        return MotionCondition(aligned=torch.cat([motion_map, self.photo], 1))


class PhotoEncoder(nn.Module):
    """A photo => features on the latent grid: (B, 3, 8 h, 8 w) => (B, c, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 24, 3, stride=2, padding=1),
            Block(24, 24),
            nn.Conv2d(24, 48, 3, stride=2, padding=1),
            Block(48, 48),
            nn.Conv2d(48, 96, 3, stride=2, padding=1),
            Block(96, 96),
            Block(96, 96),
            nn.Conv2d(96, channels, 1),
        )

    def forward(self, photo: Tensor) -> Tensor:
        features: Tensor = self.layers(photo)
        return features

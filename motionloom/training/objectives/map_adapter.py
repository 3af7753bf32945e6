"""Trains one adapter beside the small model's frozen map generator on the motion of a few clips (MIVA, arXiv 2512.20000).

The loss is the generator's own (`MiniGeneratorObjective`): rectified flow on motion latents. Only the adapter learns.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from motionloom.adapters.adapter import Adapter
from motionloom.adapters.mount import mounted
from motionloom.conditions.asked import Asked
from motionloom.conditions.motion_map import Part, motion_map
from motionloom.conditions.words import WORDS
from motionloom.datasets.flow_windows import TaughtMotion
from motionloom.denoisers.map_generator import MapGenerator
from motionloom.denoisers.mini import MiniBase
from motionloom.motion.speeds import quantiles, way
from motionloom.sampling.loop import sample
from motionloom.sampling.schedules import rectified_flow
from motionloom.sampling.weave import MapWeave
from motionloom.training.objectives.mini import MiniGeneratorObjective
from motionloom.training.objectives.miva import ADAPTER_FILE, sizes_by_part

# part of a parameter's name -> what it belongs to
PARTS = {
    ".ca.": "text-free cross-attention",
    ".low_rank.": "low rank, attention",
    "": "low rank, convolutions",
}
MEASURED = 32  # clips generated to learn how fast the finished adapter moves things
COMPARED = 16  # windows on which words are compared
TIMES = (0.9, 0.7, 0.5)  # noise levels at which they are


class MapAdapterObjective(MiniGeneratorObjective):
    """An `Objective` whose only network is the adapter.

    Args:
        adapter: what is trained.
        base: frozen, its generator on the device.
        taught: the windows; None in a dry run.
    """

    def __init__(self, adapter: Adapter, base: MiniBase, taught: TaughtMotion | None = None) -> None:
        super().__init__(base.denoiser.requires_grad_(False).eval(), base.codec.motion)
        self.adapter, self.taught = adapter, taught
        self.networks: dict[str, nn.Module] = {"adapter": adapter}
        self.ema_networks: tuple[str, ...] = ("adapter",)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """See `Objective`: "adapter"."""
        return {"adapter": list(self.adapter.parameters())}

    def part_sizes(self) -> dict[str, dict[str, int]]:
        """Parameters of each part of the adapter, for forecasts."""
        return {"adapter": sizes_by_part(self.adapter, PARTS)}

    def losses(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        """See `MiniGeneratorObjective`."""
        with mounted(self.generator, [(self.adapter, 1.0)]):
            for _, loss, numbers in super().losses(batch, step, generator):
                yield "adapter", loss, numbers

    def preview(self, batch: dict[str, Tensor], generator: torch.Generator) -> npt.NDArray[np.uint8] | None:
        """See `MiniGeneratorObjective`."""
        with mounted(self.generator, [(self.adapter, 1.0)]):
            return super().preview(batch, generator)

    def export(self, folder: Path) -> None:
        """See `Objective`: the adapter with its card, told how fast it moves things and how fast they should go."""
        if self.taught is not None:
            made = quantiles(self._ways(self.taught))
            self.adapter.speeds.copy_(torch.stack([made, self.taught.ways]))
        self.adapter.save(folder / ADAPTER_FILE)

    @torch.no_grad()
    def _ways(self, taught: TaughtMotion) -> Tensor:
        """How far places go in clips generated from the first frames of windows."""
        photos = taught.photos[:: max(1, len(taught) // MEASURED)][:MEASURED].to(self.device)
        random = torch.Generator().manual_seed(0)
        h, w = taught.latents.shape[-2:]
        noise = torch.randn(len(photos), taught.latents.shape[1], h, w, generator=random).to(photos)
        with mounted(self.generator, [(self.adapter, 1.0)]):
            told = self.generator.tell(photos, h, w, generator=random)
            asked = Asked("this", adapter=self.adapter)
            made = sample(MapWeave(self.generator, (asked,)), rectified_flow(), noise, told, 20, None)
        return way(self.motion.decode(made.cpu()).local)

    @property
    def device(self) -> torch.device:
        return next(self.generator.parameters()).device


@torch.no_grad()
def nearest_word(generator: MapGenerator, taught: TaughtMotion, seed: int = 0) -> str:
    """The local motion word under which the frozen generator predicts the windows best: what carries the adapter."""
    rows = list(range(0, len(taught), max(1, len(taught) // COMPARED)))[:COMPARED]
    device = next(generator.parameters()).device
    latents, photos = taught.latents[rows].to(device), taught.photos[rows].to(device)
    h, w = latents.shape[-2:]
    random = torch.Generator().manual_seed(seed)
    noises = [torch.randn(latents.shape, generator=random).to(device) for _ in TIMES]
    told = generator.tell(photos, h, w)

    def error(word: str) -> float:
        maps = [
            motion_map([Part(word, taught.amplitude(row), torch.ones(h, w), taught.headings[row])], h, w)
            for row in rows
        ]
        condition, total = told.with_map(torch.stack(maps).to(device)), 0.0
        for time, noise in zip(TIMES, noises, strict=True):
            noisy = (1 - time) * latents + time * noise
            predicted = generator(noisy, torch.full((len(rows),), 1000 * time, device=device), condition)
            total += float((predicted - (noise - latents)).square().mean())
        return total

    return min((word.name for word in WORDS if word.kind == "local"), key=error)

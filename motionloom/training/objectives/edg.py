"""Stage 1 of Extrapolating and Decoupling (arXiv 2503.00948): a video model learns to move as the text says.

    loss = mean || f(x_t, t, told) - target ||^2,   t uniform in 0..999

x_t, the target and what is told are the base's own: each kind of base has a `Host`. Text and picture are dropped at times,
so that guidance works.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from motionloom.adapters.text_adapter import TextAdapter, temporal_transformers
from motionloom.denoisers.base import Denoiser

if TYPE_CHECKING:
    from motionloom.datasets.base import TrainingDataset
    from motionloom.denoisers.animatediff import AnimateDiffBase
    from motionloom.denoisers.dynamicrafter.base import DynamiCrafterBase
    from motionloom.training.edg_stages import EdgStage1
    from motionloom.training.recipe import Recipe

NUM_TIMESTEPS = 1000
PREVIEW_CLIPS, PREVIEW_STEPS = 2, 10
ADAPTER_FILE, MODEL_FOLDER = "text_adapter.safetensors", "model"
Trained = Literal["adapter", "temporal", "all"]


@dataclass(frozen=True)
class Noised:
    """What the network is shown and should say.

    Attributes:
        latents: x_t, (B, C, F, h, w).
        target: of the same shape.
        counted: (B, 1, F, 1, 1), 1 where the error counts and 0 where not; None counts all.
    """

    latents: Tensor
    target: Tensor
    counted: Tensor | None = None


class Host(ABC):
    """A base that carries the adapter while it is trained, and all in which it differs from others.

    Attributes:
        base: what is trained; its networks in float32.
        network: the video network.
        denoiser: the network as it is called.
        frozen: what else is on the device and never trained, by name.
        beside: what `trained: all` trains besides the network, by name.
        max_frames: the longest clip it can be trained on; None knows no limit.
    """

    base: AnimateDiffBase | DynamiCrafterBase
    network: nn.Module
    denoiser: Denoiser
    frozen: Mapping[str, nn.Module]
    beside: Mapping[str, nn.Module] = {}
    max_frames: int | None = None

    @classmethod
    @abstractmethod
    def loaded(cls, stage: EdgStage1, device: torch.device | str) -> Host:
        """With weights, on a device.

        Raises:
            ConfigError: the base, or a setting of the stage, is not for this training.
            WeightsError: weights are missing or damaged.
        """

    @classmethod
    @abstractmethod
    def planned(cls, stage: EdgStage1) -> Host:
        """Shapes alone, on the meta device."""

    @classmethod
    @abstractmethod
    def example_batch(cls, stage: EdgStage1, recipe: Recipe, batch_size: int) -> dict[str, Any]:
        """A batch of the right shapes on the default device."""

    def samples(
        self, stage: EdgStage1, recipe: Recipe, clips: TrainingDataset, device: torch.device | str
    ) -> TrainingDataset:
        """What it trains on, made of clips with "frames", "text" and "rate": the clips, or what they are encoded to."""
        return clips

    @abstractmethod
    def carry(self, adapter: TextAdapter) -> None:
        """Take the adapter on, for the whole training."""

    def ready(self) -> AbstractContextManager[object]:
        """Inside, calls and their backward pass go through the adapter."""
        return nullcontext()

    @abstractmethod
    def checkpoint_gradients(self) -> None:
        """Recompute layers in the backward pass instead of keeping what they made."""

    @abstractmethod
    def latents(self, batch: dict[str, Any], generator: torch.Generator) -> Tensor:
        """Clean latents (B, C, F, h, w)."""

    @abstractmethod
    def told(self, batch: dict[str, Any], latents: Tensor, generator: torch.Generator) -> Any:
        """The condition (`Droppable`) with everything told."""

    def disturbed(self, told: Any, timestep: Tensor, generator: torch.Generator) -> Any:
        """The condition as it is told at timesteps (B,)."""
        return told

    @abstractmethod
    def noised(self, latents: Tensor, noise: Tensor, timestep: Tensor, told: Any) -> Noised:
        """Latents and noise (B, C, F, h, w) at timesteps (B,)."""

    @abstractmethod
    def preview(self, batch: dict[str, Any], generator: torch.Generator) -> npt.NDArray[np.uint8]:
        """The clips above, below what the network makes of their first frames: uint8 (T, 2 H, B W, 3)."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the whole model as a base."""


class Stage1Objective:
    """An `Objective`: trains the text adapter, alone or with the network it sits in.

    Args:
        host: with all its networks on one device, float32. Batches are what `Host.samples` gives.
        adapter: carried by the host from here on.
        trained: "adapter" alone; "temporal": also the temporal transformers it speaks to; "all": also the rest of the
            video network and what is `Host.beside` it, as the release's settings have it.
        drop: probability each of dropping the text, the picture, and both, from one draw.
        facts: training facts for the adapter's file.
    """

    ema_networks: tuple[str, ...] = ()

    def __init__(
        self,
        host: Host,
        adapter: TextAdapter,
        trained: Trained = "temporal",
        drop: float = 0.05,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.host, self.adapter, self.trained = host, adapter, trained
        self.drop, self.facts = drop, dict(facts or {})
        whole = getattr(host.network, "network", host.network)
        host.carry(adapter)
        self.networks: dict[str, nn.Module] = {"adapter": adapter}
        if trained == "temporal":
            self.networks["temporal"] = temporal_transformers(host.network)
        if trained == "all":
            self.networks |= {"network": whole, **host.beside}
        for network in self.networks.values():
            network.requires_grad_(True).train()
        self.frozen = _frozen_parameters(
            {"network": whole, **host.beside, **host.frozen}, self.parameter_groups()["stage1"]
        )

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """See `Objective`: "stage1"; queries and query attention included, which the release's optimiser forgets."""
        return {"stage1": [p for network in self.networks.values() for p in network.parameters()]}

    def losses(
        self, batch: dict[str, Any], step: int, generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        """See `Objective`."""
        host = self.host
        with host.ready():
            latents = host.latents(batch, generator)
            timestep = integers(NUM_TIMESTEPS, len(latents), generator).to(latents.device)
            noise = normal_like(latents, generator)
            told = self.dropped(host.told(batch, latents, generator), generator)
            told = host.disturbed(told, timestep, generator)
            noised = host.noised(latents, noise, timestep, told)
            prediction = host.denoiser(noised.latents, timestep, told)
            loss = _mean((prediction.float() - noised.target).square(), noised.counted)
            yield "stage1", loss, {"latent_std": float(latents.std())}

    def dropped(self, told: Any, generator: torch.Generator) -> Any:
        """u < d: no text; d <= u < 2 d: neither; 2 d <= u < 3 d: no picture."""
        u = torch.rand(len(told.text), generator=generator, device=generator.device).to(told.text.device)
        return told.dropped(text=u < 2 * self.drop, image=(u >= self.drop) & (u < 3 * self.drop))

    @torch.no_grad()
    def preview(self, batch: dict[str, Any], generator: torch.Generator) -> npt.NDArray[np.uint8]:
        """See `Objective`."""
        with self.host.ready():
            return self.host.preview({key: some[:PREVIEW_CLIPS] for key, some in batch.items()}, generator)

    def export(self, folder: Path) -> None:
        """See `Objective`: the adapter as a file, and, where more was trained, the whole model as a base."""
        self.adapter.save(folder / ADAPTER_FILE, self.host.base.name, self.facts)
        if self.trained != "adapter":
            self.host.save(folder / MODEL_FOLDER)


def integers(below: int, count: int, generator: torch.Generator) -> Tensor:
    """(count,), uniform in 0..below - 1, on the generator's device."""
    return torch.randint(below, (count,), generator=generator, device=generator.device)


def normal_like(like: Tensor, generator: torch.Generator) -> Tensor:
    """Independent normal noise of a tensor's shape, where the tensor is."""
    return torch.randn(like.shape, generator=generator, device=generator.device).to(like)


def _mean(error: Tensor, counted: Tensor | None) -> Tensor:
    """Over what counts."""
    if counted is None:
        return error.mean()
    return (error * counted).sum() / counted.expand_as(error).sum()


def _frozen_parameters(networks: Mapping[str, nn.Module], trained: list[nn.Parameter]) -> nn.ModuleDict:
    """What is used and not trained, for forecasts."""
    known = {id(parameter) for parameter in trained}
    return nn.ModuleDict(
        {
            name: nn.ParameterList([p for p in network.parameters() if id(p) not in known])
            for name, network in networks.items()
        }
    )

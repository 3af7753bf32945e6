"""A two-optimizer objective on numbers: fast, with every kind of state a run has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from motionloom.datasets.base import Sample, TrainingDataset, sample_seed
from motionloom.training.objectives.base import Objective
from motionloom.training.recipe import Recipe
from motionloom.training.stages import STAGES, Stage
from motionloom.weights import save_weights

KIND = "toy"
on_micro_step: list[Callable[[int], None]] = []  # called with the number of each micro-step


class ToyObjective:
    """A model with BatchNorm and dropout (global randomness), and a critic; noise from the generator."""

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 4))
        self.critic = nn.Linear(4, 1)
        self.networks: dict[str, nn.Module] = {"model": self.model, "critic": self.critic}
        self.ema_networks = ("model",)
        self.micro_steps = 0

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"model": list(self.model.parameters()), "critic": list(self.critic.parameters())}

    def losses(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        for call in on_micro_step:
            call(self.micro_steps)
        self.micro_steps += 1
        values = batch["values"]
        noise = torch.randn(values.shape, generator=generator, device=generator.device)
        made = self.model(values + 0.1 * noise.to(values))
        yield "model", (made - values).square().mean() - 0.01 * self.critic(made).mean(), {"noise": 0.5}
        yield (
            "critic",
            self.critic(made.detach()).square().mean() + (self.critic(values) - 1).square().mean(),
            {},
        )

    def preview(self, batch: dict[str, Tensor], generator: torch.Generator) -> npt.NDArray[np.uint8] | None:
        torch.rand(3)  # a careless preview must not change the run
        return np.zeros((4, 16, 16, 3), dtype=np.uint8)

    def export(self, folder: Path) -> None:
        save_weights(folder / "model.safetensors", self.model.state_dict(), {"kind": KIND})


class ToyNumbers(TrainingDataset):
    def __init__(self, seed: int, length: int) -> None:
        self.seed, self.length = seed, length

    def __len__(self) -> int:
        return self.length

    def at(self, epoch: int, index: int) -> Sample:
        generator = torch.Generator().manual_seed(sample_seed(self.seed, epoch, index))
        return {"values": torch.randn(4, generator=generator) + index, "index": torch.tensor(index)}


class ToyStage(Stage):
    length: int = Field(10, ge=0)

    def objective(self, recipe: Recipe, dry_run: bool = False) -> Objective:
        return ToyObjective()

    def dataset(self, recipe: Recipe) -> TrainingDataset:
        return ToyNumbers(recipe.seed, self.length)


STAGES[KIND] = "tests.training.toy:ToyStage"


def toy_recipe(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "stage": {"kind": KIND},
        "steps": 12,
        "batch_size": 4,
        "accumulation": 2,
        "learning_rate": 0.01,
        "warmup_steps": 3,
        "schedule": "cosine",
        "optimizer": {"kind": "adamw", "weight_decay": 0.01},
        "clip_norm": 1.0,
        "ema_decay": 0.9,
        "save_every_steps": 1,
        "keep_last": 2,
        "log_every": 1,
        "seed": 3,
    }
    return values | changes

"""What a recipe can train: one row of `STAGES` a kind.

A stage is the `stage:` section of a recipe. It holds the settings of what is trained and builds two things
from a recipe: the objective (networks and losses) and the dataset. To add one, write a `Stage` and its row.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from motionloom.datasets.base import TrainingDataset
    from motionloom.training.objectives.base import Objective
    from motionloom.training.recipe import Recipe

# kind -> "module:class"; the module is imported when a recipe names the kind
STAGES: dict[str, str] = {
    "lamd-autoencoder": "motionloom.training.lamd_stages:LamdAutoencoder",
    "lamd-generator": "motionloom.training.lamd_stages:LamdGenerator",
    "mini-decoder": "motionloom.training.mini_stages:MiniDecoder",
    "mini-generator": "motionloom.training.mini_stages:MiniGenerator",
    "edg-stage1": "motionloom.training.edg_stages:EdgStage1",
    "miva-adapter": "motionloom.training.miva_stages:MivaAdapter",
    "miva-map-adapter": "motionloom.training.miva_stages:MapAdapter",
}


class Section(BaseModel):
    """Base of every part of a recipe: frozen, strict types, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Stage(Section):
    """Settings of what is trained, and how to build it.

    A subclass adds its settings as fields and implements `objective` and `dataset`. Heavy imports belong
    inside the methods, so that reading a recipe stays instant.
    """

    kind: str = Field(description="a key of STAGES")

    def objective(self, recipe: Recipe, dry_run: bool = False) -> Objective:
        """Networks and losses, on the default device.

        All randomness is torch's global one, which the caller has seeded. In a dry run the default device is
        "meta": shapes only, so files that do not exist yet (the codec of a later stage) need not be read.
        """
        raise NotImplementedError

    def dataset(self, recipe: Recipe) -> TrainingDataset:
        """The samples, checked: raises InputError when clips cannot be used."""
        raise NotImplementedError

    def clips(self, recipe: Recipe) -> TrainingDataset:
        """What a dry run checks: the clips behind the dataset, without writing anything."""
        return self.dataset(recipe)

    def build(self, recipe: Recipe, device: torch.device | str = "cpu") -> tuple[Objective, TrainingDataset]:
        """The dataset first, since it is what a user gets wrong most often; then the objective, on the
        device.
        """
        import torch

        dataset = self.dataset(recipe)
        with torch.device(device):
            return self.objective(recipe), dataset

    def example_batch(self, recipe: Recipe, batch_size: int) -> dict[str, Tensor] | None:
        """A batch of the right shapes on the default device, for forecasts without data; None: unknown."""
        return None


def stage_class(kind: str) -> type[Stage]:
    """The class of a kind in `STAGES`."""
    module, _, name = STAGES[kind].partition(":")
    cls: Any = getattr(importlib.import_module(module), name)
    assert isinstance(cls, type) and issubclass(cls, Stage), STAGES[kind]
    return cls

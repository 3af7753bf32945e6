"""Teaching a video model to move as the text says: stage 1 of Extrapolating and Decoupling (arXiv 2503.00948).

    motionloom train recipes/edg/stage1.yaml data.folder=clips --run-dir runs/stage1
    motionloom animate photo.jpg --base dynamicrafter-512 --motion runs/stage1/final/text_adapter.safetensors --prompt ...

The same on AnimateDiff with recipes/edg/stage1_animatediff.yaml. Where more than the adapter is trained, `final/model` is
the whole model, a base for `animate` and an input for `merge`.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from motionloom.errors import ConfigError, InputError
from motionloom.training.stages import Section, Stage

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from motionloom.datasets.base import TrainingDataset
    from motionloom.training.objectives.base import Objective
    from motionloom.training.objectives.edg import Host, Stage1Objective
    from motionloom.training.recipe import Recipe


@dataclass(frozen=True)
class HostRow:
    """A kind of base this stage can train.

    Attributes:
        bases: names in the catalog.
        folders: "_class_name" in the model_index.json of a folder of one.
        host: "module:class" of everything in which it differs.
        fps: the frame rate its clips are usually cut at.
    """

    bases: tuple[str, ...]
    folders: str
    host: str
    fps: int

    def load(self) -> type[Host]:
        """The class, imported."""
        module, _, name = self.host.partition(":")
        host: type[Host] = getattr(importlib.import_module(module), name)
        return host


HOSTS = (
    HostRow(
        ("dynamicrafter-512", "dynamicrafter-1024", "dynamicrafter-256", "tiny-dynamicrafter"),
        "DynamiCrafter",
        "motionloom.training.objectives.edg_dynamicrafter:DynamiCrafterHost",
        24,
    ),
    HostRow(
        ("animatediff-v3", "tiny-animatediff"),
        "AnimateDiffPipeline",
        "motionloom.training.objectives.edg_animatediff:AnimateDiffHost",
        8,
    ),
)


class TimeNoiseSettings(Section):
    """Noise on the given picture (CIL, arXiv 2406.15735); see `TimeNoise`."""

    beta_max: float = Field(100.0, gt=0)
    a: float = Field(5.0, gt=0)
    mu_max: float = Field(1.0, gt=0)
    image_dropped: float = Field(0.95, ge=0, le=1)


class EdgStage1(Stage):
    """The text adapter, alone or with the network it sits in."""

    kind: Literal["edg-stage1"]
    base: str = Field(
        "dynamicrafter-512", description="a DynamiCrafter or AnimateDiff base, a folder or a hub id"
    )
    base_options: dict[str, str | int | float | bool] = Field(
        {}, description="of the base, such as beta_schedule: linear; animate with the same ones"
    )
    trained: Literal["adapter", "temporal", "all"] = Field(
        "temporal", description="the adapter; also the temporal transformers; also all of the video network"
    )
    init: Literal["identity", "released"] = Field(
        "identity", description="start without any effect, or from random projections as released"
    )
    strides: list[int] = Field(
        [1, 6], min_length=2, max_length=2, description="[smallest, largest] in data.fps"
    )
    drop: float = Field(0.05, ge=0, le=0.3, description="probability each of no text, no picture, neither")
    time_noise: TimeNoiseSettings | None = None
    cache: str = Field(
        "runs/latents", description="where encoded windows are kept, of a base that trains on such"
    )
    windows: int = Field(16, ge=1, le=4096, description="windows encoded of each clip, likewise")
    gradient_checkpointing: bool = Field(True, description="a third slower, several times less memory")

    @field_validator("strides")
    @classmethod
    def _are_strides(cls, value: list[int]) -> list[int]:
        if not 1 <= value[0] <= value[1]:
            raise ValueError("expected [smallest, largest], both 1 or more")
        return value

    # --- the contract of stages -----------------------------------------------------------------------------

    def build(self, recipe: Recipe, device: torch.device | str = "cpu") -> tuple[Objective, TrainingDataset]:
        """See `Stage`; clips are checked, then the base is loaded once, for encoding and for training."""
        import torch

        kind, clips = self._row().load(), self.clips(recipe)
        host = kind.loaded(self, device)
        self._check_size(recipe, host)
        samples = host.samples(self, recipe, clips, device)
        with torch.device(device):
            return self._objective_on(recipe, host), samples

    def objective(self, recipe: Recipe, dry_run: bool = False) -> Objective:
        """See `Stage`."""
        import torch

        kind = self._row().load()
        host = kind.planned(self) if dry_run else kind.loaded(self, torch.get_default_device())
        self._check_size(recipe, host)
        return self._objective_on(recipe, host)

    def dataset(self, recipe: Recipe) -> TrainingDataset:
        """See `Stage`: as the base trains on them."""
        clips, host = self.clips(recipe), self._row().load().loaded(self, "cpu")
        return host.samples(self, recipe, clips, "cpu")

    def clips(self, recipe: Recipe) -> TrainingDataset:
        """See `Stage`. Raises ConfigError without data.fps, InputError when no clip has a caption."""
        from motionloom.datasets.clips import read_captions
        from motionloom.datasets.strided import StridedClips, longest_window
        from motionloom.training.clips import checked_clips

        data = recipe.clip_data()
        if data.layout != "clips":
            raise ConfigError(
                f"got data.layout {data.layout}, and this stage reads captioned clips",
                fix="leave data.layout out; put clips with a .txt beside each into data.folder",
            )
        if data.fps is None:
            raise ConfigError(
                "the recipe has no data.fps, and this stage counts strides in frames of a known rate",
                fix=f"set data.fps: {self._row().fps}; clips are resampled to it",
            )
        strides = (self.strides[0], self.strides[1])
        if not any(read_captions(data.folder)):
            raise InputError(
                f"no clip in {data.folder} has a caption, and the text adapter learns from captions",
                fix='put a .txt beside each clip, or list them in metadata.jsonl with "text"',
            )
        clips = checked_clips(recipe, longest_window(data.frames, strides))
        return StridedClips(clips, data.frames, strides, data.fps, recipe.seed)

    def example_batch(self, recipe: Recipe, batch_size: int) -> dict[str, Tensor]:
        """See `Stage`."""
        return self._row().load().example_batch(self, recipe, batch_size)

    # --- parts ----------------------------------------------------------------------------------------------

    def _row(self) -> HostRow:
        """What the base is. Raises ConfigError, naming those that can, for a base that cannot be trained so."""
        from motionloom.denoisers.catalog import BASES, load_base

        if self.base not in BASES and not Path(self.base).is_dir() and self.base.count("/") != 1:
            load_base(self.base)  # says that there is none, and what is near
        kind = None if self.base in BASES else _class_of_folder(self.base)
        for row in HOSTS:
            if self.base in row.bases or row.folders == kind:
                return row
        names = ", ".join(name for row in HOSTS for name in row.bases)
        raise ConfigError(
            f'got stage.base "{self.base}", which has no temporal attention apart from spatial attention and blind to text',
            fix=f"use {names}, or a folder of one",
        )

    def _objective_on(self, recipe: Recipe, host: Host) -> Stage1Objective:
        """The objective on a loaded base, with a new adapter on the default device."""
        from motionloom.adapters.text_adapter import TextAdapter
        from motionloom.training.objectives.edg import Stage1Objective

        frames = recipe.clip_data().frames
        adapter = TextAdapter.of(host.network, frames, self.init)
        if self.gradient_checkpointing:
            host.checkpoint_gradients()
        facts = {
            "steps": recipe.steps,
            "batch_size": recipe.batch_size * recipe.accumulation,
            "learning_rate": recipe.learning_rate,
            "seed": recipe.seed,
            "frames": frames,
            "trained": self.trained,
            "base_options": dict(self.base_options),
        }
        return Stage1Objective(host, adapter, self.trained, self.drop, facts)

    def _check_size(self, recipe: Recipe, host: Host) -> None:
        """Raises ConfigError for frames, or a number of them, that the base cannot take."""
        data, multiple = recipe.clip_data(), host.base.size_multiple_px
        if data.width_px % multiple or data.height_px % multiple:
            raise ConfigError(
                f"got data.size_px {data.width_px} x {data.height_px}, {self.base} takes multiples of {multiple} px",
                fix=f"use {max(1, round(data.width_px / multiple)) * multiple} x "
                f"{max(1, round(data.height_px / multiple)) * multiple}",
            )
        if host.max_frames is not None and data.frames > host.max_frames:
            raise ConfigError(
                f"got data.frames {data.frames}, {self.base} knows the positions of {host.max_frames}",
                fix=f"use {host.max_frames} or fewer",
            )


def _class_of_folder(base: str) -> str | None:
    """ "_class_name" of the model_index.json in a folder or a cached hub id; None where there is none.

    Raises WeightsError when the hub id is not in the cache.
    """
    from motionloom.denoisers.pretrained import find_folder

    try:
        index: Any = json.loads((find_folder(base) / "model_index.json").read_bytes())
    except (OSError, ValueError):
        return None
    return index.get("_class_name") if isinstance(index, dict) else None

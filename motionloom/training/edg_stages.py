"""Teaching an image-to-video model to move as the text says: stage 1 of Extrapolating and Decoupling (arXiv 2503.00948).

    motionloom train recipes/edg/stage1.yaml data.folder=clips --run-dir runs/stage1
    motionloom animate photo.jpg --base dynamicrafter-512 --motion runs/stage1/final/text_adapter.safetensors --prompt ...

Where more than the adapter is trained, `final/model` is the whole model, a base for `animate` and an input for `merge`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from motionloom.errors import ConfigError, InputError
from motionloom.training.stages import Section, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from motionloom.datasets.base import TrainingDataset
    from motionloom.denoisers.dynamicrafter.base import DynamiCrafterBase
    from motionloom.training.objectives.base import Objective
    from motionloom.training.recipe import Recipe


class TimeNoiseSettings(Section):
    """Noise on the given picture (CIL, arXiv 2406.15735); see `TimeNoise`."""

    beta_max: float = Field(100.0, gt=0)
    a: float = Field(5.0, gt=0)
    mu_max: float = Field(1.0, gt=0)
    image_dropped: float = Field(0.95, ge=0, le=1)


class EdgStage1(Stage):
    """The text adapter, alone or with the network it sits in."""

    kind: Literal["edg-stage1"]
    base: str = Field("dynamicrafter-512", description="a DynamiCrafter base, or the folder of one")
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
    gradient_checkpointing: bool = Field(True, description="a third slower, several times less memory")

    @field_validator("strides")
    @classmethod
    def _are_strides(cls, value: list[int]) -> list[int]:
        if not 1 <= value[0] <= value[1]:
            raise ValueError("expected [smallest, largest], both 1 or more")
        return value

    def objective(self, recipe: Recipe, dry_run: bool = False) -> Objective:
        """See `Stage`."""
        import torch

        from motionloom.adapters.text_adapter import TextAdapter
        from motionloom.training.objectives.edg import Stage1Objective, TimeNoise

        base = self._planned_base() if dry_run else self._base(str(torch.get_default_device()))
        if base.parts.unet.text_adapter is not None:
            raise ConfigError(
                f"{self.base} has a text adapter already",
                fix="start from a base without one, or resume its run",
            )
        adapter = TextAdapter.of(base.parts.unet, recipe.clip_data().frames, self.init)
        if self.gradient_checkpointing:
            base.parts.unet.checkpoint_gradients()
        facts = {
            "steps": recipe.steps,
            "batch_size": recipe.batch_size * recipe.accumulation,
            "learning_rate": recipe.learning_rate,
            "seed": recipe.seed,
            "frames": recipe.clip_data().frames,
            "trained": self.trained,
        }
        noise = TimeNoise(**self.time_noise.model_dump()) if self.time_noise else None
        return Stage1Objective(base, adapter, self.trained, self.drop, noise, facts)

    def dataset(self, recipe: Recipe) -> TrainingDataset:
        """See `Stage`. Raises ConfigError without data.fps, InputError when no clip has a caption."""
        from motionloom.datasets.clips import ClipFolder, read_captions
        from motionloom.datasets.strided import StridedClips, longest_window
        from motionloom.training.progress import counted

        data = recipe.clip_data()
        if data.layout != "clips":
            raise ConfigError(
                f"got data.layout {data.layout}, and this stage reads captioned clips",
                fix="leave data.layout out; put clips with a .txt beside each into data.folder",
            )
        if data.fps is None:
            raise ConfigError(
                "the recipe has no data.fps, and this stage tells the network the frame rate",
                fix="set data.fps: 24; clips are resampled to it",
            )
        strides = (self.strides[0], self.strides[1])
        ways: dict[str, Any] = data.model_dump(include={"fit", "flip", "skip_bad", "cache_mb"})
        if not any(read_captions(data.folder)):
            raise InputError(
                f"no clip in {data.folder} has a caption, and the text adapter learns from captions",
                fix='put a .txt beside each clip, or list them in metadata.jsonl with "text"',
            )
        with counted("checking clips") as on_clip:
            clips = ClipFolder(
                data.folder,
                longest_window(data.frames, strides),
                data.fps,
                (data.width_px, data.height_px),
                **ways,
                seed=recipe.seed,
                on_clip=on_clip,
            )
        return StridedClips(clips, data.frames, strides, data.fps, recipe.seed)

    def example_batch(self, recipe: Recipe, batch_size: int) -> dict[str, Tensor]:
        """See `Stage`."""
        import torch

        data = recipe.clip_data()
        batch: dict[str, Any] = {
            "frames": torch.zeros(batch_size, 3, data.frames, data.height_px, data.width_px),
            "rate": torch.ones(batch_size),
            "text": [""] * batch_size,
        }
        return batch

    def _base(self, device: str) -> DynamiCrafterBase:
        """Raises ConfigError when the base is another kind of model."""
        from motionloom.denoisers.catalog import load_base
        from motionloom.denoisers.dynamicrafter.base import DynamiCrafterBase

        base = load_base(self.base, device=device, dtype="float32")
        if not isinstance(base, DynamiCrafterBase):
            raise ConfigError(
                f"{self.base} has no text-blind temporal attention of DynamiCrafter's kind",
                fix="set stage.base to dynamicrafter-512, dynamicrafter-1024, tiny-dynamicrafter or a folder of one",
            )
        if base.config.given != "first":
            raise ConfigError(
                f"{self.base} is an interpolation checkpoint, and this stage gives one picture",
                fix="set stage.base to dynamicrafter-512 or dynamicrafter-1024",
            )
        base.text.tokenizer(["words"])  # captions need a vocabulary: better said now than at the first batch
        return base

    def _planned_base(self) -> DynamiCrafterBase:
        """The base's networks without values, for a forecast: no weights need be here."""
        import torch

        from motionloom.conditions.clip_text import HashedWords
        from motionloom.denoisers.dynamicrafter.base import DynamiCrafterBase
        from motionloom.denoisers.dynamicrafter.folder import read_config
        from motionloom.denoisers.dynamicrafter.parts import RELEASED, TINY, build

        planned = {**RELEASED, TINY.name: TINY}
        config = planned[self.base] if self.base in planned else read_config(Path(self.base))
        parts = build(config)
        for network in parts.named().values():
            network.eval().requires_grad_(False)
        with torch.device("cpu"):
            return DynamiCrafterBase(config, parts, HashedWords(config.vocabulary))

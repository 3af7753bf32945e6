"""Teaching a motion from about ten clips: the stage that trains a MIVA adapter (arXiv 2512.20000).

    motionloom train recipes/miva/animatediff.yaml data.folder=clips/waterfall stage.motion=waterfall --run-dir runs/w
    motionloom animate photo.jpg --base animatediff-v3 --motion runs/w/final/adapter.safetensors

Every window of the clips is encoded once into `stage.cache`; then the codec leaves the device and the adapter trains beside
the frozen base.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from motionloom.errors import ConfigError
from motionloom.training.stages import Section, Stage

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from motionloom.adapters.adapter import Adapter
    from motionloom.datasets.base import TrainingDataset
    from motionloom.denoisers.miva import MivaBase
    from motionloom.training.objectives.base import Objective
    from motionloom.training.objectives.miva import Lesson, Showcase
    from motionloom.training.objectives.noising import Noising
    from motionloom.training.recipe import Recipe

# base -> frames per second its clips are resampled to, where the recipe says nothing
CLIP_RATES = {"animatediff-v3": 8.0, "tiny-animatediff": 8.0, "wan2.1-t2v-1.3b": 16.0, "tiny-wan": 16.0}


class SubjectMasks(Section):
    """Masked training: frames and the subject's masks are denoised together (M-MIVA).

    In one step a clip is shown at several noise levels, noisiest first, each an update of its own; the mask that biases
    attention is the true one, or the one the previous prediction implies.
    """

    folder: str = Field(
        min_length=1, description="a mask of every clip, under the clip's name: a clip or a picture"
    )
    levels: int = Field(5, ge=1, le=100, description="noise levels, hence updates, per step")
    true_masks: Literal["cosine", "half"] = Field(
        "cosine",
        description="chance of the true mask: from 1 to 0 over the run (paper), or always 1/2 (released)",
    )


class MivaAdapter(Stage):
    """One motion as an adapter beside a frozen video base."""

    kind: Literal["miva-adapter"]
    base: str = Field("animatediff-v3", description="see `motionloom bases`; or a folder, or a hub id")
    base_options: dict[str, str | int | float | bool] = Field(
        {}, description="of the base, such as convention: released; animate with the same ones"
    )
    motion: str = Field("", description='what the motion is called; "" takes the name of data.folder')
    preset: str = Field("default", description="of the adapter and its loss: default, released or paper")
    masks: SubjectMasks | None = Field(None, description="for masked training (M-MIVA)")
    cache: str = Field(
        "runs/latents", description="where encoded windows are kept, one folder per set of clips"
    )
    windows: int = Field(16, ge=1, le=4096, description="windows encoded of each clip")
    gradient_checkpointing: bool = Field(True, description="a third slower, several times less memory")
    preview_steps: int = Field(10, ge=1, le=1000, description="denoising steps of a preview")

    # --- the contract of stages -----------------------------------------------------------------------------

    def build(self, recipe: Recipe, device: torch.device | str = "cpu") -> tuple[Objective, TrainingDataset]:
        """See `Stage`; clips are checked, then the base is loaded once, for encoding and for training."""
        clips = self.clips(recipe)
        base = self._base(recipe)
        windows = self._windows(recipe, clips, base, device)
        return self.objective_on(recipe, base, device, windows, len(clips)), windows

    def objective(self, recipe: Recipe, dry_run: bool = False) -> Objective:
        """See `Stage`; without the clips."""
        import torch

        device = torch.get_default_device()
        if dry_run:
            return self.objective_on(recipe, self._planned_base(recipe), device)
        with torch.device("cpu"):
            base = self._base(recipe)
        return self.objective_on(recipe, base, device)

    def objective_on(
        self,
        recipe: Recipe,
        base: MivaBase,
        device: torch.device | str,
        windows: TrainingDataset | None = None,
        num_clips: int = 0,
    ) -> Objective:
        """The objective on a loaded base; `windows` are for the last preview, `num_clips` for the adapter's card."""
        import torch

        from motionloom.adapters.adapter import new_adapter
        from motionloom.denoisers.pretrained import to_precision
        from motionloom.training.objectives.miva import MivaObjective

        network = to_precision(base.denoiser.network, _dtype(recipe.precision)).to(device)
        if self.masks is not None:  # every step decodes the masks it predicts
            to_precision(base.codec.network, network.dtype).to(device)
        if self.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        adapter = new_adapter(
            network,
            self.preset,
            self.masks is not None,
            seed=recipe.seed,
            motion=self.motion or Path(recipe.clip_data().folder).name,
            base=base.name,
        )
        adapter.facts = self._facts(recipe, adapter, num_clips)
        with torch.device("cpu"):
            return MivaObjective(adapter, base, self._lesson(recipe, base), self._showcase(recipe, windows))

    def dataset(self, recipe: Recipe) -> TrainingDataset:
        """See `Stage`: the encoded windows."""
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return self._windows(recipe, self.clips(recipe), self._base(recipe), device)

    def clips(self, recipe: Recipe) -> TrainingDataset:
        """See `Stage`."""
        from motionloom.datasets.clips import ClipFolder
        from motionloom.training.progress import counted

        data = recipe.clip_data()
        with counted("checking clips") as on_clip:
            return ClipFolder(
                data.folder,
                data.frames,
                self._fps(recipe),
                (data.width_px, data.height_px),
                fit=data.fit,
                flip=data.flip,
                skip_bad=data.skip_bad,
                seed=recipe.seed,
                cache_mb=data.cache_mb,
                masks=None if self.masks is None else self.masks.folder,
                on_clip=on_clip,
            )

    def example_batch(self, recipe: Recipe, batch_size: int) -> dict[str, Tensor]:
        """See `Stage`."""
        import torch

        data = recipe.clip_data()
        codec = self._planned_base(recipe).codec
        shape = codec.latent_shape(data.frames, data.height_px, data.width_px)
        latents = torch.zeros(batch_size, *shape)
        batch = {"mean": latents, "logvar": latents.clone()}
        if self.masks is not None:
            batch |= {"mask_mean": latents.clone(), "mask_logvar": latents.clone()}
            batch["subject"] = torch.zeros(batch_size, *shape[1:])
        return batch

    # --- parts ----------------------------------------------------------------------------------------------

    def _base(self, recipe: Recipe) -> MivaBase:
        """The base on the CPU in float32. Raises ConfigError when adapters cannot be trained on it."""
        from motionloom.denoisers.catalog import BASES, load_base
        from motionloom.denoisers.miva import MivaBase

        has_device = self.base in CLIP_RATES and not self.base.startswith("tiny-")
        placed = {"device": "cpu", "dtype": "float32"} if has_device or self.base not in BASES else {}
        base = load_base(self.base, **placed, **self.base_options)
        if not isinstance(base, MivaBase):
            raise ConfigError(
                f'got stage.base "{self.base}", on which MIVA adapters cannot be trained',
                fix=f"use one of {', '.join(CLIP_RATES)}",
            )
        self._check_size(recipe, base)
        return base

    def _planned_base(self, recipe: Recipe) -> MivaBase:
        """The base as shapes on the meta device; only a folder or a hub id needs its files."""
        import torch

        from motionloom.denoisers.planned import PLANNED, planned_base

        if self.base in PLANNED:
            base = planned_base(self.base, **self.base_options)
            self._check_size(recipe, base)
            return base
        with torch.device("cpu"):
            base = self._base(recipe)
        base.denoiser.network.to("meta")
        base.codec.network.to("meta")
        return base

    def _check_size(self, recipe: Recipe, base: MivaBase) -> None:
        """Raises ConfigError for frames the base cannot take; InputError for a length its codec cannot."""
        data, multiple = recipe.clip_data(), base.size_multiple_px
        if data.width_px % multiple or data.height_px % multiple:
            raise ConfigError(
                f"got data.size_px {data.width_px} x {data.height_px}, {base.name} takes multiples of {multiple} px",
                fix=f"use {max(1, round(data.width_px / multiple)) * multiple} x "
                f"{max(1, round(data.height_px / multiple)) * multiple}",
            )
        base.codec.latent_shape(data.frames, data.height_px, data.width_px)

    def _lesson(self, recipe: Recipe, base: MivaBase) -> Lesson:
        from motionloom.adapters.proxy_mask import ground_truth_probability
        from motionloom.training.objectives.miva import FramesAndMasksLesson, FramesLesson

        released, is_flow = self.preset == "released", base.denoiser.prediction_type == "flow"
        video_counts = released and is_flow
        if self.masks is None:
            return FramesLesson(base, self._noising(base), video_counts)

        def chance(step: int) -> float:
            return ground_truth_probability(step, recipe.steps)

        chances = {"cosine": chance, "half": lambda step: 0.5}
        return FramesAndMasksLesson(
            base,
            self._noising(base),
            self.masks.levels,
            chances[self.masks.true_masks],
            counts=(video_counts, released),
        )

    def _noising(self, base: MivaBase) -> Noising:
        from motionloom.denoisers.animatediff import AnimateDiffBase
        from motionloom.denoisers.wan import WanBase
        from motionloom.sampling.schedules import stable_diffusion
        from motionloom.training.objectives.noising import EpsilonNoising, FlowNoising

        if isinstance(base, WanBase):
            return FlowNoising(base.options.shift)
        assert isinstance(base, AnimateDiffBase)
        return EpsilonNoising(stable_diffusion(base.options.beta_schedule))

    def _windows(
        self, recipe: Recipe, clips: TrainingDataset, base: MivaBase, device: torch.device | str
    ) -> TrainingDataset:
        """The encoded windows of the clips; the codec is on the device only while it encodes."""
        from motionloom.datasets.latent_cache import CacheIdentity
        from motionloom.datasets.latent_windows import LatentWindows, encode_windows
        from motionloom.denoisers.pretrained import fingerprint
        from motionloom.training.objectives.miva import codec_on
        from motionloom.training.progress import counted

        ways = recipe.clip_data().model_dump(include={"frames", "size_px", "fit", "flip"})
        identity = CacheIdentity(
            codec_sha256=fingerprint(base.codec.network),
            transform=ways | {"fps": self._fps(recipe), "seed": recipe.seed},
            dataset=clips.fingerprint,
            windows=self.windows,
        )
        with counted("encoding clips") as on_sample, codec_on(base, device):
            cache = encode_windows(self.cache, base.codec, clips, identity, on_sample)
        return LatentWindows(cache, clips, self.windows, recipe.seed)

    def _showcase(self, recipe: Recipe, windows: TrainingDataset | None) -> Showcase | None:
        from motionloom.training.objectives.miva import Showcase

        if windows is None:
            return None
        return Showcase(windows.at(0, 0), recipe.clip_data().frames, self._fps(recipe), self.preview_steps)

    def _fps(self, recipe: Recipe) -> float:
        fps = recipe.clip_data().fps or CLIP_RATES.get(self.base)
        if fps is None:
            raise ConfigError(
                f'the recipe gives no data.fps, and the rate of "{self.base}" is not known',
                fix="set data.fps: 8 for AnimateDiff, 16 for Wan",
            )
        return fps

    def _facts(self, recipe: Recipe, adapter: Adapter, num_clips: int) -> dict[str, Any]:
        """What the adapter's file says of its training."""
        data = recipe.clip_data()
        masked = (
            {} if self.masks is None else {"levels": self.masks.levels, "true_masks": self.masks.true_masks}
        )
        return masked | {
            "clips": num_clips,
            "frames": data.frames,
            "fps": self._fps(recipe),
            "size_px": [data.width_px, data.height_px],
            "steps": recipe.steps,
            "batch_size": recipe.batch_size * recipe.accumulation,
            "learning_rate": recipe.learning_rate,
            "precision": recipe.precision,
            "seed": recipe.seed,
            "base_options": dict(self.base_options),
        }


def _dtype(precision: str) -> torch.dtype:
    """Of the frozen base; the adapter's own weights are always float32."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]

"""Teaching a motion from about ten clips: the stages that train a MIVA adapter (arXiv 2512.20000).

    motionloom train recipes/miva/animatediff.yaml data.folder=clips/waterfall stage.motion=waterfall --run-dir runs/w
    motionloom animate photo.jpg --base animatediff-v3 --motion runs/w/final/adapter.safetensors

Every window of the clips is encoded once into `stage.cache`; then the codec leaves the device and the adapter trains beside
the frozen base. On `mini` a window is its optical flow, and the adapter trains in minutes on a CPU (`MapAdapter`):

    motionloom train recipes/miva/mini.yaml data.folder=clips/fireworks --run-dir runs/fireworks
    motionloom animate photo.jpg --motion runs/fireworks/final/adapter.safetensors:0.8
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
    from motionloom.datasets.flow_windows import TaughtMotion
    from motionloom.datasets.latent_cache import LatentCache
    from motionloom.denoisers.mini import MiniBase
    from motionloom.denoisers.miva import MivaBase
    from motionloom.training.objectives.base import Objective
    from motionloom.training.objectives.miva import Lesson, Showcase
    from motionloom.training.objectives.noising import Noising
    from motionloom.training.recipe import Recipe

# base -> frames per second its clips are resampled to, where the recipe says nothing
CLIP_RATES = {"animatediff-v3": 8.0, "tiny-animatediff": 8.0, "wan2.1-t2v-1.3b": 16.0, "tiny-wan": 16.0}

PLANNED_WORD = "sway"  # of adapters that are planned, before clips say which is nearest


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
        from motionloom.training.clips import checked_clips

        masks = None if self.masks is None else self.masks.folder
        return checked_clips(recipe, fps=self._fps(recipe), masks=masks)

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
                fix=f"use one of {', '.join(CLIP_RATES)}; for mini, recipes/miva/mini.yaml",
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


class MapAdapter(Stage):
    """One motion as an adapter beside the frozen generator of the small model: minutes on a CPU."""

    kind: Literal["miva-map-adapter"]
    base: str = Field(
        "mini", description="mini, or a folder with codec.safetensors and generator.safetensors"
    )
    motion: str = Field("", description='what the motion is called; "" takes the name of data.folder')
    word: str | None = Field(
        None, description="local motion word the generator is told; null takes the nearest, by its loss"
    )
    rank: int = Field(8, ge=1, le=512, description="of the low-rank parts, scaled by alpha / rank = 1")
    text_free_rank: int = Field(64, ge=1, le=4096, description="of the text-free part")
    cache: str = Field("runs/latents", description="where windows are kept, one folder per set of clips")
    windows: int = Field(24, ge=1, le=4096, description="windows cut from each clip")

    # --- the contract of stages -----------------------------------------------------------------------------

    def build(self, recipe: Recipe, device: torch.device | str = "cpu") -> tuple[Objective, TrainingDataset]:
        """See `Stage`; clips are checked before the base is loaded."""
        from motionloom.datasets.flow_windows import TaughtMotion, TaughtSamples
        from motionloom.denoisers.pretrained import fingerprint
        from motionloom.training.objectives.map_adapter import nearest_word

        clips = self.clips(recipe)
        base = self._base(recipe)
        base.denoiser.to(device)
        taught = TaughtMotion(self._windows(recipe, clips, base), base.codec.motion)
        word = self.word or nearest_word(base.denoiser, taught, recipe.seed)
        facts = {
            "clips": len(clips),
            "usual_speed": round(taught.usual, 6),
            "base_weights": fingerprint(base.denoiser),
        }
        objective = self._objective_on(recipe, base, word, taught, facts)
        return objective, TaughtSamples(taught, word, clips, self.windows, recipe.seed)

    def objective(self, recipe: Recipe, dry_run: bool = False) -> Objective:
        """See `Stage`; without the clips."""
        import torch

        device = torch.get_default_device()
        with torch.device("cpu"):
            base = self._base(recipe)
        base.denoiser.to(device)
        return self._objective_on(recipe, base, self.word or PLANNED_WORD)

    def dataset(self, recipe: Recipe) -> TrainingDataset:
        """See `Stage`."""
        return self.build(recipe)[1]

    def clips(self, recipe: Recipe) -> TrainingDataset:
        """See `Stage`."""
        from motionloom.datasets.flow_windows import Squares
        from motionloom.datasets.motion_windows import FPS
        from motionloom.training.clips import checked_clips

        self._check_word()
        return Squares(checked_clips(recipe, fps=recipe.clip_data().fps or FPS), recipe.seed)

    def example_batch(self, recipe: Recipe, batch_size: int) -> dict[str, Tensor]:
        """See `Stage`."""
        import torch

        from motionloom.conditions.motion_map import CHANNELS
        from motionloom.datasets.motion_windows import SIZE_PX

        with torch.device("cpu"):
            channels = self._base(recipe).codec.motion.channels
        places = SIZE_PX // 8
        return {
            "photo": torch.zeros(batch_size, 3, SIZE_PX, SIZE_PX),
            "map": torch.zeros(batch_size, CHANNELS, places, places),
            "offset": torch.zeros(batch_size, 2),
            "latents": torch.zeros(batch_size, channels, places, places),
        }

    # --- parts ----------------------------------------------------------------------------------------------

    def _base(self, recipe: Recipe) -> MiniBase:
        """The base on the CPU. Raises ConfigError when it is no small model, or its clips have another length."""
        from motionloom.denoisers.catalog import load_base
        from motionloom.denoisers.mini import MiniBase

        base = load_base(self.base)
        if not isinstance(base, MiniBase):
            raise ConfigError(
                f'got stage.base "{self.base}", which has no map generator',
                fix="use mini, or stage.kind miva-adapter for other bases",
            )
        count = base.codec.motion.num_frames
        if recipe.clip_data().frames != count:
            raise ConfigError(
                f"got data.frames {recipe.clip_data().frames}, {base.name} learns from {count}",
                fix=f"set data.frames: {count}; clips are drawn at any number",
            )
        return base

    def _check_word(self) -> None:
        from motionloom.conditions.words import WORDS, find

        if self.word is not None and WORDS[find(self.word)].kind != "local":
            local = ", ".join(word.name for word in WORDS if word.kind == "local")
            raise ConfigError(f'got stage.word "{self.word}", expected a local motion', fix=f"one of {local}")

    def _windows(self, recipe: Recipe, clips: TrainingDataset, base: MiniBase) -> LatentCache:
        """The windows of the clips as motion latents, made once."""
        from motionloom.datasets.flow_windows import FlowEncoder
        from motionloom.datasets.latent_cache import CacheIdentity, build_latent_cache
        from motionloom.datasets.motion_windows import FPS
        from motionloom.denoisers.pretrained import fingerprint
        from motionloom.training.progress import counted

        data = recipe.clip_data()
        ways = data.model_dump(include={"frames", "size_px", "fit", "flip"})
        identity = CacheIdentity(
            codec_sha256=fingerprint(base.codec.motion),
            transform=ways | {"fps": data.fps or FPS, "seed": recipe.seed},
            dataset=clips.fingerprint,
            windows=self.windows,
        )
        folder, encoder = identity.folder_in(self.cache), FlowEncoder(base.codec.motion)
        with counted("measuring flow") as on_sample:
            return build_latent_cache(folder, encoder, clips, identity, on_sample=on_sample)

    def _objective_on(
        self,
        recipe: Recipe,
        base: MiniBase,
        word: str,
        taught: TaughtMotion | None = None,
        facts: dict[str, Any] | None = None,
    ) -> Objective:
        from motionloom.adapters.adapter import new_adapter
        from motionloom.adapters.settings import AdapterSettings, SpatialLowRank, TextFree
        from motionloom.training.objectives.map_adapter import MapAdapterObjective

        data = recipe.clip_data()
        settings = AdapterSettings(
            text_free=TextFree(rank=self.text_free_rank),
            spatial=SpatialLowRank(rank=self.rank, alpha=float(self.rank)),
            word=word,
        )
        motion = self.motion or Path(data.folder).name
        adapter = new_adapter(
            base.denoiser, settings=settings, seed=recipe.seed, motion=motion, base=base.name
        )
        if taught is not None:
            adapter.headings.copy_(taught.drawn_headings(len(adapter.headings), recipe.seed))
        adapter.facts = (facts or {}) | {
            "windows": self.windows,
            "fps": data.fps,
            "steps": recipe.steps,
            "batch_size": recipe.batch_size * recipe.accumulation,
            "learning_rate": recipe.learning_rate,
            "seed": recipe.seed,
        }
        return MapAdapterObjective(adapter, base, taught)


def _dtype(precision: str) -> torch.dtype:
    """Of the frozen base; the adapter's own weights are always float32."""
    import torch

    from motionloom.training.precision import HALVES

    return HALVES.get(precision, torch.float32)

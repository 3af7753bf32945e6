"""AnimateDiff in stage 1 of Extrapolating and Decoupling (arXiv 2503.00948): its motion modules are as blind to text.

    x_t = sqrt(abar) z + sqrt(1 - abar) e, the target is e; frame 0 is the clean z, as `animate` shows the photo

The first frame counts in the loss only where the picture is dropped; there it is noised like the others, which is
AnimateDiff's own training. Windows and captions are encoded once; then autoencoder and text encoder leave the device. The
adapter is mounted for as long as a step lasts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from motionloom.adapters.hooks import hook_forward
from motionloom.adapters.text_adapter import TextAdapter
from motionloom.adapters.unet import motion_modules
from motionloom.conditions.clip_text import NUM_TOKENS
from motionloom.datasets.base import Sample, TrainingDataset
from motionloom.datasets.latent_cache import CacheIdentity
from motionloom.datasets.latent_windows import LatentWindows, encode_windows
from motionloom.denoisers.animatediff import AnimateDiffBase
from motionloom.denoisers.animatediff_text import TextCondition, TextReadingNetwork, with_group_norms
from motionloom.denoisers.base import Request
from motionloom.denoisers.catalog import load_base
from motionloom.denoisers.planned import PLANNED, planned_base
from motionloom.denoisers.pretrained import fingerprint
from motionloom.errors import ConfigError
from motionloom.sampling.loop import sample
from motionloom.sampling.rescaled_guidance import RescaledGuidance
from motionloom.sampling.schedules import stable_diffusion
from motionloom.training.objectives.autoencoder import as_grid
from motionloom.training.objectives.edg import PREVIEW_STEPS, Host, Noised
from motionloom.training.objectives.miva import codec_on, drawn_latents
from motionloom.training.objectives.noising import EpsilonNoising
from motionloom.training.progress import counted

if TYPE_CHECKING:
    from motionloom.training.edg_stages import EdgStage1
    from motionloom.training.recipe import Recipe


@dataclass(frozen=True)
class Told(TextCondition):
    """The text, and `pictured` (B,) bool: the samples whose frame 0 is shown clean."""

    pictured: Tensor

    def dropped(self, *, text: Tensor | bool = False, image: Tensor | bool = False) -> Told:
        """See `Droppable`."""
        hidden = torch.as_tensor(image, dtype=torch.bool, device=self.pictured.device)
        told = super().dropped(text=text)
        assert isinstance(told, Told)
        return replace(told, pictured=self.pictured & ~hidden)


class AnimateDiffHost(Host):
    """See the top of the file.

    Batches: {"mean", "logvar": (B, C, F, h, w), "text": (B, 77, width), "first_frame": (B, 3, H, W), -1..1}.

    Args:
        base: its network on the device; the autoencoder may wait elsewhere.
        empty_text: (1, 77, width).
    """

    base: AnimateDiffBase

    def __init__(self, base: AnimateDiffBase, empty_text: Tensor) -> None:
        self.base, self.empty_text = base, empty_text
        self.network = base.denoiser.network
        self.denoiser = TextReadingNetwork(self.network)
        self.frozen = {}
        self.noising = EpsilonNoising(stable_diffusion(base.options.beta_schedule))
        self.max_frames = int(base.denoiser.network.config.motion_max_seq_length)
        self._adapter: TextAdapter | None = None

    @classmethod
    def loaded(cls, stage: EdgStage1, device: torch.device | str) -> AnimateDiffHost:
        """See `Host`."""
        if stage.time_noise is not None:
            raise ConfigError(
                f"stage.time_noise noises a picture that is told beside the latents, and {stage.base} is told none",
                fix="leave it out, or train a DynamiCrafter base",
            )
        with torch.device("cpu"):
            base = load_base(stage.base, device="cpu", dtype="float32", **stage.base_options)
            assert isinstance(base, AnimateDiffBase)
            base.text.tokenizer(
                ["words"]
            )  # captions need a vocabulary: better said now than at the first batch
            empty_text = base.text([""])
        base.denoiser.network.to(device)
        return cls(base, empty_text)

    @classmethod
    def planned(cls, stage: EdgStage1) -> AnimateDiffHost:
        """See `Host`; only a folder or a hub id needs its files."""
        if stage.base in PLANNED:
            base = planned_base(stage.base, **stage.base_options)
        else:
            with torch.device("cpu"):
                found = load_base(stage.base, device="cpu", dtype="float32", **stage.base_options)
            assert isinstance(found, AnimateDiffBase)
            base = found
        assert isinstance(base, AnimateDiffBase)
        base.denoiser.network.to("meta")
        base.codec.network.to("meta")
        return cls(base, torch.zeros(1, NUM_TOKENS, base.denoiser.text_width, device="meta"))

    @classmethod
    def example_batch(cls, stage: EdgStage1, recipe: Recipe, batch_size: int) -> dict[str, Any]:
        """See `Host`."""
        data, base = recipe.clip_data(), cls.planned(stage).base
        shape = base.codec.latent_shape(data.frames, data.height_px, data.width_px)
        return {
            "mean": torch.zeros(batch_size, *shape),
            "logvar": torch.zeros(batch_size, *shape),
            "text": torch.zeros(batch_size, NUM_TOKENS, base.denoiser.text_width),
        }

    def samples(
        self, stage: EdgStage1, recipe: Recipe, clips: TrainingDataset, device: torch.device | str
    ) -> TrainingDataset:
        """See `Host`: encoded windows, each with the tokens of its caption."""
        data, text = recipe.clip_data(), self.base.text
        ways = data.model_dump(include={"frames", "size_px", "fit", "flip", "fps"})
        identity = CacheIdentity(
            codec_sha256=fingerprint(self.base.codec.network, text.encoder),
            transform=ways | {"strides": stage.strides, "seed": recipe.seed},
            dataset=clips.fingerprint,
            windows=stage.windows,
        )
        known: dict[str, Tensor] = {}

        def captions(samples: list[Sample]) -> dict[str, Tensor]:
            for one in samples:
                if one["text"] not in known:
                    known[one["text"]] = text([one["text"]]).cpu()
            return {"text": torch.cat([known[one["text"]] for one in samples])}

        text.encoder.to(device)
        with counted("encoding clips") as on_sample, codec_on(self.base, device):
            cache = encode_windows(stage.cache, self.base.codec, clips, identity, on_sample, captions)
        text.encoder.to("cpu")
        return LatentWindows(cache, clips, stage.windows, recipe.seed)

    def carry(self, adapter: TextAdapter) -> None:
        """See `Host`."""
        adapter.check_fits(self.network)
        self._adapter = adapter

    @contextmanager
    def ready(self) -> Iterator[object]:
        """See `Host`: the adapter mounted, GroupNorms as the base's options say."""
        assert self._adapter is not None, "there is no adapter to carry"
        network = self.base.denoiser.network
        with with_group_norms(network, self.base.group_norm), ExitStack() as undo:
            if network.is_gradient_checkpointing:  # diffusers leaves the motion modules out
                for module in motion_modules(network):
                    hook_forward(module, _checkpointed, undo)
            yield undo.enter_context(self._adapter.mounted(network))

    def checkpoint_gradients(self) -> None:
        """See `Host`."""
        self.base.denoiser.network.enable_gradient_checkpointing()

    def latents(self, batch: dict[str, Any], generator: torch.Generator) -> Tensor:
        """See `Host`: a sample of the cached posterior, or its mean, as the base takes its frame 0."""
        return drawn_latents(batch, "", self.base.options.posterior, generator)

    def told(self, batch: dict[str, Any], latents: Tensor, generator: torch.Generator) -> Told:
        """See `Host`."""
        text = batch["text"].to(latents)
        pictured = torch.ones(len(text), dtype=torch.bool, device=latents.device)
        return Told(text, self.empty_text.to(latents), pictured)

    def noised(self, latents: Tensor, noise: Tensor, timestep: Tensor, told: Told) -> Noised:
        """See `Host`."""
        noised = self.noising.noised(latents, noise, timestep)
        is_first = torch.arange(latents.shape[2], device=latents.device) == 0  # (F,)
        clean = told.pictured.view(-1, 1, 1, 1, 1) & is_first.view(1, 1, -1, 1, 1)
        return Noised(torch.where(clean, latents, noised.latents), noised.target, (~clean).float())

    def preview(self, batch: dict[str, Any], generator: torch.Generator) -> npt.NDArray[np.uint8]:
        """See `Host`; the clips are shown as the autoencoder has them."""
        base, photos, latents = self.base, batch["first_frame"].cpu(), batch["mean"].float()
        request = Request(photos, (), latents.shape[2], base.fps, PREVIEW_STEPS)
        noise = base.start_noise(request)(latents[:, :, :1], tuple(latents.shape), generator)
        guided = RescaledGuidance(self.denoiser, base.options.guidance, rescale=0.0)
        told = TextCondition(batch["text"].to(latents), self.empty_text.to(latents))
        drawn = sample(guided, base.schedule(request), noise, told, PREVIEW_STEPS, None)
        with codec_on(base, base.denoiser.network.device):
            given = base.codec.decode(latents.cpu(), photos)
            return as_grid([given, base.decode(drawn.cpu(), request)])

    def save(self, folder: Path) -> None:
        """See `Host`; the adapter stays a file of its own."""
        self.base.save(folder)


def _checkpointed(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)

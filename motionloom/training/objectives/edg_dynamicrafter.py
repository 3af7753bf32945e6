"""DynamiCrafter in stage 1 of Extrapolating and Decoupling (arXiv 2503.00948).

    x0 = s(t) z,  x_t = sqrt(abar) x0 + sqrt(1 - abar) e,  v = sqrt(abar) e - sqrt(1 - abar) x0

The picture it is told is a random frame of the clip. The adapter becomes part of the network and of its state.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from motionloom.adapters.text_adapter import TextAdapter
from motionloom.conditions.clip_text import HashedWords
from motionloom.conditions.image_tokens import for_frames
from motionloom.denoisers.catalog import load_base
from motionloom.denoisers.dynamicrafter.base import DynamiCrafterBase, plain_ddim
from motionloom.denoisers.dynamicrafter.condition import VideoCondition
from motionloom.denoisers.dynamicrafter.folder import read_config, write_folder
from motionloom.denoisers.dynamicrafter.parts import RELEASED, TINY, build
from motionloom.errors import ConfigError
from motionloom.sampling.loop import sample
from motionloom.sampling.rescaled_guidance import RescaledGuidance
from motionloom.sampling.zero_terminal_snr import ZeroTerminalSNRDDIM, dynamic_scale
from motionloom.training.objectives.autoencoder import as_grid
from motionloom.training.objectives.edg import (
    NUM_TIMESTEPS,
    PREVIEW_STEPS,
    Host,
    Noised,
    integers,
    normal_like,
)

if TYPE_CHECKING:
    from motionloom.training.edg_stages import EdgStage1
    from motionloom.training.recipe import Recipe


@dataclass(frozen=True)
class TimeNoise:
    """Noise on the given picture, the more the noisier the clip, so that motion is not copied from it (CIL, arXiv
    2406.15735): beta_s = beta_max sigmoid(y), y ~ N(mu(t), 1), mu(t) = 2 mu_max (t/T)^a - mu_max.

    Attributes:
        beta_max, a, mu_max: as released for the 512 model. (Its first release had mu_max = 4 by mistake.)
        image_dropped: probability, for a whole batch, that the image tokens are replaced by normal noise.
    """

    beta_max: float = 100.0
    a: float = 5.0
    mu_max: float = 1.0
    image_dropped: float = 0.95

    def level(self, timestep: Tensor, generator: torch.Generator) -> Tensor:
        """beta_s of samples at timesteps (B,)."""
        mu = 2 * self.mu_max * (timestep / NUM_TIMESTEPS) ** self.a - self.mu_max
        return self.beta_max * torch.sigmoid(mu + normal_like(mu, generator))

    def __call__(self, told: VideoCondition, timestep: Tensor, generator: torch.Generator) -> VideoCondition:
        """The condition, noised."""
        level = self.level(timestep, generator).view(-1, 1, 1, 1, 1)
        still = told.still + level * normal_like(told.still[:, :, :1], generator)  # one picture, one noise
        drops = torch.rand((), generator=generator, device=generator.device) < self.image_dropped
        image = torch.where(drops.to(told.image.device), normal_like(told.image, generator), told.image)
        return VideoCondition(told.text, image, still, told.rate, told.empty_text, told.empty_image)


class DynamiCrafterHost(Host):
    """See the top of the file.

    Batches: {"frames": (B, 3, T, H, W), -1..1, "text": [str] * B, "rate": (B,)}; frames are encoded in every step.

    Args:
        base: with all its networks on one device, float32.
        time_noise: CIL's, or None.
    """

    base: DynamiCrafterBase

    def __init__(self, base: DynamiCrafterBase, time_noise: TimeNoise | None = None) -> None:
        self.base, self.time_noise = base, time_noise
        self.network, self.denoiser, parts = base.parts.unet, base.denoiser, base.parts
        self.frozen = {"vae": parts.vae, "text": parts.text_encoder, "image": parts.image_encoder}
        self.beside = {"image_projection": parts.image_projection}
        is_v = base.config.prediction == "v_prediction"
        self.abar: Tensor = (ZeroTerminalSNRDDIM() if is_v else plain_ddim(0.0)).alphas_cumprod.float()
        self.scale = dynamic_scale(base.config.base_scale).float()

    @classmethod
    def loaded(cls, stage: EdgStage1, device: torch.device | str) -> DynamiCrafterHost:
        """See `Host`."""
        base = load_base(stage.base, device=str(device), dtype="float32", **stage.base_options)
        assert isinstance(base, DynamiCrafterBase)
        if base.config.given != "first":
            raise ConfigError(
                f"{stage.base} is an interpolation checkpoint, and this stage gives one picture",
                fix="set stage.base to dynamicrafter-512 or dynamicrafter-1024",
            )
        if base.parts.unet.text_adapter is not None:
            raise ConfigError(
                f"{stage.base} has a text adapter already",
                fix="start from a base without one, or resume its run",
            )
        base.text.tokenizer(["words"])  # captions need a vocabulary: better said now than at the first batch
        return cls(base, _time_noise(stage))

    @classmethod
    def planned(cls, stage: EdgStage1) -> DynamiCrafterHost:
        """See `Host`: no weights need be here."""
        known = {**RELEASED, TINY.name: TINY}
        config = known[stage.base] if stage.base in known else read_config(Path(stage.base))
        with torch.device("meta"):
            parts = build(config)
        for network in parts.named().values():
            network.eval().requires_grad_(False)
        with torch.device("cpu"):
            base = DynamiCrafterBase(config, parts, HashedWords(config.vocabulary))
            return cls(base, _time_noise(stage))

    @classmethod
    def example_batch(cls, stage: EdgStage1, recipe: Recipe, batch_size: int) -> dict[str, Any]:
        """See `Host`."""
        data = recipe.clip_data()
        return {
            "frames": torch.zeros(batch_size, 3, data.frames, data.height_px, data.width_px),
            "rate": torch.ones(batch_size),
            "text": [""] * batch_size,
        }

    def carry(self, adapter: TextAdapter) -> None:
        """See `Host`."""
        adapter.join(self.base.parts.unet)

    def checkpoint_gradients(self) -> None:
        """See `Host`."""
        self.base.parts.unet.checkpoint_gradients()

    @torch.no_grad()
    def latents(self, batch: dict[str, Any], generator: torch.Generator) -> Tensor:
        """Samples of the posterior of every frame, unit scale: (B, 4, T, h, w)."""
        vae, latents = self.base.parts.vae, []
        for frame in batch["frames"].unbind(2):
            posterior = vae.encode(frame).latent_dist
            latents.append(posterior.mean + posterior.std * normal_like(posterior.mean, generator))
        return torch.stack(latents, dim=2) * self.base.config.latent_scale

    def told(self, batch: dict[str, Any], latents: Tensor, generator: torch.Generator) -> VideoCondition:
        """See `Host`: with a random frame of each clip as its picture."""
        place = integers(latents.shape[2], len(latents), generator).to(latents.device)
        return self.told_frame(batch, latents, place)

    def told_frame(self, batch: dict[str, Any], latents: Tensor, place: Tensor) -> VideoCondition:
        """With frame `place` (B,) of each clip as its picture."""
        frames, count = batch["frames"], latents.shape[2]
        row = torch.arange(len(frames), device=latents.device)
        pictures = torch.cat([frames[row, :, place], torch.zeros_like(frames[:1, :, 0])])
        image = for_frames(self.base.image(pictures), count)
        text = self.base.text([*batch["text"], ""]).to(latents)
        return VideoCondition(
            text=text[:-1],
            image=image[:-1],
            still=latents[row, :, place].unsqueeze(2).expand_as(latents),
            rate=batch["rate"].to(latents),
            empty_text=text[-1:],
            empty_image=image[-1:],
        )

    def disturbed(self, told: VideoCondition, timestep: Tensor, generator: torch.Generator) -> VideoCondition:
        """See `Host`: under TimeNoise, where it is on."""
        return told if self.time_noise is None else self.time_noise(told, timestep, generator)

    def noised(self, latents: Tensor, noise: Tensor, timestep: Tensor, told: object = None) -> Noised:
        """See `Host`."""
        abar, scale = (table.to(latents)[timestep].view(-1, 1, 1, 1, 1) for table in (self.abar, self.scale))
        x0 = scale * latents
        noisy = abar.sqrt() * x0 + (1 - abar).sqrt() * noise
        if self.base.config.prediction == "epsilon":
            return Noised(noisy, noise)
        return Noised(noisy, abar.sqrt() * noise - (1 - abar).sqrt() * x0)

    def preview(self, batch: dict[str, Any], generator: torch.Generator) -> npt.NDArray[np.uint8]:
        """See `Host`."""
        frames, config = batch["frames"], self.base.config
        latents = self.latents(batch, generator)
        told = self.told_frame(
            batch, latents, torch.zeros(len(frames), dtype=torch.long, device=latents.device)
        )
        is_v = config.prediction == "v_prediction"
        drawn = sample(
            RescaledGuidance(self.denoiser, rescale=config.guidance_rescale),
            ZeroTerminalSNRDDIM(config.base_scale, eta=0.0) if is_v else plain_ddim(0.0),
            normal_like(latents, generator),
            told,
            PREVIEW_STEPS,
            None,
        )
        return as_grid([frames, self.base.autoencoder.decode(drawn, frames[:, :, 0])])

    def save(self, folder: Path) -> None:
        """See `Host`; the adapter is part of it."""
        parts = self.base.parts.named()
        write_folder(folder, self.base.config, {name: part.state_dict() for name, part in parts.items()})


def _time_noise(stage: EdgStage1) -> TimeNoise | None:
    return None if stage.time_noise is None else TimeNoise(**stage.time_noise.model_dump())

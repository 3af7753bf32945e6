"""Stage 1 of Extrapolating and Decoupling (arXiv 2503.00948): DynamiCrafter learns to move as the text says.

    x0 = s(t) z,  x_t = sqrt(abar) x0 + sqrt(1 - abar) e,  v = sqrt(abar) e - sqrt(1 - abar) x0
    loss = mean || v_theta(x_t, t, text, picture) - v ||^2,   t uniform in 0..999

Text and picture are dropped at times, so that guidance works; the picture is a random frame of the clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from motionloom.adapters.text_adapter import TextAdapter, temporal_widths
from motionloom.conditions.image_tokens import for_frames
from motionloom.denoisers.dynamicrafter.base import DynamiCrafterBase, plain_ddim
from motionloom.denoisers.dynamicrafter.condition import VideoCondition
from motionloom.denoisers.dynamicrafter.folder import write_folder
from motionloom.denoisers.dynamicrafter.unet import DynamiCrafterUNet
from motionloom.sampling.loop import sample
from motionloom.sampling.rescaled_guidance import RescaledGuidance
from motionloom.sampling.zero_terminal_snr import NUM_TRAIN_TIMESTEPS, ZeroTerminalSNRDDIM, dynamic_scale
from motionloom.training.objectives.autoencoder import as_grid

PREVIEW_CLIPS, PREVIEW_STEPS = 2, 10
ADAPTER_FILE, MODEL_FOLDER = "text_adapter.safetensors", "model"
Trained = Literal["adapter", "temporal", "all"]


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
        mu = 2 * self.mu_max * (timestep / NUM_TRAIN_TIMESTEPS) ** self.a - self.mu_max
        return self.beta_max * torch.sigmoid(mu + _randn(mu, generator))

    def __call__(self, told: VideoCondition, timestep: Tensor, generator: torch.Generator) -> VideoCondition:
        """The condition, noised."""
        level = self.level(timestep, generator).view(-1, 1, 1, 1, 1)
        still = told.still + level * _randn(told.still[:, :, :1], generator)  # one picture, one noise
        drops = torch.rand((), generator=generator, device=generator.device) < self.image_dropped
        image = torch.where(drops.to(told.image.device), _randn(told.image, generator), told.image)
        return VideoCondition(told.text, image, still, told.rate, told.empty_text, told.empty_image)


class Stage1Objective:
    """An `Objective`: trains the text adapter, alone or with the network it sits in.

    Batches: {"frames": (B, 3, T, H, W), -1..1, "text": [str] * B, "rate": (B,)}.

    Args:
        base: with all its networks on one device, float32.
        adapter: joined to the base's network here.
        trained: "adapter" alone; "temporal": also the temporal transformers it speaks to; "all": also the rest of the
            video network and the resampler, as the release's settings have it.
        drop: probability each of dropping the text, the picture, and both, from one draw.
        time_noise: CIL's, or None.
        facts: training facts for the adapter's file.
    """

    ema_networks: tuple[str, ...] = ()

    def __init__(
        self,
        base: DynamiCrafterBase,
        adapter: TextAdapter,
        trained: Trained = "temporal",
        drop: float = 0.05,
        time_noise: TimeNoise | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.base, self.adapter, self.trained = base, adapter, trained
        self.drop, self.time_noise, self.facts = drop, time_noise, dict(facts or {})
        self.unet, parts = base.parts.unet, base.parts
        self.frozen = nn.ModuleDict(
            {"vae": parts.vae, "text": parts.text_encoder, "image": parts.image_encoder}
        )
        adapter.join(self.unet)
        self.networks: dict[str, nn.Module] = {"adapter": adapter}
        if trained == "temporal":
            self.networks["temporal"] = _temporal_transformers(self.unet)
        if trained == "all":
            self.networks |= {"network": self.unet.network, "image_projection": parts.image_projection}
        for network in self.networks.values():
            network.requires_grad_(True).train()
        is_v = base.config.prediction == "v_prediction"
        self.abar: Tensor = (ZeroTerminalSNRDDIM() if is_v else plain_ddim(0.0)).alphas_cumprod.float()
        self.scale = dynamic_scale(base.config.base_scale).float()

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """See `Objective`: "stage1"; queries and query attention included, which the release's optimiser forgets."""
        return {"stage1": [p for network in self.networks.values() for p in network.parameters()]}

    def losses(
        self, batch: dict[str, Any], step: int, generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        """See `Objective`."""
        latents = self._encode(batch["frames"], generator)
        timestep = _integers(NUM_TRAIN_TIMESTEPS, len(latents), generator).to(latents.device)
        noisy, target = self.noised(latents, _randn(latents, generator), timestep)
        told = self._dropped(self._condition(batch, latents, generator), generator)
        if self.time_noise is not None:
            told = self.time_noise(told, timestep, generator)
        prediction = self.base.denoiser(noisy, timestep, told)
        loss = (prediction.float() - target).square().mean()
        yield "stage1", loss, {"latent_std": float(latents.std())}

    def noised(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """(x_t, what the network should say) for latents (B, 4, F, h, w) at timesteps (B,)."""
        abar, scale = (table.to(latents)[timestep].view(-1, 1, 1, 1, 1) for table in (self.abar, self.scale))
        x0 = scale * latents
        noisy = abar.sqrt() * x0 + (1 - abar).sqrt() * noise
        if self.base.config.prediction == "epsilon":
            return noisy, noise
        return noisy, abar.sqrt() * noise - (1 - abar).sqrt() * x0

    @torch.no_grad()
    def preview(self, batch: dict[str, Any], generator: torch.Generator) -> npt.NDArray[np.uint8]:
        """The clips above, below what the network makes of their first frames: uint8 (T, 2 H, B W, 3)."""
        frames = batch["frames"][:PREVIEW_CLIPS]
        latents = self._encode(frames, generator)
        some = {
            "frames": frames,
            "text": batch["text"][:PREVIEW_CLIPS],
            "rate": batch["rate"][:PREVIEW_CLIPS],
        }
        told = self._told(some, latents, torch.zeros(len(frames), dtype=torch.long, device=latents.device))
        config = self.base.config
        is_v = config.prediction == "v_prediction"
        drawn = sample(
            RescaledGuidance(self.base.denoiser, rescale=config.guidance_rescale),
            ZeroTerminalSNRDDIM(config.base_scale, eta=0.0) if is_v else plain_ddim(0.0),
            _randn(latents, generator),
            told,
            PREVIEW_STEPS,
            None,
        )
        return as_grid([frames, self.base.autoencoder.decode(drawn, frames[:, :, 0])])

    def export(self, folder: Path) -> None:
        """See `Objective`: the adapter as a file, and, where more was trained, the whole model as a base."""
        self.adapter.save(folder / ADAPTER_FILE, self.base.name, self.facts)
        if self.trained != "adapter":
            parts = self.base.parts.named()
            write_folder(
                folder / MODEL_FOLDER,
                self.base.config,
                {name: part.state_dict() for name, part in parts.items()},
            )

    # --- what the network is told ---------------------------------------------------------------------------

    def _condition(
        self, batch: dict[str, Any], latents: Tensor, generator: torch.Generator
    ) -> VideoCondition:
        """With a random frame of each clip as its picture."""
        return self._told(
            batch, latents, _integers(latents.shape[2], len(latents), generator).to(latents.device)
        )

    def _told(self, batch: dict[str, Any], latents: Tensor, place: Tensor) -> VideoCondition:
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

    def _dropped(self, told: VideoCondition, generator: torch.Generator) -> VideoCondition:
        """u < d: no text; d <= u < 2 d: neither; 2 d <= u < 3 d: no picture (its latent stays)."""
        u = torch.rand(len(told.text), generator=generator, device=generator.device).to(told.text.device)
        return told.dropped(text=u < 2 * self.drop, image=(u >= self.drop) & (u < 3 * self.drop))

    @torch.no_grad()
    def _encode(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """Samples of the posterior of every frame, unit scale: (B, 4, T, h, w)."""
        vae, latents = self.base.parts.vae, []
        for frame in frames.unbind(2):
            posterior = vae.encode(frame).latent_dist
            latents.append(posterior.mean + posterior.std * _randn(posterior.mean, generator))
        return torch.stack(latents, dim=2) * self.base.config.latent_scale


def _temporal_transformers(unet: DynamiCrafterUNet) -> nn.ModuleDict:
    """A view of the network's temporal transformers."""
    modules = dict(unet.network.named_modules())
    return nn.ModuleDict({name.replace(".", "-"): modules[name] for name in temporal_widths(unet)})


def _integers(below: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(below, (count,), generator=generator, device=generator.device)


def _randn(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=generator.device).to(like)

"""Trains the motion-content autoencoder: L1 + perceptual + beta KL + lambda GAN (LaMD, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from motionloom.codecs.base import Gaussian
from motionloom.codecs.mcd_vae import MotionContentAutoencoder
from motionloom.training.objectives.discriminator import PatchDiscriminator3d
from motionloom.training.objectives.losses import (
    BetaKL,
    GANForm,
    GradientSSIM,
    Hinge,
    KLTerm,
    Perceptual,
    PixelError,
    adaptive_weight,
)


@dataclass(frozen=True)
class Adversary:
    """The adversarial part of the loss.

    Attributes:
        discriminator: clips -> patch logits.
        form: hinge or non-saturating; the paper prints the saturating form, which nobody trains with.
        factor: of the adaptive weight, .5 to .8.
        start_step: until this step there is no adversary; a third to a half of training.
    """

    discriminator: nn.Module = field(default_factory=PatchDiscriminator3d)
    form: GANForm = field(default_factory=Hinge)
    factor: float = 0.8
    start_step: int = 50_000


class AutoencoderObjective:
    """An `Objective` on batches {"frames": (B, 3, L, H, W), -1..1}.

    Args:
        codec: what is trained.
        perceptual: distance between single frames, added to L1 one to one.
        kl: weight of the bottleneck.
        pixels: error of single values; the paper's L1 by default.
        adversary: None trains without.
        facts: metadata for the exported file.
    """

    def __init__(
        self,
        codec: MotionContentAutoencoder,
        perceptual: Perceptual | None = None,
        kl: KLTerm | None = None,
        adversary: Adversary | None = None,
        facts: Mapping[str, str] | None = None,
        pixels: PixelError | None = None,
    ) -> None:
        self.codec = codec
        self.pixels = pixels or PixelError()
        self.perceptual: Perceptual = perceptual or GradientSSIM()
        self.kl: KLTerm = kl or BetaKL()
        self.adversary = adversary
        self.facts = dict(facts or {})
        self.networks: dict[str, nn.Module] = {"codec": codec}
        self.ema_networks: tuple[str, ...] = ()  # the paper averages the generator at most
        if isinstance(self.kl, nn.Module):
            self.networks["kl"] = self.kl
        if adversary is not None:
            self.networks["discriminator"] = adversary.discriminator

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """See `Objective`: "autoencoder", and "discriminator" where there is one."""
        groups = {"autoencoder": list(self.codec.parameters())}
        if self.adversary is not None:
            groups["discriminator"] = list(self.adversary.discriminator.parameters())
        return groups

    def losses(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        """See `Objective`: the autoencoder's loss, then, from `start_step` on, the discriminator's."""
        frames = batch["frames"]
        reconstruction, posterior = self.codec(frames, generator)
        rec, numbers = self._reconstruction(reconstruction, frames)
        loss, kl_numbers = self._with_kl(rec, posterior, frames)
        numbers |= kl_numbers
        game = self.adversary if self.adversary and step >= self.adversary.start_step else None
        if game is None:
            yield "autoencoder", loss, numbers
            return

        adversarial = game.form.generator(game.discriminator(reconstruction).float())
        weight = game.factor * adaptive_weight(rec, adversarial, self.codec.decoder.last.weight)
        numbers |= {"gan": float(adversarial.detach()), "gan_weight": float(weight)}
        yield "autoencoder", loss + weight * adversarial, numbers

        real, fake = (game.discriminator(clip).float() for clip in (frames, reconstruction.detach()))
        logits = {"logit_real": float(real.detach().mean()), "logit_fake": float(fake.detach().mean())}
        yield "discriminator", game.form.discriminator(real, fake), logits

    @torch.no_grad()
    def preview(self, batch: dict[str, Tensor], generator: torch.Generator) -> npt.NDArray[np.uint8]:
        """The clips above, their reconstructions from the posterior's mean below: uint8 (L, 2 H, B W, 3)."""
        frames = batch["frames"]
        reconstruction = self.codec.decode(self.codec.encode(frames), frames[:, :, 0])
        return as_grid([frames, reconstruction])

    def export(self, folder: Path) -> None:
        """See `Objective`: `mcd_vae.safetensors`."""
        self.codec.save(folder / "mcd_vae.safetensors", self.facts)

    def _reconstruction(self, reconstruction: Tensor, frames: Tensor) -> tuple[Tensor, dict[str, float]]:
        """L_rec = L1, or another error of pixels, + perceptual, frames folded into the batch."""
        reconstruction = reconstruction.float()
        pixel = self.pixels(reconstruction, frames)
        l1 = (reconstruction.detach() - frames).abs().mean()
        pictures, targets = (clip.transpose(1, 2).flatten(0, 1) for clip in (reconstruction, frames))
        perceptual = self.perceptual(pictures, targets)
        numbers = {"l1": float(l1), self.perceptual.name: float(perceptual.detach())}
        return pixel + perceptual, numbers

    def _with_kl(self, rec: Tensor, posterior: Gaussian, frames: Tensor) -> tuple[Tensor, dict[str, float]]:
        kl, numbers = self.kl(posterior, frames[0].numel())
        return rec + kl, numbers


def as_grid(rows: list[Tensor]) -> npt.NDArray[np.uint8]:
    """Rows of clips (B, 3, T, H, W), -1..1 -> one clip, uint8 (T, rows H, B W, 3)."""
    tiled = torch.cat(
        [torch.cat(list(clips.unbind(0)), dim=-1) for clips in rows], dim=-2
    )  # (3, T, R H, B W)
    bytes_ = ((tiled.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels: npt.NDArray[np.uint8] = bytes_.permute(1, 2, 3, 0).cpu().numpy()
    return pixels

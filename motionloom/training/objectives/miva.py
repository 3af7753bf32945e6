"""Trains one motion adapter beside a frozen base on a few clips (MIVA, arXiv 2512.20000).

    z = latents of a window; x = z noised at t, but frame 0 stays clean;  || f(x, t) - target ||^2 over frames 1..

The base is no network of this objective: nothing of it is trained, averaged or saved. Adapters are mounted for as long as a
step lasts, its backward pass included, since gradient checkpointing runs the adapted layers again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from motionloom.adapters.adapter import Adapter
from motionloom.adapters.layout import network_of
from motionloom.adapters.mount import mounted
from motionloom.codecs.base import Gaussian
from motionloom.conditions.asked import Asked
from motionloom.denoisers.base import Request
from motionloom.denoisers.miva import MivaBase
from motionloom.sampling.loop import sample
from motionloom.training.objectives.autoencoder import as_grid
from motionloom.training.objectives.noising import Noising
from motionloom.video.clip import Clip

PREVIEW_CLIPS = 2
ADAPTER_FILE, PREVIEW_FILE = "adapter.safetensors", "preview.mp4"


class Lesson(Protocol):
    """What an adapter is shown in one step, while it is mounted."""

    def __call__(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Yields (loss, numbers to log), one for each update."""
        ...


@dataclass
class FramesLesson:
    """Frames alone: one draw of t and of noise for each sample.

    Attributes:
        base: frozen.
        noising: of the base's process.
        first_frame_counts: whether the clean frame 0 is in the loss (Wan as released); the paper leaves it out.
    """

    base: MivaBase
    noising: Noising
    first_frame_counts: bool = False

    def __call__(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """See `Lesson`. Batch: "mean", "logvar" (B, C, f, h, w)."""
        latents = drawn_latents(batch, "", self.base.options.posterior, generator)
        timestep = self.noising.timesteps(len(latents), generator).to(latents.device)
        noised = self.noising.noised(latents, normal_like(latents, generator), timestep)
        shown = with_first_frame(noised.latents, latents)
        prediction = self.base.denoiser(shown, timestep)
        error = squared_error(prediction, noised.target, self.first_frame_counts)  # (B,)
        yield (noised.weight * error).mean(), {"mse": float(error.detach().mean())}


def drawn_latents(batch: dict[str, Tensor], of: str, how: str, generator: torch.Generator) -> Tensor:
    """Clean latents (B, C, f, h, w): a "sample" of the cached posterior, or its "mean", as the base takes its frame 0."""
    mean, logvar = batch[f"{of}mean"].float(), batch[f"{of}logvar"].float()
    return Gaussian(mean, logvar).sample(generator) if how == "sample" else mean


def normal_like(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Independent normal noise of the latents' shape."""
    return torch.randn(latents.shape, generator=generator, device=generator.device).to(latents)


def with_first_frame(latents: Tensor, clean: Tensor) -> Tensor:
    """Latents (B, C, f, h, w) whose frame 0 is the clean one: the denoiser always sees the photo itself."""
    return torch.cat([clean[:, :, :1], latents[:, :, 1:]], dim=2)


def squared_error(prediction: Tensor, target: Tensor, first_frame_counts: bool) -> Tensor:
    """Mean square of each sample, (B,), over frames 1.., or over all."""
    frames = slice(None) if first_frame_counts else slice(1, None)
    return (prediction.float() - target)[:, :, frames].square().flatten(1).mean(dim=1)


@dataclass(frozen=True)
class Showcase:
    """How previews are made: from `photo` (1, 3, H, W) at the end of a run, in `num_steps` steps, at `fps`."""

    photo: Tensor
    num_frames: int
    fps: float
    num_steps: int


class MivaObjective:
    """An `Objective` whose only network is the adapter.

    Args:
        adapter: what is trained.
        base: frozen, on the device; its codec may wait on the CPU, and is fetched for previews.
        lesson: what a step shows.
        showcase: how previews are made; None in a dry run.
    """

    def __init__(
        self, adapter: Adapter, base: MivaBase, lesson: Lesson, showcase: Showcase | None = None
    ) -> None:
        self.adapter, self.base, self.lesson, self.showcase = adapter, base, lesson, showcase
        self.host = network_of(base.denoiser).requires_grad_(False)
        self.networks: dict[str, nn.Module] = {"adapter": adapter}
        self.ema_networks: tuple[str, ...] = ("adapter",)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """See `Objective`: "adapter"."""
        return {"adapter": list(self.adapter.parameters())}

    def losses(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        """See `Objective`."""
        with mounted(self.host, [(self.adapter, 1.0)], group_norm=self.base.group_norm):
            for loss, numbers in self.lesson(batch, step, generator):
                yield "adapter", loss, numbers

    def preview(self, batch: dict[str, Tensor], generator: torch.Generator) -> npt.NDArray[np.uint8]:
        """The training windows as the codec has them above, their first frames animated below."""
        photos = batch["first_frame"][:PREVIEW_CLIPS].cpu()
        with codec_on(self.base, self.host.device):
            given = self.base.codec.decode(batch["mean"][: len(photos)].float().cpu(), photos)
        made = [self._animated(photo[None], seed) for seed, photo in enumerate(photos)]
        return as_grid([given, torch.cat(made)])

    def export(self, folder: Path) -> None:
        """See `Objective`: the adapter with its card, and a clip it makes of a first frame it was trained on."""
        self.adapter.save(folder / ADAPTER_FILE)
        if self.showcase is not None:
            frames = as_grid([self._animated(self.showcase.photo, seed=0)])
            settings = {
                "motion": self.adapter.motion,
                "base": self.base.name,
                "steps": self.showcase.num_steps,
            }
            Clip(frames, self.showcase.fps, settings).save(folder / PREVIEW_FILE)

    @torch.no_grad()
    def _animated(self, photo: Tensor, seed: int) -> Tensor:
        """(1, 3, H, W) => (1, 3, T, H, W), as `generate` does it."""
        show = self.showcase
        assert show is not None, "a dry run makes no previews"
        motions = (Asked("this", adapter=self.adapter),)
        request = Request(photo, motions, show.num_frames, show.fps, show.num_steps)
        generator = torch.Generator().manual_seed(seed)
        with codec_on(self.base, self.host.device):
            first = self.base.encode(request, generator)
            noise = self.base.start_noise(request)(first, self.base.latent_shape(request), generator)
            with self.base.adapted(request) as denoiser:
                condition = self.base.condition(request, first)
                schedule = self.base.schedule(request)
                latents = sample(denoiser, schedule, noise, condition, show.num_steps, generator)
            return self.base.decode(latents, request)


@contextmanager
def codec_on(base: MivaBase, device: torch.device | str) -> Iterator[None]:
    """Inside, the base's codec is on a device; afterwards it is back where it was."""
    network = base.codec.network
    before = next(network.parameters()).device
    network.to(device)
    try:
        yield
    finally:
        network.to(before)

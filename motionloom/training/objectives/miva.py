"""Trains one motion adapter beside a frozen base on a few clips (MIVA, arXiv 2512.20000).

    z = latents of a window; x = z noised at t, but frame 0 stays clean;  || f(x, t) - target ||^2 over frames 1..

The base is no network of this objective: nothing of it is trained, averaged or saved. Adapters are mounted for as long as a
step lasts, its backward pass included, since gradient checkpointing runs the adapted layers again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from motionloom.adapters.adapter import Adapter
from motionloom.adapters.context import context_of
from motionloom.adapters.layout import network_of
from motionloom.adapters.mount import mounted
from motionloom.adapters.proxy_mask import confidences
from motionloom.codecs.base import Gaussian
from motionloom.conditions.asked import Asked
from motionloom.denoisers.base import Request
from motionloom.denoisers.miva import MivaBase
from motionloom.sampling.loop import sample
from motionloom.training.objectives.autoencoder import as_grid
from motionloom.training.objectives.generator import Noised
from motionloom.training.objectives.noising import NUM_LEVELS, Noising
from motionloom.video.clip import Clip

PREVIEW_CLIPS = 2
ADAPTER_FILE, PREVIEW_FILE = "adapter.safetensors", "preview.mp4"

# part of a parameter's name -> what it belongs to
PARTS = {
    ".cfa.weighting.": "adaptive weighting",
    ".cfa.mask.": "mask stream",
    ".cfa.": "cross-frame attention",
    ".ca_background.": "background",
    ".ca.": "text-free cross-attention",
    "": "temporal low rank",
}


def sizes_by_part(adapter: Adapter, parts: dict[str, str]) -> dict[str, int]:
    """Parameters of each part of an adapter; the first key of `parts` that a name holds says which it is."""
    sizes: dict[str, int] = {}
    for name, parameter in adapter.named_parameters():
        part = next(part for key, part in parts.items() if key in name)
        sizes[part] = sizes.get(part, 0) + parameter.numel()
    return sizes


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
        drawn = torch.randint(NUM_LEVELS, (len(latents),), generator=generator, device=generator.device)
        timestep = self.noising.timesteps.to(drawn.device)[drawn].to(latents.device)
        noised = self.noising.noised(latents, normal_like(latents, generator), timestep)
        shown = with_first_frame(noised.latents, latents)
        prediction = self.base.denoiser(shown, timestep)
        error = (
            squared_errors(prediction, noised.target, self.first_frame_counts).flatten(1).mean(dim=1)
        )  # (B,)
        yield (noised.weight * error).mean(), {"mse": float(error.detach().mean())}


@dataclass
class FramesAndMasksLesson:
    """Frames and the subject's masks together (M-MIVA): each clip at several noise levels, noisiest first, one update each.

    Attention is biased by the true mask with a probability of 1/2 (1 + cos(pi k / K)) at step k of K, else by what the
    prediction at the level before makes of the mask; at the first level there is none.

    Attributes:
        base, noising: see `FramesLesson`; the base's codec is on the device too, it decodes the predicted masks.
        levels: per step, all different.
        chance: step => probability of the true mask.
        counts: whether frame 0 of (the video, the mask) is in the loss; the release counts the mask's.
    """

    base: MivaBase
    noising: Noising
    levels: int
    chance: Callable[[int], float]
    counts: tuple[bool, bool] = (False, False)

    def __call__(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """See `Lesson`. Batch: "mean", "logvar", "mask_mean", "mask_logvar" (B, C, f, h, w); "subject" (B, f, h, w)."""
        how = self.base.options.posterior
        video, mask = (drawn_latents(batch, of, how, generator) for of in ("", "mask_"))
        truth, proxy = batch["subject"].float(), None
        context = context_of(self.base.denoiser)
        for level in self._levels(generator):
            is_true = float(torch.rand((), generator=generator, device=generator.device)) < self.chance(step)
            shown = truth if is_true else proxy
            context.show_masks(None if shown is None else shown[:, None])
            timestep = level.to(video.device).expand(len(video))
            noised = [self.noising.noised(z, normal_like(z, generator), timestep) for z in (video, mask)]
            predictions = self._predict(noised, (video, mask), timestep)
            squares = [
                squared_errors(prediction, one.target, counts)
                for prediction, one, counts in zip(predictions, noised, self.counts, strict=True)
            ]
            error = torch.cat(squares, dim=2).flatten(1).mean(dim=1)  # (B,)
            mse, mse_mask = (float(one.detach().mean()) for one in squares)
            numbers = {"mse": mse, "mse_mask": mse_mask, "true_mask": float(is_true)}
            yield (noised[0].weight * error).mean(), numbers
            proxy = self._proxy(noised[1].latents, predictions[1].detach(), timestep, batch)

    def _levels(self, generator: torch.Generator) -> Tensor:
        """(levels,) timesteps, descending."""
        drawn = torch.randperm(NUM_LEVELS, generator=generator, device=generator.device)[: self.levels]
        return self.noising.timesteps.to(drawn.device)[drawn].sort(descending=True).values

    def _predict(self, noised: list[Noised], clean: tuple[Tensor, Tensor], timestep: Tensor) -> list[Tensor]:
        """Predictions (B, C, f, h, w) of the video and of the mask, from one call of the network."""
        context = context_of(self.base.denoiser)
        rows = [with_first_frame(one.latents, z) for one, z in zip(noised, clean, strict=True)]
        with context.with_masks():
            if context.modalities_axis == 2:  # [video ; mask] along the frames
                return list(self.base.denoiser(torch.cat(rows, dim=2), timestep).chunk(2, dim=2))
            joined = torch.stack(rows, dim=1).flatten(0, 1)  # (B 2, ...), each sample's mask after its video
            prediction = self.base.denoiser(joined, timestep.repeat_interleave(2))
        return list(torch.unflatten(prediction, 0, (-1, 2)).unbind(1))

    @torch.no_grad()
    def _proxy(self, noisy: Tensor, prediction: Tensor, timestep: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """What the prediction claims the masks are: confidences (B, f, h, w), frame 0 the given one."""
        x0 = self.noising.clean(noisy, prediction.float(), timestep)
        x0 = with_first_frame(x0, batch["mask_mean"].float())
        size = [side * self.base.codec.factor for side in x0.shape[-2:]]
        pixels = self.base.codec.decode(x0, x0.new_zeros(len(x0), 3, *size))
        s = confidences(pixels, (x0.shape[-2], x0.shape[-1]), x0.shape[2])
        return torch.cat([batch["subject"][:, :1].float(), s[:, 1:]], dim=1)


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


def squared_errors(prediction: Tensor, target: Tensor, first_frame_counts: bool) -> Tensor:
    """Squared errors of frames 1.., or of all: (B, C, f - 1 or f, h, w)."""
    frames = slice(None) if first_frame_counts else slice(1, None)
    return (prediction.float() - target)[:, :, frames].square()


@dataclass(frozen=True)
class Showcase:
    """How previews are made, and the sample (see `LatentWindows`) whose photo moves in the last one."""

    sample: dict[str, Tensor]
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
        self.device = next(self.host.parameters()).device
        # decodes the masks of every step, so it stays beside the host
        self.codec = base.codec.network if isinstance(lesson, FramesAndMasksLesson) else None
        self.networks: dict[str, nn.Module] = {"adapter": adapter}
        self.ema_networks: tuple[str, ...] = ("adapter",)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """See `Objective`: "adapter"."""
        return {"adapter": list(self.adapter.parameters())}

    def part_sizes(self) -> dict[str, dict[str, int]]:
        """Parameters of each part of the adapter, for forecasts."""
        return {"adapter": sizes_by_part(self.adapter, PARTS)}

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
        with codec_on(self.base, self.device):
            given = self.base.codec.decode(batch["mean"][: len(photos)].float().cpu(), photos)
        made = [self._animated({k: v[i] for k, v in batch.items()}, seed=i) for i in range(len(photos))]
        return as_grid([given, torch.cat(made)])

    def export(self, folder: Path) -> None:
        """See `Objective`: the adapter with its card, and a clip it makes of a first frame it was trained on."""
        self.adapter.save(folder / ADAPTER_FILE)
        if self.showcase is not None:
            frames = as_grid([self._animated(self.showcase.sample, seed=0)])
            settings = {
                "motion": self.adapter.motion,
                "base": self.base.name,
                "steps": self.showcase.num_steps,
            }
            Clip(frames, self.showcase.fps, settings).save(folder / PREVIEW_FILE)

    @torch.no_grad()
    def _animated(self, given: dict[str, Tensor], seed: int) -> Tensor:
        """The first frame of a sample => a clip (1, 3, T, H, W), as `generate` does it."""
        show = self.showcase
        assert show is not None, "a dry run makes no previews"
        photo = given["first_frame"][None].cpu()
        motions = (Asked("this", adapter=self.adapter, region=_subject(given, photo)),)
        request = Request(photo, motions, show.num_frames, show.fps, show.num_steps)
        generator = torch.Generator().manual_seed(seed)
        with codec_on(self.base, self.device):
            first = self.base.encode(request, generator)
            noise = self.base.start_noise(request)(first, self.base.latent_shape(request), generator)
            with self.base.adapted(request) as denoiser:
                condition = self.base.condition(request, first, generator)
                schedule = self.base.schedule(request)
                latents = sample(denoiser, schedule, noise, condition, show.num_steps, generator)
            return self.base.decode(latents, request)


def _subject(sample: dict[str, Tensor], photo: Tensor) -> npt.NDArray[np.float32] | None:
    """Where the subject is in the photo (1, 3, H, W), for masked adapters: (H, W), 0..1."""
    if "subject" not in sample:
        return None
    mask = sample["subject"][None, :1].float().cpu()  # (1, 1, h, w)
    region = torch.nn.functional.interpolate(mask, photo.shape[-2:], mode="bilinear")
    out: npt.NDArray[np.float32] = region[0, 0].numpy()
    return out


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

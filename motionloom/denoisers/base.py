"""The contracts of every denoiser and of every base, and the condition the motion generator reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from motionloom.codecs.base import Codec
    from motionloom.conditions.asked import Asked
    from motionloom.start_noise.base import StartNoise

PredictionType = Literal["epsilon", "v_prediction", "flow"]
Progress = Callable[[int, int], None]  # (done, in all)


@runtime_checkable
class Denoiser(Protocol):
    """Anything that predicts, from noisy latents, what its scheduler needs for one step.

    A network is one `Denoiser`; so is a network under guidance, two networks switched at a step, or a network
    with adapters mounted. The sampling loop knows this contract and nothing else.

    Attributes:
        prediction_type: what a call returns: the noise ("epsilon"), the velocity of variance-preserving
            diffusion ("v_prediction": alpha epsilon - sigma x0) or that of rectified flow
            ("flow": epsilon - x0). The scheduler must be configured for the same.
    """

    @property
    def prediction_type(self) -> PredictionType: ...

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Any) -> Tensor:
        """One prediction.

        Args:
            latents: (B, ...), noisy, scaled as the scheduler's `scale_model_input` returns them.
            timestep: (B,), integer or float, 0..1000: the scheduler's own time.
            condition: what the denoiser is told; its type belongs to the denoiser.

        Returns:
            The prediction, of the shape of `latents`.
        """
        ...


class Droppable(Protocol):
    """A condition that guidance and condition dropout can take apart."""

    def dropped(self, *, text: Tensor | bool = False, image: Tensor | bool = False) -> Droppable:
        """The same condition without its text, or without its picture; a (B,) bool chooses the samples."""
        ...


@dataclass(frozen=True)
class MotionCondition:
    """What the motion generator is told: the context [content tokens ; text tokens] and an aligned map.

    Attributes:
        tokens: (B, n, width), read by cross-attention; None tells nothing.
        tokens_mask: (B, n) bool, True where a token counts; None means all do. A sample without any token
            that counts is told nothing: its cross-attention adds zero.
        aligned: (B, c, h, w) on the grid of the latents, joined to them as extra input channels.
        num_content_tokens: the first so many tokens come from the picture, the others from text.
    """

    tokens: Tensor | None = None
    tokens_mask: Tensor | None = None
    aligned: Tensor | None = None
    num_content_tokens: int = 0

    def dropped(self, *, text: Tensor | bool = False, image: Tensor | bool = False) -> MotionCondition:
        """Hide the text tokens, or the content tokens and the aligned map, of all or of the chosen samples.

        Args:
            text: True, or (B,) bool: True where the text is hidden.
            image: True, or (B,) bool: True where the picture is hidden.
        """
        tokens_mask, aligned = self.tokens_mask, self.aligned
        if self.tokens is not None:
            batch, count, _ = self.tokens.shape
            from_picture = torch.arange(count, device=self.tokens.device) < self.num_content_tokens  # (n,)
            hide = torch.where(
                from_picture, _column(image, batch, self.tokens), _column(text, batch, self.tokens)
            )  # (B, n)
            tokens_mask = ~hide if tokens_mask is None else tokens_mask & ~hide
        if aligned is not None:
            aligned = aligned.masked_fill(_column(image, len(aligned), aligned)[..., None, None], 0.0)
        return replace(self, tokens_mask=tokens_mask, aligned=aligned)


def _column(choice: Tensor | bool, batch: int, like: Tensor) -> Tensor:
    """(B, 1) bool from one answer for all samples, or from one per sample."""
    chosen = torch.as_tensor(choice, dtype=torch.bool, device=like.device)
    return chosen.expand(batch)[:, None]


# --- bases --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """Everything one clip is made from: read, checked and complete, so that a base only has to follow it.

    Attributes:
        photo: (1, 3, H, W), -1..1: the picture that moves, already of the clip's size.
        motions: what is asked for, each with its weight and region; may be empty.
        num_frames: T, the photo included.
        fps: frames per second of the clip.
        num_steps: denoising steps.
        prompt: text; None for none.
        overscan: show only the middle, so that a moving camera never looks beyond the photo's edge.
        loop: end where it began.
    """

    photo: Tensor
    motions: tuple[Asked, ...]
    num_frames: int
    fps: float
    num_steps: int
    prompt: str | None = None
    overscan: bool = False
    loop: bool = False

    @property
    def height(self) -> int:
        """Of the photo, pixels."""
        return self.photo.shape[-2]

    @property
    def width(self) -> int:
        """Of the photo, pixels."""
        return self.photo.shape[-1]


class Base(ABC):
    """A model that animates: codec, denoiser, conditions and sampling defaults behind one contract.

    `generate` calls, in this order: `encode`, `start_noise`, `adapted` (as a context, around the sampling
    loop), `condition`, `schedule`, `decode`. A base overrides what it does differently from the defaults
    here and never the loop. Adding a base is one file with a subclass, and one row in `catalog.BASES`.

    Attributes:
        name: its key in `catalog.BASES`, or the folder or hub id it came from.
        codec: pixels <=> latents.
        denoiser: what the loop calls when nothing is mounted; `denoiser.network` is the diffusers model, for
            bases that have one: the host of adapters.
        num_frames, fps, num_steps: defaults of a clip.
        native_size_px: (height, width) it was trained at, the size "native" means; None: the photo's own.
        size_multiple_px: both sides of the photo must be multiples of this.
        words: the motion words it knows; empty where motions come as adapter files.
        default_motion: what it does when no motion is asked; None: the plain base.
        reads_text: whether a prompt means anything to it.
    """

    name: str
    codec: Codec
    denoiser: Any
    num_frames: int
    fps: float
    num_steps: int
    native_size_px: tuple[int, int] | None = None
    size_multiple_px: int = 1
    words: tuple[str, ...] = ()
    default_motion: str | None = None
    reads_text: ClassVar[bool] = False

    @abstractmethod
    def check(self, request: Request) -> None:
        """Refuse what this base cannot do, before any work.

        Raises:
            ConfigError: with what it can do instead.
        """

    def encode(self, request: Request, generator: torch.Generator) -> Tensor | None:
        """The photo as a latent of one frame, (1, C, 1, h, w); None where the latent holds motion alone."""
        return None

    def latent_shape(self, request: Request) -> tuple[int, ...]:
        """The shape of the clip's latents, with the batch axis of 1."""
        return (1, *self.codec.latent_shape(request.num_frames, request.height, request.width))

    def start_noise(self, request: Request) -> StartNoise:
        """Where sampling starts; independent normal noise unless the base knows better."""
        from motionloom.start_noise.gaussian import Gaussian

        return Gaussian()

    @abstractmethod
    def schedule(self, request: Request) -> Any:
        """A fresh diffusers scheduler of the base's own prediction type."""

    @abstractmethod
    def adapted(self, request: Request) -> AbstractContextManager[Denoiser]:
        """A context that yields the denoiser which moves as asked; afterwards the base is as before, bit for bit."""

    def condition(self, request: Request, first_latent: Tensor | None, generator: torch.Generator) -> Any:
        """What the denoiser is told at every step; its type belongs to the denoiser. What is not given may be drawn."""
        return None

    @abstractmethod
    def decode(self, latents: Tensor, request: Request, progress: Progress | None = None) -> Tensor:
        """Denoised latents => pixels (1, 3, T, H, W), -1..1; frame 0 is the photo, bit for bit."""

    def facts(self) -> dict[str, Any]:
        """What a clip's settings say of this base besides its name, as JSON values without full paths.

        "options": what `load_base` must be given to make it again; "weights": what tells its weights from others.
        """
        return {}

    def notes(self, request: Request) -> list[str]:
        """Sentences for the user on what is unusual about a request that works."""
        return []

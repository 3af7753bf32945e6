"""The contract of every denoiser, and the condition the motion generator reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "flow"]


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

"""AnimateDiff told a text: Stable Diffusion's encoder reads it, cross-attention and a stage-1 text adapter hear it.

The photo enters as it does under MIVA adapters: frame 0 is its clean latent at every step. Nothing here is used with MIVA
adapters, which take the text's place; the encoder is loaded when the first prompt is given.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from motionloom.adapters.text_adapter import TextAdapter
from motionloom.conditions.asked import Asked
from motionloom.conditions.clip_text import CLIP_VOCABULARY, ClipWords, HashedWords, TextTokens, Tokenizer
from motionloom.denoisers.base import PredictionType, Request
from motionloom.denoisers.hub import FETCH_TEXT, SPATIAL_REPOSITORY, TEXT_FILES
from motionloom.denoisers.official_files import read_part
from motionloom.denoisers.pretrained import find_folder, is_cached, with_random_values, without_values
from motionloom.errors import ConfigError, WeightsError
from motionloom.weights import load_pretrained, load_strictly

if TYPE_CHECKING:
    from motionloom.denoisers.animatediff import AnimateDiffBase

IN_CHECKPOINT = "cond_stage_model.transformer.text_model."
POSITIONS = "embeddings.position_ids"  # a buffer that older files hold
TEXT_CONFIG: Mapping[str, Any] = {  # of Stable Diffusion 1.5: CLIP ViT-L/14
    "vocab_size": CLIP_VOCABULARY,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "bos_token_id": CLIP_VOCABULARY - 2,
    "eos_token_id": CLIP_VOCABULARY - 1,
}
TINY_VOCABULARY = 512
TINY_TEXT: Mapping[str, Any] = {
    **TEXT_CONFIG,
    "vocab_size": TINY_VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": TINY_VOCABULARY - 2,
    "eos_token_id": TINY_VOCABULARY - 1,
}


# --- one pass -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextCondition:
    """What the network is told.

    Attributes:
        text: (B, 77, width).
        empty_text: (1, 77, width), in place of a text that is dropped.
    """

    text: Tensor
    empty_text: Tensor

    def dropped(self, *, text: Tensor | bool = False, image: Tensor | bool = False) -> TextCondition:
        """See `Droppable`; the picture is among the latents, so it stays."""
        chosen = torch.as_tensor(text, dtype=torch.bool, device=self.text.device).expand(len(self.text))
        return replace(
            self, text=torch.where(chosen[:, None, None], self.empty_text.to(self.text), self.text)
        )


class TextReadingNetwork:
    """`UNetMotionModel` as a `Denoiser` told a `TextCondition`. Latents stay float32 on the caller's device."""

    prediction_type: PredictionType = "epsilon"

    def __init__(self, network: Any) -> None:
        self.network = network

    def __call__(self, latents: Tensor, timestep: Tensor, condition: TextCondition) -> Tensor:
        """(B, C, F, h, w), (B,) => a prediction of the shape of the latents."""
        device, dtype = self.network.device, self.network.dtype
        text = condition.text.to(device, dtype).repeat_interleave(latents.shape[2], dim=0)  # once a frame
        prediction: Tensor = self.network(
            latents.to(device, dtype), timestep.to(device), encoder_hidden_states=text
        ).sample
        return prediction.to(latents)


@contextmanager
def with_group_norms(network: Any, mode: str) -> Iterator[None]:
    """Inside, the GroupNorms of a U-Net have the statistics that `mode` says; see `adapters.mount.mounted`."""
    from motionloom.adapters.unet import hook_group_norms

    frames = [0]

    def before(module: Any, args: Any, kwargs: Any) -> None:
        frames[0] = (args[0] if args else kwargs["sample"]).shape[2]

    with ExitStack() as undo:
        undo.callback(network.register_forward_pre_hook(before, with_kwargs=True).remove)
        hook_group_norms(network, mode, lambda: frames[0], undo)
        yield


# --- what is asked ------------------------------------------------------------------------------------------


def text_adapter(one: Asked) -> TextAdapter | None:
    """The text adapter asked for, or None where the motion is another kind."""
    adapter: object = one.adapter
    return adapter if isinstance(adapter, TextAdapter) else None


def moves_by_text(request: Request) -> bool:
    """Whether the text moves the photo: a text adapter is asked for, or a prompt and nothing else."""
    return bool(request.prompt and not request.motions) or any(map(text_adapter, request.motions))


def check_text(base: AnimateDiffBase, request: Request) -> None:
    """Raises ConfigError or WeightsError for a request moved by text that cannot be met, before any work."""
    if len(request.motions) > 1:
        raise ConfigError(
            f"{base.name} takes one text adapter and no other motion beside it, got "
            f"{', '.join(one.name for one in request.motions)}",
            fix="leave the others out",
        )
    for one in request.motions:
        adapter = text_adapter(one)
        assert adapter is not None
        if one.region is not None or isinstance(one.weight, tuple):
            raise ConfigError(
                f'{base.name} applies "{one.name}" to the whole clip, got a mask or a weight that changes',
                fix="give one number as weight and no mask",
            )
        adapter.check_fits(base.denoiser.network, f'"{one.name}"')
    base.text.tokenizer([request.prompt or ""])


@contextmanager
def mounted_as_asked(network: Any, request: Request) -> Iterator[None]:
    """Inside, the text adapter of a request, if there is one, is mounted with its weight."""
    with ExitStack() as stack:
        for one in request.motions:
            adapter = text_adapter(one)
            assert adapter is not None, "check() lets no other motion through"
            adapter.strength = one.largest_weight
            adapter.to(network.device, network.dtype)
            stack.enter_context(adapter.mounted(network))
        yield


# --- the text encoder ---------------------------------------------------------------------------------------


def text_of_repository() -> TextTokens:
    """Stable Diffusion 1.5's, from the hub's cache. Raises WeightsError with the command that fetches it."""
    if not is_cached(SPATIAL_REPOSITORY, TEXT_FILES):
        raise WeightsError(
            "the text encoder of Stable Diffusion 1.5 is not here, and a prompt needs it",
            fix=f"fetch it with `{FETCH_TEXT}`",
        )
    return text_of_folder(find_folder(SPATIAL_REPOSITORY, FETCH_TEXT))


def text_of_folder(folder: Path) -> TextTokens:
    """That of a diffusers pipeline: text_encoder/ and tokenizer/.

    Raises:
        WeightsError: the encoder is missing or damaged.
    """
    from transformers import CLIPTextModel

    if not (folder / "text_encoder").is_dir():
        raise WeightsError(
            f'"{folder}" has no text_encoder, and a prompt needs one',
            fix="copy text_encoder/ and tokenizer/ of Stable Diffusion 1.5 into it",
        )
    with quiet_transformers():
        encoder: Any = load_pretrained(CLIPTextModel, folder / "text_encoder")
    tokens = folder / "tokenizer"
    words: Tokenizer = ClipWords(tokens if tokens.is_dir() else None, FETCH_TEXT, ends_pad=True)
    if encoder.config.vocab_size < CLIP_VOCABULARY:  # such an encoder reads no CLIP vocabulary
        words = HashedWords(encoder.config.vocab_size, ends_pad=True)
    return _tokens(encoder, words)


def text_of_checkpoint(checkpoint: str | os.PathLike[str]) -> TextTokens:
    """That inside an official checkpoint, which holds no vocabulary: that one comes from the hub's cache.

    Raises:
        WeightsError: the checkpoint is damaged or has no such encoder.
    """
    named = read_part(checkpoint, IN_CHECKPOINT)
    tensors = {name.removeprefix(IN_CHECKPOINT): value.float() for name, value in named.items()}
    tensors.pop(POSITIONS, None)
    encoder = without_values(_new_encoder, TEXT_CONFIG)
    load_strictly(encoder, tensors, checkpoint)
    there = is_cached(SPATIAL_REPOSITORY, TEXT_FILES[2:])
    folder = find_folder(SPATIAL_REPOSITORY) / "tokenizer" if there else None
    return _tokens(encoder, ClipWords(folder, FETCH_TEXT, ends_pad=True))


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside, transformers draws no progress bars of its own."""
    import transformers.utils.logging

    logging: Any = transformers.utils.logging  # parts of it carry no types
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def random_text(seed: int) -> TextTokens:
    """A tiny encoder with random weights from a seed."""
    (encoder,) = with_random_values(seed, (_new_encoder, TINY_TEXT))
    return _tokens(encoder, HashedWords(TINY_VOCABULARY, ends_pad=True))


def _new_encoder(**config: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**config))


def _tokens(encoder: Any, words: Tokenizer) -> TextTokens:
    return TextTokens(encoder.eval().requires_grad_(False), words, skipped=0)

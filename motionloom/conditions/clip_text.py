"""Text for networks that read CLIP's tokens: some layer of a text encoder, then its last norm.

OpenCLIP's users (DynamiCrafter) read the last but one layer of texts padded with zeros; Stable Diffusion 1.5 reads the last
layer of texts padded with the end token.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from motionloom.errors import WeightsError

NUM_TOKENS = 77
CLIP_VOCABULARY = 49408
PADDING = 0  # OpenCLIP's, unlike CLIP's own


class Tokenizer(Protocol):
    """Texts => (B, 77) whole numbers; longer texts are cut."""

    def __call__(self, texts: Sequence[str]) -> Tensor: ...


class ClipWords:
    """CLIP's byte-pair vocabulary.

    Args:
        folder: holds vocab.json and merges.txt; None reads the empty text alone, which needs no vocabulary.
        fetch: the command that downloads it.
        ends_pad: fill up with the end token, CLIP's own habit, instead of OpenCLIP's zero.
    """

    def __init__(self, folder: Path | None, fetch: str = "", ends_pad: bool = False) -> None:
        self.folder, self.fetch, self.ends_pad = folder, fetch, ends_pad
        self._tokenizer: Any = None

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """See `Tokenizer`. Raises WeightsError for words without a vocabulary."""
        return _padded([self._numbers(text) for text in texts], CLIP_VOCABULARY, self.ends_pad)

    def _numbers(self, text: str) -> list[int]:
        if not text:
            return []
        if self.folder is None:
            raise WeightsError(
                "the text encoder's vocabulary (vocab.json, merges.txt) is not here, so it reads no words",
                fix=f"fetch it with `{self.fetch}`"
                if self.fetch
                else "put both files into the model's folder tokenizer/",
            )
        if self._tokenizer is None:
            from transformers import CLIPTokenizer

            self._tokenizer = CLIPTokenizer.from_pretrained(str(self.folder))
        numbers: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return numbers


class HashedWords:
    """A vocabulary for random networks: each word's number is its checksum. `ends_pad`: see `ClipWords`."""

    def __init__(self, vocabulary: int, ends_pad: bool = False) -> None:
        self.vocabulary, self.ends_pad = vocabulary, ends_pad

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """See `Tokenizer`."""
        return _padded(
            [
                [1 + zlib.crc32(word.encode()) % (self.vocabulary - 3) for word in re.findall(r"\w+", text)]
                for text in texts
            ],
            self.vocabulary,
            self.ends_pad,
        )


class TextTokens:
    """Texts => what cross-attention reads.

    Args:
        encoder: transformers `CLIPTextModel`.
        tokenizer: texts => numbers.
        skipped: layers left out at the end: 1 in OpenCLIP's use, 0 in Stable Diffusion 1.5's.
    """

    def __init__(self, encoder: Any, tokenizer: Tokenizer, skipped: int = 1) -> None:
        self.encoder, self.tokenizer, self.skipped = encoder, tokenizer, skipped

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(B, 77, width), float32, on the encoder's device."""
        return self.encoded(self.tokenizer(texts))

    @torch.no_grad()
    def encoded(self, numbers: Tensor) -> Tensor:
        """Token numbers (B, 77) => (B, 77, width), float32, on the encoder's device."""
        parameter = next(self.encoder.parameters())
        states = self.encoder(input_ids=numbers.to(parameter.device), output_hidden_states=True).hidden_states
        tokens: Tensor = self.encoder.final_layer_norm(states[-1 - self.skipped])
        return tokens.float()


def _padded(texts: Sequence[Sequence[int]], vocabulary: int, ends_pad: bool) -> Tensor:
    """Start, words, end, padding: (B, 77)."""
    numbers = torch.full((len(texts), NUM_TOKENS), vocabulary - 1 if ends_pad else PADDING)
    for row, words in zip(numbers, texts, strict=True):
        line = [vocabulary - 2, *words[: NUM_TOKENS - 2], vocabulary - 1]
        row[: len(line)] = torch.tensor(line)
    return numbers

"""Text for networks that read CLIP's tokens: the last but one layer of OpenCLIP's text encoder, then its last norm."""

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
    """

    def __init__(self, folder: Path | None, fetch: str = "") -> None:
        self.folder, self.fetch = folder, fetch
        self._tokenizer: Any = None

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """See `Tokenizer`. Raises WeightsError for words without a vocabulary."""
        return _padded([self._numbers(text) for text in texts], CLIP_VOCABULARY)

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
    """A vocabulary for random networks: each word's number is its checksum."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """See `Tokenizer`."""
        return _padded(
            [
                [1 + zlib.crc32(word.encode()) % (self.vocabulary - 3) for word in re.findall(r"\w+", text)]
                for text in texts
            ],
            self.vocabulary,
        )


class TextTokens:
    """Texts => what cross-attention reads.

    Args:
        encoder: transformers `CLIPTextModel`.
        tokenizer: texts => numbers.
    """

    def __init__(self, encoder: Any, tokenizer: Tokenizer) -> None:
        self.encoder, self.tokenizer = encoder, tokenizer

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(B, 77, width), float32, on the encoder's device."""
        return self.encoded(self.tokenizer(texts))

    @torch.no_grad()
    def encoded(self, numbers: Tensor) -> Tensor:
        """Token numbers (B, 77) => (B, 77, width), float32, on the encoder's device."""
        parameter = next(self.encoder.parameters())
        states = self.encoder(input_ids=numbers.to(parameter.device), output_hidden_states=True).hidden_states
        tokens: Tensor = self.encoder.final_layer_norm(states[-2])
        return tokens.float()


def _padded(texts: Sequence[Sequence[int]], vocabulary: int) -> Tensor:
    """Start, words, end, padding: (B, 77)."""
    numbers = torch.full((len(texts), NUM_TOKENS), PADDING)
    for row, words in zip(numbers, texts, strict=True):
        line = [vocabulary - 2, *words[: NUM_TOKENS - 2], vocabulary - 1]
        row[: len(line)] = torch.tensor(line)
    return numbers

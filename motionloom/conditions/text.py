"""Words as condition: a vocabulary, and a small transformer that turns word ids into tokens.

The text branch of LaMD (arXiv 2304.11603) reads captions and class names alike. A closed domain needs fewer
than a hundred words, so the default is a vocabulary of its own; `released_size` gives the paper's branch,
whose size tells that it kept BERT's vocabulary: 241.46M + 40.78M = 282.24M, the printed 282M.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionloom.errors import ConfigError

PAD, CLS, SEP = "[PAD]", "[CLS]", "[SEP]"
BERT_VOCABULARY_SIZE = 30_522


@dataclass(frozen=True)
class TextEncoderConfig:
    """The size of a `TextEncoder`.

    Attributes:
        vocabulary_size: number of ids.
        positions: longest sequence, [CLS] and [SEP] included.
        width: width of the tokens; the denoiser's `context_width`.
        depth: layers.
        heads: attention heads.
        logits_head: keep a vocabulary-wide output layer that nothing reads, as the paper's count implies.
    """

    vocabulary_size: int
    positions: int = 38
    width: int = 512
    depth: int = 2
    heads: int = 8
    logits_head: bool = False

    @classmethod
    def released_size(cls, depth: int = 3, logits_head: bool = True) -> TextEncoderConfig:
        """The paper's +41M: 40,778,042 parameters, or 40,874,496 at depth 8 without the logits head."""
        return cls(BERT_VOCABULARY_SIZE, positions=77, depth=depth, logits_head=logits_head)


class TextEncoder(nn.Module):
    """Word ids => tokens: a pre-norm transformer encoder with learned positions."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocabulary_size, config.width)
        self.positions = nn.Embedding(config.positions, config.width)
        self.layers = nn.ModuleList(EncoderLayer(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        if config.logits_head:
            self.logits = nn.Linear(config.width, config.vocabulary_size)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n) ids, 0 = padding -> tokens (B, n, width) and their mask (B, n), True where a word is.

        Padding is attended by nobody: a caption's tokens do not depend on how far its batch is padded.
        """
        assert ids.shape[1] <= self.config.positions, "Vocabulary.batch keeps captions short enough"
        mask = ids != 0
        x = self.words(ids) + self.positions.weight[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, mask[:, None, None, :])
        return self.norm(x), mask


class EncoderLayer(nn.Module):
    """Self-attention and a four times wider feed-forward, each after its norm and residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attend = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, n, c), mask (B, 1, 1, n) -> (B, n, c)."""
        qkv = self.to_qkv(self.norm_attend(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, n, c / heads)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.to_out(attended.transpose(1, 2).flatten(2))
        output: Tensor = x + self.feed_forward(x)
        return output


class Vocabulary:
    """A closed list of words; ids 0, 1, 2 are [PAD], [CLS], [SEP].

    Args:
        words: the words, lower case, in the order of their ids; saved with the model that learned them.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._ids = {word: index for index, word in enumerate((PAD, CLS, SEP, *self.words))}
        assert len(self._ids) == len(self.words) + 3, "words of a vocabulary differ"

    @classmethod
    def of(cls, captions: Iterable[str]) -> Vocabulary:
        """Every word the captions use, in alphabetical order."""
        return cls(sorted({word for caption in captions for word in split_words(caption)}))

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self, caption: str) -> list[int]:
        """[CLS] words [SEP].

        Raises:
            ConfigError: if a word is not in the vocabulary; the fix names the closest one that is.
        """
        return [self._ids[CLS], *(self._id(word) for word in split_words(caption)), self._ids[SEP]]

    def batch(self, captions: Sequence[str], length: int) -> Tensor:
        """Captions => ids (B, length), padded with 0; `length` is the encoder's `positions`.

        Raises:
            ConfigError: if a word is unknown or a caption is too long.
        """
        rows = [self.ids(caption) for caption in captions]
        return _padded(rows, captions, length)

    def _id(self, word: str) -> int:
        if word in self._ids:
            return self._ids[word]
        close = get_close_matches(word, self.words, n=1, cutoff=0.5)
        known = ", ".join(self.words[:20]) + (", ..." if len(self.words) > 20 else "")
        raise ConfigError(
            f"the word '{word}' is not in this model's vocabulary of {len(self.words)} words",
            fix=f"did you mean '{close[0]}'?" if close else f"use words it knows: {known}",
        )


class WordPieces:
    """BERT's word pieces, for the encoder of released size: greedy longest match against a vocabulary file.

    Args:
        path: BERT's `vocab.txt`, one piece a line, continuations written ##piece.

    Raises:
        ConfigError: if the file does not exist or lacks the special pieces.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ConfigError(
                f"there is no vocabulary file '{path}'", fix="give the vocab.txt of bert-base-uncased"
            )
        pieces = path.read_text(encoding="utf-8").split("\n")
        self._ids = {piece.rstrip("\r"): index for index, piece in enumerate(pieces) if piece.strip()}
        missing = [special for special in (PAD, CLS, SEP, "[UNK]") if special not in self._ids]
        if missing or self._ids[PAD] != 0:
            raise ConfigError(
                f"'{path}' is not a BERT vocabulary: {', '.join(missing) or PAD + ' is not its first piece'}",
                fix="give the vocab.txt of bert-base-uncased",
            )

    def __len__(self) -> int:
        return max(self._ids.values()) + 1

    def ids(self, caption: str) -> list[int]:
        """[CLS] pieces [SEP]; a word that cannot be spelled is [UNK]."""
        words = re.findall(r"\w+|[^\w\s]", caption.lower())
        return [self._ids[CLS], *(piece for word in words for piece in self._pieces(word)), self._ids[SEP]]

    def batch(self, captions: Sequence[str], length: int) -> Tensor:
        """Captions => ids (B, length), padded with 0.

        Raises:
            ConfigError: if a caption is too long.
        """
        return _padded([self.ids(caption) for caption in captions], captions, length)

    def _pieces(self, word: str) -> list[int]:
        found: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self._ids), None)
            if end is None:
                return [self._ids["[UNK]"]]
            found.append(self._ids[prefix + word[start:end]])
            start = end
        return found


def split_words(caption: str) -> list[str]:
    """Lower-case words, hyphenated ones whole, and signed integers; punctuation separates."""
    return re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*|-?\d+", caption.lower())


def _padded(rows: Sequence[Sequence[int]], captions: Sequence[str], length: int) -> Tensor:
    for row, caption in zip(rows, captions, strict=True):
        if len(row) > length:
            raise ConfigError(
                f"the caption '{caption}' has {len(row) - 2} words, this model reads {length - 2}",
                fix="shorten it",
            )
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
    return ids

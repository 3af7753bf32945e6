"""Words: the paper's sizes, a closed vocabulary that says what it does not know, and padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from motionloom.conditions.text import TextEncoder, TextEncoderConfig, Vocabulary, WordPieces, split_words
from motionloom.errors import ConfigError

CAPTIONS = ["The small cone is sliding to the second quadrant.", "the snitch is rotating"]


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (TextEncoderConfig.released_size(), 40_778_042),
        (TextEncoderConfig.released_size(depth=8, logits_head=False), 40_874_496),
    ],
)
def test_parameter_counts(config: TextEncoderConfig, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in TextEncoder(config).parameters()) == parameters
    assert round((241_462_851 + parameters) / 1e6) == 282


def test_vocabulary_round_trip() -> None:
    vocabulary = Vocabulary.of(CAPTIONS)
    ids = vocabulary.batch(CAPTIONS, length=12)
    assert ids.shape == (2, 12)
    words = ("[PAD]", "[CLS]", "[SEP]", *vocabulary.words)
    assert [words[i] for i in ids[1] if i] == ["[CLS]", "the", "snitch", "is", "rotating", "[SEP]"]
    assert len(vocabulary) == len(words)
    assert split_words("pick-place to (2, -1)!") == ["pick-place", "to", "2", "-1"]


def test_unknown_words_and_long_captions_are_errors() -> None:
    vocabulary = Vocabulary.of(CAPTIONS)
    with pytest.raises(ConfigError, match="'rotatin'") as error:
        vocabulary.ids("the cone is rotatin")
    assert "'rotating'" in error.value.fix
    with pytest.raises(ConfigError, match="'zzz'") as error:
        vocabulary.ids("zzz")
    assert "cone" in error.value.fix
    with pytest.raises(ConfigError, match="reads 3"):
        vocabulary.batch(["the cone is rotating"], length=5)


def test_word_pieces_take_the_longest_match(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "unaff", "."]) + "\n"
    )
    pieces = WordPieces(path)
    assert len(pieces) == 9
    assert pieces.ids("Unaffable.") == [2, 7, 6, 8, 3]
    assert pieces.ids("cone") == [2, 1, 3]
    assert pieces.batch(["un"], 5).tolist() == [[2, 4, 3, 0, 0]]
    with pytest.raises(ConfigError, match="no vocabulary file"):
        WordPieces(tmp_path / "missing.txt")
    path.write_text("a\nb\n")
    with pytest.raises(ConfigError, match="not a BERT vocabulary"):
        WordPieces(path)


def test_tokens_do_not_depend_on_padding() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(TextEncoderConfig(vocabulary_size=20, positions=12, width=16, heads=2)).eval()
    ids = torch.tensor([[1, 5, 6, 2]])
    short, mask = encoder(ids)
    long, long_mask = encoder(torch.nn.functional.pad(ids, (0, 6)))
    torch.testing.assert_close(long[:, :4], short)
    assert mask.all() and long_mask.tolist() == [[True] * 4 + [False] * 6]
    assert long.isfinite().all()
    reordered, _ = encoder(ids[:, [0, 2, 1, 3]])
    assert not torch.allclose(reordered, short, atol=1e-2)

"""Quality of frames, its loss against the picture, and alignment with text, on tiny networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from motionloom.metrics.aesthetic_quality import AestheticQuality
from motionloom.metrics.base import Item
from motionloom.metrics.imaging_quality import ImagingQuality
from motionloom.metrics.networks.clip import CLIP, AestheticHead, load_clip
from motionloom.metrics.text_alignment import TextAlignment
from motionloom.video.clip import Clip
from tests.metrics.making import noise_clip
from tests.metrics.test_consistency import clip_model


class Mean(nn.Module):
    """Stands for CLIP: mean colour, undoing its normalisation is not needed."""

    side_px = 16

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean((2, 3))


def test_the_head_is_linear_on_the_unit_sphere() -> None:
    head = AestheticHead(3)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
        head.bias.fill_(4.0)
        assert head(torch.tensor([[5.0, 0, 0], [0, 0, 0.1]])).tolist() == pytest.approx([5, 7])


def test_aesthetic_loss_is_the_pictures_score_minus_the_frames() -> None:
    head = AestheticHead(3)
    metric = AestheticQuality(Mean(), head)  # type: ignore[arg-type]
    clip = noise_clip(frames=3)
    alone = metric([clip])
    assert set(alone) == {"aesthetic_quality", "aesthetic_quality/loss"} and np.isnan(
        alone["aesthetic_quality/loss"]
    )
    still = Clip(clip.frames[[0, 0]], 8.0)
    assert metric([Item(still, picture=clip.frames[0])])["aesthetic_quality/loss"] == pytest.approx(
        0, abs=1e-7
    )
    parts = [metric([Clip(clip.frames[[i, i]], 8.0)])["aesthetic_quality"] for i in range(3)]
    both = metric([Item(clip, picture=clip.frames[2])])
    assert both["aesthetic_quality"] == pytest.approx(np.mean(parts))
    assert both["aesthetic_quality/loss"] == pytest.approx(parts[2] - np.mean(parts), abs=1e-7)


def test_imaging_quality_is_a_hundredth_at_no_more_than_512_px() -> None:
    seen = []

    def musiq(pictures: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(pictures.shape[-2:]))
        return 100 * pictures.mean((1, 2, 3))

    levels = np.full((2, 30, 600, 3), 51, np.uint8)
    found = ImagingQuality(musiq)([Item(Clip(levels, 8.0), picture=np.full((30, 600, 3), 102, np.uint8))])
    assert found == {"imaging_quality": pytest.approx(0.2), "imaging_quality/loss": pytest.approx(0.2)}
    assert set(seen) == {(25, 512)}


def test_text_alignment_is_a_cosine(tmp_path: Path) -> None:
    clip_model().save_pretrained(tmp_path)
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1} | {
        letter + "</w>": i + 2 for i, letter in enumerate("abcdefgh")
    }
    words |= {letter: i + 10 for i, letter in enumerate("abcdefgh")}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "vocab": words,
            "merges": [],
            "end_of_word_suffix": "</w>",
            "unk_token": "<|endoftext|>",
        },
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizerFast"}))
    (tmp_path / "vocab.json").write_text(json.dumps(words))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    clip: CLIP = load_clip(tmp_path)
    metric = TextAlignment(clip)
    first, second = (metric([Item(noise_clip(), prompt=text)])["text_alignment"] for text in ("a b", "c d e"))
    assert -1 <= first <= 1 and abs(first - second) > 1e-4
    with torch.no_grad():
        assert clip.read("a b").shape == (1, 8)

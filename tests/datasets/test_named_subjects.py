"""Masks by words, with the published networks' own classes, tiny and random: shapes, boxes, files; no weights are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertTokenizerFast,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    SamConfig,
    SamImageProcessorPil,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
    SwinConfig,
)

from motionloom.cli import main
from motionloom.datasets.named_subjects import NamedSubjects, load_named_subjects
from motionloom.errors import ConfigError, InputError
from motionloom.video.clip import Clip
from motionloom.video.read import read_clip

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "horse", "?"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders as on the hub."""
    detector, segmenter = (tmp_path_factory.mktemp(name) for name in ("detector", "segmenter"))
    torch.manual_seed(0)
    (detector / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(detector / "vocab.txt")).save_pretrained(detector)
    GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(detector)
    swin = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    words = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    GroundingDinoForObjectDetection(
        GroundingDinoConfig(
            backbone_config=swin, text_config=words, d_model=32, encoder_layers=1, decoder_layers=2, num_queries=6,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        )
    ).save_pretrained(detector)  # fmt: skip
    SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}).save_pretrained(
        segmenter
    )
    vision = SamVisionConfig(
        hidden_size=16, output_channels=16, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=16,
        window_size=2, global_attn_indexes=[0], mlp_dim=16, num_pos_feats=8,
    )  # fmt: skip
    prompts = SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=16, mask_input_channels=4)
    masks = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    SamModel(
        SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=masks)
    ).save_pretrained(segmenter)
    return detector, segmenter


def test_boxes_become_masks_of_the_frames_size(folders: tuple[Path, Path]) -> None:
    loaded = load_named_subjects(*folders)
    eager = NamedSubjects(*(getattr(loaded, name) for name in list(vars(loaded))[:4]), threshold=0.0)
    frames = np.random.default_rng(0).integers(0, 255, (2, 48, 72, 3), dtype=np.uint8)
    boxes = eager._boxes(frames[0], "Horse")
    assert boxes.shape == (6, 4) and (boxes[:, 2:] >= boxes[:, :2]).all() and boxes.max() > 1  # pixels
    masks = eager.masks(frames, "horse")
    assert masks.shape == (2, 48, 72) and masks.dtype == np.uint8 and set(np.unique(masks)) <= {0, 255}


class Found(NamedSubjects):
    """Finds one box in frame 2 alone, and cuts all of it."""

    def _boxes(self, frame: Any, words: str) -> torch.Tensor:
        return torch.tensor([[4.0, 2.0, 9.0, 7.0]]) if frame[0, 0, 0] == 2 else torch.zeros(0, 4)

    def _cut(self, frame: Any, boxes: torch.Tensor) -> Any:
        left, top, right, bottom = boxes[0].int().tolist()
        mask = np.zeros(frame.shape[:2], dtype=np.uint8)
        mask[top:bottom, left:right] = 255
        return mask


def test_a_frame_without_the_subject_takes_the_nearest_ones_boxes() -> None:
    frames = np.zeros((4, 16, 16, 3), dtype=np.uint8) + np.arange(4, dtype=np.uint8)[:, None, None, None]
    masks = Found(None, None, None, None).masks(frames, "horse")
    assert (masks.sum(axis=(1, 2)) == 25 * 255).all() and masks[0, 2:7, 4:9].all()
    with pytest.raises(InputError, match='found no "horse"'):
        Found(None, None, None, None).masks(frames[:2], "horse")
    with pytest.raises(ConfigError, match="no words"):
        Found(None, None, None, None).masks(frames, " . ")


def test_the_command_line(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Clip(np.full((3, 32, 32, 3), 2, dtype=np.uint8), 8.0).save(tmp_path / "clips/a.mp4")
    words = ["data", "mask", str(tmp_path / "clips"), "-o", str(tmp_path / "masks"), "--words", "horse"]
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    assert main(words) == 2
    assert "hf download IDEA-Research/grounding-dino-tiny" in capsys.readouterr().err
    assert not (tmp_path / "masks").exists()

    one = Found(None, None, None, None)
    monkeypatch.setattr(Found, "_boxes", lambda *_: torch.tensor([[4.0, 2.0, 20.0, 18.0]]))
    monkeypatch.setattr("motionloom.datasets.named_subjects.load_named_subjects", lambda: one)
    assert main([*words, "--json"]) == 0
    masks = read_clip(tmp_path / "masks/a.mp4").frames
    assert masks[:, 6:14, 8:16].min() > 200 and masks[:, 24:].max() < 50

    Image.fromarray(np.full((64, 64, 3), 90, dtype=np.uint8)).save(tmp_path / "photo.png")
    animate = ["animate", str(tmp_path / "photo.png"), "--motion", "clouds", "--frames", "2", "--steps", "1"]
    animate += ["-o", str(tmp_path / "o.mp4"), "--mask", "auto:horse"]
    assert main(animate) == 0, capsys.readouterr().err
    assert "o_mask1.png" in capsys.readouterr().err
    assert np.asarray(Image.open(tmp_path / "o_mask1.png"))[2:18, 4:20].min() == 255

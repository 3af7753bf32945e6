"""VBench's consistency metrics: closed forms, the position codes of DINO, and tiny networks of the real layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from motionloom.errors import WeightsError
from motionloom.metrics.background_consistency import BackgroundConsistency, for_clip
from motionloom.metrics.base import Item
from motionloom.metrics.consistency import consistency, faithfulness
from motionloom.metrics.i2v_background import I2VBackground
from motionloom.metrics.i2v_subject import I2VSubject
from motionloom.metrics.networks.clip import load_clip
from motionloom.metrics.networks.dino import DINO, load_dino
from motionloom.metrics.networks.table import Networks
from motionloom.metrics.subject_consistency import SubjectConsistency
from motionloom.video.clip import Clip
from motionloom.weights import load_weights, save_weights
from tests.metrics.making import filled, noise_clip, pan, stream

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def vit() -> ViTModel:
    return filled(ViTModel(ViTConfig(image_size=224, patch_size=16, **SMALL), add_pooling_layer=False))  # type: ignore[return-value, arg-type]


def clip_model() -> CLIPModel:
    tower = {**SMALL, "projection_dim": 8}
    text = {**tower, "vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(
        text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 8}, projection_dim=8
    )
    return filled(CLIPModel(config))  # type: ignore[return-value]


def test_alternating_frames_in_closed_form() -> None:
    c = 0.6
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([c, np.sqrt(1 - c * c)])
    found = consistency(torch.stack([a, b, a, b, a]))
    assert found == pytest.approx([c, (c + 1) / 2, c, (c + 1) / 2])
    assert consistency(torch.stack([a, -a])) == [0]
    assert consistency(a.expand(4, 2)) == [1, 1, 1]


def test_faithfulness_in_closed_form() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8])
    assert faithfulness(a[None], torch.stack([a, a])) == pytest.approx(1)
    # c = (0.6, 1), consecutive 0.6
    assert faithfulness(a[None], torch.stack([b, a])) == pytest.approx(0.4 + 0.3 * 0.6 + 0.3 * 0.6)
    assert faithfulness(a[None], torch.stack([b, a, a])) == pytest.approx(0.4 + 0.3 * 0.8 + 0.3 * 0.6)


def test_position_codes_follow_dino_where_transformers_does_not() -> None:
    model = vit()
    square, wide = torch.rand(1, 3, 224, 224), torch.rand(1, 3, 224, 398)
    with torch.no_grad():
        plain = model(square).last_hidden_state[:, 0]
        other = model(wide, interpolate_pos_encoding=True).last_hidden_state[:, 0]
        dino = DINO(model)
        assert torch.equal(dino(square), plain)
        assert 1e-5 < float((dino(wide) - other).norm() / other.norm()) < 0.5
    codes = model.embeddings.interpolate_pos_encoding(torch.zeros(1, 337, 16), 224, 398)
    assert codes.shape == (1, 1 + 14 * 24, 16)
    # a wide grid scaled by (24 + 0.1) / 14: place x is read at (x + 1/2) 14 / 24.1 - 1/2 of the square one
    values = stream("codes").standard_normal(14)
    with torch.no_grad():
        model.embeddings.position_embeddings[0, 1:, 0] = (
            torch.from_numpy(values).float().expand(14, 14).flatten()
        )
        wide = model.embeddings.interpolate_pos_encoding(torch.zeros(1, 337, 16), 224, 398)[0, 1:, 0]
    row = wide.view(14, 24)[7].numpy()
    expected = [cubic(values, (x + 0.5) * 14 / 24.1 - 0.5) for x in range(24)]
    plain = [cubic(values, (x + 0.5) * 14 / 24 - 0.5) for x in range(24)]
    assert row == pytest.approx(expected, abs=1e-4)
    assert np.abs(row - plain).max() > 1e-2


def cubic(values: np.ndarray, at: float, a: float = -0.75) -> float:
    """Keys' cubic convolution, borders repeated."""
    start = int(np.floor(at))
    total = 0.0
    for k in range(start - 1, start + 3):
        d = abs(at - k)
        near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
        total += values[min(max(k, 0), len(values) - 1)] * (near if d <= 1 else far)
    return total


def test_subject_and_background_on_tiny_networks(tmp_path: Path) -> None:
    vit().save_pretrained(tmp_path / "dino-vitb16")
    clip_model().save_pretrained(tmp_path / "clip-vit-base-patch32")
    dino, clip = load_dino(tmp_path / "dino-vitb16"), load_clip(tmp_path / "clip-vit-base-patch32")
    assert all(module.eps == 1e-6 for module in dino.modules() if isinstance(module, nn.LayerNorm))
    for metric in (SubjectConsistency(dino), BackgroundConsistency(clip)):
        name = metric.name
        still, moving, noisy = (
            metric([clip_])[name]
            for clip_ in (
                pan(0, 0, frames=3, side=48),
                pan(4, 4, frames=3, side=48),
                noise_clip(frames=3, side=48),
            )
        )
        assert still == pytest.approx(1, abs=1e-6)
        assert still > moving + 1e-4 and moving != pytest.approx(noisy, abs=1e-4)


def test_i2v_subject_knows_its_picture() -> None:
    clip = pan(2, 0, frames=3, side=64)
    metric = I2VSubject(DINO(vit()))
    own = metric([Item(clip, picture=clip.frames[0])])
    other = metric([Item(clip, picture=stream("p").integers(0, 256, (64, 64, 3), dtype=np.uint8))])
    assert own["i2v_subject"] > other["i2v_subject"] + 1e-4
    assert (
        own["i2v_subject"] != pytest.approx(own["i2v_subject/no_antialias"], abs=1e-9) or clip.height_px < 256
    )
    large = Clip(noise_clip("n", 2, 400).frames, 8.0)
    both = metric([Item(large, picture=large.frames[0])])
    assert abs(both["i2v_subject"] - both["i2v_subject/no_antialias"]) > 1e-6


def test_i2v_background_squashes() -> None:
    def embed(pictures: torch.Tensor) -> torch.Tensor:
        assert pictures.shape[1:] == (3, 224, 224) and 0 <= pictures.amin() <= pictures.amax() <= 1
        return pictures.mean((2, 3))

    clip = pan(2, 0, frames=3, side=64)
    assert I2VBackground(embed)([Item(clip, picture=clip.frames[0])])["i2v_background"] == pytest.approx(
        1, abs=0.01
    )


def test_clip_sees_a_cropped_square() -> None:
    pixels = torch.rand(1, 3, 40, 100) * 255
    assert for_clip(pixels, 32).shape == (1, 3, 32, 32)


def test_a_folder_that_lacks_a_key_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "clip-vit-base-patch32"
    clip_model().save_pretrained(folder)
    tensors, _ = load_weights(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_weights(folder / "model.safetensors", tensors, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"is no CLIPModel: 1 keys are missing \(visual_projection.weight"):
        Networks(tmp_path).load("clip-vit-base-patch32")
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="no .safetensors in it"):
        Networks(tmp_path).load("clip-vit-base-patch32")

"""A trained LaMD as a base: loading, frames, amplitude, regions, guidance, chains, loops, transfer. Tiny networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import nn

import motionloom as ml
from motionloom.codecs.mcd_vae import MCDVAEConfig, MotionContentAutoencoder
from motionloom.conditions.text import TextEncoderConfig
from motionloom.denoisers.lamd import LamdBase
from motionloom.denoisers.motion_generator import Hint, MotionGenerator, MotionGeneratorConfig
from motionloom.denoisers.motion_unet import MotionUNetConfig
from motionloom.errors import ConfigError, InputError, WeightsError
from motionloom.sampling.schedules import describe, ldm_linear, rectified_flow
from motionloom.video.clip import Clip

CODEC = MCDVAEConfig(num_frames=8, size_px=(16, 16), motion_base=4, content_base=8)
UNET = MotionUNetConfig(
    base=8, multipliers=(1, 2), res_blocks=1, attention_levels=(1,), heads=2, context_width=32
)
WORDS = ("ball", "left", "right", "the")
CONFIG = MotionGeneratorConfig(UNET, content_width=32, text=TextEncoderConfig(7, 6, 32, 1, 2), words=WORDS)
PHOTO = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)


def generator_of(config: MotionGeneratorConfig) -> MotionGenerator:
    """Random weights everywhere: a fresh network predicts zero and would hide its conditions."""
    torch.manual_seed(1)
    model = MotionGenerator(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.2)
    return model


def model_folder(
    folder: Path,
    config: MotionGeneratorConfig = CONFIG,
    process: Any = None,
    facts: dict[str, str] | None = None,
) -> Path:
    torch.manual_seed(0)
    MotionContentAutoencoder(CODEC).eval().save(folder / "mcd_vae.safetensors")
    generator_of(config).save(folder / "dmg.safetensors", process or describe(ldm_linear()), facts)
    return folder


def hinted() -> MotionGeneratorConfig:
    """Reads an end frame (3 channels and a flag) and the motion before (3 and a flag); flow is quick to sample."""
    unet = dataclasses.replace(UNET, concat_channels=8)
    return MotionGeneratorConfig(
        unet, content_width=32, end_channels=3, previous=True, prediction_type="flow"
    )


@pytest.fixture
def base(tmp_path: Path) -> LamdBase:
    loaded = ml.load_base(model_folder(tmp_path), solver="dpm++")
    assert isinstance(loaded, LamdBase)
    return loaded


def frames_of(base: LamdBase, *motions: Any, **asked: Any) -> npt.NDArray[np.uint8]:
    return ml.generate(base, PHOTO, motions or None, steps=3, **asked).frames


def test_a_folder_of_two_files_is_a_base(tmp_path: Path) -> None:
    facts = {"recipe": "stage: {kind: lamd-generator}\ndata: {folder: a, fps: 12.0}\n"}
    base = ml.load_base(model_folder(tmp_path, facts=facts))
    assert (base.num_frames, base.fps, base.num_steps) == (8, 12.0, 200)
    assert base.native_size_px == (16, 16) and base.reads_text
    assert set(base.facts()["weights"]) == {"mcd_vae.safetensors", "dmg.safetensors"}


def test_a_photo_becomes_a_clip_the_same_for_the_same_seed(base: LamdBase) -> None:
    clip = ml.generate(base, PHOTO, steps=3, seed=1, prompt="the ball left")
    assert clip.frames.shape == (8, 16, 16, 3)
    assert np.array_equal(clip.frames[0], PHOTO)
    assert clip.settings["motions"] == [["move", 1.0]]
    assert np.array_equal(clip.frames, frames_of(base, seed=1, prompt="the ball left"))
    assert not np.array_equal(clip.frames, frames_of(base, seed=2, prompt="the ball left"))
    assert not np.array_equal(clip.frames, frames_of(base, seed=1, prompt="the ball right"))
    with pytest.raises(ConfigError, match="'bal' is not in this model's vocabulary"):
        frames_of(base, prompt="the bal")


def test_fewer_frames_are_the_first_of_the_same_clip(base: LamdBase) -> None:
    assert np.array_equal(frames_of(base, frames=5), frames_of(base)[:5])


def test_amplitude_runs_from_stillness_to_the_sample_and_beyond(base: LamdBase) -> None:
    """Weight w gives z_still + w (z - z_still)."""
    pixels = torch.from_numpy(PHOTO.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        still = base.codec.decode(base.still(pixels), pixels)[0].clamp(-1, 1)
    expected = ((still + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()
    assert np.array_equal(frames_of(base, ("move", 0.0))[1:], expected[1:])
    assert np.array_equal(frames_of(base, ("move", 1.0)), frames_of(base))
    assert not np.array_equal(frames_of(base, ("move", 2.0)), frames_of(base))


def test_outside_a_mask_the_latent_is_that_of_stillness(
    base: LamdBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[torch.Tensor] = []
    decode = base.codec.decode
    monkeypatch.setattr(base.codec, "decode", lambda z, photo: (decoded.append(z), decode(z, photo))[1])
    mask = np.zeros((16, 16), np.float32)
    mask[:, 8:] = 1
    frames_of(base, "move", masks=[mask])
    pixels = torch.from_numpy(PHOTO.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        still = base.still(pixels)
    assert torch.allclose(decoded[0][..., :2], still[..., :2], atol=1e-6)
    assert not torch.allclose(decoded[0][..., 2:], still[..., 2:], atol=1e-2)


def test_guidance_changes_the_clip_and_is_written_down(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    plain, guided = (
        ml.generate(ml.load_base(folder, solver="ddim", text_scale=s), PHOTO, steps=2, prompt="the ball")
        for s in (1, "4")
    )
    assert not np.array_equal(plain.frames, guided.frames)
    assert guided.settings["base_facts"]["options"] == {
        "solver": "ddim",
        "text_scale": 4.0,
        "image_scale": 1.0,
    }


def test_guidance_is_refused_where_training_never_left_the_condition_out(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, facts={"recipe": "stage: {drop_text: 0.0, drop_image: 0.1}"})
    with pytest.raises(ConfigError, match="text_scale 2, but .* was trained with drop_text: 0"):
        ml.load_base(folder, text_scale=2)
    assert ml.load_base(folder, image_scale=2).image_scale == 2  # type: ignore[attr-defined]


def test_a_long_clip_is_a_chain_and_says_when_it_was_not_trained_for_it(base: LamdBase) -> None:
    clip = ml.generate(base, PHOTO, steps=2, frames=20)
    assert clip.frames.shape == (20, 16, 16, 3)
    assert np.array_equal(clip.frames[:8], ml.generate(base, PHOTO, steps=2).frames)
    assert any("trained without the motion before" in note for note in clip.settings["notes"])


def test_hints_reach_the_generator(tmp_path: Path) -> None:
    base = ml.load_base(model_folder(tmp_path, hinted(), describe(rectified_flow())))
    assert isinstance(base, LamdBase) and base.solver == "euler"
    f_x0, other = torch.randn(2, 1, 32, 4, 4)
    z, t = torch.randn(1, 3, 4, 4), torch.tensor([500.0])
    told = [
        base.denoiser.condition(f_x0),
        base.denoiser.condition(f_x0, end=Hint.of(other)),
        base.denoiser.condition(f_x0, previous=Hint.of(z)),
        base.denoiser.condition(f_x0, previous=Hint(z, torch.tensor([False]))),
    ]
    with torch.no_grad():
        plain, end, previous, hidden = (base.denoiser(z, t, condition) for condition in told)
    assert not torch.allclose(plain, end) and not torch.allclose(plain, previous)
    assert torch.equal(plain, hidden)  # a hint that is not given tells nothing, whatever its value

    looped, open_ended = (ml.generate(base, PHOTO, steps=3, loop=loop) for loop in (True, False))
    assert not np.array_equal(looped.frames, open_ended.frames)
    assert "notes" not in ml.generate(base, PHOTO, steps=2, frames=12).settings

    ends = []
    for number, picture in enumerate((PHOTO, PHOTO[::-1])):
        Image.fromarray(np.ascontiguousarray(picture)).save(f"end{number}.png")
        ending = ml.load_base(tmp_path, end_frame=f"end{number}.png")
        ends.append(ml.generate(ending, PHOTO, steps=3))
    assert np.array_equal(ends[0].frames, looped.frames)  # ending with the photo is a loop
    assert not np.array_equal(ends[1].frames, looped.frames)
    assert ends[1].settings["base_facts"]["options"]["end_frame"] == "end1.png"


def test_what_it_cannot_do_is_refused_with_the_reason(base: LamdBase, tmp_path: Path) -> None:
    for asked, said in (
        ({"loop": True}, "trained without an end frame"),
        ({"overscan": True}, "no camera"),
        ({"motions": ["zoom-in"]}, 'one motion, "move"'),
        ({"motions": [("move", (1.0, 0.0))]}, "not a curve"),
        ({"size": "18x16"}, "multiples of 4"),
    ):
        with pytest.raises(ConfigError, match=said):
            ml.generate(base, PHOTO, **{"motions": None} | asked)  # type: ignore[arg-type]
    for option, said in (
        ({"end_frame": "a.png"}, "cannot end"),
        ({"solver": "euler"}, "takes ancestral"),
        ({"text_scale": "x"}, "from 1 to 100"),
    ):
        with pytest.raises(ConfigError, match=said):
            ml.load_base(tmp_path, **option)
    with pytest.raises(InputError, match="without an end frame"):
        base.denoiser.condition(torch.zeros(1, 32, 4, 4), end=Hint.of(torch.zeros(1, 32, 4, 4)))
    other = MotionGeneratorConfig(dataclasses.replace(UNET, in_channels=2, out_channels=2), content_width=32)
    generator_of(other).save(tmp_path / "dmg.safetensors", describe(ldm_linear()))
    with pytest.raises(ConfigError, match="3 latent and 32 content channels"):
        ml.load_base(tmp_path)
    (tmp_path / "dmg.safetensors").write_bytes((tmp_path / "mcd_vae.safetensors").read_bytes())
    with pytest.raises(WeightsError, match="expected 'dmg'"):
        ml.load_base(tmp_path)


def test_transfer_decodes_the_clips_own_motion_on_the_photo(base: LamdBase) -> None:
    source = np.random.default_rng(1).integers(0, 255, (8, 16, 16, 3), dtype=np.uint8)
    moved = ml.transfer(base, Clip(source, 8.0), PHOTO)
    pixels = torch.from_numpy(np.stack([PHOTO, *source])).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        z = base.codec.encode(pixels[:, :, 1:])
        expected = base.codec.decode(z, pixels[:, :, 0])[0].clamp(-1, 1)
    assert np.array_equal(moved.frames[0], PHOTO)
    assert np.array_equal(
        moved.frames[1:], ((expected + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()[1:]
    )
    with pytest.raises(ConfigError, match="draws a motion in 8 frames"):
        ml.transfer(base, Clip(source, 8.0), PHOTO, frames=4)

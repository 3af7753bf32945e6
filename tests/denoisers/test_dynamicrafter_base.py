"""DynamiCrafter as a base, on random weights of its layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import motionloom as ml
from motionloom.adapters.text_adapter import TextAdapter
from motionloom.denoisers.base import Request
from motionloom.denoisers.dynamicrafter.base import (
    DynamiCrafterBase,
    DynamiCrafterOptions,
    load_tiny,
    plain_ddim,
)
from motionloom.denoisers.dynamicrafter.folder import write_folder
from motionloom.denoisers.dynamicrafter.parts import TINY
from motionloom.errors import ConfigError, WeightsError

PHOTO = (np.random.RandomState(0).rand(64, 64, 3) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def base() -> DynamiCrafterBase:
    return load_tiny()


def clip(base: DynamiCrafterBase, **asked: Any) -> np.ndarray:
    return ml.generate(base, PHOTO, **{"steps": 2, "frames": 4, **asked}).frames


def request(**changed: Any) -> Request:
    photo = torch.rand(1, 3, 64, 64) * 2 - 1
    return Request(**{"photo": photo, "motions": (), "num_frames": 4, "fps": 8.0, "num_steps": 2, **changed})


def test_a_clip(base: DynamiCrafterBase) -> None:
    frames = clip(base, frames=16)
    assert frames.shape == (16, 64, 64, 3)
    assert np.array_equal(frames[0], PHOTO)
    assert np.array_equal(frames, clip(load_tiny(), frames=16)), "the same arguments give the same clip"


def test_text_and_speed_reach_the_network(base: DynamiCrafterBase) -> None:
    plain = clip(base)
    assert not np.array_equal(plain, clip(base, prompt="a dog runs"))
    assert not np.array_equal(plain, clip(base, motions=[("lively", 1.0)]))
    assert np.array_equal(plain, clip(base, motions=[("lively", 0.0)]))


def test_half_precision_is_close(base: DynamiCrafterBase) -> None:
    half = load_tiny(dtype="bfloat16")
    one = request(prompt="a dog")
    told = base.condition(one, base.encode(one, torch.Generator().manual_seed(0)), torch.Generator())
    noise = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    full, coarse = (b.denoiser(noise, torch.tensor([500]), told) for b in (base, half))
    assert coarse.dtype == torch.float32
    assert float((full - coarse).norm() / full.norm()) < 0.05


def test_words_stay_within_what_was_trained(base: DynamiCrafterBase) -> None:
    from motionloom.conditions.asked import Asked

    assert base._rate(request()) == 24
    assert base._rate(request(motions=(Asked("lively"),))) == 15
    assert base._rate(request(motions=(Asked("calm", 0.5),))) == 27


def test_the_first_frame_is_encoded_once_and_repeated(base: DynamiCrafterBase) -> None:
    one = request()
    first = base.encode(one, torch.Generator().manual_seed(0))
    told = base.condition(one, first, torch.Generator())
    assert first.shape == (1, 4, 1, 8, 8)
    assert torch.equal(told.still, first.expand(-1, -1, 4, -1, -1))
    nothing = told.dropped(text=True, image=True)
    assert torch.equal(nothing.still, told.still)
    assert torch.equal(nothing.text, told.empty_text) and torch.equal(nothing.image, told.empty_image)
    assert not torch.equal(told.image, told.empty_image)
    half = told.dropped(text=torch.tensor([False]), image=torch.tensor([True]))
    assert torch.equal(half.text, told.text) and torch.equal(half.image, told.empty_image)


def test_interpolation_and_loop() -> None:
    config = TINY.model_copy(update={"given": "first-and-last"})
    tiny = load_tiny()
    base = DynamiCrafterBase(config, tiny.parts, tiny.text.tokenizer)
    loop = request(loop=True)
    still = base.condition(loop, base.encode(loop, torch.Generator()), torch.Generator()).still
    assert torch.equal(still[:, :, 0], still[:, :, -1]) and not still[:, :, 1:-1].any()
    assert clip(base, loop=True).shape == (4, 64, 64, 3)
    with pytest.raises(ConfigError, match="no last one was given"):
        clip(base)
    ml.Clip(np.full((1, 32, 32, 3), 200, np.uint8), 8.0).save("end")
    picture = next(Path("end").glob("*.png"))
    between = DynamiCrafterBase(config, tiny.parts, tiny.text.tokenizer, DynamiCrafterOptions(ending=picture))
    still = between.condition(request(), base.encode(request(), torch.Generator()), torch.Generator()).still
    assert still[:, :, -1].any() and not torch.equal(still[:, :, 0], still[:, :, -1])
    with pytest.raises(ConfigError, match="first frame given alone"):
        clip(tiny, loop=True)


def test_a_text_adapter_is_a_motion(base: DynamiCrafterBase) -> None:
    torch.manual_seed(0)
    TextAdapter.of(base.parts.unet).save("fresh.safetensors", base=base.name)
    TextAdapter.of(base.parts.unet, init="released").save("random.safetensors", base=base.name)
    plain = clip(base, prompt="a dog")
    assert np.array_equal(plain, clip(base, prompt="a dog", motions=["fresh.safetensors"]))
    assert not np.array_equal(plain, clip(base, prompt="a dog", motions=["random.safetensors"]))
    assert np.array_equal(plain, clip(base, prompt="a dog", motions=[("random.safetensors", 0.0)]))
    assert np.array_equal(plain, clip(base, prompt="a dog")), "it is gone afterwards"


def test_a_folder_is_a_base(base: DynamiCrafterBase) -> None:
    write_folder(Path("mine"), TINY, {name: net.state_dict() for name, net in base.parts.named().items()})
    again = ml.load_base("mine")
    assert again.name == "mine"
    assert again.facts()["weights"] == base.facts()["weights"]
    assert np.array_equal(clip(again, prompt="a dog"), clip(base, prompt="a dog"))
    assert again.num_frames == 16 and again.config == TINY


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"motions": ["waltz"]}, "waltz"),
        ({"motions": ["lively", "calm"]}, "one of the words"),
        ({"motions": [("lively", 2.0)]}, "expected 0..1"),
        ({"motions": [("lively", (0.0, 1.0))]}, "weight that changes"),
        ({"motions": ["lively"], "masks": [np.ones((64, 64), np.float32)]}, "mask"),
        ({"overscan": True}, "overscan"),
        ({"size": "60x64"}, "multiples of 16"),
    ],
)
def test_refusals(base: DynamiCrafterBase, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        clip(base, **asked)


def test_options() -> None:
    with pytest.raises(ConfigError, match="guidence"):
        load_tiny(guidence=3)
    with pytest.raises(ConfigError, match="eta"):
        load_tiny(eta=2)
    exact = load_tiny(unscale="exact", guidance=1.0, eta=0.0)
    assert exact.facts()["options"] == {"unscale": "exact", "guidance": 1.0, "eta": 0.0}
    assert exact.schedule(request()).unscale == "exact"


def test_the_released_weights_are_fetched_by_the_user() -> None:
    with pytest.raises(WeightsError, match=r"hf download Doubiiu/DynamiCrafter_1024 model\.ckpt"):
        ml.load_base("dynamicrafter-1024")


def test_the_256_model_samples_epsilon() -> None:
    scheduler = plain_ddim(1.0)
    scheduler.set_timesteps(50)
    assert scheduler.timesteps[0] == 981 and scheduler.timesteps[-1] == 1
    config = TINY.model_copy(update={"prediction": "epsilon"})
    tiny = load_tiny()
    assert clip(DynamiCrafterBase(config, tiny.parts, tiny.text.tokenizer)).shape == (4, 64, 64, 3)

"""AnimateDiff told a text: what its encoder reads, where it comes from, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import motionloom as ml
from motionloom.adapters.adapter import new_adapter
from motionloom.adapters.text_adapter import TextAdapter
from motionloom.conditions.clip_text import HashedWords
from motionloom.denoisers import animatediff_text
from motionloom.denoisers.animatediff import AnimateDiffBase, load_tiny
from motionloom.denoisers.animatediff_text import (
    IN_CHECKPOINT,
    POSITIONS,
    TINY_TEXT,
    TextCondition,
    text_of_checkpoint,
    text_of_repository,
    with_group_norms,
)
from motionloom.errors import ConfigError, MotionLoomError, WeightsError
from motionloom.weights import save_weights

PHOTO = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def base() -> AnimateDiffBase:
    return load_tiny()


def clip(base: AnimateDiffBase, motions: Any = None, **ways: Any) -> Any:
    return ml.generate(base, PHOTO, motions, frames=3, steps=2, size="64x64", **ways).frames


def random_adapter(base: AnimateDiffBase) -> TextAdapter:
    torch.manual_seed(0)
    return TextAdapter.of(base.denoiser.network, init="released")


def test_the_prompt_moves_and_a_text_adapter_moves_by_it(base: AnimateDiffBase) -> None:
    plain, adapter = clip(base, prompt="a dog"), random_adapter(base)
    assert np.array_equal(plain[0], PHOTO) and not np.array_equal(plain[1], PHOTO)
    assert not np.array_equal(plain, clip(base, prompt="a cat"))
    told = clip(base, [adapter], prompt="a dog")
    assert not np.array_equal(told, plain)
    assert not np.array_equal(told, clip(base, [adapter], prompt="a cat"))
    assert np.array_equal(clip(base, [(adapter, 0.0)], prompt="a dog"), plain)
    assert np.array_equal(clip(base, prompt="a dog"), plain), "it is gone afterwards"


def test_guidance_is_an_option_and_the_empty_text_has_none(base: AnimateDiffBase) -> None:
    unguided = load_tiny(guidance=1)
    assert not np.array_equal(clip(unguided, prompt="a dog"), clip(base, prompt="a dog"))
    adapter = random_adapter(base)
    assert np.array_equal(clip(unguided, [adapter]), clip(base, [adapter]))
    assert base.facts()["options"] == {"seed": 0}
    assert unguided.facts()["options"] == {"seed": 0, "guidance": 1.0}


@torch.no_grad()
def test_texts_end_padded_are_read_to_the_last_layer(base: AnimateDiffBase) -> None:
    """As Stable Diffusion 1.5's pipeline reads them."""
    numbers = base.text.tokenizer(["a dog", ""])
    end = int(TINY_TEXT["eos_token_id"])
    assert (numbers[0, 3:] == end).all() and (numbers[1, 1:] == end).all() and int(numbers[0, 2]) != end
    assert not torch.equal(numbers, HashedWords(512)(["a dog", ""])), "OpenCLIP's users pad with zeros"
    tokens = base.text.encoder(input_ids=numbers).last_hidden_state
    assert torch.equal(base.text(["a dog", ""]), tokens) and tokens.shape == (2, 77, 24)


def test_a_condition_is_dropped_where_asked() -> None:
    told = TextCondition(torch.ones(3, 77, 4), torch.zeros(1, 77, 4))
    some = told.dropped(text=torch.tensor([True, False, True]), image=True)
    assert some.text[:, 0, 0].tolist() == [0, 1, 0]
    assert not told.dropped(text=True).text.any() and told.dropped().text.all()


@torch.no_grad()
def test_group_norms_are_as_adapters_have_them(base: AnimateDiffBase) -> None:
    """The clip under each convention differs, and afterwards nothing is left of it."""
    network = base.denoiser.network
    told = torch.randn(3, 77, 24)
    latents, made = torch.randn(1, 4, 3, 8, 8), {}
    for mode in ("diffusers", "per_frame", "joint"):
        with with_group_norms(network, mode):
            made[mode] = network(latents, 500, encoder_hidden_states=told).sample
    assert torch.equal(made["diffusers"], network(latents, 500, encoder_hidden_states=told).sample)
    assert not torch.allclose(made["diffusers"], made["per_frame"], atol=1e-4)
    assert not torch.allclose(made["joint"], made["per_frame"], atol=1e-4)
    assert not any(hasattr(m, "_diffusers_hook") or m._forward_pre_hooks for m in network.modules())


# --- where the encoder comes from ---------------------------------------------------------------------------


@torch.no_grad()
def test_a_folder_reads_prompts_alike(base: AnimateDiffBase) -> None:
    base.save(Path("mine"))
    again = ml.load_base("mine")
    assert again.facts()["weights"] == base.facts()["weights"]
    assert torch.equal(again.text(["a dog"]), base.text(["a dog"]))
    latents, text = torch.randn(1, 4, 3, 8, 8), torch.randn(3, 77, 24)
    predictions = [
        one.denoiser.network(latents, 500, encoder_hidden_states=text).sample for one in (base, again)
    ]
    assert torch.allclose(*predictions, atol=1e-5)
    for file in Path("mine/text_encoder").iterdir():
        file.unlink()
    Path("mine/text_encoder").rmdir()
    with pytest.raises(WeightsError, match="has no text_encoder, and a prompt needs one"):
        clip(ml.load_base("mine"), prompt="a dog")


def test_an_official_checkpoint_reads_prompts_alike(
    base: AnimateDiffBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(animatediff_text, "TEXT_CONFIG", TINY_TEXT)
    named = {f"{IN_CHECKPOINT}{name}": value for name, value in base.text.encoder.state_dict().items()}
    save_weights("sd.safetensors", named | {f"{IN_CHECKPOINT}{POSITIONS}": torch.arange(77)[None]})
    again = text_of_checkpoint("sd.safetensors")
    numbers = base.text.tokenizer(["a dog"])
    assert torch.equal(again.encoded(numbers), base.text.encoded(numbers))
    del named[f"{IN_CHECKPOINT}final_layer_norm.bias"]
    save_weights("cut.safetensors", named)
    with pytest.raises(WeightsError, match=r"final_layer_norm\.bias"):
        text_of_checkpoint("cut.safetensors")


def test_without_the_encoder_the_command_that_fetches_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animatediff_text, "is_cached", lambda *asked: False)
    with pytest.raises(WeightsError) as problem:
        text_of_repository()
    assert "hf download" in str(problem.value.fix) and "text_encoder/model.safetensors" in str(
        problem.value.fix
    )


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("miva and a prompt", "under MIVA adapters reads no text, got the prompt"),
        ("miva beside text", "takes one text adapter and no other motion"),
        ("two", "takes one text adapter and no other motion"),
        ("mask", "applies .* to the whole clip"),
        ("curve", "applies .* to the whole clip"),
        ("another network's", "was made for 1 temporal transformers"),
        ("another width", "reads text of width 32, the network's is 24 wide"),
        ("loop", 'has no "loop"'),
        ("nothing", "through adapters alone, and no motion was given"),
    ],
)
def test_refusals(base: AnimateDiffBase, case: str, told: str) -> None:
    network, text = base.denoiser.network, random_adapter(base)
    miva: Any = new_adapter(network)
    ways: dict[str, dict[str, Any]] = {
        "miva and a prompt": {"motions": [miva], "prompt": "rain"},
        "miva beside text": {"motions": [miva, text]},
        "two": {"motions": [text, text]},
        "mask": {"motions": [text], "masks": [np.ones((64, 64), np.float32)]},
        "curve": {"motions": [(text, (0.0, 1.0))]},
        "another network's": {"motions": [TextAdapter({"a": 8}, 24)]},
        "another width": {"motions": [TextAdapter(text.layers, 32)]},
        "loop": {"prompt": "rain", "loop": True},
        "nothing": {},
    }
    with pytest.raises(MotionLoomError, match=told):
        clip(base, **ways[case])


def test_positions_are_limited_with_text_too(base: AnimateDiffBase) -> None:
    with pytest.raises(ConfigError, match="knows the positions of 32"):
        ml.generate(base, PHOTO, prompt="a dog", frames=33)

"""Adapters under what a host may run with: gradients, checkpointing, PEFT, offloading, caches, compiling, half precision."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import motionloom as ml
from motionloom.adapters import context_of
from tests.adapters.conftest import latents_for, moved, predict, small_unet, small_wan


def gradients(host: Any, adapter: ml.Adapter, between: Any = None) -> dict[str, Tensor]:
    """Of a squared prediction; `between` runs after the forward and before the backward."""
    adapter.zero_grad()
    latents = latents_for(host)
    with ml.mounted(host, [(adapter, 1.0)]):
        out = host(latents, torch.tensor([500.0]), encoder_hidden_states=None).sample
        if between is not None:
            between()
        out[:, :, 1:].square().mean().backward()
    return {name: p.grad.clone() for name, p in adapter.named_parameters() if p.grad is not None}


@pytest.fixture(params=[small_unet, small_wan], ids=["unet", "wan"])
def own_host(request: pytest.FixtureRequest) -> Any:
    host = request.param()
    return host.requires_grad_(False)


def test_every_parameter_and_nothing_else_learns(own_host: Any) -> None:
    adapter = moved(own_host)
    found = gradients(own_host, adapter)
    assert found.keys() == dict(adapter.named_parameters()).keys()
    assert all(gradient.any() for gradient in found.values())
    assert all(p.grad is None for p in own_host.parameters())


def test_a_fresh_adapter_can_start_to_learn(own_host: Any) -> None:
    """What is zero at the start gets a gradient at once; what stands before it, none yet."""
    found = gradients(own_host, ml.new_adapter(own_host))
    for name, gradient in found.items():
        if name.endswith((".ca.up.weight", ".lora_B.weight", "to_out.weight")) and "to_q.lora_B" not in name:
            assert gradient.any(), name
        if ".ca.down." in name:
            assert not gradient.any(), name


def test_checkpointing_changes_no_gradient(own_host: Any) -> None:
    """Motion modules included, and though another call came between forward and backward."""
    adapter = moved(own_host)
    plain = gradients(own_host, adapter)
    own_host.enable_gradient_checkpointing()
    own_host.train()
    again = gradients(own_host, adapter)
    disturbed = gradients(
        own_host, adapter, between=lambda: predict(own_host, latents_for(own_host, 2, 16, 8), 10.0)
    )
    for other in (again, disturbed):
        assert other.keys() == plain.keys()
        for name, gradient in other.items():
            assert torch.allclose(gradient, plain[name], rtol=1e-4, atol=1e-7), name


def test_motion_modules_are_checkpointed(monkeypatch: pytest.MonkeyPatch) -> None:
    from motionloom.adapters import unet

    count = []
    stock = unet.checkpoint
    monkeypatch.setattr(unet, "checkpoint", lambda *a, **k: (count.append(1), stock(*a, **k))[1])
    host = small_unet().requires_grad_(False)
    gradients(host, moved(host))
    assert not count
    host.enable_gradient_checkpointing()
    gradients(host, moved(host))
    assert len(count) == len(unet.motion_modules(host)) == 6


def test_peft_beside_an_adapter(own_host: Any) -> None:
    """A LoRA on the host acts in the mounted host as if merged into its weights."""
    from peft import LoraConfig

    adapter, latents = moved(own_host), latents_for(own_host)
    own_host.add_adapter(
        LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    )
    with ml.mounted(own_host, [(adapter, 1.0)]):
        beside = predict(own_host, latents)
    own_host.fuse_lora()
    with ml.mounted(own_host, [(adapter, 1.0)]):
        assert torch.allclose(predict(own_host, latents), beside, atol=1e-4)
    assert ml.new_adapter(own_host, "default").layout == adapter.layout


def test_a_peft_model_is_a_host(wan: Any) -> None:
    from peft import LoraConfig, get_peft_model

    host = small_wan()
    latents, adapter = latents_for(host), moved(host)
    with ml.mounted(host, [(adapter, 1.0)]):
        expected = predict(host, latents)
    wrapped = get_peft_model(host, LoraConfig(r=2, target_modules=["to_q"]))  # its B is zero
    with ml.mounted(wrapped, [(adapter, 1.0)]):
        assert torch.allclose(predict(wrapped.base_model.model, latents), expected, atol=1e-6)


@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
def test_group_offload(own_host: Any, level: str) -> None:
    latents, adapter = latents_for(own_host), moved(own_host)
    with ml.mounted(own_host, [(adapter, 1.0)]):
        expected = predict(own_host, latents)
    options = {"num_blocks_per_group": 1} if level == "block_level" else {}
    cpu = torch.device("cpu")
    own_host.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type=level, **options)
    with ml.mounted(own_host, [(adapter, 1.0)]):
        assert torch.allclose(predict(own_host, latents), expected, atol=1e-6)
    predict(own_host, latents)


def test_caches_stack_on_top_of_wan() -> None:
    """The first step under a cache is exact, and leaving in either order restores the host."""
    from diffusers import FirstBlockCacheConfig

    host = small_wan()
    latents, adapter = latents_for(host), moved(host)
    before = predict(host, latents)
    with ml.mounted(host, [(adapter, 1.0)]):
        expected = predict(host, latents)
        host.enable_cache(FirstBlockCacheConfig(threshold=0.1))
        with host.cache_context("cond"):
            assert torch.equal(predict(host, latents), expected)
        host.disable_cache()
        assert torch.equal(predict(host, latents), expected)
    assert torch.equal(predict(host, latents), before)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("make", "blocks"),
    [(small_wan, ["WanTransformerBlock"]), (small_unet, ["BasicTransformerBlock", "ResnetBlock2D"])],
)
def test_compiled_blocks(make: Any, blocks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    host = make()
    latents, adapter = latents_for(host), moved(host)
    with ml.mounted(host, [(adapter, 1.0)]):
        expected = predict(host, latents)
    monkeypatch.setattr(type(host), "_repeated_blocks", blocks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        host.compile_repeated_blocks(backend="eager")
        with ml.mounted(host, [(adapter, (0.5, 1.5))]):
            context_of(host).at(0.5)
            assert torch.allclose(predict(host, latents), expected, atol=1e-5)
            predict(host, latents)
            with torch._dynamo.config.patch(error_on_recompile=True):
                for progress in (0.6, 0.7):  # steps and weights change without compiling again
                    context_of(host).at(progress)
                    predict(host, latents, 1000 * progress)


def test_half_precision_host_with_a_float_adapter(own_host: Any) -> None:
    """Side branches compute in the adapter's own precision and hand back the host's."""
    latents, adapter = latents_for(own_host), moved(own_host)
    with ml.mounted(own_host, [(adapter, 1.0)]):
        expected = predict(own_host, latents)
    own_host.to(torch.bfloat16)
    with torch.no_grad(), ml.mounted(own_host, [(adapter, 1.0)]):
        got = own_host(latents.bfloat16(), torch.tensor([500.0]), encoder_hidden_states=None).sample
    assert got.dtype == torch.bfloat16
    assert float((got.float() - expected).norm() / expected.norm()) < 0.05


def test_autocast() -> None:
    """On a U-Net; Wan's own norms warn under autocast, with adapters or without."""
    host = small_unet()
    latents, adapter = latents_for(host), moved(host)
    with ml.mounted(host, [(adapter, 1.0)]):
        expected = predict(host, latents)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            mixed = host(latents, 500, encoder_hidden_states=None).sample
    assert float((mixed.float() - expected).norm() / expected.norm()) < 0.05


def test_two_hosts_do_not_share_a_context() -> None:
    one, other = small_wan(), small_wan()
    a, b, latents = moved(one, 1), moved(other, 2), latents_for(one)
    with ml.mounted(one, [(a, 1.0)]):
        expected = predict(one, latents)
        with ml.mounted(other, [(b, (1, 0))]):
            context_of(other).at(1.0)
            predict(other, latents_for(other, 2))
            assert context_of(one) is not context_of(other)
        assert torch.equal(predict(one, latents), expected)


def test_deep_copies_and_pickles_stay_possible(own_host: Any) -> None:
    """Adapters are plain modules: they copy, move and count like any other."""
    import copy

    adapter = moved(own_host)
    twin = copy.deepcopy(adapter)
    assert twin.num_parameters == adapter.num_parameters
    assert {p.dtype for p in twin.half().parameters()} == {torch.float16}

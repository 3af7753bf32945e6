"""Stage-1 text adapter: identity, gradients, hosts, files. Reference numbers: tests/parity/dynamicrafter."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNetMotionModel
from torch import Tensor, nn

from motionloom.adapters.text_adapter import TextAdapter, temporal_widths
from motionloom.denoisers.dynamicrafter.parts import TINY, build_random
from motionloom.denoisers.dynamicrafter.unet import DynamiCrafterUNet
from motionloom.errors import StateError, WeightsError
from motionloom.weights import read_metadata, save_weights


@pytest.fixture(scope="module")
def unet() -> DynamiCrafterUNet:
    return build_random(TINY).unet


def call(unet: nn.Module, frames: int = 4, text: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 8, frames, 4, 4, generator=generator)
    context = torch.randn(2, 77 + 16 * frames, 32, generator=generator)
    context[:, :77] *= text
    out: Tensor = unet(latents, torch.tensor([500, 20]), context, torch.tensor([24.0, 8.0]))
    return out


@torch.no_grad()
def test_identity_changes_no_bit_and_the_released_start_does(unet: DynamiCrafterUNet) -> None:
    plain = call(unet)
    with TextAdapter.of(unet).mounted(unet):
        assert torch.equal(call(unet), plain)
    random = TextAdapter.of(unet, init="released")
    with random.mounted(unet):
        assert not torch.allclose(call(unet), plain, atol=1e-3)
        random.strength = 0.0
        assert torch.equal(call(unet), plain)
        random.strength = dict.fromkeys(random.layers, 0.0)
        assert torch.equal(call(unet), plain)
    assert torch.equal(call(unet), plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


@torch.no_grad()
def test_the_projection_is_that_of_the_joined_features(unet: DynamiCrafterUNet) -> None:
    adapter = TextAdapter.of(unet, init="released")
    name, d = next(iter(adapter.layers.items()))
    x, adapter._context = torch.randn(2 * 3, 4, d), torch.randn(2, 4, 32)
    joined = torch.cat([x, adapter._context.repeat_interleave(3, dim=0)], dim=-1)
    assert torch.allclose(adapter._inject(name, x), adapter._projection(name)(joined), atol=1e-5)


def test_every_tensor_learns_within_two_steps(unet: DynamiCrafterUNet) -> None:
    adapter = TextAdapter.of(unet)
    before = {name: value.clone() for name, value in adapter.state_dict().items()}
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-3, weight_decay=0.0)
    with adapter.mounted(unet):
        for _ in range(2):
            optimizer.zero_grad()
            call(unet).square().mean().backward()
            optimizer.step()
    unchanged = [name for name, value in adapter.state_dict().items() if torch.equal(value, before[name])]
    assert unchanged == []


@torch.no_grad()
def test_it_reads_the_text_and_any_number_of_frames(unet: DynamiCrafterUNet) -> None:
    adapter = TextAdapter.of(unet, init="released")
    with adapter.mounted(unet):
        assert call(unet, frames=7).shape == (2, 4, 7, 4, 4)
        assert not torch.equal(call(unet), call(unet, text=0.5))
    adapter.queries.copy_(
        adapter.queries[:1].clone().expand_as(adapter.queries)
    )  # equal queries give equal answers at any length
    context = adapter.temporal_context(torch.randn(1, 77, 32), 23)
    assert torch.allclose(context, context[:, :1].expand_as(context), atol=1e-5)


@torch.no_grad()
def test_joined_it_is_part_of_the_network(unet: DynamiCrafterUNet) -> None:
    adapter = TextAdapter.of(unet, init="released")
    count = len(unet.state_dict())
    with adapter.mounted(unet):
        told = call(unet)
        for second in (adapter, TextAdapter.of(unet)):
            with pytest.raises(StateError):
                second.join(unet)
    adapter.join(unet)
    assert torch.equal(call(unet), told)
    assert len(unet.state_dict()) == count + len(adapter.state_dict())
    with pytest.raises(StateError), TextAdapter.of(unet).mounted(unet):
        pass
    adapter.leave(unet)
    assert len(unet.state_dict()) == count


@torch.no_grad()
def test_files(unet: DynamiCrafterUNet) -> None:
    adapter = TextAdapter.of(unet, init="released")
    adapter.save("a.safetensors", base="tiny-dynamicrafter", trained={"steps": 3})
    again = TextAdapter.load("a.safetensors", unet)
    assert all(torch.equal(value, adapter.state_dict()[name]) for name, value in again.state_dict().items())
    metadata = read_metadata("a.safetensors")
    assert metadata["motionloom.kind"] == "text_adapter" and '"steps": 3' in metadata["motionloom.train"]
    other = TINY.model_copy(update={"unet": TINY.unet.model_copy(update={"model_channels": 64})})
    with torch.device("meta"):
        wider = DynamiCrafterUNet(other.unet)
    with pytest.raises(WeightsError, match="was made for"):
        TextAdapter.load("a.safetensors", wider)
    save_weights("b.safetensors", adapter.state_dict(), {"motionloom.kind": "motion_adapter"})
    with pytest.raises(WeightsError, match="kind motion_adapter"):
        TextAdapter.load("b.safetensors")
    tensors = {name: value for name, value in adapter.state_dict().items() if name != "queries"}
    save_weights("c.safetensors", tensors, {k: v for k, v in metadata.items() if k != "motionloom.sha256"})
    with pytest.raises(WeightsError, match="missing"):
        TextAdapter.load("c.safetensors")
    with pytest.raises(WeightsError, match="0 temporal transformers"):
        TextAdapter({}, 32)


@torch.no_grad()
def test_animatediff_motion_modules_read_text_too() -> None:
    host = UNetMotionModel(
        block_out_channels=(32, 64),
        norm_num_groups=8,
        layers_per_block=1,
        cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        num_attention_heads=2,
        motion_num_attention_heads=2,
        use_motion_mid_block=False,
    ).eval()
    latents, text = torch.randn(2, 4, 5, 8, 8), torch.randn(2, 77, 32)
    per_frame = text.repeat_interleave(5, dim=0)
    plain = host(latents, 10, encoder_hidden_states=per_frame).sample
    assert len(temporal_widths(host)) == 6
    with TextAdapter.of(host).mounted(host):
        assert torch.equal(host(latents, 10, encoder_hidden_states=per_frame).sample, plain)
    random = TextAdapter.of(host, init="released")
    with random.mounted(host):
        told = host(latents, 10, encoder_hidden_states=per_frame).sample
        assert torch.allclose(random._context, random.temporal_context(text, 5))
    assert not torch.allclose(told, plain, atol=1e-4)
    assert torch.equal(host(latents, 10, encoder_hidden_states=per_frame).sample, plain)

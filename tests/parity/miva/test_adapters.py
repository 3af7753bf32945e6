"""Adapters against the reference numbers: whole networks, and every part alone."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNetMotionModel, WanTransformer3DModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

import motionloom as ml
from motionloom.adapters import attention_bias as biases
from motionloom.adapters.attend import keys, queries, values
from motionloom.adapters.cross_frame_attention import CrossFrameAttention, KeysValues
from motionloom.adapters.low_rank import TemporalSelfAttention
from motionloom.adapters.official import renamed_keys
from motionloom.adapters.settings import CrossFrame, Masks, TemporalLowRank, TextFree
from motionloom.adapters.text_free_attention import TextFreeCrossAttention
from tests.parity.miva.case import MivaCase, read_miva_case

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0."
MODULE = "down_blocks.0.motion_modules.0.transformer_blocks.0."


@pytest.fixture(scope="module")
def unet() -> tuple[MivaCase, UNetMotionModel, ml.Adapter]:
    case = read_miva_case("unet_single")
    config = dict(case.manifest["config"]["unet"])
    config["block_out_channels"] = tuple(config["block_out_channels"])
    network = UNetMotionModel(**config).eval()
    kept = network.load_state_dict(case.base_weights(), strict=False)
    assert not kept.unexpected_keys and all(key.endswith("pos_embed.pe") for key in kept.missing_keys)
    return case, network, ml.adapter_from_official(case.adapter_weights(), network)


@pytest.mark.parametrize(
    ("mode", "expected"), [("per_frame", "noise_pred"), ("joint", "noise_pred_joint_gn")]
)
@torch.no_grad()
def test_unet(unet: tuple[MivaCase, UNetMotionModel, ml.Adapter], mode: str, expected: str) -> None:
    case, network, adapter = unet
    anything = torch.ones(case.manifest["config"]["frames"], 1, 24)
    with ml.mounted(network, [(adapter, 1.0)], group_norm=mode) as host:
        case.check(expected, host(case.tensors["latents"], 441, encoder_hidden_states=anything).sample)


@torch.no_grad()
def test_weighting_of_every_unet_block(unet: tuple[MivaCase, UNetMotionModel, ml.Adapter]) -> None:
    case, network, adapter = unet
    embedding = network.time_embedding(network.time_proj(torch.tensor([441])))
    parts = dict(adapter.spatial())
    blocks = case.manifest["outputs"]["lambda_first"]["layers"]
    first = [parts[path].cfa.weighting(embedding)[0, 0] for path in blocks]
    case.check("lambda_first", torch.stack(first)[None])


@torch.no_grad()
def test_wan() -> None:
    case = read_miva_case("wan_block")
    network = WanTransformer3DModel(**case.manifest["config"]["transformer"]).eval()
    network.load_state_dict(case.base_weights())
    adapter = ml.adapter_from_official(case.adapter_weights(), network, temperature=1.0)
    with ml.mounted(network, [(adapter, 1.0)]) as host:
        timestep = torch.tensor([case.manifest["config"]["timestep"]])
        case.check("velocity", host(case.tensors["latents"], timestep, encoder_hidden_states=None).sample)


def _attention(case: MivaCase, prefix: str) -> Attention:
    """The frozen attention of a case; projections it does not list stay random and must not matter."""
    attn = Attention(320, heads=8, dim_head=40)
    weights = {key.removeprefix(prefix): value for key, value in case.base_weights().items()}
    assert not attn.load_state_dict(weights, strict=False).unexpected_keys
    return attn


@torch.no_grad()
def test_cross_frame_attention() -> None:
    case = read_miva_case("cfa_layer")
    attn = _attention(case, BLOCK + "attn1.")
    cfa = CrossFrameAttention(320, 1280, CrossFrame(), query_bias=False, masked=False)
    renamed = renamed_keys(case.adapter_weights(), "the case")
    cfa.load_state_dict({key.removeprefix(BLOCK + "miva.cfa."): value for key, value in renamed.items()})
    x, temb = case.tensors["x"][None], case.tensors["temb"]
    case.check("cfa", cfa(x, KeysValues(keys(attn, x), values(attn, x)), attn, temb)[0])
    case.check("lambda", cfa.weighting(temb)[0])
    case.check("lambda_batch", cfa.weighting(case.tensors["temb_batch"]))


@torch.no_grad()
def test_text_free_cross_attention() -> None:
    case = read_miva_case("ca_mlp")
    attn = _attention(case, BLOCK + "attn2.")
    ca = TextFreeCrossAttention(320, TextFree())
    renamed = renamed_keys(case.adapter_weights(), "the case")
    ca.load_state_dict({key.removeprefix(BLOCK + "miva.ca."): value for key, value in renamed.items()})
    case.check("ca", ca(queries(attn, case.tensors["x"])))


@torch.no_grad()
def test_temporal_self_attention() -> None:
    case = read_miva_case("tsa_lora")
    attn = _attention(case, MODULE + "attn1.")
    part = TemporalSelfAttention(320, TemporalLowRank())
    renamed = renamed_keys(case.adapter_weights(), "the case")
    part.load_state_dict({key.removeprefix(MODULE + "attn1."): value for key, value in renamed.items()})
    rows = _with_positions(case.tensors["x"]).transpose(0, 1)  # (locations, F, C)
    frozen = attn.to_q(rows), attn.to_k(rows), attn.to_v(rows)
    case.check("tsa", part(rows, frozen, attn, None).transpose(0, 1))


def _with_positions(x: Tensor) -> Tensor:
    from diffusers.models.embeddings import SinusoidalPositionalEmbedding

    table = SinusoidalPositionalEmbedding(x.shape[-1], max_seq_length=32)
    return table(x.transpose(0, 1)).transpose(0, 1)


def test_mask_biases() -> None:
    case = read_miva_case("mask_bias")
    s = case.tensors["confidence"][None]
    released = Masks(pooling="log_bias", first_sees_itself=False)
    case.check("bias_first_prev", biases.cross_frame_bias(s, (8, 12), released)[0])
    case.check("bias_first_prev_r2", biases.cross_frame_bias(s, (4, 6), released)[0])
    case.check("bias_first_prev_r4", biases.cross_frame_bias(s, (2, 3), released)[0])
    case.check("bias_self_r2", biases.self_bias(s, (4, 6), released)[0])
    case.check("bias_temporal", biases.temporal_bias(s, (8, 12))[0].unflatten(0, (8, 12)))
    case.check("ca_gate_r2", biases.gate(s, (4, 6), released)[0])
    ours = Masks(first_sees_itself=False)
    case.check("bias_first_prev_r2_poolfirst", biases.cross_frame_bias(s, (4, 6), ours)[0])

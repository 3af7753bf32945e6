"""Names under which the official files of AnimateDiff, Stable Diffusion and Wan keep the tensors of diffusers models.

Written from the official modules, not from the converters they are used to test. Values are kept, but for the attention of
Stable Diffusion's autoencoder, whose linear layers are 1 x 1 convolutions there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def renamed(name: str, pairs: Mapping[str, str]) -> str:
    for old, new in pairs.items():
        name = name.replace(old, new)
    return name


def motion_module(tensors: Tensors) -> dict[str, Tensor]:
    """A diffusers `MotionAdapter` as v3_sd15_mm, its sinusoidal position tables included."""
    names = {
        ".attn1.": ".attention_blocks.0.", ".attn2.": ".attention_blocks.1.",
        ".norm1.": ".norms.0.", ".norm2.": ".norms.1.", ".norm3.": ".ff_norm.",
    }  # fmt: skip
    out = {}
    for name, value in tensors.items():
        if "pos_embed" in name:
            continue
        head, module, rest = re.match(r"(.*\.motion_modules\.)(\d+)\.(.*)", name).groups()  # type: ignore[union-attr]
        out[f"{head}{module}.temporal_transformer.{renamed(rest, names)}"] = value
        if name.endswith("to_q.weight"):
            block = renamed(rest, names).split(".to_q")[0]
            table = position_table(32, value.shape[1])
            out[f"{head}{module}.temporal_transformer.{block}.pos_encoder.pe"] = table
    return out


def position_table(length: int, width: int) -> Tensor:
    """(1, length, width): sine in even columns, cosine in odd ones."""
    table = torch.zeros(1, length, width)
    for position in range(length):
        for pair in range(width // 2):
            angle = torch.tensor(position / 10_000 ** (2 * pair / width))
            table[0, position, 2 * pair], table[0, position, 2 * pair + 1] = angle.sin(), angle.cos()
    return table


RESNET = {
    "norm1.": "in_layers.0.", "conv1.": "in_layers.2.", "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.", "conv2.": "out_layers.3.", "conv_shortcut.": "skip_connection.",
}  # fmt: skip
UNET_ENDS = {
    "conv_in.": "input_blocks.0.0.", "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.", "conv_norm_out.": "out.0.", "conv_out.": "out.2.",
}  # fmt: skip


def stable_diffusion(unet: Tensors, autoencoder: Tensors, layers_per_block: int) -> dict[str, Tensor]:
    """A whole checkpoint: U-Net, autoencoder, and what belongs to neither."""
    with_attention = {key.split(".attentions")[0] for key in unet if ".attentions." in key}
    out = {
        "model.diffusion_model." + unet_name(name, layers_per_block, with_attention): value
        for name, value in unet.items()
    }
    last = max(int(name.split(".")[2]) for name in autoencoder if name.startswith("decoder.up_blocks."))
    for name, value in autoencoder.items():
        official = "first_stage_model." + autoencoder_name(name, last)
        out[official] = value[..., None, None] if ".attn_1." in official and value.ndim == 2 else value
    out["cond_stage_model.transformer.text_model.final_layer_norm.weight"] = torch.ones(8)
    out["alphas_cumprod"] = torch.ones(1000)
    return {name: value.contiguous() for name, value in out.items()}


def unet_name(name: str, layers: int, with_attention: set[str]) -> str:
    for ours, theirs in UNET_ENDS.items():
        if name.startswith(ours):
            return name.replace(ours, theirs, 1)
    parts = name.split(".")
    if parts[0] == "mid_block":
        place = {"resnets": 2 * int(parts[2]), "attentions": 1}[parts[1]]
        return f"middle_block.{place}." + inner(parts[1], ".".join(parts[3:]))
    block, kind, index, rest = int(parts[1]), parts[2], int(parts[3]), ".".join(parts[4:])
    if parts[0] == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op." + rest.removeprefix("conv.")
        place = 1 + block * (layers + 1) + index
        return f"input_blocks.{place}.{int(kind == 'attentions')}." + inner(kind, rest)
    if kind == "upsamplers":
        slot = 2 if f"up_blocks.{block}" in with_attention else 1
        return f"output_blocks.{block * (layers + 1) + layers}.{slot}.{rest}"
    return f"output_blocks.{block * (layers + 1) + index}.{int(kind == 'attentions')}." + inner(kind, rest)


def inner(kind: str, rest: str) -> str:
    return renamed(rest, RESNET) if kind == "resnets" else rest


def autoencoder_name(name: str, last_up_block: int) -> str:
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(
        r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{last_up_block - int(m[1])}.block.{m[2]}", name
    )
    name = re.sub(
        r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last_up_block - int(m[1])}.upsample", name
    )
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        pairs = {
            "mid_block.attentions.0": "mid.attn_1", "group_norm": "norm", "to_q": "q", "to_k": "k",
            "to_v": "v", "to_out.0": "proj_out",
        }  # fmt: skip
        return renamed(name, pairs)
    return renamed(name, {"conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut"})


WAN = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    ".attn1.": ".self_attn.", ".attn2.": ".cross_attn.",
    ".to_out.0.": ".o.", ".to_q.": ".q.", ".to_k.": ".k.", ".to_v.": ".v.",
    ".ffn.net.0.proj.": ".ffn.0.", ".ffn.net.2.": ".ffn.2.", ".norm2.": ".norm3.",
    "proj_out.": "head.head.",
}  # fmt: skip


def wan_transformer(tensors: Tensors) -> dict[str, Tensor]:
    out = {}
    for name, value in tensors.items():
        table = "head.modulation" if name == "scale_shift_table" else None
        out[table or renamed(name, WAN).replace(".scale_shift_table", ".modulation")] = value
    return out


WAN_RESIDUAL = {
    ".norm1.": ".residual.0.", ".conv1.": ".residual.2.", ".norm2.": ".residual.3.",
    ".conv2.": ".residual.6.", ".conv_shortcut.": ".shortcut.",
}  # fmt: skip


def wan_autoencoder(tensors: Tensors) -> dict[str, Tensor]:
    return {wan_autoencoder_name(name): value for name, value in tensors.items()}


def wan_autoencoder_name(name: str) -> str:
    ends = {
        "post_quant_conv.": "conv2.", "quant_conv.": "conv1.", "coder.conv_in.": "coder.conv1.",
        "coder.norm_out.": "coder.head.0.", "coder.conv_out.": "coder.head.2.",
    }  # fmt: skip
    for ours, theirs in ends.items():
        if ours in name:
            return name.replace(ours, theirs)
    name = name.replace("mid_block.attentions.0.", "middle.1.")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"middle.{2 * int(m[1])}", name)
    name = name.replace("down_blocks.", "downsamples.")
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"upsamples.{4 * int(m[1]) + int(m[2])}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"upsamples.{4 * int(m[1]) + 3}", name)
    return renamed(name, WAN_RESIDUAL)

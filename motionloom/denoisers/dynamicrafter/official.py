"""The official checkpoint's tensor names, and ours.

One function a part maps the names of `model.ckpt` (Doubiiu/DynamiCrafter; CIL and EDG share them) to the names
of the module that holds the part here. Shapes agree except where a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from motionloom.denoisers.dynamicrafter.unet import UNetConfig
from motionloom.errors import WeightsError

UNET_PREFIX = "model.diffusion_model."
OTHER_PARTS = ("first_stage_model.", "cond_stage_model.", "embedder.", "image_proj_model.")
ADAPTER_KEY = re.compile(r"^queries$|^qformer\.|\.cc_projection\.")
BUFFERS = frozenset(
    {
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "scale_arr",
    }
)

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_SINGLE = {
    "time_embed.0": "time_embedding.time.linear_1",
    "time_embed.2": "time_embedding.time.linear_2",
    "fps_embedding.0": "time_embedding.rate.linear_1",
    "fps_embedding.2": "time_embedding.rate.linear_2",
    "framestride_embed.0": "time_embedding.rate.linear_1",  # the 256 checkpoint's name
    "framestride_embed.2": "time_embedding.rate.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_ATTENTION = {1: "attentions", 2: "temp_attentions"}


def unet_tensors(official: Mapping[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """The tensors of the video network (and of its stage-1 adapter) under our names.

    Names may carry "model.diffusion_model." or not; tensors of the model's other parts are left aside.

    Raises:
        WeightsError: names that belong to no part, or that name one tensor twice.
    """
    ours: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in official.items():
        if key in BUFFERS or key.startswith(OTHER_PARTS):
            continue
        found = unet_tensor(key, tensor, config)
        if not found or found.keys() & ours.keys():
            unknown.append(key)
        ours |= found
    if unknown:
        raise WeightsError(
            f"{len(unknown)} of {len(official)} tensors belong to no DynamiCrafter UNet: "
            f"{', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}",
            fix="give the state dict of model.ckpt and the configuration of the same model",
        )
    return ours


def unet_tensor(key: str, tensor: Tensor, config: UNetConfig) -> dict[str, Tensor]:
    """Our tensor of one of the video network's; {} for an unknown one."""
    name = unet_name(key.removeprefix(UNET_PREFIX), config)
    return {} if name is None else {name: tensor.squeeze(-1) if _is_input_projection(key) else tensor}


def unet_name(key: str, config: UNetConfig) -> str | None:
    """Our name of an official tensor of the video network; None: there is no such tensor."""
    if key == "queries":
        return "text_adapter.queries"
    if key.startswith("qformer."):
        return "text_adapter.attention." + key.removeprefix("qformer.")
    module, _, leaf = key.rpartition(".")
    place = _place(module, config)
    if place is None:
        return None
    if place.endswith(".cc_projection"):
        host = place.removesuffix(".cc_projection").replace(".", "-")
        return f"text_adapter.projections.{host}.{leaf}"
    if leaf == "alpha" and place.endswith(".attn2"):
        return f"network.{place}.processor.gate"
    return f"network.{place}.{leaf}"


def _place(module: str, config: UNetConfig) -> str | None:
    """The module of the diffusers network that an official module is."""
    if module in _SINGLE:
        return _SINGLE[module]
    if module.startswith("init_attn.0."):
        return f"transformer_in.{module.removeprefix('init_attn.0.')}"
    found = re.fullmatch(r"(input_blocks|output_blocks)\.(\d+)\.(\d+)\.(.+)|middle_block\.(\d)\.(.+)", module)
    if found is None:
        return None
    side, block, part, rest, middle, middle_rest = found.groups()
    if middle is not None:
        index = int(middle)
        if index in _ATTENTION:
            return f"mid_block.{_ATTENTION[index]}.0.{_transformer(middle_rest)}"
        return _resnet("mid_block", {0: 0, 3: 1}.get(index, -1), middle_rest)
    layers, number = config.num_res_blocks, int(part)
    if side == "input_blocks":
        level, layer = divmod(int(block) - 1, layers + 1)
        if layer == layers:
            return f"down_blocks.{level}.downsamplers.0.conv" if rest == "op" else None
        at = f"down_blocks.{level}"
    else:
        level, layer = divmod(int(block), layers + 1)
        at = f"up_blocks.{level}"
        if rest == "conv":
            return f"{at}.upsamplers.0.conv"
    if number in _ATTENTION:
        return f"{at}.{_ATTENTION[number]}.{layer}.{_transformer(rest)}"
    return _resnet(at, layer, rest)


def _resnet(at: str, layer: int, rest: str) -> str | None:
    if rest.startswith("temopral_conv."):  # as the checkpoint spells it
        return f"{at}.temp_convs.{layer}.{rest.removeprefix('temopral_conv.')}"
    return f"{at}.resnets.{layer}.{_RESNET[rest]}" if rest in _RESNET else None


def _transformer(rest: str) -> str:
    """Image keys and values live in the attention's processor."""
    return re.sub(r"\.(to_[kv]_ip)$", r".processor.\1.0", rest)


def _is_input_projection(key: str) -> bool:
    """Kernel-1 convolutions (o, i, 1) that are linear layers (o, i) here."""
    return bool(re.search(r"init_attn\.0\.proj_(in|out)\.weight$", key))


# --- the other parts ----------------------------------------------------------------------------------------

_CLIP_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_TEXT = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_VISION = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
_RESAMPLER = {
    "0.norm1": "ln0",
    "0.norm2": "ln1",
    "0.to_q": "attn.to_q",
    "0.to_out": "attn.to_out.0",
    "1.0": "ff.0",
    "1.1": "ff.1.net.0.proj",
    "1.3": "ff.1.net.2",
}
TEXT_PREFIX, VISION_PREFIX = "cond_stage_model.model.", "embedder.model.visual."
VAE_PREFIX, RESAMPLER_PREFIX = "first_stage_model.", "image_proj_model."
UNUSED = frozenset(
    {
        "cond_stage_model.model.text_projection",
        "cond_stage_model.model.logit_scale",
        "embedder.model.positional_embedding",
        "embedder.model.text_projection",
        "embedder.model.logit_scale",
        "embedder.model.visual.proj",
        "embedder.model.token_embedding.weight",
        "embedder.model.ln_final.weight",
        "embedder.model.ln_final.bias",
    }
)
"""Tensors that a checkpoint carries and no part reads, besides the BUFFERS of its schedule."""


def part_of(key: str) -> str | None:
    """The folder an official tensor belongs to; "" for one that nothing reads, None for an unknown one."""
    if key in BUFFERS or key in UNUSED:
        return ""
    prefixes = {
        UNET_PREFIX: "unet",
        VAE_PREFIX: "vae",
        TEXT_PREFIX: "text_encoder",
        VISION_PREFIX: "image_encoder",
        RESAMPLER_PREFIX: "image_projection",
    }
    found = next((part for prefix, part in prefixes.items() if key.startswith(prefix)), None)
    return "unet" if found is None and ADAPTER_KEY.search(key) else found


def text_tensors(key: str, tensor: Tensor) -> dict[str, Tensor]:
    """Our tensors of one of the text encoder's; {} for an unknown one."""
    return _clip_tensors(key.removeprefix(TEXT_PREFIX), tensor, _TEXT)


def vision_tensors(key: str, tensor: Tensor) -> dict[str, Tensor]:
    """Our tensors of one of the image encoder's; {} for an unknown one."""
    return _clip_tensors(key.removeprefix(VISION_PREFIX), tensor, _VISION)


def resampler_tensors(key: str, tensor: Tensor) -> dict[str, Tensor]:
    """Our tensors of one of the resampler's: keys and values are one matrix there, two here."""
    rest = key.removeprefix(RESAMPLER_PREFIX)
    found = re.fullmatch(r"layers\.(\d+)\.(.+)\.(weight|bias)", rest)
    if found is None:
        return {rest: tensor}
    layer, module, leaf = found.groups()
    if module == "0.to_kv":
        k, v = tensor.chunk(2)
        return {f"layers.{layer}.attn.to_k.{leaf}": k, f"layers.{layer}.attn.to_v.{leaf}": v}
    return {f"layers.{layer}.{_RESAMPLER[module]}.{leaf}": tensor} if module in _RESAMPLER else {}


def _clip_tensors(rest: str, tensor: Tensor, single: Mapping[str, str]) -> dict[str, Tensor]:
    """OpenCLIP keeps queries, keys and values in one matrix, transformers in three."""
    if rest in single:
        return {single[rest]: tensor}
    found = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)", rest)
    if found is None:
        return {}
    layer, module, leaf = found.groups()
    at = f"encoder.layers.{layer}"
    if module == "attn.in_proj":
        return {
            f"{at}.self_attn.{name}_proj.{leaf}": third
            for name, third in zip("qkv", tensor.chunk(3), strict=True)
        }
    return {f"{at}.{_CLIP_BLOCK[module]}.{leaf}": tensor} if module in _CLIP_BLOCK else {}

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
        WeightsError: names that belong to no part.
    """
    ours: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in official.items():
        if key in BUFFERS or key.startswith(OTHER_PARTS):
            continue
        name = unet_name(key.removeprefix(UNET_PREFIX), config)
        if name is None or name in ours:
            unknown.append(key)
            continue
        ours[name] = tensor.squeeze(-1) if _is_input_projection(key) else tensor
    if unknown:
        raise WeightsError(
            f"{len(unknown)} of {len(official)} tensors belong to no DynamiCrafter UNet: "
            f"{', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}",
            fix="give the state dict of model.ckpt and the configuration of the same model",
        )
    return ours


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

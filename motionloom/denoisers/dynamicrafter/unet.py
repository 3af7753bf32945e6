"""DynamiCrafter's video network (arXiv 2310.12190, section 3.2) from the parts of diffusers.

`UNet3DConditionModel` holds the spatial and temporal layers. Two things are added: an embedding of the frame
rate, summed to that of the timestep, and in each spatial cross-attention a second pair of keys and values for
image tokens:

    out = W_o (attn(q, text) + g attn(q, image)),     g = 1, or 1 + tanh(gate) where it is learned (256 model)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from motionloom.errors import ConfigError, InputError, WeightsError
from motionloom.weights import load_strictly

if TYPE_CHECKING:
    from motionloom.adapters.text_adapter import TextAdapter

TEXT_TOKENS = 77
IMAGE_TOKENS_PER_FRAME = 16
TRAINED_FRAMES = 16

_LAYERS = (Transformer2DModel, TransformerTemporalModel, ResnetBlock2D, TemporalConvLayer)
_ImageAttention: Any = IPAdapterAttnProcessor2_0  # its annotations leave out the images it takes
_UNet3D: Any = UNet3DConditionModel


class UNetConfig(BaseModel):
    """The `unet_config` of the official YAML files. Fields that admit one value name a part that every released
    model has; another value is refused rather than ignored.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    in_channels: int = Field(default=8, description="noisy latent and image latent")
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (4, 2, 1)
    num_head_channels: int = 64
    context_dim: int = 1024
    dropout: float = 0.1
    temporal_length: int = TRAINED_FRAMES
    default_fs: int = Field(
        default=24, description="frame rate (512, 1024) or frame stride (256) when none is given"
    )
    image_cross_attention_scale_learnable: bool = False
    temporal_selfatt_only: bool = Field(
        default=True, description="false: with the text adapter of arXiv 2503.00948"
    )
    use_checkpoint: bool = Field(default=False, description="of the official code; has no effect here")
    transformer_depth: Literal[1] = 1
    dims: Literal[2] = 2
    use_linear: Literal[True] = True
    temporal_conv: Literal[True] = True
    temporal_attention: Literal[True] = True
    use_relative_position: Literal[False] = False
    use_causal_attention: Literal[False] = False
    tempspatial_aware: Literal[False] = False
    addition_attention: Literal[True] = True
    image_cross_attention: Literal[True] = True
    fs_condition: Literal[True] = True

    @classmethod
    def of(cls, values: UNetConfig | Mapping[str, Any]) -> UNetConfig:
        """From the section of a YAML file, with or without its `target` and `params`.

        Raises:
            ConfigError: an unknown key, or a value that this network cannot have.
        """
        if isinstance(values, UNetConfig):
            return values
        given = dict(values)
        if "params" in given:
            given = dict(given["params"])
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            told = "; ".join(
                f"{'.'.join(map(str, one['loc']))}: {one['msg'].lower()}, got {one['input']!r}"
                for one in error.errors(include_url=False)
            )
            raise ConfigError(
                f"the configuration is no DynamiCrafter UNet: {told}",
                fix="give model.params.unet_config of the checkpoint's own YAML file",
            ) from None


class DynamiCrafterUNet(nn.Module):
    """The video network.

    Args:
        config: sizes; those of the 512 and 1024 model by default.

    Attributes:
        network: the diffusers network, whose module names adapters and group tables go by.
        text_adapter: the stage-1 adapter of arXiv 2503.00948, or None; `TextAdapter.join` and `leave` put it
            here, and while it is here it is part of the network and of its state.
    """

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or UNetConfig()
        self.network = _network(config)
        self.text_adapter: TextAdapter | None = None

    def forward(self, latents: Tensor, timesteps: Tensor, context: Tensor, fps: Tensor) -> Tensor:
        """One prediction of the velocity.

        Args:
            latents: (B, 8, F, h, w): the noisy latent, then the image latent, on the channels.
            timesteps: (B,), 0..999.
            context: (B, 77 + 16 F, width): text tokens, then 16 image tokens of each frame in frame order.
            fps: (B,), frames per second of the clip (512 and 1024 model) or frame stride (256 model).

        Returns:
            (B, 4, F, h, w).

        Raises:
            InputError: shapes that do not belong together. The official network silently shows every frame
                all image tokens when their number does not fit; here that is refused.
        """
        self._check(latents, timesteps, context, fps)
        predicted: Tensor = self.network(latents, timesteps, context, timestep_cond=fps, return_dict=False)[0]
        return predicted

    def checkpoint_gradients(self) -> None:
        """From now on, training keeps the inputs of layers alone and computes them again in the backward pass."""
        for module in self.network.modules():
            if isinstance(module, _LAYERS):
                module.forward = partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]

    def _check(self, latents: Tensor, timesteps: Tensor, context: Tensor, fps: Tensor) -> None:
        batch, channels, frames = latents.shape[:3] if latents.ndim == 5 else (0, 0, 0)
        expected = (batch, TEXT_TOKENS + IMAGE_TOKENS_PER_FRAME * frames, self.config.context_dim)
        if channels != self.config.in_channels:
            raise InputError(
                f"got latents of shape {tuple(latents.shape)}, expected (batch, {self.config.in_channels}, "
                "frames, height, width)",
                fix="join the noisy latent and the image latent on the channels",
            )
        if tuple(context.shape) != expected:
            raise InputError(
                f"got a context of shape {tuple(context.shape)}, expected {expected}: {TEXT_TOKENS} text tokens "
                f"and {IMAGE_TOKENS_PER_FRAME} image tokens for each of {frames} frames",
                fix="spread the image tokens over the frames with motionloom.conditions.image_tokens.for_frames",
            )
        if tuple(timesteps.shape) != (batch,) or tuple(fps.shape) != (batch,):
            raise InputError(
                f"got timesteps of shape {tuple(timesteps.shape)} and fps of shape {tuple(fps.shape)}, "
                f"expected ({batch},) of both",
                fix="give one of each per clip",
            )


def dynamicrafter_unet(
    official_state_dict: Mapping[str, Tensor], unet_config: UNetConfig | Mapping[str, Any]
) -> DynamiCrafterUNet:
    """The video network of an official checkpoint.

    Args:
        official_state_dict: tensors named as in `model.ckpt`, with or without "model.diffusion_model."; the
            model's other parts may be among them and are left aside. The tensors of a stage-1 adapter
            (`queries`, `qformer.*`, `*.cc_projection.*`), if there, make the adapter part of the network.
        unet_config: `unet_config` of the official YAML.

    Returns:
        the network, in evaluation mode and float32.

    Raises:
        WeightsError: names the tensors that are missing, unknown or of another shape.
        ConfigError: the configuration is not one of this network.
    """
    from motionloom.adapters.text_adapter import TextAdapter
    from motionloom.denoisers.dynamicrafter.official import unet_tensors

    config = UNetConfig.of(unet_config)
    tensors = unet_tensors(official_state_dict, config)
    has_adapter = "text_adapter.queries" in tensors
    if not (has_adapter or config.temporal_selfatt_only):
        raise WeightsError(
            "the configuration says temporal_selfatt_only: false, the checkpoint has no text adapter",
            fix="set temporal_selfatt_only: true; TextAdapter.of(unet).join(unet) adds a new adapter",
        )
    with torch.device("meta"):
        unet = DynamiCrafterUNet(config)
        if has_adapter:
            TextAdapter.of(unet, num_queries=len(tensors["text_adapter.queries"])).join(unet)
    unet.to_empty(device="cpu")
    load_strictly(unet, tensors, Path("official checkpoint"))
    return unet.eval()


# --- the two additions --------------------------------------------------------------------------------------


class TimeAndRate(nn.Module):
    """Embedding of the timestep plus that of the frame rate, (B, 4 c) each.

    It stands where diffusers keeps the embedding of the timestep and takes the frame rate (B,) as that one's
    optional second argument.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.time = TimestepEmbedding(channels, 4 * channels)
        self.rate_proj = Timesteps(channels, True, 0)
        self.rate = TimestepEmbedding(channels, 4 * channels)

    def forward(self, time: Tensor, rate: Tensor) -> Tensor:
        summed: Tensor = self.time(time) + self.rate(self.rate_proj(rate).to(time.dtype))
        return summed


class ImageCrossAttention(_ImageAttention):  # type: ignore[misc]
    """Cross-attention to the text and, with keys and values of its own, to the 16 image tokens of the frame."""

    def __init__(self, hidden_size: int, context_dim: int, learned_gate: bool) -> None:
        super().__init__(hidden_size, context_dim, num_tokens=IMAGE_TOKENS_PER_FRAME, scale=1.0)
        self.gate = nn.Parameter(torch.zeros(())) if learned_gate else None

    def __call__(
        self, attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor, **unused: Any
    ) -> Tensor:
        """
        Args:
            hidden_states: (B F, h w, d).
            encoder_hidden_states: (B F, 77 + 16 F, width): the clip's tokens, repeated for each frame.
        """
        text, image = encoder_hidden_states.tensor_split([TEXT_TOKENS], dim=1)
        rows, _, width = image.shape
        image = image.reshape(rows, -1, IMAGE_TOKENS_PER_FRAME, width)  # (B F, F, 16, width)
        row = torch.arange(rows, device=image.device)
        own = image[row, row % image.shape[1]]  # rows are (b f): frame f sees its own tokens
        if self.gate is not None:
            self.scale = [1 + self.gate.tanh()]
        out: Tensor = super().__call__(attn, hidden_states, (text, [own]))
        return out


def _network(config: UNetConfig) -> Any:
    attends = [2**level in config.attention_resolutions for level in range(len(config.channel_mult))]
    network = _UNet3D(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=tuple(config.model_channels * factor for factor in config.channel_mult),
        layers_per_block=config.num_res_blocks,
        down_block_types=tuple("CrossAttnDownBlock3D" if a else "DownBlock3D" for a in attends),
        up_block_types=tuple("CrossAttnUpBlock3D" if a else "UpBlock3D" for a in reversed(attends)),
        cross_attention_dim=config.context_dim,
        attention_head_dim=config.num_head_channels,
    )
    network.time_embedding = TimeAndRate(config.model_channels)
    for name, module in network.named_modules():
        if name.endswith(".attn2") and ".attentions." in name:
            module.set_processor(
                ImageCrossAttention(
                    module.inner_dim, config.context_dim, config.image_cross_attention_scale_learnable
                )
            )
        if name.endswith(".dropout") and ".resnets." in name:
            module.p = config.dropout
    return network

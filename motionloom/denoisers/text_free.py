"""A diffusers video network as `Denoiser`, without text: MIVA replaces the blocks that would read it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from motionloom.denoisers.base import PredictionType


class TextFreeNetwork:
    """`UNetMotionModel` or `WanTransformer3DModel` as a `Denoiser` that is told nothing.

    Where text is expected it gets one token of zeros. One branch a step: MIVA's guidance scale is 1.

    Attributes:
        network: the diffusers model, the host of adapters; on any device and in any precision. Latents stay
            float32 on the caller's device.
        text_width: of a text token.
        text_per_frame: whether the network expects the text once a frame (U-Nets), or once a clip.
    """

    def __init__(
        self, network: Any, prediction_type: PredictionType, text_width: int, text_per_frame: bool
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.prediction_type: PredictionType = prediction_type
        self.text_width = text_width
        self.text_per_frame = text_per_frame

    def __call__(self, latents: Tensor, timestep: Tensor, condition: None = None) -> Tensor:
        """(B, C, F, h, w), (B,) => a prediction of the shape of the latents."""
        device, dtype = self.network.device, self.network.dtype
        rows = latents.shape[0] * (latents.shape[2] if self.text_per_frame else 1)
        no_text = latents.new_zeros(rows, 1, self.text_width).to(device, dtype)
        prediction: Tensor = self.network(
            latents.to(device, dtype), timestep.to(device), encoder_hidden_states=no_text
        ).sample
        return prediction.to(latents)

"""What the video network is told, and the network as `Denoiser`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from motionloom.denoisers.base import PredictionType
from motionloom.denoisers.dynamicrafter.unet import DynamiCrafterUNet


@dataclass(frozen=True)
class VideoCondition:
    """What the video network is told.

    Attributes:
        text: (B, 77, width).
        image: (B, 16 F, width), 16 tokens for each frame.
        still: (B, 4, F, h, w), latents of the given frames, zero where none is given.
        rate: (B,), the frame rate or stride the network was trained to read.
        empty_text, empty_image: of one sample: the empty text, and the tokens of a mid-grey picture. They replace the
            others where a condition is dropped; the given frames stay.
    """

    text: Tensor
    image: Tensor
    still: Tensor
    rate: Tensor
    empty_text: Tensor
    empty_image: Tensor

    def dropped(self, *, text: Tensor | bool = False, image: Tensor | bool = False) -> VideoCondition:
        """See `Droppable`."""
        return replace(
            self,
            text=torch.where(_chosen(text, self.text), self.empty_text.to(self.text), self.text),
            image=torch.where(_chosen(image, self.image), self.empty_image.to(self.image), self.image),
        )


class VideoDenoiser:
    """`DynamiCrafterUNet` as a `Denoiser` told a `VideoCondition`.

    Attributes:
        network: the video network, on any device and in any precision; latents stay float32 on the caller's device.
        prediction_type: what its weights were trained to predict.
    """

    def __init__(self, network: DynamiCrafterUNet, prediction_type: PredictionType = "v_prediction") -> None:
        self.network = network
        self.prediction_type: PredictionType = prediction_type

    def __call__(self, latents: Tensor, timestep: Tensor, condition: VideoCondition) -> Tensor:
        """(B, 4, F, h, w), (B,) => a prediction of the shape of the latents."""
        parameter = next(self.network.parameters())
        told = torch.cat([latents, condition.still.to(latents)], dim=1).to(parameter)
        context = torch.cat([condition.text, condition.image], dim=1).to(parameter)
        time, rate = timestep.to(parameter.device), condition.rate.to(parameter.device)
        prediction: Tensor = self.network(told, time, context, rate)
        return prediction.to(latents)


def _chosen(choice: Tensor | bool, like: Tensor) -> Tensor:
    """(B, 1, 1) bool from one answer for all samples, or one per sample."""
    chosen = torch.as_tensor(choice, dtype=torch.bool, device=like.device)
    return chosen.expand(len(like))[:, None, None]

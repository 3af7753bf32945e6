"""A full-size base with random weights: enough to measure time and memory, which do not depend on the values."""

from __future__ import annotations

import torch

from motionloom.denoisers.miva import MivaBase
from motionloom.denoisers.planned import planned_base


def random_base(name: str, device: str, dtype: torch.dtype) -> MivaBase:
    """`animatediff-v3` or `wan2.1-t2v-1.3b` on a device, in a precision, nothing downloaded."""
    base = planned_base(name)
    generator = torch.Generator(device).manual_seed(0)
    for model in (base.denoiser.network, base.codec.network):
        model.to_empty(device=device)
        for parameter in model.parameters():
            parameter.data = torch.empty(parameter.shape, device=device, dtype=dtype)
            if parameter.ndim > 1:
                parameter.data.normal_(0, 0.02, generator=generator)
            else:
                parameter.data.fill_(1.0)
        for buffer in model.buffers():  # position tables; zeros do
            buffer.zero_()
    base.codec = type(base.codec)(base.codec.network)  # its constants were made as shapes too
    return base

"""Flow as colours: hue is the heading on screen, strength is the speed."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def flow_colours(flow: Tensor, full: float) -> Tensor:
    """Forward motion of a backward flow as colours.

    Args:
        flow: (..., 2), backward.
        full: speed shown at full strength, in the flow's units.

    Returns:
        (..., 3), 0..1; white is stillness.
    """
    x, y = (-flow).unbind(-1)
    hue = torch.atan2(y, x) / (2 * math.pi) % 1
    strength = (flow.norm(dim=-1) / full).clamp(0, 1)
    wheel = torch.stack([(hue * 6 + shift) % 6 for shift in (0, 4, 2)], -1)
    colour = ((wheel - 3).abs() - 1).clamp(0, 1)
    shown: Tensor = 1 - strength[..., None] * (1 - colour)
    return shown

"""The contract between the training loop and what it trains.

The loop owns optimizers, precision, averaging, checkpoints and logs; an objective owns networks and losses.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


class Objective(Protocol):
    """Networks, and the losses that train them.

    Attributes:
        networks: everything saved in a checkpoint, by name, such as {"codec": ..., "discriminator": ...}.
        ema_networks: names of the networks whose weights are averaged.
    """

    networks: dict[str, nn.Module]
    ema_networks: tuple[str, ...]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Optimizer name -> the parameters it updates.

        For example {"autoencoder": [...], "discriminator": [...]}.

        Groups do not overlap; frozen parameters are in none.
        """
        ...

    def losses(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        """One training step: yields (optimizer name, scalar loss, numbers to log), one triple per update.

        The loop runs backward and the optimizer's step for each triple before it resumes the iterator, so a
        later loss sees weights an earlier one changed. Gradients of other groups are not touched: the loop
        clears a group's gradients before it runs that group's backward, and steps that group only.

        Args:
            batch: tensors by name, stacked over samples, on the device of the networks.
            step: 0, 1, 2, ...: the number of completed steps.
            generator: the only source of randomness.
        """
        ...

    def preview(self, batch: dict[str, Tensor], generator: torch.Generator) -> npt.NDArray[np.uint8] | None:
        """A sample grid as a clip, uint8 (T, H, W, 3), or None where there is nothing to look at."""
        ...

    def export(self, folder: Path) -> None:
        """Write the final weights in shipping form: safetensors with metadata that rebuilds the network.

        Raises:
            ResourceError: if the folder cannot be written.
        """
        ...

"""Averaged weights: an exponential moving average of networks, restored bit for bit on resume.

    average <- average + (1 - d_n) (weights - average),   d_n = min(decay, (1 + n) / (10 + n))

after the n-th update. The ramp d_n lets a short run forget its random start (the rule of latent-diffusion's
EMA). Floating buffers, such as the statistics of a BatchNorm, are averages already and are copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from motionloom.errors import StateError


class WeightAverage:
    """Keeps the average of the named networks; `applied()` puts it into them for a while.

    Args:
        networks: the networks to average, by name.
        decay: d in the formula above, in (0, 1).
    """

    def __init__(self, networks: Mapping[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._networks = dict(networks)
        self._learned = {
            f"{name}.{key}" for name, net in networks.items() for key, _ in net.named_parameters()
        }
        self._average = {key: value.detach().clone() for key, value in _state(networks).items()}

    @torch.no_grad()
    def update(self) -> None:
        """One step of the average; call it after each optimizer step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        live = _state(self._networks)
        keys = [key for key, value in live.items() if key in self._learned and value.is_floating_point()]
        torch._foreach_lerp_([self._average[key] for key in keys], [live[key] for key in keys], 1 - decay)
        for key in live.keys() - set(keys):
            self._average[key].copy_(live[key])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the networks hold the average; on exit they are restored bit for bit."""
        with torch.no_grad():
            kept = {key: value.detach().clone() for key, value in _state(self._networks).items()}
            _copy(self._average, _state(self._networks))
        try:
            yield
        finally:
            with torch.no_grad():
                _copy(kept, _state(self._networks))

    def state_dict(self) -> dict[str, Tensor]:
        """The average by "network.key"; `updates` is saved beside it."""
        return self._average

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Raises StateError when the keys or shapes are not those of these networks."""
        wrong = sorted(tensors.keys() ^ self._average.keys())
        wrong += [
            key
            for key in tensors.keys() & self._average.keys()
            if tensors[key].shape != self._average[key].shape
        ]
        if wrong:
            raise StateError(
                f"averaged weights of other networks: {len(wrong)} keys differ, first {wrong[:5]}"
            )
        _copy(tensors, self._average)
        self.updates = updates


def _state(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The live tensors (not copies) of the networks, by "network.key"."""
    return {
        f"{name}.{key}": value for name, net in networks.items() for key, value in net.state_dict().items()
    }


def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for key, value in target.items():
        value.copy_(source[key])

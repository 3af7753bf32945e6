"""What is averaged: weights, by the formula; statistics, which are averages already, and counts are copied."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from motionloom.training.ema import WeightAverage


def test_statistics_and_counts_are_copied() -> None:
    network = nn.BatchNorm1d(3)
    average = WeightAverage({"norm": network}, 0.9)
    with torch.no_grad():
        network.weight += 1  # from 1 to 2; the ramp begins with d_0 = (1 + 0) / (10 + 0)
    network(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    average.update()
    kept = average.state_dict()
    assert kept["norm.weight"].tolist() == pytest.approx([1.9] * 3)
    assert torch.equal(kept["norm.running_mean"], network.running_mean) and network.running_mean.any()
    assert torch.equal(kept["norm.running_var"], network.running_var)
    assert int(kept["norm.num_batches_tracked"]) == 1

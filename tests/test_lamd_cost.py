"""The cost table of benchmarks/lamd.py, at a small size: what its claims rest on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def lamd(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    import benchmarks.lamd

    return benchmarks.lamd


def test_claims_of_the_cost_table(lamd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lamd, "FRAMES", (16, 128))
    monkeypatch.delitem(lamd.MODELS, "pixel video diffusion")  # the dearest, and the slowest to count
    table = lamd.cost(lamd.Size(unet_base=16, codec_base=16, side_px=32))
    claims = table["claims"]
    assert claims["generator_step_independent_of_frames"] is True
    assert claims["thin_tail_128_over_16"] <= 1.1 < claims["full_tail_128_over_16"]
    assert min(min(ratios.values()) for ratios in claims["cheaper_at_128"].values()) >= 4.5
    steps = [table["models"]["latent video diffusion"][frames]["step_gflop"] for frames in (16, 128)]
    assert steps[1] >= 8 * steps[0]  # every frame is denoised, and attention over time grows faster


def test_a_video_network_mixes_frames_over_time(lamd: Any) -> None:
    """A peer is a real network: with time attention at work, a change of one frame reaches the others."""
    torch.manual_seed(0)
    size = lamd.Size(unet_base=16, codec_base=16, side_px=32)
    network = sys.modules["benchmarks.baselines.video_unet"].VideoUNet(size.joined).eval()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    clip = torch.randn(1, 6, 4, 8, 8)
    changed = clip.clone()
    changed[:, :, 3] += 1
    with torch.no_grad():
        one, other = (network(x, torch.tensor([500.0])) for x in (clip, changed))
    assert one.shape == (1, 3, 4, 8, 8)
    assert not torch.allclose(one[:, :, 0], other[:, :, 0], atol=1e-5)

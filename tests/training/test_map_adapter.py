"""Adapters of the small model in training: what a sample says, which word carries a motion, that the loss falls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from motionloom.adapters.adapter import new_adapter
from motionloom.adapters.settings import AdapterSettings, SpatialLowRank, TextFree
from motionloom.codecs.linear_motion import CAMERA_CHANNELS, LinearMotion
from motionloom.codecs.warp_codec import WarpCodec
from motionloom.conditions.motion_map import COHERENCE, DIRECTION
from motionloom.conditions.words import INDEX, WORDS, find
from motionloom.datasets.base import Sample, TrainingDataset
from motionloom.datasets.flow_windows import TaughtMotion, TaughtSamples
from motionloom.denoisers.map_generator import MapGenerator, MapGeneratorConfig
from motionloom.denoisers.mini import MiniBase
from motionloom.training.objectives.map_adapter import MapAdapterObjective, nearest_word

CAMERAS = [index for index, word in enumerate(WORDS) if word.kind == "rigid"]


def linear_motion() -> LinearMotion:
    motion = LinearMotion(flow_modes=1, light_modes=1)
    tau = torch.linspace(0, 1, motion.num_frames)
    motion.flow_basis, motion.light_basis = (tau / tau.norm())[None], (tau / tau.norm())[None]
    motion.scale = torch.tensor([0.1, 0.1, 0.2, 0.2, 0.1])
    return motion


class Windows(TrainingDataset):
    """Two windows of two clips each: everything goes right, faster and faster."""

    def __init__(self, motion: LinearMotion) -> None:
        self.motion = motion

    def __len__(self) -> int:
        return 4

    def at(self, epoch: int, index: int) -> Sample:
        latents = torch.zeros(self.motion.channels, 16, 16)
        latents[CAMERA_CHANNELS] = -0.5 * (index + 1)  # backward flow, x
        generator = torch.Generator().manual_seed(index)
        return {"mean": latents, "first_frame": torch.rand(3, 128, 128, generator=generator) * 2 - 1}


class TwoClips(TrainingDataset):
    """What the windows were cut from."""

    def __len__(self) -> int:
        return 2

    def at(self, epoch: int, index: int) -> Sample:
        raise NotImplementedError


@pytest.fixture
def taught() -> TaughtMotion:
    motion = linear_motion()
    return TaughtMotion(cast(Any, Windows(motion)), motion)


def samples(taught: TaughtMotion) -> TaughtSamples:
    clips = TwoClips()
    return TaughtSamples(taught, "sea", clips, windows=2, seed=0)


def test_what_the_windows_have_in_common(taught: TaughtMotion) -> None:
    ends = torch.tensor([0.5, 1.0, 1.5, 2.0]) * 0.2 / torch.linspace(0, 1, 16).norm()  # at the last frame
    sizes = ends * torch.linspace(0, 1, 16).square().mean().sqrt()
    assert torch.allclose(taught.sizes, sizes, rtol=1e-4)
    assert taught.usual == pytest.approx(float(sizes[1]))
    assert [taught.amplitude(row) for row in range(4)] == pytest.approx([0.5, 1.0, 1.5, 2.0], rel=1e-4)
    headings = taught.drawn_headings(32, 0)
    assert torch.allclose(headings, torch.tensor([1.0, 1.0, 0.0]).expand(32, 3), atol=1e-5)
    assert float(taught.ways[-1]) == pytest.approx(
        float(ends[3]), rel=1e-4
    )  # a straight way is as long as it gets


def test_a_sample_says_what_its_latent_does(taught: TaughtMotion) -> None:
    cameras = told = 0
    data = samples(taught)
    for epoch in range(40):
        one = data.at(epoch, epoch % 2)
        assert all(torch.equal(one[key], data.at(epoch, epoch % 2)[key]) for key in one)
        amplitude = float(one["map"][find("sea")].mean())
        assert torch.allclose(one["map"][find("sea")], torch.tensor(amplitude))
        # amplitude 1 is a latent of -1 here, whatever the strength drawn
        assert torch.allclose(one["latents"][CAMERA_CHANNELS], torch.tensor(-amplitude), rtol=1e-4)
        camera = bool(one["map"][CAMERAS].any())
        assert bool(one["latents"][:CAMERA_CHANNELS].any()) == camera
        cameras, told = cameras + camera, told + bool(one["map"][DIRECTION].any())
        assert one["map"][COHERENCE].mean() == pytest.approx(1.0, abs=1e-5)
        assert one["photo"].abs().max() <= 1 and one["photo"].shape == (3, 128, 128)
    assert 4 <= cameras <= 22 and 10 <= told <= 30


class Knows(nn.Module):
    """Predicts perfectly where one word is told, and nothing elsewhere."""

    def __init__(self, word: str, truth: Tensor) -> None:
        super().__init__()
        self.word, self.truth = find(word), nn.Parameter(truth)

    def tell(self, photo: Tensor, height: int, width: int) -> Any:
        return SimpleNamespace(with_map=lambda maps: maps)

    def forward(self, noisy: Tensor, timestep: Tensor, maps: Tensor) -> Tensor:
        share = (timestep / 1000)[:, None, None, None]
        velocity = (noisy - self.truth) / share  # noise - latents, from (1 - t) latents + t noise
        return velocity * maps[:, self.word : self.word + 1].clamp(0, 1).ceil()


@pytest.mark.parametrize("word", ["sway", "sea", "dolly-in"])
def test_the_nearest_word_carries_the_motion(taught: TaughtMotion, word: str) -> None:
    assert nearest_word(cast(Any, Knows(word, taught.latents)), taught) == word
    assert WORDS[INDEX[word]].kind == "local"


def test_the_loss_falls_and_only_the_adapter_learns(taught: TaughtMotion) -> None:
    torch.manual_seed(0)
    config = MapGeneratorConfig(5, base=16, multipliers=(1, 1, 1), res_blocks=1, content_channels=8)
    generator = MapGenerator(config)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.05)
    base = MiniBase(WarpCodec(taught.motion, 8), generator)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    settings = AdapterSettings(
        text_free=TextFree(rank=8), spatial=SpatialLowRank(rank=4, alpha=4.0), word="sea"
    )
    adapter = new_adapter(generator, settings=settings)
    objective = MapAdapterObjective(adapter, base, taught)
    data = samples(taught)
    batch = torch.utils.data.default_collate([data.at(epoch, epoch % 2) for epoch in range(8)])
    optimizer = torch.optim.Adam(objective.parameter_groups()["adapter"], 1e-2)
    losses = []
    for step in range(15):
        for name, loss, numbers in objective.losses(batch, step, torch.Generator().manual_seed(0)):
            assert name == "adapter" and numbers["mse"] > 0
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert np.isfinite(losses).all()
    assert sum(objective.part_sizes()["adapter"].values()) == adapter.num_parameters

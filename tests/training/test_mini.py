"""The two stages of the small model: losses that learn, previews, exports that load again, dry runs that write nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from motionloom.codecs.linear_motion import LinearMotion
from motionloom.codecs.warp_codec import WarpCodec
from motionloom.conditions.motion_map import CHANNELS
from motionloom.datasets.motion_samples import build_synthetic, draw_parts, fields
from motionloom.denoisers.map_generator import MapGenerator, MapGeneratorConfig
from motionloom.sampling.loop import sample
from motionloom.sampling.schedules import rectified_flow
from motionloom.train import train
from motionloom.training.mini_stages import DrawnClips, MappedMotions
from motionloom.training.objectives.mini import MiniDecoderObjective, MiniGeneratorObjective
from motionloom.zoo import load_codec, load_generator

TINY = MapGeneratorConfig(latent_channels=9, base=16, multipliers=(1, 1, 1), res_blocks=1, content_channels=8)


@pytest.fixture(scope="module")
def motion() -> LinearMotion:
    found = [fields(draw_parts(np.random.default_rng(seed))) for seed in range(30)]
    motion = LinearMotion(flow_modes=3, light_modes=1)
    motion.fit(*(torch.cat([getattr(f, name) for f in found]) for name in ("local", "light", "camera")))
    return motion


@pytest.fixture(scope="module")
def canvases() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [
        torch.nn.functional.interpolate(torch.rand(1, 3, 20, 20), (160, 160), mode="bicubic").clamp(0, 1)[0]
    ]


def test_the_decoder_learns_and_starts_at_the_linear_core(
    motion: LinearMotion, canvases: list[torch.Tensor], tmp_path: Path
) -> None:
    folder = build_synthetic(canvases, motion, tmp_path / "drawn", 2, 0, rendered=True)
    batch = torch.utils.data.default_collate([DrawnClips([folder], 2, 0).at(0, index) for index in range(2)])
    torch.manual_seed(0)
    objective = MiniDecoderObjective(WarpCodec(motion, 8))
    optimizer = torch.optim.Adam(objective.parameter_groups()["decoder"], 2e-3)
    losses = []
    for step in range(8):
        _, loss, logs = next(objective.losses(batch, step, torch.Generator().manual_seed(0)))
        if step == 0:
            assert logs["db_over_warp"] == pytest.approx(0, abs=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    preview = objective.preview(batch, torch.Generator())
    assert preview is not None and preview.shape == (2, 2 * 128, 3 * 128, 3)
    objective.export(tmp_path)
    again = load_codec(tmp_path / "codec.safetensors")
    for name, value in objective.codec.state_dict().items():
        assert torch.allclose(again.state_dict()[name], value, atol=1e-3), name
    assert torch.equal(again.motion.flow_basis, motion.flow_basis)


def test_the_generator_learns_and_its_export_answers_alike(
    motion: LinearMotion, canvases: list[torch.Tensor], tmp_path: Path
) -> None:
    folder = build_synthetic(canvases, motion, tmp_path / "mapped", 8, 0, rendered=False)
    batch = torch.utils.data.default_collate([MappedMotions([folder], 0).at(0, index) for index in range(8)])
    assert batch["map"].shape == (8, CHANNELS, 16, 16) and batch["latents"].shape == (8, 9, 16, 16)
    torch.manual_seed(0)
    objective = MiniGeneratorObjective(MapGenerator(TINY), motion)
    optimizer = torch.optim.Adam(objective.parameter_groups()["generator"], 2e-3)
    losses = []
    for step in range(20):
        _, loss, _ = next(objective.losses(batch, step, torch.Generator().manual_seed(0)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]
    preview = objective.preview(batch, torch.Generator())
    assert preview is not None and preview.shape == (16, 8 * 128, 3 * 128, 3)
    objective.export(tmp_path)
    again = load_generator(tmp_path / "generator.safetensors")
    told = again.tell(batch["photo"], 16, 16).with_map(batch["map"])
    own = objective.generator.tell(batch["photo"], 16, 16).with_map(batch["map"])
    time = torch.full((8,), 500.0)
    with torch.no_grad():
        difference = again(batch["latents"], time, told) - objective.generator(batch["latents"], time, own)
    assert difference.abs().max() < 2e-2  # fp16 weights


def test_the_true_velocity_costs_the_generator_nothing(motion: LinearMotion) -> None:
    """x_t = (1 - t) z + t e, so (x_t - z) / t = e - z: who knows z knows the answer, and sampling ends at z."""
    latents = torch.randn(4, 9, 2, 2, generator=torch.Generator().manual_seed(0))

    class Oracle(MapGenerator):
        def forward(self, x: torch.Tensor, timestep: torch.Tensor, condition: object) -> torch.Tensor:
            return (x - latents) / (timestep[:, None, None, None] / 1000)

    oracle = Oracle(TINY)
    batch = {
        "photo": torch.zeros(4, 3, 16, 16), "map": torch.zeros(4, CHANNELS, 2, 2), "offset": torch.zeros(4, 2),
        "latents": latents,
    }  # fmt: skip
    ((_, loss, logs),) = MiniGeneratorObjective(oracle, motion).losses(
        batch, 0, torch.Generator().manual_seed(1)
    )
    assert float(loss) < 1e-8 and logs["mse_camera"] < 1e-8
    told = oracle.tell(batch["photo"], 2, 2).with_map(batch["map"])
    noise = torch.randn(4, 9, 2, 2, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(sample(oracle, rectified_flow(), noise, told, 5, None), latents, atol=1e-5)


def test_samples_repeat_from_their_seed(
    motion: LinearMotion, canvases: list[torch.Tensor], tmp_path: Path
) -> None:
    one = build_synthetic(canvases, motion, tmp_path / "one", 3, 5, rendered=False)
    two = build_synthetic(canvases, motion, tmp_path / "two", 2, 5, rendered=False)
    for name in ("photos", "latents", "maps", "offsets"):
        assert np.array_equal(np.load(one / f"{name}.npy")[:2], np.load(two / f"{name}.npy")), name


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (64, 64)).save(tmp_path / "photos" / f"{name}.png")
    recipe = {
        "stage": {
            "kind": "mini-generator", "synthetic": 10, "real": 0, "base": 16, "multipliers": [1, 1, 1],
            "material": {"photos": str(tmp_path / "photos"), "clips": "none", "cache": str(tmp_path / "cache")},
        },
        "steps": 5, "batch_size": 2, "learning_rate": 1e-3,
    }  # fmt: skip
    plan = train(recipe, dry_run=True).forecast
    assert plan is not None and plan["parameters"]["generator"]["total"] > 0
    assert plan["clips"]["used"] == 10 and plan["time"]["flop_per_step"] > 0
    assert not (tmp_path / "cache").exists()

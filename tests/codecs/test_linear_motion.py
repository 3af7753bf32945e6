"""The linear motion latent: zero is stillness, mirroring commutes, any frame rate decodes the same motion."""

from __future__ import annotations

import pytest
import torch

from motionloom.codecs.linear_motion import LinearMotion, MotionField


@pytest.fixture(scope="module")
def fitted() -> tuple[LinearMotion, MotionField]:
    torch.manual_seed(0)
    tau = torch.linspace(0, 1, 16)
    modes = torch.stack([tau, torch.sin(3 * tau), 1 - torch.cos(5 * tau)])
    local = torch.einsum("nkchw,kt->ntchw", torch.randn(20, 3, 2, 8, 8), modes) * 0.1
    light = torch.einsum("nkhw,kt->nthw", torch.randn(20, 2, 8, 8), modes[:2]) * 0.2
    camera = torch.randn(20, 2, 8, 8) * 0.1
    motion = LinearMotion(flow_modes=3, light_modes=2)
    kept = motion.fit(local, light, camera)
    assert kept["flow_energy"] > 0.9999 and kept["light_energy"] > 0.9999
    return motion, MotionField(camera, local, light)


def test_what_the_modes_span_comes_back(fitted: tuple[LinearMotion, MotionField]) -> None:
    motion, field = fitted
    back = motion.decode(motion.encode(field))
    for name in ("camera", "local", "light"):
        assert torch.allclose(getattr(back, name), getattr(field, name), atol=1e-5), name


def test_latents_have_unit_size(fitted: tuple[LinearMotion, MotionField]) -> None:
    motion, field = fitted
    size = motion.encode(field).square().mean((0, 2, 3)).sqrt()
    assert torch.allclose(size, torch.ones_like(size), atol=0.05)


def test_zero_is_stillness(fitted: tuple[LinearMotion, MotionField]) -> None:
    still = fitted[0].decode(torch.zeros(1, fitted[0].channels, 4, 4))
    assert all(getattr(still, name).abs().max() == 0 for name in ("camera", "local", "light"))


def test_mirroring_the_clip_mirrors_the_latent(fitted: tuple[LinearMotion, MotionField]) -> None:
    motion, field = fitted
    sign = torch.tensor([-1.0, 1.0])[:, None, None]
    mirrored = MotionField(field.camera.flip(-1) * sign, field.local.flip(-1) * sign, field.light.flip(-1))
    pattern = torch.cat(
        [torch.tensor([-1.0, 1.0]).repeat(1 + motion.flow_modes), torch.ones(motion.light_modes)]
    )
    assert torch.allclose(
        motion.encode(mirrored), motion.encode(field).flip(-1) * pattern[:, None, None], atol=1e-5
    )


def test_more_frames_are_the_same_motion(fitted: tuple[LinearMotion, MotionField]) -> None:
    motion, field = fitted
    latents = motion.encode(field)
    few, many = motion.decode(latents), motion.decode(latents, 31)
    assert many.local.shape[1] == 31
    assert torch.allclose(many.local[:, ::2], few.local, atol=1e-5)
    assert many.local[:, 0].abs().max() < 1e-6


def test_a_local_motion_turns_as_a_whole() -> None:
    """The mean displacement in the region points as asked, lengths stay, what is outside and the camera stay."""
    motion = LinearMotion(flow_modes=2, light_modes=1, num_frames=8)
    generator = torch.Generator().manual_seed(0)
    motion.flow_basis.copy_(torch.randn(2, 8, generator=generator))
    motion.scale.copy_(0.5 + torch.rand(motion.channels, generator=generator))
    latents = torch.randn(3, motion.channels, 4, 6, generator=generator)
    region = torch.cat([torch.ones(4, 3), torch.zeros(4, 3)], 1)
    turned = motion.with_local_toward(latents, (0.6, -0.8), region)
    before, after = motion.decode(latents), motion.decode(turned)
    mean = -(after.local[:, -1] * region).mean((2, 3))
    assert torch.allclose(mean / mean.norm(dim=1, keepdim=True), torch.tensor([0.6, -0.8]), atol=1e-5)
    assert torch.allclose(after.local.norm(dim=2), before.local.norm(dim=2), atol=1e-5)
    assert torch.allclose(after.local[..., 3:], before.local[..., 3:], atol=1e-6)
    assert torch.equal(after.camera, before.camera) and torch.equal(after.light, before.light)

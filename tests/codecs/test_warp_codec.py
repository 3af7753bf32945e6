"""The warp codec: frame 0 is the photo, cameras keep shapes, nothing moves where nothing was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from motionloom.codecs.linear_motion import LinearMotion
from motionloom.codecs.run import Loop, Once
from motionloom.codecs.warp_codec import WarpCodec, Where, fuse
from motionloom.motion.camera_path import displacement, fit_rates, keep_shapes
from motionloom.motion.grid import places


@pytest.fixture
def codec() -> WarpCodec:
    torch.manual_seed(0)
    motion = LinearMotion(flow_modes=2, light_modes=1)
    tau = torch.linspace(0, 1, 16)
    motion.flow_basis = torch.stack([tau, torch.sin(6 * tau)]) * 0.05
    motion.light_basis = tau[None] * 0.1
    motion.scale[:2] = 0.1
    codec = WarpCodec(motion, width=8)
    for parameter in codec.fusion.out.parameters():  # a network that has learned something
        torch.nn.init.normal_(parameter, std=0.1)
    return codec.eval()


@pytest.fixture
def photo() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(1, 3, 48, 64) * 2 - 1


def test_frame_0_is_the_photo_bit_for_bit(codec: WarpCodec, photo: torch.Tensor) -> None:
    frames = codec.decode(torch.randn(1, codec.motion.channels, 12, 16), photo, 5)
    assert frames.shape == (1, 3, 5, 48, 64)
    assert torch.equal(frames[:, :, 0], photo)
    assert not torch.equal(frames[:, :, 4], photo)


def test_a_fresh_fusion_network_changes_nothing(photo: torch.Tensor) -> None:
    codec = WarpCodec(LinearMotion(2, 1), width=8).eval()
    plan = codec.plan(torch.randn(1, 7, 12, 16), photo, Once().times(4), Where.everywhere(12, 16))
    assert plan.correction.abs().max() == 0 and plan.residual.abs().max() == 0 and plan.keep.min() == 1


def test_a_camera_keeps_shapes_whatever_the_latent(codec: WarpCodec, photo: torch.Tensor) -> None:
    latents = torch.randn(1, codec.motion.channels, 12, 16)
    one = torch.ones(48, 64)
    where = Where(one[None], *torch.zeros(3, 48, 64))
    flow = codec.flow(codec.plan(latents, photo, Once().times(16), where), 15, 40, 50)[0]
    xy = places(40, 50)
    rates = keep_shapes(fit_rates(flow, xy))
    assert flow.abs().max() > 0.01
    assert torch.allclose(displacement(rates, torch.ones(1), xy)[0], flow, atol=1e-5)


def test_nothing_moves_where_nothing_was_asked(codec: WarpCodec, photo: torch.Tensor) -> None:
    left = torch.zeros(48, 64)
    left[:, :24] = 1
    latents = torch.randn(1, codec.motion.channels, 12, 16)
    where = Where(torch.zeros(0, 48, 64), left, left, left)
    flow = codec.flow(codec.plan(latents, photo, Once().times(16), where), 9, 48, 64)[0]
    assert flow[:, 40:].abs().max() == 0 and flow[:, :16].abs().max() > 1e-3
    frames = codec.decode(latents, photo, 16, where)
    assert torch.allclose(frames[:, :, 9, :, 40:], photo[..., 40:], atol=0.25)  # the sharpening alone


def test_a_loop_is_continuous_over_its_seam(codec: WarpCodec, photo: torch.Tensor) -> None:
    smooth = torch.nn.functional.interpolate(photo[..., ::8, ::8], size=(48, 64), mode="bicubic").clamp(-1, 1)
    latents = 0.5 * torch.randn(1, codec.motion.channels, 12, 16)
    frames = codec.decode(latents, smooth, 24, run=Loop())[0]
    steps = [(frames[:, (i + 1) % 24] - frames[:, i]).abs().mean().item() for i in range(24)]
    assert steps[-1] < 1.5 * max(steps[:-1])
    once = codec.decode(latents, smooth, 24)[0]
    assert (once[:, 0] - once[:, -1]).abs().mean() > 2 * steps[-1]


def test_the_safe_view_shows_no_border(codec: WarpCodec, photo: torch.Tensor) -> None:
    latents = torch.zeros(1, codec.motion.channels, 12, 16)
    latents[:, 0] = 1.0  # everything looks to the right
    top, left, height, width = codec.safe_view(latents, photo, 16, Where.everywhere(12, 16), Once())
    assert height % 2 == width % 2 == 0 and 0 < width < 64 and left > 0 and top > 0
    shift_px = 0.1 * (48 * 64) ** 0.5
    assert left + width + shift_px <= 64 + 1


def test_fusing_keeps_the_moved_photo_where_details_are_kept() -> None:
    torch.manual_seed(0)
    moved, residual = torch.rand(2, 3, 32, 32), torch.zeros(2, 3, 8, 8)
    assert torch.allclose(fuse(moved, torch.ones(2, 1, 8, 8), residual), moved, atol=1e-6)
    faded = fuse(moved, torch.zeros(2, 1, 8, 8), residual)
    assert faded.std() < 0.5 * moved.std()


def test_encoding_a_clip_and_decoding_it_is_much_better_than_a_still() -> None:
    """The shipped codec on a rendered pan, its flow measured by OpenCV; not a square, so axes cannot be confused."""
    pytest.importorskip("cv2")
    from motionloom.datasets.synthetic import Region, draw_motion, render
    from motionloom.zoo import MINI, load_codec

    torch.manual_seed(0)
    canvas = torch.nn.functional.interpolate(torch.rand(1, 3, 30, 40), (180, 240), mode="bicubic").clamp(
        0, 1
    )[0]
    motion = draw_motion("pan-left", np.random.default_rng(0), 0.6)
    clip = render(canvas, (60.0, 45.0, 120.0, 90.0), [(motion, Region())], 16, 96, 128)
    frames = torch.from_numpy(clip.frames.astype(np.float32) / 127.5 - 1).permute(3, 0, 1, 2)[None]
    codec = load_codec(MINI / "codec.safetensors")
    decoded = codec.decode(codec.encode(frames), frames[:, :, 0])

    def decibel(made: torch.Tensor) -> float:
        return float(-10 * torch.log10((made - frames)[:, :, 1:, 8:-8, 24:-24].square().mean() / 4))

    assert decibel(decoded) > decibel(frames[:, :, :1].expand_as(frames)) + 6

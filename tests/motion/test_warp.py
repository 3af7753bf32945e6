"""Warping moves what a flow says, in frame units, whatever the size and shape."""

from __future__ import annotations

import pytest
import torch

from motionloom.motion.sharpness import as_sharp_as, sharpness
from motionloom.motion.warp import outside, warp


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(24, 24), (20, 40)])
def test_a_flow_of_whole_pixels_shifts_the_picture(size: tuple[int, int], kernel: str) -> None:
    height, width = size
    picture = torch.rand(1, 3, height, width)
    unit = (height * width) ** 0.5
    flow = torch.zeros(1, height, width, 2)
    flow[..., 0], flow[..., 1] = (
        3 / unit,
        -2 / unit,
    )  # every place shows what lay 3 to its right and 2 above it
    moved = warp(picture, flow, kernel)  # type: ignore[arg-type]
    assert torch.allclose(moved[..., 2:, :-3], picture[..., :-2, 3:], atol=2e-4)


def test_no_flow_shows_the_picture_itself() -> None:
    picture = torch.rand(2, 3, 17, 31)
    assert torch.allclose(warp(picture, torch.zeros(2, 17, 31, 2)), picture, atol=2e-4)


def test_beyond_the_border_lies_the_mirror_image() -> None:
    picture = torch.arange(16.0).reshape(1, 1, 1, 16).expand(1, 1, 16, 16).contiguous()
    flow = torch.zeros(1, 16, 16, 2)
    flow[..., 0] = 4 / 16
    moved = warp(picture, flow, "bilinear")[0, 0, 8]
    assert torch.allclose(moved[12:], torch.tensor([15.0, 14.0, 13.0, 12.0]), atol=1e-3)
    assert outside(flow)[0, 0, 8].tolist() == [0.0] * 12 + [1.0] * 4


def test_half_a_pixel_of_blur_is_made_good() -> None:
    torch.manual_seed(0)
    photo = torch.nn.functional.avg_pool2d(torch.rand(1, 3, 66, 66), 3, 1)
    flow = torch.full((1, 64, 64, 2), 0.5 / 64)
    moved = warp(photo, flow)
    before, after = (
        sharpness(moved) / sharpness(photo),
        sharpness(as_sharp_as(moved, sharpness(photo))) / sharpness(photo),
    )
    assert before < 0.9 and abs(after - 1) < 0.02


def test_a_sharp_frame_is_left_alone() -> None:
    frame = torch.rand(1, 3, 16, 16)
    assert as_sharp_as(frame, sharpness(frame) / 2) is frame

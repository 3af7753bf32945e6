"""How a motion runs along a clip: once, and in a loop that ends where it began."""

from __future__ import annotations

import pytest
import torch

from motionloom.codecs.run import Loop, Once


def test_once_goes_from_the_photo_to_the_end() -> None:
    times = Once().times(5)
    assert times.camera.tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert times.resolution == 5 and times.local.tolist() == [0, 1, 2, 3, 4] and not times.from_end.any()


@pytest.mark.parametrize("count", [8, 9])
def test_the_camera_of_a_loop_goes_out_and_back_and_rests_at_both_turns(count: int) -> None:
    """c(t) = c(T - t): the frame after the last would be the first; both copies of the local motion share the camera."""
    first, second = Loop().times(count).camera.chunk(2)
    assert torch.equal(first, second) and first[0] == 0
    assert torch.allclose(first[1:], first[1:].flip(0), atol=1e-6)
    assert float(first.max()) == pytest.approx(1, abs=0.04) and int(first.argmax()) in (
        count // 2,
        count // 2 + 1,
    )
    steps = torch.cat([first, first[:1]]).diff().abs()
    assert steps[0] < 0.5 * steps.max() and steps[-1] < 0.5 * steps.max()


def test_the_two_copies_of_a_loop_are_one_clip_apart() -> None:
    """At phase p one copy is p after the photo, the other 1 - p before it; each has all of the picture where it meets it."""
    times = Loop().times(4)
    after, before = times.elapsed.chunk(2)
    assert torch.allclose(after + before, torch.ones(4)) and after[0] == 0
    assert times.from_end.tolist() == [0] * 4 + [1] * 4 and times.resolution == 5

    def draw(moment: int) -> torch.Tensor:
        return torch.full((1, 3, 2, 2), float(moment >= 4))  # which copy it is

    shares = [float(Loop().frame(draw, index, 4).mean()) for index in (1, 2, 3)]
    assert shares == pytest.approx([0.25, 0.5, 0.75])

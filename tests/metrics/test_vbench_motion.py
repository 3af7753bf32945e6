"""VBench's and EvalCrafter's motion metrics with oracles in place of their networks, and the releases' rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from motionloom.errors import InputError
from motionloom.metrics.average_flow import AverageFlow
from motionloom.metrics.base import Item
from motionloom.metrics.camera_motion import GRID, CameraMotion
from motionloom.metrics.catalog import make_metric
from motionloom.metrics.dynamic_degree import DynamicDegree, is_dynamic
from motionloom.metrics.flow_raft import RaftField, RaftFlow
from motionloom.metrics.motion_smoothness import MotionSmoothness
from motionloom.metrics.networks.amt import AMT
from motionloom.metrics.networks.table import Networks
from motionloom.metrics.setup import Setup
from motionloom.video.clip import Clip
from motionloom.weights import save_weights
from tests.metrics.making import filled, noise_clip, pan


class Known(RaftFlow):
    """A flow that is the same everywhere; the padding would report twice as much."""

    def __init__(self, px: float) -> None:
        self.px = px

    def __call__(self, first: np.ndarray, second: np.ndarray) -> RaftField:  # type: ignore[override]
        field = torch.zeros(*first.shape[:2], 2)
        field[..., 0] = self.px
        return RaftField(2 * field, field)


def test_average_flow_counts_the_padding_and_clean_does_not() -> None:
    found = AverageFlow(Known(3.0))([noise_clip(frames=4, side=64)])
    assert found == {"average_flow": pytest.approx(6), "average_flow/clean": pytest.approx(3 * 8 * 4)}


@pytest.mark.parametrize(
    ("fps", "frames", "kept"), [(8, 16, 16), (12, 16, 8), (20, 16, 8), (24, 16, 6), (30, 16, 4), (4, 16, 16)]
)
def test_the_fps_tag_decides_which_frames_are_seen(fps: float, frames: int, kept: int) -> None:
    seen = []

    class Counting(Known):
        def __call__(self, first: np.ndarray, second: np.ndarray) -> RaftField:
            seen.append(1)
            return super().__call__(first, second)

    DynamicDegree(Counting(1.0))([noise_clip(frames=frames, side=16, fps=float(fps))])
    assert len(seen) == kept - 1


def test_the_releases_rule_for_dynamic() -> None:
    fast, slow = np.array([7.0] * 15), np.array([5.0] * 15)
    assert is_dynamic(fast, 16, 256) and not is_dynamic(slow, 16, 256)
    assert is_dynamic(slow, 16, 128)  # the threshold shrinks with the frame
    assert is_dynamic(np.array([7.0] * 4 + [0.0] * 11), 16, 256)
    assert not is_dynamic(np.array([7.0] * 3 + [0.0] * 12), 16, 256)
    assert is_dynamic(np.array([0.0]), 2, 256)  # two frames: always


def test_clean_does_not_depend_on_the_rate_and_mends_two_frames() -> None:
    for fps, px in ((8.0, 7.0), (24.0, 7.0 / 1)):  # after every third frame, 7 px a pair is the same speed
        found = DynamicDegree(Known(px))([noise_clip(frames=12, side=256, fps=fps)])
        assert found["dynamic_degree/clean"] == 1
    still = DynamicDegree(Known(0.0))([noise_clip(frames=2, side=256)])
    assert (still["dynamic_degree"], still["dynamic_degree/clean"]) == (1, 0)
    speed = DynamicDegree(Known(1.5))([noise_clip(frames=4, side=128)])
    assert speed["dynamic_degree/top5_px_per_second_at_256"] == pytest.approx(1.5 * 8 * 2)


def test_raft_pads_to_eighths_on_both_sides_and_takes_it_off() -> None:
    class Network(torch.nn.Module):
        def forward(self, first: torch.Tensor, second: torch.Tensor, updates: int) -> torch.Tensor:
            assert first.shape == (1, 3, 136, 144) and updates == 20
            assert first.amin() >= -1 and first.amax() <= 1
            return first[:, :2]

    frames = noise_clip(frames=2, side=150).frames[:, :130, :141]
    field = RaftFlow(Network())(frames[0], frames[1])
    assert field.padded.shape == (136, 144, 2) and field.inside.shape == (130, 141, 2)
    expected = torch.from_numpy(frames[0][..., :2].copy()).float() / 127.5 - 1
    assert torch.allclose(field.inside, expected, atol=1e-6)
    with pytest.raises(InputError, match="RAFT needs at least 128"):
        RaftFlow(Network())(frames[0][:64], frames[1][:64])


def average(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return (first + second) / 2


def test_smoothness_with_an_oracle_interpolator() -> None:
    still = MotionSmoothness(average)([pan(0, 0)])
    assert still == {"motion_smoothness": 1, "motion_smoothness/clean": 1}
    # levels 0, 1, 1: the guess is 0.5, floored 0, rounded 1
    levels = np.array([0, 1, 1, 1])[:, None, None, None] * np.ones((1, 8, 8, 3))
    found = MotionSmoothness(average)([Clip(levels.astype(np.uint8), 8.0)])
    assert found["motion_smoothness"] == pytest.approx(1 - 1 / 255)
    assert found["motion_smoothness/clean"] == 1
    slower = [MotionSmoothness(average)([pan(px, 0)])["motion_smoothness"] for px in (0, 1, 2, 4, 8)]
    assert slower == sorted(slower, reverse=True)


def test_smoothness_by_the_network_itself(tmp_path: Path) -> None:
    """From a weights file to the score, which is that of the network's own guess."""
    amt = filled(AMT())
    for value in amt.state_dict().values():
        if value.ndim > 1:
            value.mul_(0.5)
    save_weights(tmp_path / "amt-s.safetensors", amt.state_dict())
    clip = pan(3, 0, frames=4)
    metric = make_metric("motion_smoothness", Setup(networks=Networks(tmp_path, accept_nc=True)))
    first, now, second = (torch.from_numpy(frame.copy()).permute(2, 0, 1)[None] for frame in clip.frames[:3])
    with torch.no_grad():
        guess = (amt(first / 255, second / 255) * 255).floor()
    expected = 1 - float((guess - now).abs().mean()) / 255
    assert metric([clip])["motion_smoothness"] == pytest.approx(expected, abs=1e-4)
    assert metric([clip])["motion_smoothness/clean"] != metric([clip])["motion_smoothness"]
    with pytest.raises(InputError, match="more than 112 px"):
        metric([noise_clip(side=64)])


def tracker_of(shift: tuple[float, float], scale: float = 1.0, side: int = 100):  # type: ignore[no-untyped-def]
    """Tracks of a scene that moves by `shift` and grows by `scale` about the middle."""

    def track(video: torch.Tensor, grid: int) -> torch.Tensor:
        line = torch.linspace(5.0, side - 5.0, grid)
        ys, xs = torch.meshgrid(line, line, indexing="ij")
        start = torch.stack([xs, ys], -1).view(1, 1, grid * grid, 2)
        end = (start - side / 2) * scale + side / 2 + torch.tensor(shift)
        return torch.cat([start, end], 1)

    return track


@pytest.mark.parametrize(
    ("shift", "scale", "name"),
    [
        ((-9.0, 0.0), 1.0, "pan_right"),
        ((9.0, 0.0), 1.0, "pan_left"),
        ((0.0, 9.0), 1.0, "tilt_up"),
        ((0.0, -9.0), 1.0, "tilt_down"),
        ((0.0, 0.0), 1.3, "zoom_in"),
        ((0.0, 0.0), 0.7, "zoom_out"),
        ((0.0, 0.0), 1.0, "static"),
    ],
)
def test_every_camera_is_recognised_and_only_it(shift: tuple[float, float], scale: float, name: str) -> None:
    clip = noise_clip(side=100)
    for asked in ("pan_right", "pan_left", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "static"):
        found = CameraMotion(tracker_of(shift, scale))([Item(clip, camera=asked)])
        assert found["camera_motion/clean"] == (asked == name), asked
        if asked == name or not name.startswith("zoom"):
            assert found["camera_motion"] == (asked == name), asked


def test_the_releases_zoom_is_a_pan_too() -> None:
    """Its point of an edge, the sixth of ten, lies beside the middle."""
    found = CameraMotion(tracker_of((0.0, 0.0), 0.7))([Item(noise_clip(side=100), camera="pan_right")])
    assert found == {"camera_motion": 1, "camera_motion/clean": 0}


def test_whole_pixels_hide_small_motion_from_the_release() -> None:
    clip = noise_clip(side=100)  # threshold 0.5 px; from 5.0 to 5.9 the truncated track stands still
    found = CameraMotion(tracker_of((0.9, 0.0)))([Item(clip, camera="pan_left")])
    assert found == {"camera_motion": 0, "camera_motion/clean": 1}
    with pytest.raises(InputError, match="expected one of pan_left"):
        CameraMotion(tracker_of((0.0, 0.0)))([Item(clip, camera="dolly")])
    assert GRID == 10

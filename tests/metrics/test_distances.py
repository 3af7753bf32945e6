"""Distances between sets: closed forms, three independent forms, symmetry, bias; FVD, FID and IS on networks with
known random weights.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import nn

from motionloom.errors import InputError
from motionloom.metrics.base import Item
from motionloom.metrics.distribution import SetDistance
from motionloom.metrics.fid import FID
from motionloom.metrics.frechet import (
    all_distances,
    frechet_at_infinity,
    frechet_distance,
    kernel_distance,
    kernel_distance_error,
    noise_floor,
)
from motionloom.metrics.fvd import FVD, FVDShuffled, FVDTensorFlow, FVDVideoGPT
from motionloom.metrics.fvd_videomae import FVDVideoMAE
from motionloom.metrics.inception_score import inception_score
from motionloom.metrics.networks.i3d import I3D
from motionloom.metrics.networks.videomae import VideoMAE
from motionloom.metrics.preprocess import shorter_side
from motionloom.metrics.random_features import RandomFeatureDistance
from motionloom.metrics.setup import Window
from motionloom.video.clip import Clip
from tests.metrics.making import filled, noise_clip, pan, stream


def drawn(n: int, d: int, name: str, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return stream(name).standard_normal((n, d)) * scale + shift


def whitened(x: np.ndarray) -> np.ndarray:
    """The same rows with mean 0 and covariance exactly 1 (over N - 1)."""
    centred = x - x.mean(0)
    return centred @ np.linalg.inv(linalg.sqrtm(np.cov(centred.T)).real)


def test_closed_forms_of_gaussians() -> None:
    x = whitened(drawn(200, 5, "x"))
    moved = x + np.array([3.0, 0, 0, 0, 0])
    assert frechet_distance(x, moved) == pytest.approx(9, abs=1e-8)
    assert frechet_distance(x, 2 * x) == pytest.approx(5, abs=1e-8)  # d (2 - 1)^2
    ddof0 = frechet_distance(x, 2 * x, ddof=0)
    assert ddof0 == pytest.approx(5 * 199 / 200, abs=1e-8)


@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 16), (20, 30, 64), (300, 20, 64)])
def test_three_forms_agree_also_for_fewer_clips_than_dimensions(n: int, m: int, d: int) -> None:
    a, b = drawn(n, d, "a"), drawn(m, d, "b", 1.3, 0.2)
    s1, s2 = np.cov(a.T), np.cov(b.T)
    common = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1) + np.trace(s2)
    eigenvalues = np.linalg.eigvals(s1 @ s2).real.clip(0)
    root = linalg.sqrtm(s1 + 1e-12 * np.eye(d)).real
    symmetric = np.linalg.eigvalsh(root @ s2 @ root).clip(0)
    own = frechet_distance(a, b)
    assert own == pytest.approx(common - 2 * np.sqrt(eigenvalues).sum(), rel=1e-4)
    assert own == pytest.approx(common - 2 * np.sqrt(symmetric).sum(), rel=1e-4)


def test_equal_sets_are_at_zero_in_any_order_and_inputs_stay() -> None:
    a = drawn(40, 64, "a")
    kept = a.copy()
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-10)
    all_distances(a, drawn(30, 64, "b"))
    assert np.array_equal(a, kept)


def test_the_bias_and_its_cures() -> None:
    """Two samples of one distribution: the distance is far from 0, falls with N; FD-infinity and MMD are near 0."""
    spectrum = 1 / np.sqrt(np.arange(1, 101))
    found = {}
    for n in (32, 128, 512):
        a, b = (drawn(n, 100, f"{name}{n}") * spectrum for name in "ab")
        found[n] = frechet_distance(a, b)
    assert found[32] > 2 * found[128] > 4 * found[512] > 0
    infinity = frechet_at_infinity(a, b)
    assert abs(infinity) < 0.1 * found[512]
    assert abs(kernel_distance(a, b)) < 4 * kernel_distance_error(a, b)
    assert noise_floor(a) > found[512]  # halves are smaller


def test_kernel_distance_is_the_unbiased_estimator() -> None:
    a, b = drawn(6, 3, "a"), drawn(5, 3, "b", 1.5, 0.5)
    k = lambda x, y: (x @ y / 3 + 1) ** 3  # noqa: E731
    within = lambda s: np.mean([k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j])  # noqa: E731
    expected = within(a) + within(b) - 2 * np.mean([k(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(expected)
    leave_one_out = np.array([kernel_distance(a, np.delete(b, i, 0)) for i in range(5)])
    jackknife = np.sqrt(4 / 5 * ((leave_one_out - leave_one_out.mean()) ** 2).sum())
    assert kernel_distance_error(a, b) == pytest.approx(jackknife)


# --- on clips


def clips(name: str, count: int, blur: int = 0) -> list[Item]:
    made = []
    for i in range(count):
        angle = stream(f"{name}{i}").random() * 6.28
        clip = pan(2 * np.cos(angle), 2 * np.sin(angle), frames=4, side=32)
        frames = clip.frames
        if blur:
            import cv2

            frames = np.stack([cv2.blur(frame, (blur, blur)) for frame in frames])
        made.append(
            Item(Clip(frames, 8.0), str(i), cluster=str(i), class_name="ab"[i % 2], subject=str(i % 3))
        )
    return made


def test_random_features_order_copies_and_corruption() -> None:
    metric = RandomFeatureDistance(Window(4), small_sets=True)
    real, own = clips("r", 16), clips("g", 16)
    found = metric(own, real)
    assert metric(own[::-1], real[::-1]) == found
    assert metric(real, real)["fd_random3d"] == pytest.approx(0, abs=1e-9)
    blurred = [metric(clips("g", 16, blur), real)["fd_random3d"] for blur in (3, 5, 9)]
    assert found["fd_random3d"] < blurred[0] < blurred[1] < blurred[2]
    summary = metric.summarise(*[[_row(metric, item) for item in items] for items in (own, real)])
    sample = summary["fd_random3d"].sample
    assert sample is not None and (sample.num_real, sample.num_generated, sample.num_frames) == (16, 16, 4)
    assert "16 real and 16 generated" in summary["fd_random3d"].warnings[0]
    assert summary["fd_random3d/per_class"].num_clusters == 2
    assert summary["fd_random3d/per_subject"].spread is not None


def test_small_sets_get_no_frechet_distance_unasked() -> None:
    metric = RandomFeatureDistance(Window(4), small_sets=False)
    found = metric(clips("g", 5), clips("r", 5))
    assert "fd_random3d" not in found and "fd_random3d/kernel" in found


def _row(metric: SetDistance, item: Item):  # type: ignore[no-untyped-def]
    from motionloom.metrics.base import row_of

    return row_of(item, metric.checked(item))


class TinyI3D(I3D):
    """Remembers what it is shown; features are means of halves of the clip."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.seen: list[torch.Tensor] = []

    def with_norm_eps(self, norm_eps: float) -> I3D:
        self.norm_eps = norm_eps
        return self

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        self.seen.append(clips)
        return torch.stack([half.mean((0, 2, 3, 4)) for half in clips.chunk(2, dim=4)], 1).reshape(1, 6)


def test_what_each_fvd_shows_its_network() -> None:
    wide = Clip(np.ascontiguousarray(np.tile(noise_clip("w", 10, 32).frames, (1, 1, 2, 1))), 8.0)
    shown = {}
    for kind in (FVD, FVDVideoGPT, FVDTensorFlow):
        network = TinyI3D()
        kind(Window(9), True, network).checked(Item(wide))
        (shown[kind.name],) = network.seen
        assert shown[kind.name].shape == (1, 3, 9, 224, 224)
        assert network.norm_eps == (1e-5 if kind is FVDVideoGPT else 1e-3)
    pixels = torch.from_numpy(wide.frames[:9]).permute(0, 3, 1, 2).float()
    stretched = nn.functional.interpolate(pixels, (224, 224), mode="bilinear")
    assert torch.equal(shown["fvd"][0].permute(1, 0, 2, 3), 2 * stretched / 255 - 1)
    cropped = shorter_side(pixels, 224, "bilinear")[..., 112:336]
    assert torch.equal(shown["fvd_videogpt"][0].permute(1, 0, 2, 3), 2 * cropped / 255 - 1)
    # TensorFlow 1: output place 7 k of 224 is input place k of 32, untouched; the corner is the corner
    tensorflow = (shown["fvd_tensorflow"][0].permute(1, 0, 2, 3)[:, :, ::7, 0] + 1) * 127.5
    assert torch.allclose(tensorflow, pixels[..., 0], atol=1e-3)


def test_shuffling_frames_is_seen_by_a_network_that_sees_motion() -> None:
    class Motion(TinyI3D):
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            return (clips[:, :, 1:] - clips[:, :, :-1]).abs().mean((2, 3, 4))

    real, own = clips_of_nine("r"), clips_of_nine("g")
    plain, shuffled = (kind(Window(9), True, Motion())(own, real) for kind in (FVD, FVDShuffled))
    assert shuffled["fvd_shuffled"] > 10 * plain["fvd"]


def clips_of_nine(name: str) -> list[Item]:
    return [
        Item(pan(1 + 0.2 * i, 0, frames=9, side=32), f"{name}{i}", "reference" if name == "r" else "clip")
        for i in range(6)
    ]


def test_short_clips_are_refused() -> None:
    with pytest.raises(InputError, match="needs at least 9"):
        FVD(Window(None), True, TinyI3D())([noise_clip()], [noise_clip()])
    with pytest.raises(InputError, match="it has 10 frames, 16 are needed"):
        FVD(Window(16), True, TinyI3D())([noise_clip(frames=10)], [])


def test_window_of_references() -> None:
    clip = noise_clip(frames=40, side=16)
    window = Window(16, "random")
    assert np.array_equal(window.of(Item(clip)), clip.frames[:16])
    starts = {window.of(Item(noise_clip(f"{i}", 40, 16), role="reference"))[0, 0, 0, 0] for i in range(4)}
    assert len(starts) > 1
    assert np.array_equal(window.of(Item(clip, role="reference")), window.of(Item(clip, role="reference")))


def test_fid_pools_frames() -> None:
    class Mean(nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            assert pictures.shape[1:] == (3, 299, 299)
            return pictures.mean((2, 3))

    metric = FID(Window(4), True, Mean())
    real, own = clips("r", 4), clips("g", 4)
    assert metric.checked(real[0]).features["inception"].shape == (4, 3)
    assert metric(real, real)["fid"] == pytest.approx(0, abs=1e-9)
    assert metric(own, real)["fid"] > 1e-6


def test_videomae_takes_its_own_number_of_frames() -> None:
    from transformers import VideoMAEConfig, VideoMAEModel

    config = VideoMAEConfig(
        image_size=32,
        patch_size=16,
        num_frames=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    metric = FVDVideoMAE(Window(16), True, VideoMAE(filled(VideoMAEModel(config))))
    found = metric.checked(Item(noise_clip("a", 6))).features["videomae"]
    other = metric.checked(Item(noise_clip("b", 6))).features["videomae"]
    assert found.shape == (1, 16) and (found - other).abs().max() > 1e-3
    with pytest.raises(InputError, match="needs at least 4"):
        metric.checked(Item(noise_clip(frames=3)))


def test_inception_score_closed_forms() -> None:
    assert inception_score(np.eye(10).repeat(3, 0)) == pytest.approx((10, 0))
    assert inception_score(np.full((20, 10), 0.1)) == pytest.approx((1, 0))
    mixed = np.array([[0.9, 0.1], [0.1, 0.9]])
    assert inception_score(mixed)[0] == pytest.approx(np.exp(0.9 * np.log(1.8) + 0.1 * np.log(0.2)))
    assert np.isfinite(inception_score(np.eye(10), 10)[0])  # one-hot rows are no NaN

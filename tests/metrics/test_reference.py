"""Comparison with a reference clip: closed forms, and scikit-image as an oracle."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from motionloom.errors import InputError
from motionloom.metrics.mae import MAE
from motionloom.metrics.psnr import PSNR
from motionloom.metrics.ssim import SSIM, ssim_rgb_g11
from motionloom.video.clip import Clip
from tests.metrics.making import noise_clip, pan, stream


def shifted(clip: Clip, levels: int) -> Clip:
    return Clip((clip.frames // 2 + levels).astype(np.uint8), clip.fps)


BASE = shifted(pan(2, 1), 0)


def test_psnr_of_a_constant_error() -> None:
    found = PSNR()([shifted(pan(2, 1), 5)], [BASE])
    for name in ("psnr", "psnr/median_of_frames", "psnr/mean_of_frames"):
        assert found[name] == pytest.approx(20 * np.log10(255 / 5))


def test_psnr_conventions_part_when_one_frame_is_exact() -> None:
    frames = BASE.frames.copy()
    frames[1:] += 10
    found = PSNR()([Clip(frames, 8.0)], [BASE])
    each = 20 * np.log10(25.5)
    assert found["psnr"] == pytest.approx(each + 10 * np.log10(5 / 4))
    assert found["psnr/median_of_frames"] == pytest.approx(each)
    assert found["psnr/mean_of_frames"] == pytest.approx((100 + 4 * each) / 5)


def test_equal_clips_are_best_everywhere() -> None:
    assert PSNR()([BASE], [BASE]) == {
        "psnr": np.inf,
        "psnr/median_of_frames": np.inf,
        "psnr/mean_of_frames": 100,
    }
    assert SSIM()([BASE], [BASE])["ssim"] == pytest.approx(1, abs=1e-9)
    assert MAE()([BASE], [BASE]) == {"mae": 0, "mae/mse": 0}


def test_mae_and_mse_of_a_constant_error() -> None:
    assert MAE()([shifted(pan(2, 1), 5)], [BASE]) == {"mae": pytest.approx(5), "mae/mse": pytest.approx(25)}


def test_ssim_equals_scikit_image() -> None:
    a = noise_clip("a", 1, 48).frames[0]
    b = np.clip(a + stream("b").normal(0, 20, a.shape), 0, 255).astype(np.uint8)
    expected = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2
    )
    pair = (torch.from_numpy(x).permute(2, 0, 1)[None].float() for x in (a, b))
    assert float(ssim_rgb_g11(*pair)) == pytest.approx(expected, abs=1e-6)


def test_scores_fall_as_noise_grows() -> None:
    found = []
    for sigma in (1, 4, 16, 64):
        noisy = np.clip(BASE.frames + stream("n").normal(0, sigma, BASE.frames.shape), 0, 255)
        clip = Clip(noisy.astype(np.uint8), 8.0)
        found.append(
            (PSNR()([clip], [BASE])["psnr"], SSIM()([clip], [BASE])["ssim"], -MAE()([clip], [BASE])["mae"])
        )
    assert found == sorted(found, reverse=True)
    assert all(a > b for one, other in itertools.pairwise(found) for a, b in zip(one, other, strict=True))


def test_another_size_is_refused_not_resized() -> None:
    with pytest.raises(InputError, match="5 frames of 32x32 px, its reference 5 of 128x128 px"):
        SSIM()([noise_clip()], [BASE])
    with pytest.raises(InputError, match="got 2 clips and 1 references"):
        SSIM()([BASE, BASE], [BASE])

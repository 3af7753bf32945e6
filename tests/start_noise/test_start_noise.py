"""Start noise: what the frames share, and what they know of the photo. The DCT is checked against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch

from motionloom.start_noise.dct import DCTStart, dct_matrix, low_frequencies
from motionloom.start_noise.gaussian import one_generator_per_sample
from motionloom.start_noise.shared import SharedNoise, share_noise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_shared_noise_is_not_normalised() -> None:
    """Standard deviation sqrt(.05^2 + .95^2) = .951 from frame 1 on."""
    noise = SharedNoise(0.05)(None, (1, 4, 9, 100, 100), generator())
    assert noise[:, :, 1:].std().item() == pytest.approx(0.9513, abs=2e-3)
    assert noise[:, :, :1].std().item() == pytest.approx(1.0, abs=1e-2)


def test_sharing_nothing_and_sharing_everything() -> None:
    noise = torch.randn(2, 4, 5, 3, 6, generator=generator())
    assert torch.equal(share_noise(noise, 0.0), noise)
    assert torch.equal(share_noise(noise, 1.0), noise[:, :, :1].expand_as(noise))


def test_a_sample_does_not_depend_on_its_batch() -> None:
    many = SharedNoise()(None, (3, 4, 5, 6, 6), one_generator_per_sample(7, 3))
    alone = SharedNoise()(None, (1, 4, 5, 6, 6), one_generator_per_sample(8, 1))
    assert torch.equal(many[1:2], alone)


@pytest.mark.parametrize("size", [1, 2, 9, 40, 64])
def test_dct_is_orthonormal_and_that_of_scipy(size: int) -> None:
    matrix = dct_matrix(size)
    signal = torch.randn(size, dtype=torch.float64, generator=generator())
    expected = scipy.fft.dct(signal.numpy(), type=2, norm="ortho")
    assert torch.allclose(matrix @ matrix.T, torch.eye(size), atol=1e-5)
    assert np.allclose(matrix.double().numpy() @ signal.numpy(), expected, atol=1e-5)


def test_low_band_is_126_of_2560_coefficients() -> None:
    maps = torch.randn(4, 40, 64, dtype=torch.float64, generator=generator())
    spectrum = scipy.fft.dctn(low_frequencies(maps, 0.23).numpy(), axes=(1, 2), norm="ortho")
    kept = np.abs(spectrum) > 1e-9
    assert kept.sum() == 4 * 126 and kept[:, :9, :14].all()
    whole = scipy.fft.dctn(maps.numpy(), axes=(1, 2), norm="ortho")
    assert np.allclose(spectrum[:, :9, :14], whole[:, :9, :14])


def test_a_transform_over_time_too_gives_the_same() -> None:
    """The band is constant in time, so the published 3-D transform and the 2-D one agree."""
    difference = torch.randn(4, 15, 20, 32, dtype=torch.float64, generator=generator()).numpy()
    spectrum = scipy.fft.dctn(difference, axes=(1, 2, 3), norm="ortho")
    spectrum[..., int(0.23 * 20) :, :] = 0
    spectrum[..., int(0.23 * 32) :] = 0
    expected = scipy.fft.idctn(spectrum, axes=(1, 2, 3), norm="ortho")
    assert np.allclose(low_frequencies(torch.from_numpy(difference), 0.23).numpy(), expected)


def test_replacing_noise_by_itself_changes_nothing() -> None:
    """y = eps when the signal is 0 and the noise 1."""
    noise = torch.randn(1, 4, 6, 20, 32, generator=generator())
    photo = torch.randn(1, 4, 1, 20, 32, generator=generator(1))
    start = DCTStart(0.0, 1.0).around(photo, noise)
    assert torch.allclose(start[:, :, 1:], noise[:, :, 1:], atol=1e-6)
    assert torch.equal(start[:, :, :1], photo)


def test_low_frequencies_come_from_the_photo_and_high_ones_from_the_noise() -> None:
    noise = torch.randn(1, 1, 3, 20, 20, dtype=torch.float64, generator=generator())
    photo = torch.randn(1, 1, 1, 20, 20, dtype=torch.float64, generator=generator(1))
    start = DCTStart(0.6, 0.8).around(photo, noise)[:, :, 1:]
    noised = 0.6 * photo + 0.8 * noise[:, :, 1:]
    got, low, high = (
        scipy.fft.dctn(x.numpy(), axes=(3, 4), norm="ortho") for x in (start, noised, noise[:, :, 1:])
    )
    assert np.allclose(got[..., :4, :4], low[..., :4, :4])
    assert np.allclose(got[..., 4:, :], high[..., 4:, :]) and np.allclose(got[..., :, 4:], high[..., :, 4:])


def test_same_generator_same_start() -> None:
    photo = torch.randn(1, 4, 1, 8, 8, generator=generator())
    first, again, other = (DCTStart(0.1, 0.9)(photo, (1, 4, 5, 8, 8), generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)

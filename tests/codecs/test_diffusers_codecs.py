"""The autoencoders of Stable Diffusion and Wan behind the codec contract."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLWan

from motionloom.codecs.image_autoencoder import ImageAutoencoder
from motionloom.codecs.wan_autoencoder import WanAutoencoder
from motionloom.denoisers import animatediff, wan
from motionloom.errors import InputError


@pytest.fixture(scope="module")
def image() -> ImageAutoencoder:
    torch.manual_seed(0)
    return ImageAutoencoder(AutoencoderKL(**animatediff.TINY_VAE))


@pytest.fixture(scope="module")
def video() -> WanAutoencoder:
    torch.manual_seed(0)
    return WanAutoencoder(AutoencoderKLWan(**wan.TINY_VAE))


def clip(frames: int, height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.rand(1, 3, frames, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_image_latents_are_the_scaled_mean_frame_by_frame(image: ImageAutoencoder) -> None:
    frames = clip(3)
    latents = image.encode(frames)
    assert latents.shape == (1, *image.latent_shape(3, 32, 48)) == (1, 4, 3, 4, 6)
    expected = image.network.encode(frames[:, :, 1]).latent_dist.mean * 0.18215
    assert torch.allclose(latents[:, :, 1], expected, atol=1e-6)
    assert torch.equal(latents, image.encode(frames))


def test_image_decoding_undoes_the_scale_and_keeps_the_photo(image: ImageAutoencoder) -> None:
    frames = clip(3)
    latents = image.encode(frames)
    told: list[tuple[int, int]] = []
    decoded = image.decode(latents, frames[:, :, 0], lambda done, total: told.append((done, total)))
    assert torch.equal(decoded[:, :, 0], frames[:, :, 0])
    expected = image.network.decode(latents[:, :, 2] / 0.18215).sample
    assert torch.allclose(decoded[:, :, 2], expected, atol=1e-6)
    assert told == [(2, 3), (3, 3)]


def test_wan_latent_of_a_photo_is_the_first_of_any_clip_that_starts_with_it(video: WanAutoencoder) -> None:
    """Causal in time: the published [photo, zeros ...] is not needed."""
    photo = clip(1)
    padded = torch.cat([photo, torch.zeros(1, 3, 8, 32, 48)], 2)
    alone, first = video.encode(photo), video.encode(padded)[:, :, :1]
    assert alone.shape == (1, *video.latent_shape(1, 32, 48)) == (1, 16, 1, 4, 6)
    assert torch.allclose(alone, first, atol=1e-5)


def test_wan_latents_are_shifted_and_scaled_per_channel(video: WanAutoencoder) -> None:
    frames = clip(5)
    latents = video.encode(frames)
    raw = video.network.encode(frames).latent_dist.mean
    mean, std = (torch.tensor(video.network.config[name]) for name in ("latents_mean", "latents_std"))
    assert torch.allclose(latents[0, 3], (raw[0, 3] - mean[3]) / std[3], atol=1e-5)
    decoded = video.decode(latents, frames[:, :, 0])
    assert torch.equal(decoded[:, :, 0], frames[:, :, 0])
    assert torch.allclose(decoded[:, :, 1:], video.network.decode(raw).sample[:, :, 1:], atol=1e-4)


@pytest.mark.parametrize("name", ["image", "video"])
def test_a_sample_of_the_posterior_belongs_to_its_generator(
    name: str, request: pytest.FixtureRequest
) -> None:
    codec = request.getfixturevalue(name)
    mean = codec.encode(clip(1))
    one, again, other = (codec.encode(clip(1), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other) and not torch.equal(one, mean)


@pytest.mark.parametrize("name", ["image", "video"])
def test_a_cached_posterior_is_the_one_that_encoding_samples(
    name: str, request: pytest.FixtureRequest
) -> None:
    """Its mean and spread carry the latents' scale: z = (m + s e) c has mean c m and standard deviation c s."""
    codec = request.getfixturevalue(name)
    posterior = codec.posterior(clip(1))
    assert torch.allclose(posterior.mean, codec.encode(clip(1)), atol=1e-6)
    drawn = codec.encode(clip(1), torch.Generator().manual_seed(1)) - posterior.mean
    cached = posterior.sample(torch.Generator().manual_seed(1)) - posterior.mean
    assert torch.allclose(cached, drawn, atol=1e-5) and drawn.abs().max() > 1e-2


def test_sizes_that_cannot_be_are_refused(image: ImageAutoencoder, video: WanAutoencoder) -> None:
    for codec in (image, video):
        with pytest.raises(InputError, match="multiples of 8"):
            codec.encode(clip(1, 30, 48))
    with pytest.raises(InputError, match="one more than a multiple of 4") as problem:
        video.encode(clip(7))
    assert problem.value.fix == "take 5 or 9"

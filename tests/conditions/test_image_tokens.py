from __future__ import annotations

import pytest
import torch

from motionloom.conditions.clip_text import ClipWords, HashedWords
from motionloom.conditions.image_tokens import clip_pixels, for_frames, squeeze
from motionloom.errors import WeightsError


@pytest.mark.parametrize("size", [(320, 512), (576, 1024), (200, 180)])
def test_the_picture_is_squeezed_as_stable_video_diffusion_does(size: tuple[int, int]) -> None:
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
        _resize_with_antialiasing,
    )

    picture = torch.rand(1, 3, *size) * 2 - 1
    assert torch.equal(squeeze(picture, 224), _resize_with_antialiasing(picture, (224, 224)))


def test_mid_grey_is_the_middle_of_clips_range() -> None:
    """(0.5 - mean) / std of CLIP's statistics."""
    grey = clip_pixels(torch.zeros(1, 3, 64, 64))
    assert torch.allclose(grey[0, :, 0, 0], torch.tensor([0.0690, 0.1614, 0.3328]), atol=1e-4)


def test_each_frame_takes_the_tokens_of_the_nearest_trained_frame() -> None:
    tokens = torch.arange(16.0).repeat_interleave(16)[None, :, None].expand(1, 256, 4)
    assert torch.equal(for_frames(tokens, 16), tokens)
    for frames in (2, 5, 33):
        spread = for_frames(tokens, frames)
        assert spread.shape == (1, 16 * frames, 4)
        first = spread[0, ::16, 0]
        assert first[0] == 0 and first[-1] == 15 and (first.diff() >= 0).all()


def test_the_empty_text_needs_no_vocabulary_and_words_do() -> None:
    numbers = ClipWords(None, "hf download it")([""])
    assert numbers.shape == (1, 77)
    assert numbers[0, :3].tolist() == [49406, 49407, 0]
    with pytest.raises(WeightsError, match="hf download it"):
        ClipWords(None, "hf download it")(["a dog"])


def test_long_texts_are_cut_before_the_end_mark() -> None:
    numbers = HashedWords(512)(["word " * 200, "a"])
    assert numbers[0, 0] == 510 and numbers[0, -1] == 511
    assert numbers[1, 2] == 511 and not numbers[1, 3:].any()
    assert not torch.equal(HashedWords(512)(["dog"]), HashedWords(512)(["cat"]))

"""Content tokens know their place."""

from __future__ import annotations

import torch

from motionloom.conditions.content import AlignedContent, content_tokens, position_code


def test_shapes() -> None:
    f_x0 = torch.randn(2, 16, 6, 10)
    assert content_tokens(f_x0).shape == (2, 60, 16)
    assert content_tokens(f_x0, pooled_side=8).shape == (2, 64, 16)
    assert AlignedContent(16, 4)(f_x0).shape == (2, 4, 6, 10)


def test_every_place_has_its_own_code() -> None:
    code = position_code(8, 8, 32)
    assert code.shape == (64, 32) and code.abs().max() <= 1
    assert torch.cdist(code, code).fill_diagonal_(1.0).min() > 0.1


def test_moving_the_picture_changes_the_set_of_tokens() -> None:
    """Without codes, attention could not tell a picture from the same picture with its places permuted."""
    f_x0 = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    moved = f_x0.roll(1, dims=-1)

    def as_set(features: torch.Tensor) -> torch.Tensor:
        return features[0, features[0, :, 0].argsort()]

    bare = [as_set(features.flatten(2).transpose(1, 2)) for features in (f_x0, moved)]
    torch.testing.assert_close(*bare)
    coded = [as_set(content_tokens(features)) for features in (f_x0, moved)]
    assert not torch.allclose(*coded, atol=1e-2)

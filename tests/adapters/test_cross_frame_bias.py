"""Masks reach the adapter's own attention over frames, beside the base's: what lies off the subject is not seen from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import motionloom as ml
from motionloom.adapters import context_of
from motionloom.adapters.blend import blend_cross_frames
from motionloom.adapters.cross_frame_attention import KeysValues
from tests.adapters.conftest import latents_for, moved, predict

EPSILON = 1e-4  # of the bias, log(pair + epsilon)


def test_each_place_sees_its_own_kind(unet: Any) -> None:
    """With equal keys attention is uniform, so of a change of the values on the right half every place sees 1/2. A hard mask
    of the left half weighs its pairs with 1 or epsilon: left sees epsilon / (1 + epsilon) of it, right 1 / (1 + epsilon).
    """
    adapter = moved(unet, masked=True)
    path = adapter.layout.spatial[0].path
    attn, parts = unet.get_submodule(path).attn1, {0: dict(adapter.spatial())[path]}
    generator = torch.Generator().manual_seed(0)
    x, values = torch.randn(2, 1, 1, 3, 96, 16, generator=generator)
    changed = values.unflatten(-2, (8, 12)).clone()
    changed[..., 6:, :] += 100 * torch.randn(16, generator=generator)
    left = torch.zeros(1, 3, 8, 12)
    left[..., :6] = 1

    with torch.no_grad(), ml.mounted(unet, [(adapter, 1.0)]):
        predict(unet, latents_for(unet))
        context = context_of(unet)

        def seen_of_the_change(masks: Tensor | None) -> Tensor:
            context.show_masks(masks)
            before, after = (
                blend_cross_frames(x, KeysValues(torch.zeros_like(x), v), attn, parts, context)
                for v in (values, changed.flatten(-3, -2))
            )
            return (after - before)[0, 0].unflatten(1, (8, 12))

        free, masked = seen_of_the_change(None), seen_of_the_change(left)
    size = float(free.abs().max())
    assert torch.allclose(
        masked[..., :6, :], 2 * EPSILON / (1 + EPSILON) * free[..., :6, :], atol=1e-5 * size
    )
    assert torch.allclose(masked[..., 6:, :], 2 / (1 + EPSILON) * free[..., 6:, :], atol=1e-4 * size)
    assert size > 1

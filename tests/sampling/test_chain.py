"""Pieces of a long clip share a frame, and the measure of a seam sees a jump."""

from __future__ import annotations

import math

import pytest
import torch

from motionloom.sampling.chain import Piece, chain, num_pieces, seam_ratio


@pytest.mark.parametrize(
    ("frames", "pieces"), [(2, 1), (15, 1), (16, 1), (17, 2), (31, 2), (32, 3), (64, 5), (128, 9)]
)
def test_pieces_share_a_frame(frames: int, pieces: int) -> None:
    """T frames need ceil((T - 1) / (L - 1)) pieces of L = 16."""
    assert num_pieces(frames, 16) == pieces


def counting(start: float) -> torch.Tensor:
    return torch.arange(float(start), start + 16).view(1, 1, -1, 1, 1).expand(1, 3, -1, 2, 2)


def test_a_chain_has_every_frame_once() -> None:
    asked: list[int] = []

    def following(piece: Piece, number: int) -> Piece:
        asked.append(number)
        return Piece(piece.latents + 1, counting(float(piece.last_frame.mean())))

    frames = chain(Piece(torch.zeros(1), counting(0)), following, 64)
    assert torch.equal(frames[0, 0, :, 0, 0], torch.arange(64.0))
    assert asked == [1, 2, 3, 4]
    assert torch.equal(chain(Piece(torch.zeros(1), counting(0)), following, 5), counting(0)[:, :, :5])


def test_the_seam_ratio() -> None:
    even = torch.arange(22.0).view(1, 1, -1, 1, 1).expand(1, 3, -1, 4, 4)
    assert seam_ratio(even, 8) == pytest.approx(1.0)
    jumping = even.clone()
    jumping[:, :, 8:] += 3  # of the two seams, 7 -> 8 and 14 -> 15, the first jumps by 4
    assert seam_ratio(jumping, 8) == pytest.approx((4 + 1) / 2)
    assert math.isnan(seam_ratio(even[:, :, :8], 8))

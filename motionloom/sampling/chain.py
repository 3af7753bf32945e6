"""Long clips of short pieces: the last frame of a piece is the content frame of the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """A piece of a clip.

    Attributes:
        latents: (B, d, h, w), its motion.
        frames: (B, 3, L, H, W), -1..1.
    """

    latents: Tensor
    frames: Tensor

    @property
    def last_frame(self) -> Tensor:
        """(B, 3, H, W)."""
        return self.frames[:, :, -1]


def num_pieces(num_frames: int, piece_frames: int) -> int:
    """Pieces of L frames that a clip of T frames needs, each sharing a frame with the next: ceil((T - 1) / (L - 1))."""
    return max(1, -(-(num_frames - 1) // (piece_frames - 1)))


def chain(first: Piece, following: Callable[[Piece, int], Piece], num_frames: int) -> Tensor:
    """Pieces until the clip is long enough.

    Args:
        first: the piece that begins at the photo.
        following: a piece and the number of the next (1, 2, ...) => the next, whose frame 0 is the last of the piece.
        num_frames: T, of the clip; what a piece has beyond it is cut off.

    Returns:
        (B, 3, T, H, W).
    """
    piece, frames = first, [first.frames]
    for number in range(1, num_pieces(num_frames, first.frames.shape[2])):
        piece = following(piece, number)
        frames.append(piece.frames[:, :, 1:])
    return torch.cat(frames, dim=2)[:, :, :num_frames]


def seam_ratio(frames: Tensor, piece_frames: int) -> float:
    """How much more changes where pieces meet: the mean change of a frame there, over that of all others.

    The change of a frame is the mean absolute difference to the frame before; a seam's is the one from the shared frame to
    the first that the next piece adds.

    Args:
        frames: (B, 3, T, H, W) of a chained clip.
        piece_frames: L.

    Returns:
        1 where nothing shows; NaN where there is no seam or nothing moves elsewhere.
    """
    changes = frames.diff(dim=2).abs().mean((0, 1, 3, 4))  # change k is from frame k to k + 1
    at_seam = torch.zeros(len(changes), dtype=torch.bool)
    at_seam[piece_frames - 1 :: piece_frames - 1] = True
    elsewhere = ~at_seam
    if not at_seam.any() or float(changes[elsewhere].sum()) == 0:
        return float("nan")
    return float(changes[at_seam].mean() / changes[elsewhere].mean())

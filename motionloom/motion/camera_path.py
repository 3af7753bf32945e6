"""A moving camera as one affine velocity field: x' = rate(x) followed for a time tau.

A camera motion is a 2 x 3 matrix L = [A | b], the affine field of velocities; the place x is at expm(tau L) x after tau.
One matrix therefore gives every frame, straight lines stay straight, and half the motion done twice is the whole.
"""

from __future__ import annotations

import torch


def path_matrix(rates: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    """Affine matrices of a path.

    Args:
        rates: (..., 2, 3), L.
        tau: (T,), 0 at the first frame and 1 at the end of the clip.

    Returns:
        (..., T, 2, 3): x_t = M_t [x; 1].
    """
    square = torch.cat([rates, torch.zeros_like(rates[..., :1, :])], dim=-2)
    path: torch.Tensor = torch.linalg.matrix_exp(square.unsqueeze(-3) * tau[:, None, None].to(rates))
    return path[..., :2, :]


def displacement(rates: torch.Tensor, tau: torch.Tensor, xy: torch.Tensor) -> torch.Tensor:
    """Flow of a camera path at some places.

    Args:
        rates: (2, 3).
        tau: (T,).
        xy: (h, w, 2) in frame units.

    Returns:
        (T, h, w, 2) in frame units; exactly zero where tau is 0.
    """
    matrices = path_matrix(rates, tau)
    moved = torch.einsum("tij,hwj->thwi", matrices[..., :2], xy) + matrices[:, None, None, :, 2]
    return moved - xy


def fit_rates(field: torch.Tensor, xy: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Least-squares L whose path ends (tau = 1) at a displacement field.

    Args:
        field: (h, w, 2) displacement at tau = 1.
        xy: (h, w, 2).
        weight: (h, w), non-negative; default one everywhere.

    Returns:
        (2, 3).
    """
    ones = torch.ones_like(xy[..., :1])
    basis = torch.cat([xy, ones], -1).reshape(-1, 3).double()
    target = (xy + field).reshape(-1, 2).double()
    root = (
        (torch.ones(len(basis), 1) if weight is None else weight.reshape(-1, 1)).double().clamp_min(0).sqrt()
    )
    ridge = 1e-9 * torch.eye(3, dtype=torch.float64)
    gram = (basis * root).T @ (basis * root) + ridge
    affine = torch.linalg.solve(gram, (basis * root).T @ (target * root)).T  # (2, 3)
    square = torch.cat([affine, torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)])
    return _log_near_identity(square)[:2].to(field)


def similarity(shift: tuple[float, float], zoom: float, turn: float) -> torch.Tensor:
    """L of a pan (frame units per clip), a zoom (log scale per clip) and a turn (radians per clip) about the middle."""
    return torch.tensor([[zoom, -turn, shift[0]], [turn, zoom, shift[1]]])


def keep_shapes(rates: torch.Tensor) -> torch.Tensor:
    """The nearest L without shear or stretch: (2, 3) => (2, 3)."""
    (a, b, x), (c, d, y) = rates.tolist()
    return similarity((x, y), (a + d) / 2, (c - b) / 2).to(rates)


def _log_near_identity(matrix: torch.Tensor) -> torch.Tensor:
    """log(I + X) by inverse scaling: the logarithm of the 16th root is a short series."""
    identity = torch.eye(3, dtype=matrix.dtype)
    root, roots = matrix, 0
    while float((root - identity).norm()) > 0.05 and roots < 12:
        root, roots = _square_root(root), roots + 1
    step = root - identity
    power: torch.Tensor = step
    total: torch.Tensor = step.clone()
    for order in range(2, 16):
        power = power @ step
        total += power * ((-1) ** (order + 1) / order)
    return total * float(2**roots)


def _square_root(matrix: torch.Tensor) -> torch.Tensor:
    """Denman-Beavers iteration."""
    y, z = matrix, torch.eye(3, dtype=matrix.dtype)
    for _ in range(12):
        y, z = (y + torch.linalg.inv(z)) / 2, (z + torch.linalg.inv(y)) / 2
    return y

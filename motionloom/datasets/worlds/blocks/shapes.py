"""Where rays meet a block, in the block's own frame: origin in its middle (a cone's: the middle of its base), z up.

Every function takes origins (N, 3) and unit directions (N, 3), float32, and returns the distances to the first meeting
(N,), infinity where there is none, and the outward unit normals there (N, 3).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from motionloom.datasets.worlds.blocks.scene import CONE_HEIGHT

Array = npt.NDArray[np.float32]
Meeting = tuple[Array, Array]

NEAREST = 1e-4  # closer meetings are the surface the ray starts on
_FAR = np.float32(np.inf)
_TORUS_RADIUS, _TUBE_RADIUS = 0.74, 0.2  # of the snitch's three rings, in radii
_MARCH_STEPS = 32


def meet_sphere(origins: Array, directions: Array, radius: float) -> Meeting:
    half_b = _dot(origins, directions)
    discriminant = half_b * half_b - (_dot(origins, origins) - np.float32(radius * radius))
    root = np.sqrt(np.maximum(discriminant, 0))
    near, far = -half_b - root, -half_b + root
    distance = np.where(near > NEAREST, near, far)
    distance = np.where((discriminant > 0) & (distance > NEAREST), distance, _FAR)
    return distance, _at(origins, directions, distance) / np.float32(radius)


def meet_cylinder(origins: Array, directions: Array, radius: float) -> Meeting:
    """Upright, as high as wide."""
    a = directions[:, 0] ** 2 + directions[:, 1] ** 2
    half_b = origins[:, 0] * directions[:, 0] + origins[:, 1] * directions[:, 1]
    c = origins[:, 0] ** 2 + origins[:, 1] ** 2 - np.float32(radius * radius)
    best, normals = _side(origins, directions, a, half_b, c, (-radius, radius), 0.0)
    for z in (-radius, radius):
        best, normals = _nearer(best, normals, *_meet_disc(origins, directions, z, radius))
    return best, normals


def meet_cone(origins: Array, directions: Array, radius: float) -> Meeting:
    """Upright, the base on z = 0, the tip at z = CONE_HEIGHT radii."""
    height, slope = CONE_HEIGHT * radius, 1 / CONE_HEIGHT  # x^2 + y^2 = slope^2 (height - z)^2
    k, rise = np.float32(slope * slope), np.float32(height) - origins[:, 2]
    a = directions[:, 0] ** 2 + directions[:, 1] ** 2 - k * directions[:, 2] ** 2
    half_b = origins[:, 0] * directions[:, 0] + origins[:, 1] * directions[:, 1] + k * rise * directions[:, 2]
    c = origins[:, 0] ** 2 + origins[:, 1] ** 2 - k * rise * rise
    best, normals = _side(origins, directions, a, half_b, c, (0.0, height), slope)
    return _nearer(best, normals, *_meet_disc(origins, directions, 0.0, radius))


def meet_cube(origins: Array, directions: Array, radius: float) -> Meeting:
    """Half its side is radius / sqrt 2, so that sphere and cube of one size fill alike."""
    half = np.float32(radius / np.sqrt(2))
    safe = np.where(np.abs(directions) < 1e-9, np.float32(1e-9), directions)
    first, second = (-half - origins) / safe, (half - origins) / safe
    near, far = np.minimum(first, second), np.maximum(first, second)
    enter, leave = near.max(1), far.min(1)
    inside = enter <= NEAREST
    distance = np.where(inside, leave, enter)
    distance = np.where((enter < leave) & (distance > NEAREST), distance, _FAR)
    axis = np.where(inside, far.argmin(1), near.argmax(1))
    rows = np.arange(len(origins))
    normals = np.zeros_like(directions)
    normals[rows, axis] = np.sign(_at(origins, directions, distance)[rows, axis])
    return distance, normals


def meet_snitch(origins: Array, directions: Array, radius: float) -> Meeting:
    """Three rings, each around one axis, found by marching along the distance to them."""
    start, _ = meet_sphere(origins, directions, radius)
    inside = _dot(origins, origins) < radius * radius
    distance = np.where(inside, np.float32(0), start)
    finish = 2 * np.float32(radius) + np.where(np.isfinite(distance), distance, np.float32(0))
    alive = np.flatnonzero(np.isfinite(distance))
    found = np.full(len(origins), _FAR)
    distance = distance.copy()
    for _ in range(_MARCH_STEPS):
        if not len(alive):
            break
        gap = _rings(origins[alive] + directions[alive] * distance[alive, None], radius)
        touching = gap < 8e-3 * radius
        arrived = alive[touching & (distance[alive] > NEAREST)]
        found[arrived] = distance[arrived]
        distance[alive] += np.maximum(gap, np.float32(8e-3 * radius))
        alive = alive[~touching & (distance[alive] < finish[alive])]
    return found, _ring_normals(_at(origins, directions, found), radius)


def _rings(points: Array, radius: float) -> Array:
    """Distance to the nearest of the three rings, (N,)."""
    ring, tube = np.float32(_TORUS_RADIUS * radius), np.float32(_TUBE_RADIUS * radius)
    x, y, z = (points[:, axis] ** 2 for axis in range(3))
    gaps = (
        (np.sqrt(y + z) - ring) ** 2 + x,
        (np.sqrt(x + z) - ring) ** 2 + y,
        (np.sqrt(x + y) - ring) ** 2 + z,
    )
    gap: Array = np.sqrt(np.minimum(np.minimum(gaps[0], gaps[1]), gaps[2])) - tube
    return gap


def _ring_normals(points: Array, radius: float) -> Array:
    normals = np.zeros_like(points)
    hit = np.flatnonzero(np.isfinite(points[:, 0]) & (np.abs(points[:, 0]) < 4 * radius))
    step = np.float32(1e-2 * radius)
    for axis in range(3):
        offset = np.zeros(3, np.float32)
        offset[axis] = step
        normals[hit, axis] = _rings(points[hit] + offset, radius) - _rings(points[hit] - offset, radius)
    lengths: Array = np.sqrt(_dot(normals, normals))
    unit: Array = (normals / np.maximum(lengths, np.float32(1e-9))[:, None]).astype(np.float32)
    return unit


MEET: dict[str, Callable[[Array, Array, float], Meeting]] = {
    "sphere": meet_sphere,
    "cylinder": meet_cylinder,
    "cone": meet_cone,
    "cube": meet_cube,
    "snitch": meet_snitch,
}


# Parts


def _side(
    origins: Array,
    directions: Array,
    a: Array,
    half_b: Array,
    c: Array,
    span: tuple[float, float],
    slope: float,
) -> Meeting:
    """The curved side of a cylinder (slope 0) or cone: roots of a t^2 + 2 half_b t + c, z within `span`."""
    discriminant = half_b * half_b - a * c
    root = np.sqrt(np.maximum(discriminant, 0))
    safe = np.where(np.abs(a) < 1e-9, np.float32(1e-9), a)
    best = np.full(len(origins), _FAR)
    for distance in ((-half_b - root) / safe, (-half_b + root) / safe):
        z = origins[:, 2] + distance * directions[:, 2]
        valid = (discriminant > 0) & (distance > NEAREST) & (z >= span[0]) & (z <= span[1])
        best = np.where(valid & (distance < best), distance, best)
    points = _at(origins, directions, best)
    outward = np.sqrt(points[:, 0] ** 2 + points[:, 1] ** 2)
    normals = np.stack([points[:, 0], points[:, 1], np.float32(slope) * outward], 1)
    return best, normals / np.maximum(outward * np.float32(np.sqrt(1 + slope * slope)), 1e-9)[:, None]


def _meet_disc(origins: Array, directions: Array, z: float, radius: float) -> Meeting:
    safe = np.where(np.abs(directions[:, 2]) < 1e-9, np.float32(1e-9), directions[:, 2])
    distance = (np.float32(z) - origins[:, 2]) / safe
    x, y = origins[:, 0] + distance * directions[:, 0], origins[:, 1] + distance * directions[:, 1]
    valid = (distance > NEAREST) & (x * x + y * y <= radius * radius)
    normals = np.zeros_like(directions)
    normals[:, 2] = 1.0 if z > 0 else -1.0
    return np.where(valid, distance, _FAR), normals


def _nearer(best: Array, normals: Array, distance: Array, other: Array) -> Meeting:
    closer = distance < best
    return np.where(closer, distance, best), np.where(closer[:, None], other, normals)


def _dot(a: Array, b: Array) -> Array:
    product: Array = np.einsum("ij,ij->i", a, b)
    return product


def _at(origins: Array, directions: Array, distance: Array) -> Array:
    finite = np.where(np.isfinite(distance), distance, np.float32(0))
    points: Array = origins + directions * finite[:, None]
    return points

"""A trajectory => pictures of two cameras that look down into the tray.

Everything is drawn as flat slices at a few heights, from the table up, which is what an extruded shape looks like; edges
are smoothed by their distance in pixels. Shadows are slices on the table, moved away from the lamp.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from motionloom.datasets.worlds.pushing.physics import GRIPPER_RADIUS, Thing, Trajectory

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

SIDE_PX = 64
#: view of BAIR -> where the camera is; both look at the tray's middle
CAMERAS = {"image_aux1": (0.0, -2.3, 2.5), "image_main": (2.1, 1.5, 2.6)}
SLICES = 4
_HALF_WIDTH = 0.45  # of the picture at distance 1
_LEAN = (0.35, 0.25)  # how far a shadow falls from a point at height 1
_ARM_TOP = 1.1
_STEEL, _DARK = np.array([0.62, 0.63, 0.66]), np.array([0.13, 0.13, 0.15])


def render_trajectory(trajectory: Trajectory, rng: np.random.Generator, view: str) -> Pixels:
    """Frames of one camera, uint8 (T, 64, 64, 3). `rng` draws the tray's grain."""
    tray = _tray(rng, view)
    frames = []
    for hand, places in zip(trajectory.gripper, trajectory.places, strict=True):
        canvas = tray.copy()
        for height, offset, part in _shadow_parts(trajectory.things, places, hand):
            _draw(canvas, view, height, offset, part, None, 0.45)
        for height, place, part, colour in _solid_parts(trajectory.things, places, hand):
            _draw(canvas, view, height, place, part, colour, 1.0)
        frames.append(np.rint(np.clip(canvas, 0, 1) ** (1 / 2.2) * 255).astype(np.uint8))
    return np.stack(frames)


Outline = tuple[float, bool, float]  # (radius, square, angle)
Part = tuple[float, Floats, Outline]


def _shadow_parts(things: tuple[Thing, ...], places: Floats, hand: Floats) -> Iterator[Part]:
    for thing, place in zip(things, places, strict=True):
        yield (
            0.0,
            place[:2] + np.multiply(_LEAN, thing.height),
            (thing.radius * 1.05, thing.square, float(place[2])),
        )
    yield 0.0, hand[:2] + np.multiply(_LEAN, hand[2] + 0.3), (GRIPPER_RADIUS * 1.4, False, 0.0)


def _solid_parts(
    things: tuple[Thing, ...], places: Floats, hand: Floats
) -> Iterator[tuple[float, Floats, Outline, Floats]]:
    """Slices in the order in which they are drawn: lower ones first."""
    slices: list[tuple[float, Floats, Outline, Floats]] = []
    for thing, place in zip(things, places, strict=True):
        colour, outline = (np.array(thing.colour) / 255) ** 2.2, (thing.radius, thing.square, float(place[2]))
        for step in range(1, SLICES + 1):
            shade = 1.0 if step == SLICES else 0.4 + 0.2 * step / SLICES
            slices.append((thing.height * step / SLICES, place[:2], outline, shade * colour))
    for step, height in enumerate(np.linspace(hand[2] + 0.03, _ARM_TOP, 12)):
        radius = GRIPPER_RADIUS * (0.75 if step < 4 else 1.15)
        colour = _DARK if step < 4 else _STEEL * (0.65 + 0.35 * step / 11)
        slices.append((float(height), hand[:2], (radius, step < 4, 0.0), colour))
    yield from sorted(slices, key=lambda one: one[0])


def _draw(
    canvas: Floats,
    view: str,
    height: float,
    place: Floats,
    outline: Outline,
    colour: Floats | None,
    strength: float,
) -> None:
    """Paint one slice; without a colour, darken."""
    ground, pixel = _plane(view, round(height * 200))
    radius, square, angle = outline
    column, row = _pixel_of(view, place, height)
    reach = int(radius * 1.5 / pixel) + 2
    top, bottom = max(0, row - reach), min(SIDE_PX, row + reach + 1)
    left, right = max(0, column - reach), min(SIDE_PX, column + reach + 1)
    if top >= bottom or left >= right:
        return
    offset = ground[top:bottom, left:right] - place
    distance = _box(offset, angle, radius) if square else np.hypot(offset[..., 0], offset[..., 1]) - radius
    softness = pixel if colour is not None else 5 * pixel
    cover = (np.clip(0.5 - distance / softness, 0, 1) * strength)[..., None]
    window = canvas[top:bottom, left:right]
    window[:] = window * (1 - cover) + (0.0 if colour is None else colour) * cover


def _box(offset: Floats, angle: float, radius: float) -> Floats:
    """Signed distance to a rounded square that fills a disc of `radius` about as a disc does."""
    cos, sin = np.cos(angle), np.sin(angle)
    half = 0.72 * radius
    x = np.abs(cos * offset[..., 0] + sin * offset[..., 1]) - half
    y = np.abs(cos * offset[..., 1] - sin * offset[..., 0]) - half
    outside = np.hypot(np.maximum(x, 0), np.maximum(y, 0))
    distance: Floats = outside + np.minimum(np.maximum(x, y), 0) - 0.15 * radius
    return distance


# The camera


@functools.cache
def _axes(view: str) -> Floats:
    """Rows: right, up, forward."""
    forward = -np.array(CAMERAS[view]) / np.linalg.norm(CAMERAS[view])
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(right, forward), forward])


@functools.lru_cache(maxsize=1024)
def _plane(view: str, height: int) -> tuple[Floats, float]:
    """Where each pixel's ray meets the plane at height / 200, (64, 64, 2), and a pixel's size there, at its middle."""
    across = ((np.arange(SIDE_PX) + 0.5) / SIDE_PX * 2 - 1) * _HALF_WIDTH
    x, y = np.meshgrid(across, -across)
    rays = np.stack([x, y, np.ones_like(x)], -1) @ _axes(view)
    eye = np.array(CAMERAS[view])
    met = eye + rays * ((height / 200 - eye[2]) / np.minimum(rays[..., 2:], -1e-3))
    middle = SIDE_PX // 2
    return met[..., :2], float(np.linalg.norm(met[middle, middle] - met[middle, middle + 1]))


def _pixel_of(view: str, place: Floats, height: float) -> tuple[int, int]:
    """(column, row) of a point."""
    right, up, forward = _axes(view) @ (np.array([*place, height]) - CAMERAS[view])
    scale = SIDE_PX / 2 / _HALF_WIDTH / max(forward, 1e-3)
    return int(SIDE_PX / 2 + right * scale), int(SIDE_PX / 2 - up * scale)


def _tray(rng: np.random.Generator, view: str) -> Floats:
    """The empty tray, linear light (64, 64, 3): a light floor with some grain, walls, darkness around."""
    ground, pixel = _plane(view, 0)
    grain = rng.normal(0, 1, (9, 9))
    u, v = (np.clip((ground[..., axis] + 1) * 4, 0, 7.999) for axis in range(2))
    i, j = u.astype(int), v.astype(int)
    a, b = u - i, v - j
    smooth = (grain[i, j] * (1 - a) + grain[i + 1, j] * a) * (1 - b) + (
        grain[i, j + 1] * (1 - a) + grain[i + 1, j + 1] * a
    ) * b
    light = 0.5 + 0.035 * smooth + 0.06 * ground[..., 1]
    inside = np.clip(0.5 - (np.abs(ground).max(-1) - 1.03) / pixel, 0, 1)
    wall = np.clip(0.5 - (np.abs(ground).max(-1) - 1.14) / pixel, 0, 1)
    floor = light[..., None] * np.array([1.0, 0.93, 0.82])
    rim = np.array([0.16, 0.2, 0.27])
    around = np.array([0.05, 0.05, 0.055])
    beyond = rim * wall[..., None] + around * (1 - wall[..., None])
    tray: Floats = floor * inside[..., None] + beyond * (1 - inside[..., None])
    return tray

"""Pushing in two dimensions: slow, so that a thing moves only while it is pushed (quasi-static), and never overlaps another.

The gripper is a disc. What happens is a function of its random walk alone, and the walk cannot be read off the first frame:
the same beginning has many futures, as in BAIR.

Units: the tray is [-1, 1]^2, heights are in the same unit, angles in radians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

GRIPPER_RADIUS = 0.11
SUBSTEPS = 5
RELAXATIONS = 8
RAISED = 0.45  # height of a gripper that touches nothing
_STEP = 0.13  # the gripper's typical way in one frame
_KEEPS = 0.72  # of its direction from frame to frame


@dataclass(frozen=True)
class Thing:
    """What lies in the tray. For pushing it is a disc; `square` says how it looks. `colour` is sRGB, 0-255."""

    radius: float
    height: float
    square: bool
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Trajectory:
    """T moments. The gripper's actions are its wishes for the next moment; walls and lifting may change the outcome.

    gripper: (T, 3) x, y and height.
    actions: (T, 4) wished dx, dy, dheight, and 1 while the fingers are closed (they always are).
    places: (T, N, 3) x, y and angle of each thing.
    """

    things: tuple[Thing, ...]
    gripper: Floats
    actions: Floats
    places: Floats


def simulate(rng: np.random.Generator, frames: int) -> Trajectory:
    """A random tray and a random walk of the gripper over it."""
    things = _draw_things(rng)
    places = _lay_out(rng, things)
    hand = np.array([*rng.uniform(-0.7, 0.7, 2), 0.0])
    places = _settle(things, places, hand)
    velocity = rng.normal(0, _STEP, 2)
    grippers, actions, moments = [hand.copy()], [], [places.copy()]
    for _ in range(frames):
        velocity = _KEEPS * velocity + np.sqrt(1 - _KEEPS**2) * rng.normal(0, _STEP, 2)
        velocity = np.where(np.abs(hand[:2] + velocity) > 0.9, -velocity, velocity)  # turns at the walls
        lift = (RAISED if hand[2] == 0 else -RAISED) if rng.random() < 0.08 else 0.0
        actions.append([*velocity, lift, 1.0])
        for part in range(SUBSTEPS):
            hand[:2] = np.clip(hand[:2] + velocity / SUBSTEPS, -0.9, 0.9)
            if part == 0:
                hand[2] = np.clip(hand[2] + lift, 0, RAISED)
            places = _settle(things, places, hand)
        grippers.append(hand.copy())
        moments.append(places.copy())
    return Trajectory(things, np.array(grippers[:frames]), np.array(actions), np.array(moments[:frames]))


def _draw_things(rng: np.random.Generator) -> tuple[Thing, ...]:
    things = []
    for _ in range(int(rng.integers(4, 9))):
        hue, dark = rng.random(), rng.uniform(0.55, 1.0)
        red, green, blue = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1) * dark * 255
        colour = (int(red), int(green), int(blue))
        things.append(
            Thing(rng.uniform(0.11, 0.2), rng.uniform(0.08, 0.22), bool(rng.random() < 0.5), colour)
        )
    return tuple(things)


def _lay_out(rng: np.random.Generator, things: tuple[Thing, ...]) -> Floats:
    return np.column_stack([rng.uniform(-0.8, 0.8, (len(things), 2)), rng.uniform(0, 2 * np.pi, len(things))])


def _settle(things: tuple[Thing, ...], places: Floats, hand: Floats) -> Floats:
    """Push apart whatever overlaps: the gripper does not give way, the walls do not, two things share the way.

    A push off the middle turns a thing.
    """
    places = places.copy()
    radii = np.array([thing.radius for thing in things])
    for _ in range(RELAXATIONS):
        moved = False
        if hand[2] == 0:
            away = places[:, :2] - hand[:2]
            distance = np.maximum(np.linalg.norm(away, axis=1), 1e-6)
            overlap = np.maximum(radii + GRIPPER_RADIUS - distance, 0)
            places[:, :2] += away / distance[:, None] * overlap[:, None]
            places[:, 2] += overlap / radii * np.sin(3 * np.arctan2(away[:, 1], away[:, 0]) - places[:, 2])
            moved = bool(overlap.any())
        away = places[:, None, :2] - places[None, :, :2]
        distance = np.maximum(np.linalg.norm(away, axis=2), 1e-6)
        overlap = np.maximum(radii[:, None] + radii[None] - distance, 0)
        np.fill_diagonal(overlap, 0)
        places[:, :2] += 0.5 * (away / distance[:, :, None] * overlap[:, :, None]).sum(1)
        reach = 1 - radii
        places[:, :2] = np.clip(places[:, :2], -reach[:, None], reach[:, None])
        if not moved and not overlap.any():
            break
    return places

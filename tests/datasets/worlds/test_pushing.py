"""The world of pushing: nothing overlaps, only what is touched moves, the future is open, BAIR's reader reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from motionloom.datasets.bair import BairPushing
from motionloom.datasets.worlds.pushing.folder import PushingWorld
from motionloom.datasets.worlds.pushing.physics import GRIPPER_RADIUS, RAISED, simulate
from motionloom.datasets.worlds.pushing.render import render_trajectory
from motionloom.datasets.worlds.write import write_world

TRAJECTORIES = [simulate(np.random.default_rng(seed), 30) for seed in range(8)]


def test_nothing_overlaps_or_leaves_the_tray() -> None:
    for one in TRAJECTORIES:
        radii = np.array([thing.radius for thing in one.things])
        places = one.places[..., :2]
        assert (np.abs(places) + radii[:, None] <= 1 + 1e-9).all()
        apart = np.linalg.norm(places[:, :, None] - places[:, None], axis=-1) - radii[:, None] - radii[None]
        apart[:, np.arange(len(radii)), np.arange(len(radii))] = 1
        assert np.quantile(apart.min((1, 2)), 0.1) > -0.06  # squeezed against walls, a little


def test_only_pushes_move_things() -> None:
    """A thing moves between two frames only while the gripper is down."""
    moved_things = 0
    for one in TRAJECTORIES:
        steps = np.linalg.norm(np.diff(one.places[..., :2], axis=0), axis=-1)
        raised = (one.gripper[:-1, 2] > 0) & (one.gripper[1:, 2] > 0)
        settled = steps[raised][2:] if raised.any() else np.zeros((0, 1))
        assert settled.size == 0 or np.quantile(settled, 0.9) < 1e-3
        moved_things += int((steps.sum(0) > 0.1).sum())
        assert set(np.unique(one.gripper[:, 2])) <= {0.0, RAISED}
    assert moved_things >= 8


def test_the_gripper_never_stands_in_a_thing() -> None:
    for one in TRAJECTORIES:
        radii = np.array([thing.radius for thing in one.things])
        gap = np.linalg.norm(one.places[..., :2] - one.gripper[:, None, :2], axis=-1) - radii - GRIPPER_RADIUS
        down = one.gripper[:, 2] == 0
        assert np.quantile(gap[down].min(1), 0.1) > -0.08


def test_pictures_show_what_moves() -> None:
    trajectory = TRAJECTORIES[0]
    frames = render_trajectory(trajectory, np.random.default_rng(0), "image_aux1")
    other = render_trajectory(trajectory, np.random.default_rng(0), "image_main")
    assert frames.shape == other.shape == (30, 64, 64, 3) and frames.dtype == np.uint8
    assert not np.array_equal(frames[0], other[0])
    change = np.abs(np.diff(frames.astype(int), axis=0)).max((1, 2, 3))
    way = np.linalg.norm(np.diff(trajectory.gripper[:, :2], axis=0), axis=1)
    assert (change[way > 0.03] > 20).all()
    still = np.abs(frames.astype(int) - np.median(frames, 0)).max((0, 3))
    assert (still == 0).mean() > 0.3  # the tray's edges and what is around it


@pytest.mark.parametrize("workers", [1, 2])
def test_bair_reads_it(workers: int, tmp_path: Path) -> None:
    world = PushingWorld(3, 1, seed=2, frames=4)
    write_world(world, tmp_path / "w", workers)
    layout = BairPushing(tmp_path / "w")
    train = layout.contents("train")
    assert len(train.entries) == 3 and train.refused == [] and len(layout.contents("test").entries) == 1
    again = world.features("train", 1)
    actions, positions = layout.states(train.entries[1])
    assert actions.shape == (4, 4) and np.array_equal(positions[2], again["2/endeffector_pos"])
    assert layout.frames(train.entries[1], "image_main")[3].tobytes() == again["3/image_main/encoded"]
    assert not np.array_equal(layout.read(train.entries[0]).frames, layout.read(train.entries[1]).frames)

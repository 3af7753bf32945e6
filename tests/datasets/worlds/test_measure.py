"""P_act and P_re by the released arithmetic; what clips of blocks show is found without being told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from motionloom.datasets.cater_captions import parse_caption
from motionloom.datasets.worlds.blocks.folder import BlocksWorld
from motionloom.datasets.worlds.blocks.observe import Observer, describe
from motionloom.datasets.worlds.blocks.render import render_scene
from motionloom.datasets.worlds.blocks.scene import Block, Movement, Scene
from motionloom.datasets.worlds.measure import diversity, kept, measure_blocks, trajectory_errors
from motionloom.datasets.worlds.precision import Precision, mean_precision, precision_of
from motionloom.datasets.worlds.write import write_world
from motionloom.errors import InputError


@pytest.mark.parametrize(
    ("asked", "shown", "action", "reference"),
    [
        # one sentence each: the action, and for slides and places the destination
        ("the red cone is rotating.", "the small red metal cone is rotating.", 1, 1),
        ("the red cone is rotating.", "the blue cone is sliding to the first quadrant.", 0, 1 / 2),
        ("the cone is sliding to the first quadrant.", "the cone is sliding to the second quadrant.", 1 / 2, 1),
        ("the cone is sliding to the third quadrant.", "the cone is sliding to (-2, -1).", 1, 1),
        ("the cone is sliding to (1, 2).", "the cone is sliding to (1, 3).", 1 / 2, 1),
        # the contained thing's words count only where both contain
        ("the cone is picked up and containing the red sphere.",
         "the cone is picked up and containing the sphere.", 1, 2 / 3),
        ("the cone is picked up and containing the red sphere.", "the cone is rotating.", 0, 1),
        # two sentences: the better pairing; action first, then words
        ("the cone is rotating. the cube is rotating.", "the cube is rotating. the cone is rotating.", 1, 1),
        ("the cone is rotating. the cube is sliding to the first quadrant.",
         "the sphere is sliding to the first quadrant. the cube is rotating.", 1, 0),
        # one against two: only one pair is compared
        ("the cone is rotating. the cube is rotating.", "the cube is rotating.", 1, 1),
        ("the cube is rotating.", "the cone is rotating. the cube is rotating.", 1, 1),
    ],
)  # fmt: skip
def test_precision_by_hand(asked: str, shown: str, action: float, reference: float) -> None:
    assert precision_of(parse_caption(asked), parse_caption(shown)) == Precision(
        pytest.approx(action), pytest.approx(reference)
    )


def test_precision_of_nothing_and_means() -> None:
    assert precision_of(parse_caption("the cone is rotating."), []) == Precision(0, 0)
    assert mean_precision([Precision(1, 0), Precision(0, 0.5)]) == Precision(0.5, 0.25)


SNITCH = Block("snitch", "small", "gold", "metal", (1.8, 1.8))
CONE = Block("cone", "large", "purple", "rubber", (-1.8, 1.2))
CUBE = Block("cube", "medium", "cyan", "rubber", (-0.5, -1.8), 0.4)
SCENE = Scene(
    (SNITCH, CONE, CUBE),
    (Movement(1, "contain", 2, 30, (1.8, 1.8), 0), Movement(2, "slide", 4, 34, (1.6, -0.6))),
    (0.1, -0.2, 0.1),
)


def test_what_happens_is_found() -> None:
    frames, _ = render_scene(SCENE, 8)
    seen = Observer(SCENE).observe(frames)
    assert [one.action for one in seen] == [None, "contain", "slide"] and seen[1].contained == 0
    said = describe(seen, "ambiguous")
    assert said == parse_caption(
        "the large purple rubber cone is picked up and containing the small gold metal snitch. "
        "the medium cyan rubber cube is sliding to the fourth quadrant."
    )
    assert max(trajectory_errors(SCENE, seen)) < 0.2
    again = Observer(SCENE).observe(frames[::-1][[7, 6, 5, 4, 3, 2, 1, 0]])
    assert diversity([seen, again]) == 0.0


def test_a_frozen_clip_shows_nothing_and_differs_from_a_moving_one() -> None:
    frames, _ = render_scene(SCENE, 4)
    frozen = np.repeat(frames[:1], 4, axis=0)
    seen = Observer(SCENE).observe(frozen)
    assert [one.action for one in seen] == [None] * 3 and describe(seen, "explicit") == []
    assert min(trajectory_errors(SCENE, seen)) > 0.5
    moving = Observer(SCENE).observe(frames)
    assert diversity([seen, moving]) > 0.5
    with pytest.raises(InputError, match="1 frame shows no movement"):
        Observer(SCENE).observe(frames[:1])


def test_a_changed_colour_is_noticed() -> None:
    """A clip in which the cube turns red while it slides: it did not keep its colour."""
    red = Block("cube", "medium", "red", "rubber", CUBE.position, CUBE.yaw_rad)
    slide = SCENE.movements[1]
    first, _ = render_scene(Scene((CUBE,), (), SCENE.camera_offset), 2)
    later, _ = render_scene(
        Scene((red,), (Movement(0, "slide", slide.start_tick, 34, slide.target),), (0.1, -0.2, 0.1)), 5
    )
    seen = Observer(Scene((CUBE,), (), SCENE.camera_offset)).observe(np.concatenate([first[:1], later[1:]]))
    assert kept(Scene((CUBE,), (replace(slide, mover=0),)), seen, "colour") == [False]
    whole = Observer(SCENE).observe(render_scene(SCENE, 4)[0])
    assert (
        kept(SCENE, whole, "colour") == kept(SCENE, whole, "shape") == [True, True]
    )  # the snitch is contained


def test_a_folder_is_measured(tmp_path: Path) -> None:
    write_world(BlocksWorld(0, 1, seed=3, frames=6), tmp_path / "w")
    scores = measure_blocks(tmp_path / "w")
    assert scores["clips"] == 1 and scores["p_act"] > 0.6 and scores["p_re"] > 0.6
    assert scores["colour_permanence"] == 1.0 and scores["diversity"] is None
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match='no clip for "CATER_test_000000"'):
        measure_blocks(tmp_path / "w", tmp_path / "mine")

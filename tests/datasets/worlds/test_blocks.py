"""The world of blocks: its grammar, its physics, its pictures, its folder."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from motionloom.datasets.cater import CaterGen
from motionloom.datasets.cater_captions import (
    VOCABULARY,
    Statement,
    cell_of,
    parse_caption,
    quadrant_of,
    tokens,
    unknown_words,
    write_caption,
)
from motionloom.datasets.published_clips import PublishedClips
from motionloom.datasets.worlds import world_of
from motionloom.datasets.worlds.blocks.camera import Camera
from motionloom.datasets.worlds.blocks.folder import MODES, BlocksWorld, read_scene, statements_of
from motionloom.datasets.worlds.blocks.render import Caster, Solid, render_scene
from motionloom.datasets.worlds.blocks.scene import (
    LIFT,
    SHAPES,
    TICKS,
    Block,
    Movement,
    Pose,
    Scene,
    can_contain,
    draw_scene,
    is_possible,
)
from motionloom.datasets.worlds.blocks.shapes import MEET
from motionloom.datasets.worlds.write import write_world
from motionloom.errors import ConfigError, InputError, StateError

SCENES = [draw_scene(np.random.default_rng([5, number])) for number in range(40)]


# Captions


def test_vocabulary_is_the_official_fifty() -> None:
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 50


@pytest.mark.parametrize("mode", MODES)
def test_captions_round_trip(mode: str) -> None:
    """caption -> parsed actions: what was written is what is read, for every drawn scene."""
    for number, scene in enumerate(SCENES):
        statements = statements_of(scene, mode, np.random.default_rng(number))  # type: ignore[arg-type]
        caption = write_caption(statements)
        assert parse_caption(caption) == statements
        assert unknown_words(caption) == [] and len(tokens(caption)) + 2 <= 48


def test_captions_read_as_the_official_ones() -> None:
    said = [
        Statement(("small", "gold", "metal", "snitch"), "slide", (2, -1)),
        Statement(("cone",), "contain", contained=("red", "sphere")),
    ]
    assert write_caption(said) == (
        " the small gold metal snitch is sliding to (2, -1). the cone is picked up and containing the red sphere."
    )
    assert parse_caption(" The cone is picked up and placed to the third quadrant .") == [
        Statement(("cone",), "pick-place", 3)
    ]


@pytest.mark.parametrize(
    "wrong",
    ["", "the pyramid is rotating.", "the cone is sliding.", "the red is rotating.", "the cone is sliding to (0, 1).",
     "a cone is rotating.", "the cone is picked up."],
)  # fmt: skip
def test_what_is_no_caption_is_refused(wrong: str) -> None:
    with pytest.raises(InputError):
        parse_caption(wrong)


def test_places_as_the_official_script_counts_them() -> None:
    assert [quadrant_of(x, y) for x, y in ((0, 0), (1, 2), (-1, 0), (-1, -2), (0, -1))] == [1, 1, 2, 3, 4]
    assert [cell_of(v, 0.5)[0] for v in (-3, -2.5, -1, -0.2, 0, 0.2, 1, 2.1, 3)] == [
        -3,
        -3,
        -2,
        -1,
        -1,
        1,
        1,
        3,
        3,
    ]


# Scenes


def test_scenes_obey_the_rules() -> None:
    actions: Counter[str] = Counter()
    for scene in SCENES:
        blocks = scene.blocks
        assert 3 <= len(blocks) <= 8 and len(scene.movements) == 2 and is_possible(scene)
        assert [(b.shape, b.size) for b in blocks[:3]] == [
            ("snitch", "small"),
            ("cone", "medium"),
            ("cone", "large"),
        ]
        for one in scene.movements:
            actions[one.action] += 1
            assert (
                0 <= one.start_tick <= 10
                and one.end_tick - one.start_tick <= 30
                and one.end_tick <= TICKS - 1
            )
            assert max(map(abs, one.target)) <= 3
            if one.contained is not None:
                assert can_contain(blocks[one.mover], blocks[one.contained])
        touched = [n for one in scene.movements for n in (one.mover, one.contained) if n is not None]
        assert len(touched) == len(set(touched))
    assert set(actions) == {"slide", "rotate", "pick-place", "contain"} and min(actions.values()) >= 8


def test_v1_has_a_snitch_and_a_cone() -> None:
    scenes = [draw_scene(np.random.default_rng(n), "v1") for n in range(5)]
    for scene in scenes:
        assert [block.shape for block in scene.blocks] == ["snitch", "cone"] and len(scene.movements) == 1
        words = parse_caption(write_caption(statements_of(scene, "explicit", np.random.default_rng(0))))[
            0
        ].subject
        assert len(words) == 1


def test_poses_follow_the_movements() -> None:
    blocks = (Block("cube", "small", "red", "rubber", (0, 0)),)
    slide = Scene(blocks, (Movement(0, "slide", 5, 25, (2, -1)),))
    lift = Scene(blocks, (Movement(0, "pick-place", 5, 25, (2, -1)),))
    turn = Scene(blocks, (Movement(0, "rotate", 5, 25, (0, 0)),))
    assert slide.pose(0, 5).base == (0, 0, 0) and slide.pose(0, 15).base == (1, -0.5, 0)
    assert slide.pose(0, 39).base == (2, -1, 0)
    assert lift.pose(0, 9).base == pytest.approx((0, 0, LIFT))  # up in the first fifth
    assert lift.pose(0, 15).base == pytest.approx((1, -0.5, LIFT))
    assert lift.pose(0, 21).base == pytest.approx((2, -1, LIFT)) and lift.pose(0, 25).base == pytest.approx(
        (2, -1, 0)
    )
    assert turn.pose(0, 15).tip_rad == pytest.approx(math.pi / 4)


def test_colliding_movements_are_impossible() -> None:
    blocks = (
        Block("cube", "large", "red", "rubber", (-2, 0)),
        Block("sphere", "large", "blue", "rubber", (0, 0)),
    )
    assert not is_possible(Scene(blocks, (Movement(0, "slide", 0, 30, (2, 0)),)))
    assert is_possible(Scene(blocks, (Movement(0, "pick-place", 0, 30, (2, 0)),)))  # over it
    assert not is_possible(Scene(blocks, (Movement(0, "pick-place", 0, 30, (0.5, 0)),)))  # onto it


# Pictures


@pytest.mark.parametrize("shape", (*SHAPES, "snitch"))
def test_rays_meet_shapes_on_their_surface(shape: str) -> None:
    """The meeting lies on the ray; its normal faces the ray and is the change of distance to the surface nearby."""
    rng = np.random.default_rng(0)
    origins = rng.normal(0, 1, (4000, 3))
    origins = (3 * origins / np.linalg.norm(origins, axis=1, keepdims=True)).astype(np.float32)
    aims = rng.uniform(-0.4, 0.4, (4000, 3)) + np.array([0, 0, 0.5 if shape == "cone" else 0])
    directions = aims - origins
    directions = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)
    distance, normal = MEET[shape](origins, directions, 0.5)
    hit = np.isfinite(distance)
    assert hit.mean() > 0.4
    points, normals = origins[hit] + directions[hit] * distance[hit, None], normal[hit]
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4)
    assert (np.einsum("ij,ij->i", normals, directions[hit]) < 0.35).all()
    x, y, z = points.T
    across = np.hypot(x, y)
    rings = [np.hypot(np.sqrt((points**2).sum(1) - points[:, k] ** 2) - 0.37, points[:, k]) for k in range(3)]
    implicit = {
        "sphere": np.linalg.norm(points, axis=1) - 0.5,
        "cylinder": np.maximum(across, np.abs(z)) - 0.5,
        "cube": np.abs(points).max(1) - 0.5 / np.sqrt(2),
        "cone": np.maximum(across - (1.2 - z) / 2.4, -z),
        "snitch": np.min(rings, 0) - 0.1,
    }[shape]
    np.testing.assert_allclose(implicit, 0, atol=6e-3)


def test_blocks_stand_on_the_table_however_they_are_tipped() -> None:
    for shape in ("cylinder", "cube"):
        block = Block(shape, "large", "red", "rubber", (0, 0), yaw_rad=0.7)
        for tip in np.linspace(0, math.pi / 2, 7):
            solid = Solid.of(block, Pose((0, 0, 0), float(tip)))
            up = np.linspace(-2, 2, 41, dtype=np.float32)
            grid = np.stack(np.meshgrid(up, up), -1).reshape(-1, 2) * 0.5
            below = np.column_stack([grid, np.full(len(grid), -5)]).astype(np.float32)
            distance, _ = solid.meet(below, np.tile(np.array([[0, 0, 1]], np.float32), (len(grid), 1)))
            assert float(np.min(distance) - 5) == pytest.approx(0, abs=0.03)


def test_pictures_agree_with_the_positions() -> None:
    """What the mask shows of a block lies where the camera puts its middle, in every frame."""
    block = Block("sphere", "medium", "blue", "rubber", (-2, -1))
    scene = Scene((block,), (Movement(0, "slide", 0, 39, (2, 1)),), (0.2, 0.1, -0.2))
    frames, masks = render_scene(scene, 5, 64)
    assert frames.shape == (5, 64, 64, 3) and masks.shape == (5, 64, 64)
    camera = Camera.of(scene)
    for mask, tick in zip(masks, scene.ticks(5), strict=True):
        rows, columns = np.nonzero(mask == 1)
        middle = Solid.of(block, scene.pose(0, float(tick))).middle
        column, row, _ = camera.project(middle, 64)[0]
        assert abs(columns.mean() + 0.5 - column) < 0.8 and abs(rows.mean() + 0.5 - row) < 0.8
    blue = frames[masks == 1].astype(int)
    assert (blue[:, 2] > blue[:, 0]).mean() > 0.95


def test_only_what_moves_changes_and_equals_a_picture_cast_whole() -> None:
    """The frame of a moving scene is the picture of a scene in which the same blocks stand there."""
    cube = Block("cube", "medium", "red", "metal", (-1.5, 1.0), 0.3)
    cone = Block("cone", "large", "green", "rubber", (1.0, -1.0))
    moving = Scene((cube, cone), (Movement(0, "slide", 0, 39, (1.8, 1.2)),))
    there = Scene((Block("cube", "medium", "red", "metal", (1.8, 1.2), 0.3), cone), ())
    frame, mask = Caster(moving, 48).frame(39.0)
    whole, whole_mask = Caster(there, 48).frame(0.0)
    assert np.array_equal(mask, whole_mask)
    difference = np.abs(frame.astype(int) - whole)
    assert difference.max() <= 2, "cast in parts and cast whole must agree"


def test_shadows_darken_and_are_softer_from_higher_up() -> None:
    """The half-shadow of a lamp of some width grows with the height of what throws it."""
    bare = Caster(Scene((), ()), 64).frame(0)[0].astype(int)
    ball = Block("sphere", "large", "yellow", "rubber", (0, 0))
    caster = Caster(Scene((ball,), (Movement(0, "pick-place", 0, 39, (1.2, 0)),)), 64)
    shares = []
    for tick in (0.0, 20.0):  # on the table, two units above it
        picture, mask = caster.frame(tick)
        rows, columns = np.nonzero(mask)
        table = np.ones((64, 64), bool)
        for i, j in itertools.product((-1, 0, 1), repeat=2):  # a pixel beside the ball is part ball
            table[np.clip(rows + i, 0, 63), np.clip(columns + j, 0, 63)] = False
        loss = (bare - picture)[..., 0][table]
        assert loss.min() >= -1 and loss.max() > 40
        shares.append(((loss > 8) & (loss < 35)).sum() / (loss > 8).sum())
    assert shares[1] > 1.5 * shares[0] and shares[1] > 0.35


# The folder


def test_a_world_reads_back_as_cater_gen(tmp_path: Path) -> None:
    world = BlocksWorld(2, 1, seed=4, frames=4, size_px=32)
    told: list[tuple[int, int]] = []
    write_world(world, tmp_path / "w", progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 3) and told[-1] == (3, 3)
    layout = CaterGen(tmp_path / "w")
    assert [len(layout.contents(split).entries) for split in ("train", "test")] == [2, 1]
    assert layout.contents("train").refused == []
    sample = PublishedClips(layout, "train", 4, (32, 32), fit="squash").at(0, 1)
    scene = world.scene(("train", 1))
    assert sample["text"] == world.caption(scene, ("train", 1), "ambiguous").strip()
    drawn, masks = render_scene(scene, 4, 32)
    decoded = ((sample["frames"].permute(1, 2, 3, 0).numpy() + 1) * 127.5).round()
    assert np.abs(decoded - drawn).mean() < 4
    assert read_scene(tmp_path / "w/scenes/CATER_train_000001.json") == scene
    assert np.array_equal(np.load(tmp_path / "w/masks/CATER_train_000001.npz")["masks"], masks)
    facts = json.loads((tmp_path / "w/scenes/CATER_train_000001.json").read_text())
    assert len(facts["objects"]) == len(scene.blocks) and len(facts["objects"][0]["locations"]) == 4
    moving = {name for name, moves in facts["movements"].items() if moves}
    assert len(moving) == 2


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_same_seed_same_bytes_whatever_the_workers_and_interruptions(tmp_path: Path) -> None:
    world = BlocksWorld(3, 0, seed=1, frames=3, size_px=32)
    one, two, cut = (tmp_path / name for name in ("one", "two", "cut"))
    write_world(world, one)
    write_world(world, two, workers=2)
    write_world(BlocksWorld(1, 0, seed=1, frames=3, size_px=32), cut)  # a shorter run is an interrupted one
    (cut / "videos/.CATER_train_000001.mp4.999999.abcdef012345.part").write_bytes(b"half")
    write_world(world, cut)
    assert bytes_of(one) == bytes_of(two) == bytes_of(cut)
    write_world(BlocksWorld(3, 0, seed=2, frames=3, size_px=32), tmp_path / "other")
    assert bytes_of(one) != bytes_of(tmp_path / "other")


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    world = BlocksWorld(1, 0, frames=2, size_px=32)
    write_world(world, tmp_path / "w")
    before = bytes_of(tmp_path / "w")
    with pytest.raises(StateError, match="seed: 0 there, 7 asked for"):
        write_world(BlocksWorld(1, 0, seed=7, frames=2, size_px=32), tmp_path / "w")
    assert bytes_of(tmp_path / "w") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("all of it")
    with pytest.raises(InputError, match="holds files that are not a world"):
        write_world(world, tmp_path / "mine")
    assert sorted(bytes_of(tmp_path / "mine")) == ["thesis.txt"]


def test_wrong_wishes_are_told() -> None:
    for wrong, told in (
        ({"name": "marbles"}, "no world"),
        ({"name": "blocks", "variant": "v3"}, "no variant"),
        ({"name": "blocks", "frames": 1}, "1 frames"),
        ({"name": "pushing", "size_px": 128}, "BAIR's form is 64"),
    ):
        with pytest.raises(ConfigError, match=told):
            world_of(**{"count": 1, **wrong})  # type: ignore[arg-type]

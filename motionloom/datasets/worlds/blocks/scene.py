"""A scene of blocks: what lies on the table and what happens to it.

Semantics follow CATER (Girdhar & Ramanan 2020) as CATER-GEN uses it (MAGE, Hu et al. 2022): positions in [-3, 3]^2, the
gold snitch first, then a medium and a large cone, then anything; a movement takes 20 to 30 of 40 ticks after a delay of 0
to 10. Ours: radii of the three sizes, no collisions at any moment, and turned things stay on the table.

Units: the table's own; z is up, the table is z = 0. Angles in radians.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from motionloom.datasets.cater_captions import Action

Floats = npt.NDArray[np.float64]
Variant = Literal["v1", "v2"]

SIZES = {"small": 0.3, "medium": 0.5, "large": 0.75}  # radius
COLOURS: dict[str, tuple[int, int, int]] = {  # sRGB, 0-255: CLEVR's eight, and the snitch's gold
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
    "gold": (255, 200, 20),
}
MATERIALS = ("rubber", "metal")
SHAPES = ("cone", "sphere", "cylinder", "cube")  # what may be drawn; the snitch is always there, once
TICKS = 40  # length of every scene's time line
TABLE = 3.0  # half the side of the square that holds every position
MIN_GAP = 0.25  # between two things, at their closest
MIN_MARGIN = 0.4  # along the camera's left-right and near-far, as CLEVR asks: relations stay clear
LIFT = 2.0  # how high a picked thing goes
CONE_HEIGHT = 2.4  # in radii: then a cone holds a sphere two thirds of its radius
ROTATING = ("cylinder", "cube", "snitch")
CONTAINABLE = ("cone", "sphere", "snitch")
CAMERA_PLACE = np.array([7.2, -7.2, 6.4])
_TRIES = 200


@dataclass(frozen=True)
class Block:
    """One thing. `position` is where it starts, (x, y); `yaw_rad` how it is turned about the vertical."""

    shape: str
    size: str
    colour: str
    material: str
    position: tuple[float, float]
    yaw_rad: float = 0.0

    @property
    def radius(self) -> float:
        return SIZES[self.size]

    @property
    def height(self) -> float:
        """From the table to the top, untilted."""
        if self.shape == "cone":
            return CONE_HEIGHT * self.radius
        return math.sqrt(2) * self.radius if self.shape == "cube" else 2 * self.radius


@dataclass(frozen=True)
class Movement:
    """`mover` does `action` during [start_tick, end_tick]. `target` is where it ends; `contained` what it ends upon."""

    mover: int
    action: Action
    start_tick: float
    end_tick: float
    target: tuple[float, float]
    contained: int | None = None


@dataclass(frozen=True)
class Pose:
    """Where a block is at one moment: its base point (x, y, z above the table) and how far it is tipped."""

    base: tuple[float, float, float]
    tip_rad: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Everything a clip shows. Offsets are the jitter of camera and lamp, in table units."""

    blocks: tuple[Block, ...]
    movements: tuple[Movement, ...]
    camera_offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    lamp_offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    facts: dict[str, Any] = field(default_factory=dict)

    def movement_of(self, number: int) -> Movement | None:
        return next((one for one in self.movements if one.mover == number), None)

    def pose(self, number: int, tick: float) -> Pose:
        """Where block `number` is at a tick in [0, TICKS - 1]."""
        block, movement = self.blocks[number], self.movement_of(number)
        x, y = block.position
        if movement is None or tick <= movement.start_tick:
            return Pose((x, y, 0.0))
        done = min(1.0, (tick - movement.start_tick) / (movement.end_tick - movement.start_tick))
        if movement.action == "rotate":
            return Pose((x, y, 0.0), done * math.pi / 2)
        if movement.action == "slide":
            return Pose((*_between(block.position, movement.target, done), 0.0))
        across = min(1.0, max(0.0, (done - 0.2) / 0.6))  # up in the first fifth, down in the last
        height = LIFT * min(1.0, done / 0.2, (1.0 - done) / 0.2)
        return Pose((*_between(block.position, movement.target, across), height))

    def ticks(self, frames: int) -> Floats:
        """The tick of each frame, (T,): evenly from the first to the last."""
        return np.linspace(0.0, TICKS - 1, frames)


def _between(a: tuple[float, float], b: tuple[float, float], part: float) -> tuple[float, float]:
    return a[0] + (b[0] - a[0]) * part, a[1] + (b[1] - a[1]) * part


# Drawing a scene


def draw_scene(rng: np.random.Generator, variant: Variant = "v2", movements: int | None = None) -> Scene:
    """A random scene in which every movement is possible.

    Args:
        rng: of everything drawn.
        variant: "v2": 3 to 8 blocks and two movements; "v1": the snitch and a cone, one movement.
        movements: how many blocks move; None takes the variant's own.
    """
    wanted = movements if movements is not None else (2 if variant == "v2" else 1)
    for _ in range(_TRIES):
        blocks = _draw_blocks(rng, variant)
        if blocks is None:
            continue
        scene = Scene(blocks, (), _jitter(rng, 0.3), _jitter(rng, 1.0), {"variant": variant})
        moved = _draw_movements(rng, scene, wanted)
        if moved is not None:
            return moved
    raise AssertionError(f"no scene of {variant} with {wanted} movements in {_TRIES} tries")


def _jitter(rng: np.random.Generator, reach: float) -> tuple[float, float, float]:
    x, y, z = rng.uniform(-reach, reach, 3)
    return float(x), float(y), float(z)


def _draw_blocks(rng: np.random.Generator, variant: Variant) -> tuple[Block, ...] | None:
    cones = ["medium", "large"] if variant == "v2" else [str(rng.choice(["medium", "large"]))]
    kinds: list[tuple[str, str, str, str]] = [("snitch", "small", "gold", "metal")]
    colours = [name for name in COLOURS if name != "gold"]
    kinds += [("cone", size, str(rng.choice(colours)), str(rng.choice(MATERIALS))) for size in cones]
    for _ in range(int(rng.integers(3, 9)) - len(kinds) if variant == "v2" else 0):
        kinds.append(
            (
                str(rng.choice(SHAPES)),
                str(rng.choice(list(SIZES))),
                str(rng.choice(colours)),
                str(rng.choice(MATERIALS)),
            )
        )
    blocks: list[Block] = []
    for kind in kinds:
        place = _free_place(rng, SIZES[kind[1]], blocks)
        if place is None:
            return None
        blocks.append(Block(*kind, position=place, yaw_rad=float(rng.uniform(0, 2 * math.pi))))
    return tuple(blocks)


def _free_place(rng: np.random.Generator, radius: float, blocks: list[Block]) -> tuple[float, float] | None:
    for _ in range(_TRIES):
        x, y = (float(value) for value in rng.uniform(-TABLE, TABLE, 2))
        if all(
            _is_clear(x - other.position[0], y - other.position[1], radius + other.radius) for other in blocks
        ):
            return x, y
    return None


def _is_clear(dx: float, dy: float, radii: float) -> bool:
    sideways, depth = (dx + dy) / math.sqrt(2), (dx - dy) / math.sqrt(2)  # the camera looks along (-1, 1)
    return math.hypot(dx, dy) >= radii + MIN_GAP and min(abs(sideways), abs(depth)) >= MIN_MARGIN / 2


def _draw_movements(rng: np.random.Generator, scene: Scene, wanted: int) -> Scene | None:
    """Actions are drawn first and tried often, so that the hard ones are not rarer than the easy ones."""
    for _ in range(wanted):
        action: Action = rng.choice(np.array(["slide", "rotate", "pick-place", "contain"])).item()
        for _ in range(_TRIES):
            movement = _draw_movement(rng, scene, action)
            if movement is None:
                continue
            longer = replace(scene, movements=(*scene.movements, movement))
            if is_possible(longer):
                scene = longer
                break
        else:
            return None
    return scene


def _draw_movement(rng: np.random.Generator, scene: Scene, action: Action) -> Movement | None:
    """One movement of a block that takes part in no other."""
    busy = {one.mover for one in scene.movements} | {one.contained for one in scene.movements}
    allowed = {"rotate": ROTATING, "contain": ("cone",)}.get(action, (*SHAPES, "snitch"))
    movers = [n for n, block in enumerate(scene.blocks) if n not in busy and block.shape in allowed]
    if not movers:
        return None
    mover = int(rng.choice(movers))
    start = float(rng.uniform(0, 10))
    end = min(TICKS - 1.0, start + float(rng.uniform(20, 30)))
    if action == "rotate":
        return Movement(mover, action, start, end, scene.blocks[mover].position)
    if action == "contain":
        fits = [
            n
            for n, block in enumerate(scene.blocks)
            if n not in busy and can_contain(scene.blocks[mover], block)
        ]
        if not fits:
            return None
        contained = int(rng.choice(fits))
        return Movement(mover, action, start, end, scene.blocks[contained].position, contained)
    x, y = (float(value) for value in rng.uniform(-TABLE, TABLE, 2))
    if math.dist((x, y), scene.blocks[mover].position) < 1.0:  # ours: a move too short to see is no move
        return None
    return Movement(mover, action, start, end, (x, y))


def can_contain(cone: Block, other: Block) -> bool:
    """A cone holds a smaller cone, sphere or snitch."""
    return cone.shape == "cone" and other.shape in CONTAINABLE and other.radius < cone.radius


def is_possible(scene: Scene) -> bool:
    """True when no two blocks meet at any tick, except a cone and what it contains, and what the caption names can
    be seen: at the beginning, and movers at the end.

    Ours: in CATER a thing that is named may stand hidden behind another.
    """
    named = {number for one in scene.movements for number in (one.mover, one.contained) if number is not None}
    if any(_is_hidden(scene, number, 0.0) for number in named):
        return False
    if any(_is_hidden(scene, one.mover, TICKS - 1.0, one.contained) for one in scene.movements):
        return False
    pairs = [
        (a, b)
        for a, b in itertools.combinations(range(len(scene.blocks)), 2)
        if scene.movement_of(a) or scene.movement_of(b)
    ]
    contained = {(one.mover, one.contained) for one in scene.movements}
    for tick in scene.ticks(TICKS):
        poses = [scene.pose(n, float(tick)) for n in range(len(scene.blocks))]
        for a, b in pairs:
            if (a, b) not in contained and (b, a) not in contained and _meet(scene, a, poses[a], b, poses[b]):
                return False
    return True


def _is_hidden(scene: Scene, number: int, tick: float, inside: int | None = None) -> bool:
    """True when another block, but the one inside it, stands before the middle of this one."""
    eye = CAMERA_PLACE + np.asarray(scene.camera_offset)
    sight = _middle(scene, number, tick) - eye
    for other, block in enumerate(scene.blocks):
        to_other = _middle(scene, other, tick) - eye
        part = float(to_other @ sight / (sight @ sight))
        if (
            other not in (number, inside)
            and part < 1
            and np.linalg.norm(to_other - part * sight) < 0.9 * block.radius
        ):
            return True
    return False


def _middle(scene: Scene, number: int, tick: float) -> Floats:
    x, y, z = scene.pose(number, tick).base
    return np.array([x, y, z + 0.4 * scene.blocks[number].height])


def _meet(scene: Scene, a: int, pose_a: Pose, b: int, pose_b: Pose) -> bool:
    first, second = scene.blocks[a], scene.blocks[b]
    radii = _reach(first, pose_a) + _reach(second, pose_b)
    if math.dist(pose_a.base[:2], pose_b.base[:2]) >= radii + 0.1:
        return False
    low_a, low_b = pose_a.base[2], pose_b.base[2]
    return low_a < low_b + second.height and low_b < low_a + first.height


def _reach(block: Block, pose: Pose) -> float:
    return block.radius * (1.2 if 0 < pose.tip_rad < math.pi / 2 else 1.0)

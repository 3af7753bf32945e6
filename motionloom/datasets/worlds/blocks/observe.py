"""What a clip of blocks shows, found without being told what happens: analysis by synthesis.

The first frame is given to every image-to-video model, so what lies where in it is known, and so are camera and lamp.
From there, each block is looked for: a block is drawn where it might be, and the place is best where the drawing explains
most of what differs from the scene without it,

    gain(pose) = sum over the block's pixels of  min(|frame - without|, c) - min(|frame - drawn|, c)

In the last frame the block with the largest gain is placed first and then belongs to the scene, so that nothing is
explained twice. A block is a mover when it ends elsewhere or tips; how it got there tells the action; which colour, shape,
size and material explain it best tells its words. Nothing is learned; the ceiling on real clips says what this misses.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from motionloom.datasets.cater_captions import Action, Mode, Statement, cell_of, quadrant_of
from motionloom.datasets.worlds.blocks.render import Caster
from motionloom.datasets.worlds.blocks.scene import (
    COLOURS,
    LIFT,
    MATERIALS,
    ROTATING,
    SHAPES,
    SIZES,
    TABLE,
    Block,
    Pose,
    Scene,
    can_contain,
)
from motionloom.errors import InputError
from motionloom.video.resize import resize

SIDE_PX = 128
CAP = 60.0  # c, of 0-255 levels a channel: an unexplained pixel counts no more
GRID = 0.3  # table units between the places that are tried first
THERE = 0.45  # share of its gain in the first frame above which a block is seen in its place
FAINTEST = 8.0  # levels a pixel by which a block differs from what is behind it, at least
EXPLAINED = 0.5  # share of what a block changes that must be seen of it to be found
IN_VIEW = 0.35  # share of a block that must be in view to be found
CLEARLY = 0.7  # the same, for a block that stands or lies where it began
HOME = 0.6  # share of the best gain at which a block is taken to have stayed
IN_PLACE = 0.75  # share at which it needs no search
MOVED = 0.45  # table units
TIPPED = math.radians(40)
TIPS = tuple(math.radians(angle) for angle in np.linspace(0, 90, 9))
TIP_MARGIN = 0.1  # of still and turning things: at most 0.09 and at least 0.13, measured on 30 scenes
PICKED = 0.6  # height

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """One block over a clip.

    track: (T, 3) its base point in each frame, NaN where it was not found.
    tip_rad: the most it was seen tipped.
    looks: what it looks like at the end, or when last seen.
    """

    number: int
    track: npt.NDArray[np.float64]
    tip_rad: float
    looks: Block
    action: Action | None
    contained: int | None = None

    @property
    def last_place(self) -> tuple[float, float]:
        found = self.track[np.isfinite(self.track[:, 0])]
        return float(found[-1, 0]), float(found[-1, 1])


class Observer:
    """Finds the blocks of one scene in clips that begin with it.

    Args:
        scene: its blocks, camera and lamp are used; its movements are not looked at.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = replace(scene, movements=())
        self._empty = Caster(replace(self.scene, blocks=()), SIDE_PX, supersample=1)

    def observe(self, frames: npt.NDArray[np.uint8]) -> list[Seen]:
        """Every block of the scene, in its order, as the clip shows it.

        Args:
            frames: uint8 (T, H, W, 3), T >= 2, the first one the scene's beginning.

        Raises:
            InputError: fewer than two frames.
        """
        if len(frames) < 2:
            raise InputError(
                f"a clip of {len(frames)} frame shows no movement", fix="give two frames or more"
            )
        pixels = resize(frames, SIDE_PX, SIDE_PX, "squash").reshape(len(frames), -1, 3).astype(np.float32)
        bare = _Search(pixels, self._empty)
        starts = [Pose((*block.position, 0.0)) for block in self.scene.blocks]
        first = [bare.gain(0, b, p) for b, p in zip(self.scene.blocks, starts, strict=True)]
        away = [n for n in range(len(starts)) if not self._stays(bare, n, starts[n], first[n])]
        ends = self._ends(pixels, away)
        search = _Search(pixels, self._with({}, away))
        seen = [
            self._follow(search, n, ends.get(n)) if n in away else self._still(bare, n)
            for n in range(len(starts))
        ]
        return [self._act(one, seen) for one in seen]

    def _stays(self, search: _Search, number: int, start: Pose, first: float) -> bool:
        """True when the block is where it was, untipped, throughout."""
        block = self.scene.blocks[number]
        last = search.pixels.shape[0] - 1
        if search.gain(last, block, start) < IN_PLACE * max(first, 1.0):
            return False
        return block.shape not in ROTATING or self._most_tipped(search, block, start) < TIPPED

    def _ends(self, pixels: npt.NDArray[np.float32], away: Sequence[int]) -> dict[int, Pose]:
        """Where blocks that left their place are in the last frame; those hidden or gone are missing.

        First those that stand or lie where they began, then the others, the largest gain first.
        """
        left = set(away)
        found: dict[int, Pose] = {}
        while left:
            search = _Search(pixels, self._with(found, left))
            at_home = {n: one for n in sorted(left) if (one := self._at_home(search, n)) is not None}
            shown = at_home or {
                n: one for n in sorted(left) if (one := self._elsewhere(search, n)) is not None
            }
            if not shown:
                break
            best = max(shown, key=lambda n: shown[n][1])
            found[best] = shown[best][0]
            left.remove(best)
        return found

    def _at_home(self, search: _Search, number: int) -> tuple[Pose, float] | None:
        """(pose, gain) of a block that the last frame shows, clearly and whole, where it began."""
        block, last = self.scene.blocks[number], search.pixels.shape[0] - 1
        tips = TIPS[::2] if block.shape in ROTATING else (0.0,)
        poses = [Pose((*block.position, 0.0), tip) for tip in tips]
        gains = [search.gain(last, block, pose) for pose in poses]
        best = int(np.argmax(gains))
        shown, share = search.share(last, block, poses[best])
        whole = len(self._empty.sprite(block, poses[best])[0])
        return (poses[best], gains[best]) if share >= CLEARLY and shown >= 0.8 * whole else None

    def _elsewhere(self, search: _Search, number: int) -> tuple[Pose, float] | None:
        """(pose, gain) where a block is found on the table in the last frame; its own place unless another is clearly
        better.
        """
        block, last = self.scene.blocks[number], search.pixels.shape[0] - 1
        home = Pose((*block.position, 0.0))
        place, gain = search.on_table(last, block)
        home_gain = search.gain(last, block, home)
        pose, gain = (home, home_gain) if home_gain >= HOME * gain else (Pose((*place, 0.0)), gain)
        shown, share = search.share(last, block, pose)
        whole = len(self._empty.sprite(block, pose)[0])
        return (pose, gain) if share >= EXPLAINED and shown >= IN_VIEW * max(whole, 1) else None

    def _with(self, moved: Mapping[int, Pose], left_out: Iterable[int]) -> Caster:
        """The scene with some blocks elsewhere and some left out."""
        without = set(left_out)
        stay = [n for n in range(len(self.scene.blocks)) if n not in without]
        scene = replace(self.scene, blocks=tuple(self.scene.blocks[n] for n in stay))
        poses = {order: moved[n] for order, n in enumerate(stay) if n in moved}
        return Caster(scene, SIDE_PX, supersample=1, poses=poses)

    # following one block

    def _still(self, search: _Search, number: int) -> Seen:
        block, frames = self.scene.blocks[number], search.pixels.shape[0]
        looks = search.looks(frames - 1, block, Pose((*block.position, 0.0)))
        return Seen(number, _resting(block, frames), 0.0, looks, None)

    def _follow(self, search: _Search, number: int, end: Pose | None) -> Seen:
        block = self.scene.blocks[number]
        frames = search.pixels.shape[0]
        start = Pose((*block.position, 0.0))
        still = _resting(block, frames)
        if end is None:  # hidden at the end
            first = max(search.gain(0, block, start), 1.0)
            shown = [f for f in range(frames) if search.gain(f, block, start) >= THERE * first]
            last = shown[-1] if shown else 0
            track = np.where(np.arange(frames)[:, None] <= last, still, np.nan)
            clear = shown[len(shown) // 2] if shown else 0  # later it may be half hidden
            return Seen(number, track, 0.0, search.looks(clear, block, start), None)
        if math.dist(end.base[:2], block.position) < MOVED:
            tip = self._most_tipped(search, block, start) if block.shape in ROTATING else 0.0
            looks = search.looks(
                frames - 1, block, replace(start, tip_rad=self._last_tip(search, block, start))
            )
            return Seen(number, still, tip, looks, None)
        track = self._track(search, block, end.base[:2])
        return Seen(number, track, 0.0, search.looks(frames - 1, block, end), None)

    def _last_tip(self, search: _Search, block: Block, place: Pose) -> float:
        last = search.pixels.shape[0] - 1
        return max(TIPS, key=lambda tip: search.gain(last, block, replace(place, tip_rad=tip)))

    def _most_tipped(self, search: _Search, block: Block, place: Pose) -> float:
        """How far the block ends up tipped: the course of angles, never falling back, that explains all frames best.

        Standing upright throughout is kept unless another course explains TIP_MARGIN more.
        """
        frames = range(1, search.pixels.shape[0], 2)
        gains = np.array(
            [[search.gain(f, block, replace(place, tip_rad=tip)) for tip in TIPS] for f in frames]
        )
        best = gains[0]
        for row in gains[1:]:
            best = row + np.maximum.accumulate(best)
        upright = float(gains[:, 0].sum())
        last = int(np.argmax(best))
        return TIPS[last] if best[last] > upright + TIP_MARGIN * abs(upright) else 0.0

    def _track(self, search: _Search, block: Block, end: tuple[float, float]) -> npt.NDArray[np.float64]:
        """Base points (T, 3): part of the way and height, frame by frame, each near the one before."""
        frames = search.pixels.shape[0]
        start = np.array(block.position)
        way = np.array(end) - start
        track, part, height = np.zeros((frames, 3)), 0.0, 0.0
        for frame in range(frames):
            gain = -math.inf
            for step in (0.12, 0.06, 0.03):
                if step == 0.12:  # any height at once: a block is picked up within two frames
                    tries = [(part + i * step, z) for i in range(4) for z in np.linspace(0, LIFT, 7)]
                else:
                    tries = [(part + i * step, height + j * 2 * step) for i, j in _AROUND]
                options = [(min(1.0, max(0.0, s)), min(LIFT, max(0.0, float(z)))) for s, z in tries]
                gains = [search.gain(frame, block, Pose((*(start + s * way), z))) for s, z in options]
                if max(gains) > gain:
                    gain = max(gains)
                    part, height = options[int(np.argmax(gains))]
            track[frame] = [*(start + part * way), height]
        track[-1] = [*end, 0.0]
        return track

    # what it did

    def _act(self, one: Seen, everyone: Sequence[Seen]) -> Seen:
        """The action of a block, from where everything went."""
        block = self.scene.blocks[one.number]
        moved = math.dist(one.last_place, block.position) >= MOVED
        if not moved:
            return replace(one, action="rotate") if one.tip_rad >= TIPPED else one
        if _height_on_the_way(one.track) < PICKED:
            return replace(one, action="slide")
        for (
            other
        ) in everyone:  # two things cannot stand in one place: the cone is around what it came down upon
            there = self.scene.blocks[other.number]
            stayed = math.dist(other.last_place, there.position) < MOVED
            on_it = math.dist(one.last_place, there.position) < 0.6 * block.radius
            if stayed and on_it and can_contain(block, there):
                return replace(one, action="contain", contained=other.number)
        return replace(one, action="pick-place")


def _resting(block: Block, frames: int) -> Floats:
    return np.tile(np.array([*block.position, 0.0]), (frames, 1))


def _height_on_the_way(track: Floats) -> float:
    """The median height while a block is between its ends; the greatest where no frame shows it there."""
    ends = (
        np.linalg.norm(track[:, :2] - track[0, :2], axis=1),
        np.linalg.norm(track[:, :2] - track[-1, :2], axis=1),
    )
    between = (ends[0] > 0.15) & (ends[1] > 0.15)
    return float(np.median(track[between, 2]) if between.any() else track[:, 2].max())


_AROUND = tuple(itertools.product((-1, 0, 1), (-1, 0, 1)))


class _Search:
    """Places and looks that explain a frame best."""

    def __init__(self, pixels: npt.NDArray[np.float32], around: Caster) -> None:
        self.pixels, self._around = pixels, around
        self._missing = np.minimum(np.abs(pixels - around.still_picture()), CAP).mean(2)  # (T, N)

    def gain(self, frame: int, block: Block, pose: Pose) -> float:
        rays, drawn = self._around.sprite(block, pose)
        left = np.minimum(np.abs(self.pixels[frame, rays] - drawn), CAP).mean(1)
        return float((self._missing[frame, rays] - left).sum())

    def share(self, frame: int, block: Block, pose: Pose) -> tuple[int, float]:
        """Pixels of a block in view, and its gain as a share of what it would be were the block really there."""
        rays, drawn = self._around.sprite(block, pose)
        possible = np.minimum(np.abs(self._around.still_picture()[rays] - drawn), CAP).mean(1).sum()
        return len(rays), self.gain(frame, block, pose) / max(float(possible), FAINTEST * len(rays), 1.0)

    def on_table(self, frame: int, block: Block) -> tuple[tuple[float, float], float]:
        """Where on the table a block explains a frame best, and its gain there."""
        steps = np.arange(-TABLE, TABLE + 1e-6, GRID)
        places = [(float(x), float(y)) for x in steps for y in steps]
        points = np.array([[x, y, block.height / 2] for x, y in places])
        column, row = np.rint(self._around.camera.project(points, SIDE_PX)[:, :2] - 0.5).astype(int).T
        inside = (column >= 0) & (column < SIDE_PX) & (row >= 0) & (row < SIDE_PX)
        differs = np.zeros(len(places), bool)
        differs[inside] = self._missing[frame, row[inside] * SIDE_PX + column[inside]] > 8
        best, place = -math.inf, block.position
        for n in np.flatnonzero(differs):
            gain = self.gain(frame, block, Pose((*places[n], 0.0)))
            if gain > best:
                best, place = gain, places[n]
        for step in (0.15, 0.075, 0.04):
            for i, j in _AROUND:
                near = (place[0] + i * step, place[1] + j * step)
                gain = self.gain(frame, block, Pose((*near, 0.0)))
                if gain > best:
                    best, place = gain, near
        return place, best

    def looks(self, frame: int, block: Block, pose: Pose) -> Block:
        """The colour, shape, size and material that explain a block best; two rounds, one property at a time."""
        for _ in range(2):
            options: list[list[Block]] = [
                [replace(block, colour=colour) for colour in COLOURS],
                [replace(block, shape=shape) for shape in (*SHAPES, "snitch")],
                [replace(block, size=size) for size in SIZES],
                [replace(block, material=material) for material in MATERIALS],
            ]
            for property_options in options:
                gains = [self.gain(frame, option, pose) for option in property_options]
                block = property_options[int(np.argmax(gains))]
        return block


def describe(seen: Sequence[Seen], mode: Mode) -> list[Statement]:
    """What happened, as a caption would say it, with every word for each subject."""
    said = []
    for one in seen:
        if one.action is None:
            continue
        place = None
        if one.action in ("slide", "pick-place"):
            place = cell_of(*one.last_place) if mode == "explicit" else quadrant_of(*one.last_place)
        contained = () if one.contained is None else _words(seen[one.contained].looks)
        said.append(Statement(_words(one.looks), one.action, place, contained))
    return said


def _words(block: Block) -> tuple[str, ...]:
    return (block.size, block.colour, block.material, block.shape)

"""A scene of blocks => its frames: a ray caster on the processor.

Each picture is cast at twice its size and averaged. A lamp of some width throws soft shadows (four points of it a ray,
dithered), a second one fills, metal reflects what is around it once. What does not move is cast once a clip; of each
frame only the parts that a mover covers, shades or uncovers are cast anew, so a clip costs little more than two pictures.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from motionloom.datasets.worlds.blocks.camera import HALF_WIDTH, Camera
from motionloom.datasets.worlds.blocks.scene import COLOURS, Block, Pose, Scene
from motionloom.datasets.worlds.blocks.shapes import MEET, Array

SUPERSAMPLE = 2
SHADOW_RAYS = 4
LAMP = np.array([3.6, -1.6, 8.0], np.float32)  # the one that throws shadows
LAMP_RADIUS = 0.9
FILL = np.array([-6.0, -5.0, 6.0], np.float32)
BACK = np.array([-3.0, 6.5, 5.5], np.float32)
TABLE_COLOUR = np.array([0.46, 0.46, 0.455], np.float32)  # linear light
AMBIENT, KEY, FILLED, BACKED = 0.30, 0.92, 0.22, 0.16
TABLE = 0  # its number among the hits; block n is n + 1

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Solid:
    """A block where it is at one moment. `turn` maps the block's frame to the world's."""

    block: Block
    middle: Array  # (3,): the origin of the block's frame, see `shapes`
    turn: Array  # (3, 3)

    @classmethod
    def of(cls, block: Block, pose: Pose) -> Solid:
        yaw, tip = block.yaw_rad, pose.tip_rad
        about_z = np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
        about_y = np.array([[math.cos(tip), 0, math.sin(tip)], [0, 1, 0], [-math.sin(tip), 0, math.cos(tip)]])
        turn = about_z @ about_y if block.shape == "cylinder" else about_y @ about_z
        x, y, z = pose.base
        return cls(block, np.array([x, y, z + _lowest(block, turn)], np.float32), turn.astype(np.float32))

    @property
    def ball(self) -> tuple[Array, float]:
        """Middle and radius of a ball around it."""
        radius = self.block.radius
        if self.block.shape == "cone":
            return self.middle + self.turn[:, 2] * np.float32(self.block.height / 2), 0.57 * self.block.height
        return self.middle, radius * {"sphere": 1.0, "snitch": 1.0, "cylinder": 1.42, "cube": 1.23}[
            self.block.shape
        ]

    def meet(self, origins: Array, directions: Array) -> tuple[Array, Array]:
        """Distances (N,) and world normals (N, 3); see `shapes`."""
        own_origins: Array = np.asarray((origins - self.middle) @ self.turn, np.float32)
        own_directions: Array = np.asarray(directions @ self.turn, np.float32)
        distance, normals = MEET[self.block.shape](own_origins, own_directions, self.block.radius)
        return distance, normals @ self.turn.T


def _lowest(block: Block, turn: npt.NDArray[np.float64]) -> float:
    """How far the block reaches below its middle when turned."""
    if block.shape == "cone":
        return 0.0
    if block.shape == "cube":
        return float(np.abs(turn[2]).sum() * block.radius / math.sqrt(2))
    if block.shape == "cylinder":
        return float(block.radius * (abs(turn[2, 2]) + math.hypot(turn[2, 0], turn[2, 1])))
    return block.radius


@dataclass
class Hits:
    """What each ray of a picture meets: which thing, where, its normal, and how many of the lamp's points it sees."""

    number: npt.NDArray[np.uint8]  # (N,)
    distance: Array  # (N,)
    normal: Array  # (N, 3)
    lit: npt.NDArray[np.bool_]  # (SHADOW_RAYS, N)

    def copy(self) -> Hits:
        return Hits(self.number.copy(), self.distance.copy(), self.normal.copy(), self.lit.copy())

    def part(self, rays: Indices) -> Hits:
        return Hits(self.number[rays], self.distance[rays], self.normal[rays], self.lit[:, rays])


def render_scene(
    scene: Scene, frames: int = 16, size_px: int = 128
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """All frames of a scene, evenly over its time line.

    Returns:
        frames: uint8 (T, H, W, 3), sRGB.
        masks: uint8 (T, H, W): 0 the table, n + 1 block n, whichever is in front.
    """
    caster = Caster(scene, size_px)
    pictures = [caster.frame(float(tick)) for tick in scene.ticks(frames)]
    return np.stack([picture for picture, _ in pictures]), np.stack([mask for _, mask in pictures])


class Caster:
    """Casts the frames of one scene.

    Args:
        scene: what is there and how it moves.
        size_px: side of the square pictures.
        supersample: rays along a pixel's side.
        poses: where some of the blocks that do not move stand instead of their beginning.
    """

    def __init__(
        self,
        scene: Scene,
        size_px: int,
        supersample: int = SUPERSAMPLE,
        poses: Mapping[int, Pose] = MappingProxyType({}),
    ) -> None:
        self.scene, self.side, self.supersample = scene, size_px * supersample, supersample
        self.camera = Camera.of(scene)
        self.lamp = LAMP + np.asarray(scene.lamp_offset, np.float32)
        self.rays = self.camera.rays(self.side)
        self._lamp_points = _lamp_points(self.side)
        movers = {one.mover for one in scene.movements}
        self.movers = sorted(movers)
        self.still = [n for n in range(len(scene.blocks)) if n not in movers]
        self._still_solids = {
            n: Solid.of(scene.blocks[n], poses.get(n) or scene.pose(n, 0.0)) for n in self.still
        }
        self._still_hits = self._cast_still()
        self._still_light = self._shade(self._still_hits, self.rays, scene.blocks, self._still_solids)

    def frame(self, tick: float) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """The picture (H, W, 3) and the mask (H, W) at a tick, uint8."""
        moving = {n: Solid.of(self.scene.blocks[n], self.scene.pose(n, tick)) for n in self.movers}
        solids = self._still_solids | moving
        hits, light = self._still_hits.copy(), self._still_light.copy()
        changed = [self._cover(hits, n, solid) for n, solid in moving.items()]
        covered = np.unique(np.concatenate(changed)) if changed else np.empty(0, np.intp)
        hits.lit[:, covered] = True
        for solid in self._still_solids.values():
            self._shadow(hits, covered, solid)
        shaded = [self._shadow(hits, self._shaded_part(solid), solid) for solid in moving.values()]
        metal = np.flatnonzero(_is_metal(self.scene.blocks)[hits.number])
        anew = np.unique(np.concatenate([covered, metal, *shaded]))
        light[anew] = self._shade(hits.part(anew), self.rays[anew], self.scene.blocks, solids)
        return self._develop(light), self._thinned(hits.number)

    # what is where

    def _cast_still(self) -> Hits:
        count = self.side**2
        down = np.minimum(self.rays[:, 2], np.float32(-1e-3))
        normal = np.zeros((count, 3), np.float32)
        normal[:, 2] = 1
        hits = Hits(
            np.full(count, TABLE, np.uint8),
            -self.camera.place[2] / down,
            normal,
            np.ones((SHADOW_RAYS, count), bool),
        )
        for number, solid in self._still_solids.items():
            self._cover(hits, number, solid)
        for solid in self._still_solids.values():
            self._shadow(hits, self._shaded_part(solid), solid)
        return hits

    def _cover(self, hits: Hits, number: int, solid: Solid) -> Indices:
        """Put a solid in front of what is behind it; the rays it took."""
        middle, radius = solid.ball
        part = self._rectangle(middle[None], radius)
        origins = np.broadcast_to(self.camera.place, (len(part), 3))
        distance, normal = solid.meet(origins, self.rays[part])
        nearer = distance < hits.distance[part]
        taken = part[nearer]
        hits.number[taken], hits.distance[taken] = number + 1, distance[nearer]
        hits.normal[taken] = normal[nearer]
        return taken

    def _shaded_part(self, solid: Solid) -> Indices:
        """Rays that may meet its shadow: between it and the table, away from the lamp."""
        middle, radius = solid.ball
        away = middle - self.lamp
        end = middle + away * (middle[2] / max(1e-3, -float(away[2])))
        stretch = float(np.linalg.norm(away) / max(1e-3, -float(away[2])))
        blur = LAMP_RADIUS * float(np.linalg.norm(end - middle) / np.linalg.norm(away))
        return self._rectangle(np.stack([middle, end]), radius * max(1.0, stretch) + blur)

    def _shadow(self, hits: Hits, part: Indices, solid: Solid) -> Indices:
        """Take from points of `part` the light that a solid stops; the points that lost some."""
        points = self._points(hits, part)
        middle, radius = solid.ball
        to_lamp = self.lamp - points
        along = np.einsum("ij,ij->i", middle - points, to_lamp) / np.einsum("ij,ij->i", to_lamp, to_lamp)
        miss = middle - points - np.clip(along, 0, 1)[:, None] * to_lamp
        reach = radius + LAMP_RADIUS * np.clip(along, 0, 1)
        near = np.einsum("ij,ij->i", miss, miss) < reach * reach
        facing = np.einsum("ij,ij->i", hits.normal[part], to_lamp) > 0
        candidates, points = part[near & facing], points[near & facing]
        targets = self.lamp + self._lamp_points[:, candidates]  # (SHADOW_RAYS, N, 3)
        towards = _unit((targets - points).reshape(-1, 3))
        origins = np.tile(points + hits.normal[candidates] * np.float32(2e-3), (SHADOW_RAYS, 1))
        stopped = np.isfinite(solid.meet(origins, towards)[0]).reshape(SHADOW_RAYS, -1)
        hits.lit[:, candidates] &= ~stopped
        lost: Indices = candidates[stopped.any(0)]
        return lost

    def _points(self, hits: Hits, part: Indices) -> Array:
        points: Array = self.camera.place + self.rays[part] * hits.distance[part, None]
        return points

    def _rectangle(self, middles: Array, radius: float) -> Indices:
        """Rays through the rectangle around some balls of one radius."""
        column, row, distance = self.camera.project(middles, self.side).T
        reach = radius / np.maximum(distance - radius, 0.1) * self.side / 2 / HALF_WIDTH * 1.1 + 1
        left, right = (column - reach).min(), (column + reach).max()
        top, bottom = (row - reach).min(), (row + reach).max()
        columns = np.arange(max(0, int(left)), min(self.side, int(right) + 1))
        rows = np.arange(max(0, int(top)), min(self.side, int(bottom) + 1))
        return (rows[:, None] * self.side + columns[None]).ravel()

    # what it looks like

    def _shade(self, hits: Hits, rays: Array, blocks: Sequence[Block], solids: dict[int, Solid]) -> Array:
        """Linear light along some rays, (N, 3)."""
        normal, towards_eye = hits.normal, -rays
        points = self.camera.place + rays * hits.distance[:, None]
        seen, colours = hits.lit.mean(0, dtype=np.float32), _colours(blocks)
        light = self._diffuse(colours[hits.number], points, normal, seen)
        shine = _gloss(normal, _unit(self.lamp - points), towards_eye, 24.0)
        light += (np.float32(0.10) * shine * seen * (hits.number != TABLE))[:, None]
        metal = np.flatnonzero(_is_metal(blocks)[hits.number])
        if len(metal):
            mirrored = 2 * np.einsum("ij,ij->i", normal, towards_eye)[:, None] * normal - towards_eye
            around = self._mirror_image(
                points[metal] + normal[metal] * np.float32(4e-3), mirrored[metal], solids
            )
            sharp = _gloss(normal[metal], _unit(self.lamp - points[metal]), towards_eye[metal], 220.0)
            tint = _tint(colours[hits.number[metal]])
            light[metal] = np.float32(0.5) * light[metal] + np.float32(0.45) * tint * around
            light[metal] += (sharp * (0.9 * seen[metal] + 0.1))[:, None]
        return light

    def _diffuse(self, colour: Array, points: Array, normal: Array, seen: Array) -> Array:
        """Lambert's law for the three lamps and an even sky. `seen`: share of the shadowing lamp that is visible."""
        to_lamp = self.lamp - points
        squared = np.einsum("ij,ij->i", to_lamp, to_lamp)
        facing = np.maximum(np.einsum("ij,ij->i", normal, to_lamp), 0) / np.sqrt(squared)
        falloff = np.float32(70.0) / squared
        amount = AMBIENT * (0.6 + 0.4 * normal[:, 2]) + KEY * falloff * facing * seen
        for lamp, power in ((FILL, FILLED), (BACK, BACKED)):
            amount = amount + power * np.maximum(normal @ (lamp / np.linalg.norm(lamp)), 0)
        lit: Array = colour * amount.astype(np.float32)[:, None]
        return lit

    def _mirror_image(self, origins: Array, directions: Array, solids: dict[int, Solid]) -> Array:
        """Linear light that comes along some rays: blocks and table without shadows, else a bright room."""
        down = directions[:, 2] < -1e-3
        distance = np.where(down, -origins[:, 2] / np.where(down, directions[:, 2], -1), np.float32(np.inf))
        numbers = np.where(down, TABLE, 255).astype(np.uint8)
        normal = np.zeros_like(directions)
        normal[:, 2] = 1
        for number, solid in solids.items():
            met, its_normal = solid.meet(origins, directions)
            nearer = met < distance
            distance = np.where(nearer, met, distance)
            numbers = np.where(nearer, np.uint8(number + 1), numbers)
            normal = np.where(nearer[:, None], its_normal, normal)
        light = np.repeat((0.25 + 0.55 * np.clip(directions[:, 2:], 0, 1)).astype(np.float32), 3, axis=1)
        met_any = numbers != 255
        points = origins[met_any] + directions[met_any] * distance[met_any, None]
        half_lit = np.full(len(points), 0.8, np.float32)
        colours = _colours(self.scene.blocks)[numbers[met_any]]
        light[met_any] = self._diffuse(colours, points, normal[met_any], half_lit)
        return light

    # one block alone, for those who look for it

    def sprite(self, block: Block, pose: Pose) -> tuple[Indices, Array]:
        """The rays that a fully lit block would take from what stands still, and its sRGB there, (N, 3), 0-255."""
        solid = Solid.of(block, pose)
        middle, radius = solid.ball
        part = self._rectangle(middle[None], radius)
        distance, normal = solid.meet(np.broadcast_to(self.camera.place, (len(part), 3)), self.rays[part])
        taken = distance < self._still_hits.distance[part]
        count = int(taken.sum())
        lit = np.ones((1, count), bool)
        hits = Hits(np.ones(count, np.uint8), distance[taken], normal[taken], lit)
        light = self._shade(hits, self.rays[part[taken]], (block,), {})
        return part[taken], 255 * _encoded(light)

    def still_picture(self) -> Array:
        """What stands still, sRGB of every ray, (N, 3), 0-255."""
        return 255 * _encoded(self._still_light)

    def _thinned(self, numbers: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return numbers.reshape(self.side, self.side)[:: self.supersample, :: self.supersample]

    def _develop(self, light: Array) -> npt.NDArray[np.uint8]:
        """Average the rays of each pixel, then sRGB."""
        k = self.supersample
        side = self.side // k
        averaged = light.reshape(side, k, side, k, 3).mean((1, 3))
        picture: npt.NDArray[np.uint8] = np.rint(_encoded(averaged) * 255).astype(np.uint8)
        return picture


@functools.cache
def _lamp_points(side: int) -> Array:
    """Offsets from the lamp's middle, (SHADOW_RAYS, side * side, 3): another part of the lamp for each ray, turned from
    ray to ray, the same in every clip.
    """
    column, row = np.meshgrid(np.arange(side), np.arange(side))
    dither = (
        52.9829189 * ((0.06711056 * column + 0.00583715 * row) % 1.0)
    ) % 1.0  # interleaved gradient noise
    points = np.zeros((SHADOW_RAYS, side * side, 3), np.float32)
    for ray in range(SHADOW_RAYS):
        angle = 2 * math.pi * (ray + dither.ravel()) / SHADOW_RAYS
        reach = LAMP_RADIUS * np.sqrt((ray + (dither.ravel() * 7.31) % 1.0) / SHADOW_RAYS)
        points[ray, :, 0], points[ray, :, 1] = reach * np.cos(angle), reach * np.sin(angle)
    return points


def _gloss(normal: Array, to_lamp: Array, towards_eye: Array, sharpness: float) -> Array:
    """Blinn's highlight, (N,)."""
    half = _unit(to_lamp + towards_eye)
    shine: Array = np.maximum(np.einsum("ij,ij->i", normal, half), 0) ** np.float32(sharpness)
    return shine


def _unit(vectors: Array) -> Array:
    unit: Array = vectors / np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return unit


def _colours(blocks: Sequence[Block]) -> Array:
    """Linear colours by number: the table's, then the blocks'."""
    return np.stack([TABLE_COLOUR, *(_linear(COLOURS[block.colour]) for block in blocks)])


def _is_metal(blocks: Sequence[Block]) -> npt.NDArray[np.bool_]:
    return np.array([False, *(block.material == "metal" for block in blocks)])


def _tint(colours: Array) -> Array:
    """What metal does to the light it mirrors."""
    tint: Array = 0.25 + 0.75 * colours / np.maximum(colours.max(1, keepdims=True), 1e-3)
    return tint


def _encoded(light: Array) -> Array:
    return np.clip(light, 0, 1) ** np.float32(1 / 2.2)


def _linear(colour: tuple[int, int, int]) -> Array:
    light: Array = (np.array(colour, np.float32) / np.float32(255)) ** np.float32(2.2)
    return light

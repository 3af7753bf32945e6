"""The camera of `blocks`: a pinhole that looks down at the table, as CLEVR's does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from motionloom.datasets.worlds.blocks.scene import CAMERA_PLACE, Scene

Array = npt.NDArray[np.float32]

LOOKS_AT = np.array([0.0, 0.0, 0.35])
HALF_WIDTH = 0.42  # of the picture, at distance 1


@dataclass(frozen=True)
class Camera:
    """`axes` rows: right, up, forward, in the world's frame. The picture is square."""

    place: Array  # (3,)
    axes: Array  # (3, 3)

    @classmethod
    def of(cls, scene: Scene) -> Camera:
        """The scene's jittered camera; jitter moves it and leaves its direction, as in CLEVR."""
        forward = (LOOKS_AT - CAMERA_PLACE) / np.linalg.norm(LOOKS_AT - CAMERA_PLACE)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(right, forward), forward])
        return cls(
            (CAMERA_PLACE + np.asarray(scene.camera_offset)).astype(np.float32), axes.astype(np.float32)
        )

    def rays(self, side: int) -> Array:
        """Unit directions through the middle of every pixel of a side x side picture, (side * side, 3), rows first."""
        across = ((np.arange(side) + 0.5) / side * 2 - 1) * HALF_WIDTH
        x, y = np.meshgrid(across, -across)
        directions = np.stack([x.ravel(), y.ravel(), np.ones(side * side)], 1) @ self.axes
        unit: Array = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def project(self, points: npt.ArrayLike, side: int) -> npt.NDArray[np.float64]:
        """World points (N, 3) => (column, row, distance) (N, 3), in pixels of a side x side picture."""
        local = (np.asarray(points, dtype=np.float64).reshape(-1, 3) - self.place) @ self.axes.T
        scale = side / 2 / HALF_WIDTH
        distance = np.maximum(local[:, 2], 1e-6)
        column = side / 2 + local[:, 0] / distance * scale
        row = side / 2 - local[:, 1] / distance * scale
        return np.stack([column, row, distance], 1)

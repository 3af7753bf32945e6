"""Camera motion (VBench++, arXiv 2411.13503): does the camera do what was asked? By point tracks."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from motionloom.errors import InputError
from motionloom.metrics.base import Item, Measured, Metric, Value, as_pixels
from motionloom.metrics.setup import Setup

GRID = 10  # points a side
THRESHOLD = 0.005  # of the short side
CAMERAS = ("pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "static")

Tracker = Callable[[Tensor, int], Tensor]  # (1, T, 3, H, W), 0..255, points a side -> (1, T, grid^2, 2), px

# what two opposite edges of the scene do -> what the camera does
_SAME = {
    ("left", "left"): "pan_right",
    ("right", "right"): "pan_left",
    ("down", "down"): "tilt_up",
    ("up", "up"): "tilt_down",
    ("static", "static"): "static",
}
_TOP_BOTTOM = _SAME | {("up", "down"): "zoom_in", ("down", "up"): "zoom_out"}
_LEFT_RIGHT = _SAME | {("left", "right"): "zoom_in", ("right", "left"): "zoom_out"}


class CameraMotion(Metric):
    """Is the camera motion asked for among those read off four tracked points, one in the middle of each edge, between
    the first and the last frame?

    The release cuts tracks to whole pixels and takes one point an edge, the sixth of ten, beside its middle: a strong zoom
    therefore counts as a pan, too. That is the value of that name; `/clean` keeps fractions and takes the median of each
    edge's points.
    """

    name = "camera_motion"
    measured_as = "camera_motion/1"
    needs = frozenset({"camera"})
    gives: ClassVar = {
        "camera_motion": Value("VBench-I2V camera_motion (compat)", "fraction", "higher", True),
        "camera_motion/clean": Value(
            "VBench-I2V camera_motion, medians of edges (clean)", "fraction", "higher", True
        ),
    }

    def __init__(self, tracker: Tracker, device: str = "cpu") -> None:
        self.tracker, self.device = tracker, device

    @classmethod
    def made(cls, setup: Setup) -> CameraMotion:
        return cls(setup.networks.call("cotracker2"), setup.networks.device)

    def measure(self, item: Item) -> Measured:
        asked = (item.camera or "").replace("-", "_")  # our own words for cameras serve, too
        if asked not in CAMERAS:
            raise InputError(
                f"its camera is {item.camera!r}, expected one of {', '.join(CAMERAS)}", fix="correct it"
            )
        tracks = self.tracker(as_pixels(item.clip.frames)[None].to(self.device), GRID)[0].float().cpu()
        first, last = (tracks[t].view(GRID, GRID, 2) for t in (0, -1))
        short = min(item.clip.frames.shape[1:3])
        middle = GRID // 2
        whole = last.long() - first.long()
        points = [whole[0, middle], whole[-1, middle], whole[middle, 0], whole[middle, -1]]
        moved = last - first
        edges = [edge.quantile(0.5, dim=0) for edge in (moved[0], moved[-1], moved[:, 0], moved[:, -1])]
        return Measured(
            {
                self.name: float(asked in cameras(points, short)),
                f"{self.name}/clean": float(asked in cameras(edges, short)),
            }
        )


def cameras(edges: list[Tensor], short_px: int) -> set[str]:
    """Motions of top, bottom, left and right edge (x, y), pixels => what the camera does; a mixture gives several."""
    top, bottom, left, right = (
        _directions(float(edge[0]), float(edge[1]), short_px * THRESHOLD) for edge in edges
    )
    found = {_TOP_BOTTOM.get((a, b)) for a in top for b in bottom}
    found |= {_LEFT_RIGHT.get((a, b)) for a in left for b in right}
    named = {name for name in found if name is not None}
    return named - {"static"} or named


def _directions(x: float, y: float, limit: float) -> list[str]:
    across = ["right"] if x > limit else ["left"] if x < -limit else []
    down = ["down"] if y > limit else ["up"] if y < -limit else []
    return across + down or ["static"]

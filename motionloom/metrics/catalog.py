"""The metrics by name. A metric is one file, and one row here.

No torch here: listing the metrics is instant.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from motionloom.errors import ConfigError

if TYPE_CHECKING:
    from motionloom.metrics.base import Metric
    from motionloom.metrics.setup import Setup


@dataclass(frozen=True)
class Row:
    """One metric as the catalog knows it.

    Attributes:
        about: what it says of a set of clips.
        home: "module:class" under motionloom.metrics.
        source: paper or release the formula is from; "ours" where it is.
        tests: file of tests/metrics that pins the formula.
        networks: names in networks.table.NETWORKS.
        compares: what it needs beside the clips.
        default: runs when no metric is named; only those that need no weights.
    """

    about: str
    home: str
    source: str
    tests: str
    networks: tuple[str, ...] = ()
    compares: str = ""
    default: bool = False


METRICS: dict[str, Row] = {
    "temporal_flickering": Row(
        "do neighbouring frames differ",
        "temporal_flickering:TemporalFlickering",
        "VBench, arXiv 2311.17982",
        "test_weight_free.py",
        default=True,
    ),
    "motion_dis": Row(
        "amount, smoothness and camera of the motion, by DIS flow",
        "flow_motion:MotionByDIS",
        "ours; DIS: arXiv 1603.03590",
        "test_flow.py",
        default=True,
    ),
    "motion_lk": Row(
        "the same by Lucas-Kanade flow, where OpenCV is missing",
        "flow_motion:MotionByLucasKanade",
        "ours; Bouguet 2000",
        "test_flow.py",
    ),
    "sharpness": Row(
        "do frames blur away", "sharpness:Sharpness", "ours", "test_weight_free.py", default=True
    ),
    "colour_drift": Row(
        "do light and colour creep",
        "colour_drift:ColourDrift",
        "ours; colourfulness: Hasler and Süsstrunk 2003",
        "test_weight_free.py",
        default=True,
    ),
    "frozen_frames": Row(
        "repeated and black frames", "frozen_frames:FrozenFrames", "ours", "test_weight_free.py", default=True
    ),
    "loop_seam": Row(
        "how visible the jump to the start is",
        "loop_seam:LoopSeam",
        "ours",
        "test_weight_free.py",
        default=True,
    ),
    "diversity": Row(
        "do clips of one picture differ",
        "diversity:Diversity",
        "ours",
        "test_weight_free.py",
        compares="several clips a picture",
        default=True,
    ),
    "first_frame": Row(
        "is frame 0 the picture",
        "first_frame:FirstFrame",
        "ours",
        "test_weight_free.py",
        compares="the input picture",
        default=True,
    ),
    "psnr": Row(
        "error against the real clip",
        "psnr:PSNR",
        "three conventions, named",
        "test_reference.py",
        compares="the real clip",
        default=True,
    ),
    "ssim": Row(
        "structure against the real clip",
        "ssim:SSIM",
        "Wang et al. 2004",
        "test_reference.py",
        compares="the real clip",
        default=True,
    ),
    "mae": Row(
        "difference from the real clip",
        "mae:MAE",
        "definition",
        "test_reference.py",
        compares="the real clip",
        default=True,
    ),
    "fd_random3d": Row(
        "distance between sets in random features; not FVD",
        "random_features:RandomFeatureDistance",
        "ours",
        "test_distances.py",
        compares="real clips",
        default=True,
    ),
}


def make_metric(name: str, setup: Setup) -> Metric:
    """Build a metric.

    Raises:
        ConfigError: there is none of this name.
        WeightsError, ResourceError: what it needs is not here.
    """
    module, _, attribute = row_of(name).home.partition(":")
    metric: Metric = getattr(importlib.import_module(f"motionloom.metrics.{module}"), attribute).made(setup)
    assert metric.name == name
    return metric


def row_of(name: str) -> Row:
    if name not in METRICS:
        close = difflib.get_close_matches(name, METRICS, n=1, cutoff=0.5)
        raise ConfigError(
            f"there is no metric {name!r}",
            fix=(f"did you mean {close[0]!r}? " if close else "") + "`motionloom evaluate --list` lists them",
        )
    return METRICS[name]


def default_metrics() -> list[str]:
    return [name for name, row in METRICS.items() if row.default]


def describe_metrics(names: Iterable[str] = ()) -> list[tuple[str, str, str]]:
    """(name, about, needs) of the metrics, all by default."""
    return [
        (name, row.about, ", ".join((*row.networks, *filter(None, [row.compares]))) or "nothing")
        for name, row in METRICS.items()
        if not names or name in set(names)
    ]

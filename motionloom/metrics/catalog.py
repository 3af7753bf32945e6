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
    "subject_consistency": Row(
        "does the subject stay itself",
        "subject_consistency:SubjectConsistency",
        "VBench, arXiv 2311.17982",
        "test_consistency.py",
        ("dino-vitb16",),
    ),
    "background_consistency": Row(
        "does the scene stay itself",
        "background_consistency:BackgroundConsistency",
        "VBench, arXiv 2311.17982",
        "test_consistency.py",
        ("clip-vit-base-patch32",),
    ),
    "motion_smoothness": Row(
        "can every second frame be guessed",
        "motion_smoothness:MotionSmoothness",
        "VBench, arXiv 2311.17982",
        "test_vbench_motion.py",
        ("amt-s",),
    ),
    "dynamic_degree": Row(
        "share of clips that move",
        "dynamic_degree:DynamicDegree",
        "VBench, arXiv 2311.17982",
        "test_vbench_motion.py",
        ("raft",),
    ),
    "aesthetic_quality": Row(
        "beauty of the frames; loss against the picture",
        "aesthetic_quality:AestheticQuality",
        "VBench, arXiv 2311.17982; loss: MIVA C.2",
        "test_quality.py",
        ("clip-vit-large-patch14", "laion-aesthetic"),
    ),
    "imaging_quality": Row(
        "technical quality of the frames; loss against the picture",
        "imaging_quality:ImagingQuality",
        "VBench, arXiv 2311.17982; loss: MIVA C.2",
        "test_quality.py",
        ("musiq-spaq",),
    ),
    "i2v_subject": Row(
        "is the picture's subject in the clip",
        "i2v_subject:I2VSubject",
        "VBench++, arXiv 2411.13503",
        "test_consistency.py",
        ("dino-vitb16",),
        "the input picture",
    ),
    "i2v_background": Row(
        "is the picture's scene in the clip",
        "i2v_background:I2VBackground",
        "VBench++, arXiv 2411.13503",
        "test_consistency.py",
        ("dreamsim",),
        "the input picture",
    ),
    "camera_motion": Row(
        "does the camera do what was asked",
        "camera_motion:CameraMotion",
        "VBench++, arXiv 2411.13503",
        "test_vbench_motion.py",
        ("cotracker2",),
        "the camera asked for",
    ),
    "average_flow": Row(
        "how much clips move",
        "average_flow:AverageFlow",
        "EvalCrafter, arXiv 2310.11440",
        "test_vbench_motion.py",
        ("raft",),
    ),
    "text_alignment": Row(
        "is the prompt in the frames",
        "text_alignment:TextAlignment",
        "CLIP, arXiv 2103.00020",
        "test_quality.py",
        ("clip-vit-base-patch32",),
        "the prompt",
    ),
    "lpips": Row(
        "perceptual distance from the real clip",
        "lpips:LPIPSDistance",
        "arXiv 1801.03924",
        "test_networks.py",
        ("lpips-vgg16",),
        "the real clip",
    ),
    "fvd": Row(
        "distance between sets of videos; with cFVD and sFVD",
        "fvd:FVD",
        "arXiv 1812.01717; StyleGAN-V",
        "test_distances.py",
        ("i3d",),
        "real clips",
    ),
    "fvd_videogpt": Row(
        "the same in VideoGPT's convention",
        "fvd:FVDVideoGPT",
        "arXiv 1812.01717; VideoGPT, arXiv 2104.10157",
        "test_distances.py",
        ("i3d",),
        "real clips",
    ),
    "fvd_tensorflow": Row(
        "the same in Google's convention",
        "fvd:FVDTensorFlow",
        "arXiv 1812.01717",
        "test_distances.py",
        ("i3d",),
        "real clips",
    ),
    "fvd_shuffled": Row(
        "control: fvd of clips with shuffled frames",
        "fvd:FVDShuffled",
        "after arXiv 2404.12391",
        "test_distances.py",
        ("i3d",),
        "real clips",
    ),
    "fvd_videomae": Row(
        "distance between sets in a video transformer's features",
        "fvd_videomae:FVDVideoMAE",
        "after arXiv 2404.12391",
        "test_distances.py",
        ("videomae",),
        "real clips",
    ),
    "fid": Row(
        "distance between sets of frames",
        "fid:FID",
        "arXiv 1706.08500",
        "test_distances.py",
        ("inception-2015",),
        "real clips",
    ),
    "inception_score_c3d": Row(
        "are clips recognisable and varied",
        "inception_score:InceptionScoreC3D",
        "TGANv2, arXiv 1811.09245",
        "test_distances.py",
        ("c3d-ucf101",),
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

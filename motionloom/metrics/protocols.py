"""Published evaluation protocols as presets, and what of a protocol a set of clips does not follow."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from motionloom.errors import ConfigError
from motionloom.metrics.scores import ClipScores, LeftOut, ProtocolCheck
from motionloom.metrics.setup import Window


@dataclass(frozen=True)
class Protocol:
    """Attributes:

    generated, real: clips; None where the protocol leaves it open.
    pictures: different input pictures (or prompts).
    per_picture: clips of each.
    side_px: width and height; None where sizes are free.
    groups: (classes, subjects); 0 where it has none.
    """

    about: str
    source: str
    metrics: tuple[str, ...]
    window: Window = field(default_factory=Window)
    generated: int | None = None
    real: int | None = None
    pictures: int | None = None
    per_picture: int | None = None
    side_px: int | None = None
    mixed_sizes: bool = False
    classes: int = 0
    subjects: bool = False


_VBENCH = ("subject_consistency", "background_consistency", "motion_smoothness")
_MIVA = (*_VBENCH, "temporal_flickering", "aesthetic_quality", "imaging_quality", "average_flow")

PROTOCOLS: dict[str, Protocol] = {
    "miva-single": Protocol(
        "20 pictures for each of 8 motions, one motion each; quality as loss against the picture",
        "MIVA, evaluation and appendix C.2",
        _MIVA,
        generated=160,
        classes=8,
        mixed_sizes=True,
    ),
    "miva-multi": Protocol(
        "6 pairs of motions with equal weights, 5 to 10 pictures each",
        "MIVA, evaluation and appendix C.2",
        _MIVA,
        classes=6,
        mixed_sizes=True,
    ),
    "vbench-i2v": Protocol(
        "1,118 entries of the image suite, 5 clips each",
        "VBench++, arXiv 2411.13503",
        (
            "i2v_subject",
            "i2v_background",
            "camera_motion",
            *_VBENCH,
            "dynamic_degree",
            "aesthetic_quality",
            "imaging_quality",
        ),
        pictures=1118,
        per_picture=5,
        mixed_sizes=True,
    ),
    "ucf101": Protocol(
        "2,048 generated clips against 2,048 windows of the training split, 16 frames; IS with C3D",
        "StyleGAN-V, arXiv 2112.14683; TGANv2, arXiv 1811.09245",
        ("fvd", "inception_score_c3d"),
        Window(16, "random"),
        generated=2048,
        real=2048,
    ),
    "bair": Protocol(
        "100 clips for each of 256 first frames against the 256 real ones, 16 frames at 64 px, first frame included",
        "LaMD, arXiv 2304.11603",
        ("fvd",),
        Window(16),
        generated=25_600,
        real=256,
        pictures=256,
        per_picture=100,
        side_px=64,
    ),
    "landscape": Protocol(
        "2,815 clips of 32 frames at 128 px, the given frame not prepended",
        "LaMD, arXiv 2304.11603",
        ("fvd", "fid", "lpips"),
        Window(32),
        generated=2815,
        real=2815,
        side_px=128,
    ),
    "mug": Protocol(
        "10,000 clips of 32 frames at 128 px; FVD, per class (cFVD) and per subject (sFVD)",
        "LFDM, arXiv 2303.13744; LaMD, arXiv 2304.11603",
        ("fvd",),
        Window(32),
        generated=10_000,
        side_px=128,
        classes=7,
        subjects=True,
    ),
    "natops": Protocol(
        "10,000 clips of 32 frames at 128 px (LFDM: 40); FVD, cFVD, sFVD",
        "LFDM, arXiv 2303.13744; LaMD, arXiv 2304.11603",
        ("fvd",),
        Window(32),
        generated=10_000,
        side_px=128,
        classes=24,
        subjects=True,
    ),
}


def protocol_of(name: str) -> Protocol:
    if name not in PROTOCOLS:
        close = difflib.get_close_matches(name, PROTOCOLS, n=1, cutoff=0.4)
        raise ConfigError(
            f"there is no protocol {name!r}",
            fix=(f"did you mean {close[0]!r}? " if close else "") + f"there are {', '.join(PROTOCOLS)}",
        )
    return PROTOCOLS[name]


def check(
    name: str, clips: Sequence[ClipScores], num_real: int, left_out: Sequence[LeftOut], window: Window
) -> ProtocolCheck:
    """Every deviation from the protocol, one sentence each."""
    protocol = PROTOCOLS[name]
    found: list[str] = []

    def compare(what: str, expected: int | None, got: int) -> None:
        if expected is not None and got != expected:
            found.append(f"{what}: {got}, the protocol has {expected}")

    clusters = Counter(clip.cluster for clip in clips)
    compare("generated clips", protocol.generated, len(clips))
    compare("real clips", protocol.real, num_real)
    compare("pictures or prompts", protocol.pictures, len(clusters))
    if protocol.per_picture is not None and set(clusters.values()) - {protocol.per_picture}:
        counts = f"{min(clusters.values(), default=0)} to {max(clusters.values(), default=0)}"
        found.append(f"clips of one picture: {counts}, the protocol has {protocol.per_picture}")
    if window != protocol.window:
        found.append(f"window of frames: {window}, the protocol has {protocol.window}")
    sides = {(clip.width_px, clip.height_px) for clip in clips}
    if protocol.side_px and sides - {(protocol.side_px, protocol.side_px)}:
        sizes = ", ".join(f"{width}x{height}" for width, height in sorted(sides))
        found.append(f"sizes: {sizes}, the protocol has {protocol.side_px}x{protocol.side_px}")
    if protocol.classes:
        compare("classes", protocol.classes, len({clip.class_name for clip in clips} - {None}))
    if protocol.subjects and any(clip.subject is None for clip in clips):
        found.append("clips without a subject: no value per subject")
    found += [f"{one.metric} left out" for one in left_out]
    return ProtocolCheck(name=name, about=protocol.about, source=protocol.source, deviations=tuple(found))

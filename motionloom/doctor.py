"""What this machine can do and what is broken: one finding a row, worst news in plain words.

Every check catches its own failure and reports it: a broken install is what this file is for. Each answers
in a `Finding`; "problem" means the user must do something, "note" that something is worth knowing.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.version import InvalidVersion, Version

Status = Literal["ok", "note", "problem"]

PROBLEM_FREE_GB = 1.0
NOTE_FREE_GB = 5.0


@dataclass(frozen=True)
class Finding:
    """One row of the report: `found` is the fact, `fix` what to do about it (empty when nothing)."""

    check: str
    status: Status
    found: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Floor:
    """The oldest version without known holes that matter here, or without a break in what we use."""

    package: str
    version: str
    reason: str
    required: bool = True
    also_bad: tuple[str, ...] = ()  # newer versions that have the hole again


# Sources: the projects' own advisories and release notes.
FLOORS = (
    Floor("torch", "2.10", "CVE-2025-32434, CVE-2026-24747: torch.load(weights_only=True)"),
    Floor("diffusers", "0.42", "CVE-2026-44513, CVE-2026-45804: remote code without consent"),
    Floor("transformers", "5.10", "CVE-2026-4372, CVE-2026-5241: remote code; CVE-2026-9856: path traversal"),
    Floor("peft", "0.21", "adapter layouts this package reads"),
    Floor("accelerate", "1.15", "FSDP2, and torch.load with weights_only"),
    Floor("safetensors", "0.8", "older versions write in place: a crash destroys the previous file"),
    Floor("huggingface_hub", "2", "cache layout and offline mode this package expects"),
    Floor("av", "18.1", "bundles FFmpeg 8.1.2; before: CVE-2026-40962 (MOV), CVE-2026-8461 (MagicYUV)"),
    Floor("numpy", "2", "array interface this package is built on"),
    Floor("pillow", "12.3", "CVE-2026-59197 to -59205 and earlier decoder holes"),
    Floor("pydantic", "2.10", "recipe validation this package is built on"),
    Floor("PyYAML", "6", "CVE-2020-14343: code in YAML"),
    Floor("typer", "0.29", "command-line errors this package is built on"),
    Floor("rich", "13", "progress and tables"),
    Floor("gradio", "6.22", "CVE-2026-28416, CVE-2026-48545, path traversal, weak login", required=False),
    Floor("starlette", "1.3.1", "CVE-2026-54283, CVE-2024-47874: denial of service", required=False),
    Floor("python-multipart", "0.0.31", "CVE-2026-53537 to -53540: denial of service", required=False),
    Floor(
        "opencv-python-headless",
        "4.14.0.94",
        "bundles an FFmpeg with CVE-2026-8461; nothing here decodes video with it",
        required=False,
        also_bad=("5.0.0.93",),
    ),
)


def examine() -> list[Finding]:
    """All checks. Takes seconds: torch is imported, two frames are encoded, shipped weights are hashed."""
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("python", check_python),
        ("versions", check_versions),
        ("torchvision", check_torchvision),
        ("device", check_device),
        ("codecs", check_codecs),
        ("disk", check_disk),
        ("cache", check_cache),
        ("shipped weights", check_shipped_weights),
    )
    return [_guarded(name, check) for name, check in checks]


def examine_security() -> list[Finding]:
    """Every installed package of `FLOORS` against its floor."""
    return [finding for floor in FLOORS if (finding := against_floor(floor)) is not None]


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as problem:  # whatever broke is the finding
        return Finding(
            name,
            "problem",
            f"the check failed: {type(problem).__name__}: {problem}",
            "reinstall: pip install --force-reinstall motionloom",
        )


def check_python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def against_floor(floor: Floor) -> Finding | None:
    """A finding for one package; None where an optional one is not installed."""
    try:
        installed = metadata.version(floor.package)
    except metadata.PackageNotFoundError:
        if not floor.required:
            return None
        return Finding(
            floor.package, "problem", "not installed", f"pip install '{floor.package}>={floor.version}'"
        )
    try:
        version = Version(installed)
    except InvalidVersion:
        return Finding(
            floor.package, "note", f"{installed}: a version that cannot be compared with {floor.version}"
        )
    if version < Version(floor.version):
        status: Status = "problem" if floor.required or floor.package != "opencv-python-headless" else "note"
        fix = f"pip install --upgrade '{floor.package}>={floor.version}'"
        return Finding(floor.package, status, f"{installed}, below {floor.version}: {floor.reason}", fix)
    if installed in floor.also_bad:
        return Finding(
            floor.package, "note", f"{installed}: {floor.reason}", f"another version of {floor.package}"
        )
    return Finding(floor.package, "ok", f"{installed}, at least {floor.version}")


def check_versions() -> Finding:
    bad = [finding for finding in examine_security() if finding.status == "problem"]
    if bad:
        return Finding(
            "versions",
            "problem",
            "; ".join(f"{one.check} {one.found}" for one in bad),
            "; ".join(one.fix for one in bad),
        )
    required = [floor.package for floor in FLOORS if floor.required]
    return Finding("versions", "ok", f"{len(required)} packages at or above their floors")


def check_torchvision() -> Finding:
    """A torchvision built for another torch breaks even `import peft`: is it there, and does it match?"""
    try:
        version = metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        return Finding("torchvision", "ok", "not installed, and not needed")
    # in a child, because a broken build may take the process with it
    probe = "import torch, torchvision; torch.ops.torchvision.nms"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode == 0:
        return Finding("torchvision", "ok", f"{version}, matches torch")
    said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return Finding(
        "torchvision",
        "problem",
        f"{version} does not match torch {metadata.version('torch')}: {said}",
        "pip uninstall torchvision (nothing here needs it), or install the build from torch's own index",
    )


def check_device() -> Finding:
    import torch

    from motionloom.training.precision import EMULATED, emulated

    version = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        names = []
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            names.append(f"{facts.name} ({facts.total_memory / 2**30:.0f} GiB)")
        return Finding("device", "ok", f"{', '.join(names)}; {version}")
    if torch.backends.mps.is_available():
        return Finding("device", "ok", f"Apple GPU (mps); {version}")
    if shutil.which("nvidia-smi") and "+cpu" in torch.__version__:
        return Finding(
            "device",
            "note",
            f"{version} is a CPU build, but this machine seems to have an NVIDIA GPU",
            "install torch from https://download.pytorch.org/whl/ for your CUDA version",
        )
    cpu = f"CPU, {torch.get_num_threads()} threads; {version}"
    if emulated(torch.device("cpu"), "bf16"):
        return Finding(
            "device", "note", f"{cpu}; {EMULATED.format('bf16')}", "train with precision=fp32 here"
        )
    return Finding("device", "ok", cpu)


def check_codecs() -> Finding:
    """Encodes two frames as H.264 and reads them back."""
    import av
    import numpy as np

    if "libx264" not in av.codecs_available:
        return Finding(
            "codecs",
            "problem",
            "this PyAV has no H.264 encoder (libx264)",
            "pip install --force-reinstall av",
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "two_frames.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for value in (64, 192):
                frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), value, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with av.open(str(path), format="mov") as container:
            means = [float(frame.to_ndarray(format="rgb24").mean()) for frame in container.decode(video=0)]
    if len(means) != 2 or abs(means[0] - 64) > 4 or abs(means[1] - 192) > 4:
        return Finding(
            "codecs",
            "problem",
            f"H.264 comes back changed: mean levels {means}, expected 64 and 192",
            "pip install --force-reinstall av",
        )
    return Finding("codecs", "ok", f"H.264 written and read back; PyAV {av.__version__}")


def check_disk() -> Finding:
    places = {
        "here": Path.cwd(),
        "temporary folder": Path(tempfile.gettempdir()),
        "cache": _existing(cache_folder()),
    }
    free_gb = {name: shutil.disk_usage(path).free / 1e9 for name, path in places.items()}
    found = ", ".join(f"{name} {gb:.1f} GB" for name, gb in free_gb.items()) + " free"
    tightest = min(free_gb, key=lambda name: free_gb[name])
    if free_gb[tightest] < PROBLEM_FREE_GB:
        return Finding("disk", "problem", found, f"free some space: {places[tightest]}")
    if free_gb[tightest] < NOTE_FREE_GB:
        return Finding("disk", "note", found, f"little for downloaded bases or training: {places[tightest]}")
    return Finding("disk", "ok", found)


def cache_folder() -> Path:
    """Where downloaded bases are kept: huggingface_hub's own rule, without importing it."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    return Path(home).expanduser() / "hub"


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())


def check_cache() -> Finding:
    folder = cache_folder()
    existing = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as problem:
        return Finding(
            "cache",
            "problem",
            f"cannot write to {existing}: {problem.strerror}",
            "set HF_HOME to a folder you may write to",
        )
    return Finding("cache", "ok", f"{folder} can be written")


def check_shipped_weights() -> Finding:
    """The sha256 of every file of `zoo/` against the manifests that ship with them."""
    from motionloom.durable import MANIFEST_NAME, verify_manifest

    zoo = Path(__file__).parent / "zoo"
    manifests = sorted(zoo.rglob(MANIFEST_NAME))
    weights = sorted(zoo.rglob("*.safetensors"))
    unlisted = [
        path for path in weights if not any(path.is_relative_to(listed.parent) for listed in manifests)
    ]
    reinstall = "pip install --force-reinstall --no-deps motionloom"
    if not weights:
        return Finding("shipped weights", "problem", f"none in {zoo}", reinstall)
    problems = [problem for listed in manifests for problem in verify_manifest(listed.parent)]
    problems += [f"{path.relative_to(zoo)} is in no manifest" for path in unlisted]
    if problems:
        return Finding("shipped weights", "problem", "; ".join(problems), reinstall)
    megabytes = sum(path.stat().st_size for path in weights) / 1e6
    return Finding("shipped weights", "ok", f"{len(weights)} files, {megabytes:.1f} MB, checksums match")


def show(findings: list[Finding]) -> None:
    """The findings as a table on stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False)
    for heading in ("check", "", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    colour = {"ok": "green", "note": "yellow", "problem": "red"}
    for one in findings:
        table.add_row(
            Text(one.check), Text(one.status, style=colour[one.status]), Text(one.found), Text(one.fix)
        )
    Console().print(table)

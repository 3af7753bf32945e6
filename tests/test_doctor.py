"""The doctor finds what is broken and says what to do; its own checks never end it."""

from __future__ import annotations

import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from motionloom import doctor
from motionloom.doctor import Floor


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed, according to the test."""
    installed: dict[str, str] = {}

    def version(package: str) -> str:
        if package not in installed:
            raise metadata.PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(metadata, "version", version)
    return installed


@pytest.mark.parametrize(
    ("installed", "status"),
    [("2.9.9", "problem"), ("2.10.0", "ok"), ("2.13.0+cpu", "ok"), ("2.10.0rc1", "problem"), ("odd", "note")],
)
def test_versions_against_their_floor(installed: str, status: str, versions: dict[str, str]) -> None:
    versions["torch"] = installed
    found = doctor.against_floor(Floor("torch", "2.10", "CVE-1"))
    assert found is not None and found.status == status


def test_a_missing_package_is_a_problem_only_if_required(versions: dict[str, str]) -> None:
    required = doctor.against_floor(Floor("av", "18.1", ""))
    assert required is not None and required.status == "problem" and "pip install" in required.fix
    assert doctor.against_floor(Floor("gradio", "6.22", "", required=False)) is None


def test_a_newer_version_with_the_hole_again(versions: dict[str, str]) -> None:
    versions["opencv-python-headless"] = "5.0.0.93"
    found = doctor.against_floor(next(floor for floor in doctor.FLOORS if floor.also_bad))
    assert found is not None and found.status == "note"


def test_floors_agree_with_the_package_requirements() -> None:
    """One floor, stated twice: here for the machine, in pyproject.toml for pip."""
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    asked = {
        requirement.name.lower(): requirement
        for requirement in map(
            Requirement, project["dependencies"] + project["optional-dependencies"]["studio"]
        )
    }
    for floor in doctor.FLOORS:
        if floor.required or floor.package == "gradio":
            requirement = asked[floor.package.lower()]
            assert f">={floor.version}" in str(requirement.specifier).split(","), requirement


def test_this_machine_is_at_or_above_the_floors() -> None:
    assert [one for one in doctor.examine_security() if one.status == "problem"] == []


def test_the_torchvision_trap(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    assert doctor.check_torchvision().status == "ok"  # not installed
    versions.update(torchvision="0.28.0", torch="2.13.0+cpu")
    outcome: dict[str, Any] = {"returncode": 0, "stderr": ""}
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: SimpleNamespace(**outcome))
    assert doctor.check_torchvision().status == "ok"
    outcome.update(returncode=1, stderr="Traceback\nRuntimeError: operator torchvision::nms does not exist\n")
    found = doctor.check_torchvision()
    assert found.status == "problem"
    assert "nms does not exist" in found.found and "pip uninstall torchvision" in found.fix


def test_codecs_work_here() -> None:
    assert doctor.check_codecs().status == "ok"


def test_a_missing_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    monkeypatch.setattr(av, "codecs_available", set())
    found = doctor.check_codecs()
    assert found.status == "problem" and "libx264" in found.found


@pytest.mark.parametrize(("free_gb", "status"), [(0.5, "problem"), (3, "note"), (50, "ok")])
def test_disk(free_gb: float, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free_gb * 1e9))
    assert doctor.check_disk().status == status


def test_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "/proc/motionloom")
    found = doctor.check_cache()
    assert found.status == "problem" and "HF_HOME" in found.fix
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    assert doctor.check_cache().status == "ok"


def test_shipped_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from motionloom.durable import write_manifest

    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "doctor.py"))
    assert doctor.check_shipped_weights().status == "problem"  # none
    weights = tmp_path / "zoo" / "mini" / "codec.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    assert "in no manifest" in doctor.check_shipped_weights().found
    write_manifest(weights.parent)
    assert doctor.check_shipped_weights().status == "ok"
    weights.write_bytes(b"weighty")
    assert doctor.check_shipped_weights().status == "problem"


@pytest.mark.parametrize("has_it", [True, False])
def test_a_processor_without_bfloat16_is_a_note(has_it: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("the processor is not what trains here")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_it)
    found = doctor.check_device()
    assert (found.status, "precision=fp32" in found.fix) == (("ok", False) if has_it else ("note", True))


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> doctor.Finding:
        raise ImportError("libtorch.so: not found")

    for name in (
        "check_device",
        "check_versions",
        "check_torchvision",
        "check_codecs",
        "check_shipped_weights",
    ):
        monkeypatch.setattr(doctor, name, broken)
    findings = {one.check: one for one in doctor.examine()}
    assert findings["device"].status == "problem" and "libtorch.so" in findings["device"].found
    assert findings["python"].status == "ok"

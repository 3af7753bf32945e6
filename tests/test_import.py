"""`import motionloom` is instant, keeps torch out, and its public names are what they say."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import motionloom

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "numpy", "diffusers", "transformers", "av", "PIL", "pydantic", "rich")


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_nothing_heavy() -> None:
    code = f"import sys, motionloom; print([name for name in {HEAVY} if name in sys.modules])"
    assert run_python(code) == "[]"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        motionloom.generat  # noqa: B018


def test_dir_lists_the_public_names_before_they_are_loaded() -> None:
    assert run_python("import motionloom; print('generate' in dir(motionloom))") == "True"


@pytest.mark.parametrize("name", motionloom.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(motionloom, name) is not None


@pytest.mark.parametrize("name", ["generate", "train"])
def test_a_verb_stays_callable_after_its_file_was_imported(name: str) -> None:
    file = importlib.import_module(f"motionloom.{name}")
    assert inspect.ismodule(file)
    assert getattr(motionloom, name) is getattr(file, name)


def test_binding_a_file_to_the_package_binds_its_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    file = ModuleType("motionloom.generate")
    file.generate = lambda: "verb"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "motionloom.generate", file)
    monkeypatch.setitem(vars(motionloom), "generate", None)
    setattr(motionloom, "generate", file)  # noqa: B010 - what the import system does after it ran the file
    assert vars(motionloom)["generate"]() == "verb"


def test_the_package_carries_its_type_information() -> None:
    assert (Path(motionloom.__file__).parent / "py.typed").exists()

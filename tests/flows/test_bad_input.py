"""What a user gets for input that cannot work: one sentence, exit code 2, no traceback, nothing left behind.

`python tests/flows/test_bad_input.py` prints the table.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motionloom.cli import main

RECIPES = Path(__file__).parents[2] / "recipes"

Prepare = Callable[[], list[str]]


def _photo(name: str = "photo.png", size: tuple[int, int] = (64, 48)) -> str:
    Image.effect_noise(size, 60).convert("RGB").save(name)
    return name


def _bytes(name: str, content: bytes) -> str:
    Path(name).write_bytes(content)
    return name


def _huge_header() -> str:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return _bytes("huge.png", b"\x89PNG\r\n\x1a\n" + body)


def _truncated() -> str:
    whole = Path(_photo("whole.jpg", (256, 256))).read_bytes()
    return _bytes("cut.jpg", whole[: len(whole) // 2])


def _clip_without_settings() -> str:
    from motionloom.video.clip import Clip

    return str(Clip(np.zeros((2, 16, 16, 3), np.uint8), 8.0).save("plain.mp4"))


def _clip_of_another_photo() -> list[str]:
    assert main(["animate", _photo(), "-o", "made.mp4", "--frames", "2", "--steps", "1"]) == 0
    return ["animate", _photo("photo.png", (80, 40)), "--from", "made.mp4"]


def _mask(value: int, name: str = "mask.png") -> str:
    Image.new("L", (64, 48), value).save(name)
    return name


def _folder(name: str = "clips") -> str:
    Path(name).mkdir()
    return name


CASES: dict[str, Prepare] = {
    "photo is missing": lambda: ["animate", "nowhere.jpg"],
    "photo is a folder": lambda: ["animate", "."],
    "photo is empty": lambda: ["animate", _bytes("empty.jpg", b"")],
    "photo is text": lambda: ["animate", _bytes("notes.jpg", b"correct horse battery staple\n")],
    "photo is random bytes": lambda: ["animate", _bytes("noise.png", np.random.default_rng(0).bytes(4000))],
    "photo is cut off": lambda: ["animate", _truncated()],
    "photo says 50,000 x 50,000": lambda: ["animate", _huge_header()],
    "photo is a PDF": lambda: ["animate", _bytes("paper.png", b"%PDF-1.7\n1 0 obj\n")],
    "photo is 8 x 8": lambda: ["animate", _photo("tiny.png", (8, 8))],
    "unknown motion": lambda: ["animate", _photo(), "--motion", "zom-in"],
    "weight is no number": lambda: ["animate", _photo(), "--motion", "zoom-in:much"],
    "weight is negative": lambda: ["animate", _photo(), "--motion", "zoom-in:-1"],
    "weight is enormous": lambda: ["animate", _photo(), "--motion", "zoom-in:1e9"],
    "mask is missing": lambda: ["animate", _photo(), "--motion", "sway", "--mask", "m.png"],
    "mask is all black": lambda: ["animate", _photo(), "--motion", "sway", "--mask", _mask(0)],
    "more masks than motions": lambda: ["animate", _photo(), "--mask", _mask(255)],
    "unknown base": lambda: ["animate", _photo(), "--base", "maxi"],
    "a prompt for a base without text": lambda: ["animate", _photo(), "--prompt", "a sunny day"],
    "one frame": lambda: ["animate", _photo(), "--frames", "1"],
    "frames is no number": lambda: ["animate", _photo(), "--frames", "many"],
    "no steps": lambda: ["animate", _photo(), "--steps", "0"],
    "size is nonsense": lambda: ["animate", _photo(), "--size", "large"],
    "size is far too large": lambda: ["animate", _photo(), "--size", "99999x99999"],
    "output is an unknown format": lambda: ["animate", _photo(), "-o", "clip.avi"],
    "output is the photo": lambda: ["animate", _photo("clip.webp"), "-o", "clip.webp"],
    "output folder cannot be made": lambda: ["animate", _photo(), "-o", _bytes("file", b"x") + "/clip.mp4"],
    "--from a clip without settings": lambda: ["animate", "--from", _clip_without_settings()],
    "--from with another photo": _clip_of_another_photo,
    "misspelt option": lambda: ["animate", _photo(), "--sede", "1"],
    "misspelt command": lambda: ["anmate", _photo()],
    "photos folder without photos": lambda: ["data", "synth", ".", "-o", "clips"],
    "recipe is missing": lambda: ["train", "nowhere.yaml"],
    "recipe has a misspelt key": lambda: [
        "train",
        _bytes("r.yaml", b"stpes: 3\nstage: {kind: mini-decoder}\n"),
    ],
    "no clip to learn from": lambda: [
        "train",
        str(RECIPES / "miva/animatediff.yaml"),
        f"data.folder={_folder()}",
    ],
    "inspect a file of no kind": lambda: ["inspect", _bytes("x.safetensors", b"\x00" * 40)],
}


def _run(prepare: Prepare) -> tuple[int, str, str, set[str]]:
    """(exit code, stdout, stderr, new files) of a case, in the current folder."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        arguments = prepare()
    before = {str(path) for path in Path().rglob("*")}
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return code, out.getvalue(), err.getvalue(), {str(path) for path in Path().rglob("*")} - before


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_exit_code_2(case: str) -> None:
    code, out, err, files = _run(CASES[case])
    assert code == 2, err
    assert out == "" and not files
    assert err.count("\n") == 1 and err.startswith("error["), err
    assert "Traceback" not in err and "Fix: " in err


def test_a_failed_run_leaves_the_old_clip_alone() -> None:
    assert main(["animate", _photo(), "-o", "clip.mp4", "--frames", "2", "--steps", "1"]) == 0
    before = Path("clip.mp4").read_bytes()
    assert main(["animate", _photo(), "-o", "clip.mp4", "--motion", "nothing-known"]) == 2
    assert Path("clip.mp4").read_bytes() == before


if __name__ == "__main__":
    print("| input | what it prints |\n|---|---|")
    for name, prepare in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            print(f"| {name} | `{_run(prepare)[2].strip()}` |")

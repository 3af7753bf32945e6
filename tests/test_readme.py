"""The README is run: every command line in it, in order, on small material, and its Python."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import motionloom as ml
from motionloom.cli import main
from motionloom.video.clip import Clip

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [line.split("#")[0].strip() for line in re.findall(r"^motionloom .*$", README, re.MULTILINE)]
ELSEWHERE = {  # command -> where it is run instead
    "motionloom doctor": "tests/test_doctor.py: it judges the machine",
    "motionloom convert adapter.pt -o adapters/": "tests/adapters/test_files.py, on every official form",
}
SMALLER = {  # by the words a command starts with
    "animate": "--frames 3 --steps 1",
    "transfer": "--frames 3",
    "data synth photos/": "-n 2 --frames 2 --size 32",
    "data synth --world": "-n 1",
    "train recipes/miva/mini": "stage.windows=1 steps=1 warmup_steps=0 batch_size=1 precision=fp32 sample_every=null",
    "train recipes/miva": "stage.base=tiny-animatediff data.size_px=[64,64] data.frames=3 stage.windows=1 steps=1 "
    "stage.preview_steps=1 precision=fp32 optimizer.kind=adamw sample_every=null stage.gradient_checkpointing=false",
    "evaluate": "--metrics psnr,sharpness",
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's commands name, small."""
    folder = tmp_path_factory.mktemp("readme")
    noise = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC)
    (folder / "photos").mkdir()
    for name in ("photo.jpg", "photos/one.jpg"):
        picture.save(folder / name)
    Image.new("L", (64, 64), 255).save(folder / "sky.png")
    frames = np.stack([np.roll(np.asarray(picture), t, axis=1) for t in range(16)])
    for place in ("clips", "real", "ours", "theirs"):
        (folder / place).mkdir()
        for name in ("one", "two"):
            Clip(frames, 8.0).save(folder / place / f"{name}.mp4")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    host = ml.load_base("tiny-animatediff").denoiser.network
    for name in ("waterfall", "birds"):
        ml.new_adapter(host, motion=name, base="tiny-animatediff").save(folder / f"{name}.safetensors")
    for name, seed in (("dynamicrafter_512", 0), ("dynamicrafter_cil_512", 1)):
        write_tiny_dynamicrafter(folder / name, seed)
    return folder


def write_tiny_dynamicrafter(folder: Path, seed: int) -> None:
    from motionloom.denoisers.dynamicrafter.folder import write_folder
    from motionloom.denoisers.dynamicrafter.parts import TINY

    torch.manual_seed(seed)
    parts = ml.load_base("tiny-dynamicrafter").parts.named()
    nudged = {
        name: {
            key: w + 0.01 * seed * torch.randn_like(w) if w.is_floating_point() and name == "unet" else w
            for key, w in part.state_dict().items()
        }
        for name, part in parts.items()
    }
    write_folder(folder, TINY, nudged)


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 20
    assert set(ELSEWHERE) <= set(COMMANDS)


def test_the_commands_run_one_after_another(material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(material)
    for command in COMMANDS:
        if command in ELSEWHERE:
            continue
        words = command.removeprefix("motionloom ")
        options = next((more for start, more in SMALLER.items() if words.startswith(start)), "")
        words = re.sub(r"-n \d+", "", words) if "-n " in options else words
        words = words.replace("--base animatediff-v3", "--base tiny-animatediff")
        if "--dry-run" in words:
            options = options.replace("steps=1 ", "", 1)
        assert main([*shlex.split(words), *shlex.split(options)]) == 0, command


def test_the_python_runs(material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(material)
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    code = code.replace("seed=0)", "seed=0, frames=2, steps=1)").split("ml.train(")[0]
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert Path("out.mp4").is_file()
    assert names["clip"].fps == 8.0  # type: ignore[attr-defined]

"""MIVA end to end through the command line: teach two motions, stop and go on, weave them in a photo, one in a region."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from motionloom.adapters.adapter_file import load_adapter
from motionloom.cli import main
from motionloom.training.objectives.miva import FramesLesson
from motionloom.video.clip import Clip
from motionloom.video.read import read_clip

RECIPES = Path(__file__).parents[2] / "recipes/miva"
FRAMES = {"tiny-animatediff": 3, "tiny-wan": 5}
RECIPE = {"tiny-animatediff": "animatediff", "tiny-wan": "wan"}


class Crash(Exception):
    pass


def clips(folder: Path, step_px: int) -> Path:
    """Ten clips of a square that moves, slower or faster."""
    folder.mkdir()
    for number in range(10):
        frames = np.full((8, 64, 64, 3), 30 + 10 * number, dtype=np.uint8)
        for t, frame in enumerate(frames):
            frame[20:40, step_px * t : step_px * t + 16] = 230
        Clip(frames, 8.0).save(folder / f"{number}.mp4")
    return folder


def train(base: str, data: Path, run: Path, *more: str) -> int:
    """`motionloom train` of a shipped recipe, small enough for a CPU."""
    changes = [
        f"stage.base={base}",
        f"data.folder={data}",
        "data.size_px=[64, 64]",
        f"data.frames={FRAMES[base]}",
        "data.fps=8",
        "stage.windows=1",
        "stage.preview_steps=1",
        "stage.cache=latents",
        "precision=fp32",
        "optimizer.kind=adamw",
        "learning_rate=1e-3",
        "steps=20",
        "save_every_steps=10",
        "ema_decay=0.9",
        "sample_every=null",
        "stage.gradient_checkpointing=false",
    ]
    return main(
        ["train", str(RECIPES / f"{RECIPE[base]}.yaml"), *changes, *more, "--run-dir", str(run), "--json"]
    )


@pytest.mark.timeout(600)  # five commands; seconds alone, minutes on a machine that does other work too
@pytest.mark.parametrize("base", ["tiny-animatediff", "tiny-wan"])
def test_teach_stop_go_on_weave(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow, fast = clips(tmp_path / "slow", 1), clips(tmp_path / "fast", 5)
    assert train(base, slow, tmp_path / "whole") == 0

    lesson = FramesLesson.__call__

    def crash_at_11(self: FramesLesson, batch: Any, step: int, generator: Any) -> Any:
        if step == 11:
            raise Crash
        return lesson(self, batch, step, generator)

    with monkeypatch.context() as broken:
        broken.setattr(FramesLesson, "__call__", crash_at_11)
        assert train(base, slow, tmp_path / "stopped") == 1
    capsys.readouterr()
    assert train(base, slow, tmp_path / "stopped") == 0
    assert json.loads(capsys.readouterr().out)["resumed_from"] == 10
    for file in ("networks", "optimizers", "averages", "randomness"):
        one, other = (
            (tmp_path / run / f"checkpoints/step-000020/{file}.safetensors").read_bytes()
            for run in ("whole", "stopped")
        )
        assert one == other, file
    final = tmp_path / "whole/final"
    assert (final / "adapter.safetensors").read_bytes() == (
        tmp_path / "stopped/final/adapter.safetensors"
    ).read_bytes()
    assert read_clip(final / "preview.mp4").num_frames == FRAMES[base]
    assert "# slow" in (final / "adapter.md").read_text()
    adapter = load_adapter(final / "adapter.safetensors")
    assert (adapter.motion, adapter.base, adapter.facts["clips"], adapter.facts["fps"]) == (
        "slow",
        base,
        10,
        8.0,
    )

    assert train(base, fast, tmp_path / "other", "steps=2") == 0
    capsys.readouterr()
    Image.fromarray(np.full((64, 64, 3), 90, dtype=np.uint8)).save("photo.png")
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, :32] = 255
    Image.fromarray(mask).save("left.png")
    motions = [
        f"--motion={final}/adapter.safetensors:0.5",
        f"--motion={tmp_path}/other/final/adapter.safetensors:0.5",
    ]
    common = ["animate", "photo.png", "--base", base, "--frames", str(FRAMES[base]), "--steps", "2", "--json"]
    made = {}
    for name, options in (
        ("one", motions[:1]),
        ("both", motions),
        ("masked", [*motions, "--mask=left.png", "--mask=-"]),
    ):
        assert main([*common, *options, "-o", f"{name}.mp4"]) == 0, capsys.readouterr().err
        made[name] = read_clip(Path(f"{name}.mp4")).frames
        settings = json.loads(capsys.readouterr().out)["settings"]
        assert settings["base"] == base and len(settings["motions"]) == len(
            [o for o in options if "--motion" in o]
        )
    assert all(len(frames) == FRAMES[base] for frames in made.values())
    assert not np.array_equal(made["one"], made["both"]) and not np.array_equal(made["both"], made["masked"])


def test_masked_training_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, masks = clips(tmp_path / "clips", 3), tmp_path / "masks"
    masks.mkdir()
    picture = np.zeros((64, 64), dtype=np.uint8)
    picture[20:40] = 255
    for number in range(10):
        Image.fromarray(picture).save(masks / f"{number}.png")
    recipe = ["train", str(RECIPES / "wan_masked.yaml"), f"data.folder={data}", f"stage.masks.folder={masks}"]
    small = ["stage.base=tiny-wan", "data.size_px=[64, 64]", "data.frames=5", "data.fps=8", "stage.windows=1"]
    quick = ["steps=2", "stage.masks.levels=2", "precision=fp32", "stage.preview_steps=1", "log_every=1"]
    assert main([*recipe, *small, *quick, "--run-dir", "run", "--json"]) == 0, capsys.readouterr().err
    adapter = load_adapter("run/final/adapter.safetensors")
    assert adapter.masked and adapter.facts["true_masks"] == "cosine"
    log = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    first = next(line for line in log if line.get("step") == 1 and "numbers" in line)
    assert first["numbers"]["true_mask"] == 1.0 and first["numbers"]["mse_mask"] > 0

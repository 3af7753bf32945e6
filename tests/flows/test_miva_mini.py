"""A motion taught to the small model through the command line: train, stop and go on, animate, inspect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from motionloom.adapters.adapter_file import load_adapter
from motionloom.cli import main
from motionloom.codecs.linear_motion import LinearMotion
from motionloom.codecs.warp_codec import WarpCodec
from motionloom.conditions.words import WORDS
from motionloom.datasets.flow_windows import FlowEncoder, Squares
from motionloom.denoisers.map_generator import MapGenerator, MapGeneratorConfig
from motionloom.training.objectives.map_adapter import MapAdapterObjective
from motionloom.video.clip import Clip
from motionloom.video.read import read_clip, read_settings
from motionloom.zoo import save_codec, save_generator

pytest.importorskip("cv2")
RECIPE = Path(__file__).parents[2] / "recipes/miva/mini.yaml"


class Crash(Exception):
    pass


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `mini` of random weights, small enough for a test."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    motion = LinearMotion(flow_modes=2, light_modes=1)
    tau = torch.linspace(0, 1, motion.num_frames)
    motion.flow_basis = torch.linalg.qr(torch.stack([tau, tau * tau], 1)).Q.T.contiguous()
    motion.light_basis = (tau / tau.norm())[None]
    motion.scale = torch.full((motion.channels,), 0.2)
    save_codec(WarpCodec(motion, 8), folder / "codec.safetensors")
    generator = MapGenerator(
        MapGeneratorConfig(motion.channels, base=16, multipliers=(1, 1, 1), res_blocks=1, content_channels=8)
    )
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.02)
    save_generator(generator, folder / "generator.safetensors")
    return folder


def clips(folder: Path, count: int = 3, frames: int = 20) -> Path:
    """Noise that slides to the right, and one clip that is too short."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        wide = np.asarray(
            Image.fromarray(rng.integers(0, 255, (12, 24, 3), dtype=np.uint8)).resize((192, 96))
        )
        length = 5 if number == count - 1 else frames
        moved = [np.roll(wide, 2 * t, 1)[:64, :96] for t in range(length)]
        Clip(np.stack(moved), 12.0).save(folder / f"{number}.mp4")
    return folder


def train(tiny: Path, data: Path, run: Path, *more: str) -> int:
    changes = [
        f"stage.base={tiny}", f"data.folder={data}", "data.size_px=[96, 64]", "stage.windows=2", "stage.cache=latents",
        "steps=4", "batch_size=2", "warmup_steps=1", "save_every_steps=2", "sample_every=2", "data.skip_bad=true",
    ]  # fmt: skip
    return main(["train", str(RECIPE), *changes, *more, "--run-dir", str(run), "--json"])


@pytest.mark.timeout(600)  # six commands; seconds alone, minutes on a machine that does other work too
def test_teach_stop_go_on_animate_inspect(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = clips(tmp_path / "sliding")
    assert train(tiny, data, Path("whole")) == 0, capsys.readouterr().err
    done = json.loads(capsys.readouterr().out)
    assert done["clips_used"] == 2 and "5 frames" in done["clips_refused"][0]["reason"]
    assert read_clip(Path("whole/samples/step-000002.mp4")).num_frames == 16

    losses = MapAdapterObjective.losses

    def crash_at_3(self: Any, batch: Any, step: int, generator: Any) -> Any:
        if step == 3:
            raise Crash
        return losses(self, batch, step, generator)

    with monkeypatch.context() as broken:
        broken.setattr(MapAdapterObjective, "losses", crash_at_3)
        assert train(tiny, data, Path("stopped")) == 1
    capsys.readouterr()
    assert train(tiny, data, Path("stopped")) == 0
    assert json.loads(capsys.readouterr().out)["resumed_from"] == 2
    file = Path("whole/final/adapter.safetensors")
    assert file.read_bytes() == Path("stopped/final/adapter.safetensors").read_bytes()

    adapter = load_adapter(file)
    assert (adapter.motion, adapter.facts["clips"], adapter.facts["steps"]) == ("sliding", 2, 4)
    assert adapter.settings.word in {word.name for word in WORDS if word.kind == "local"}
    coherence, right, _ = adapter.headings.mean(0).tolist()
    assert coherence > 0.5 and abs(right) < 0.9  # everything goes one way; flipped half of the time
    assert adapter.speeds[1].diff().ge(0).all() and adapter.speeds[1, -1] > 0

    Image.effect_noise((96, 64), 60).convert("RGB").save("photo.png")
    Image.new("L", (96, 64), 255).save("mask.png")
    given = ["--base", str(tiny), "--motion", f"{file}:0.8", "--motion", "pan-left:0.5", "--mask", "mask.png"]
    common = ["--frames", "4", "--steps", "2"]
    assert main(["animate", "photo.png", *given, *common, "-o", "one.mp4"]) == 0, capsys.readouterr().err
    settings = read_settings(Path("one.mp4"))
    assert (
        settings["motions"] == [["adapter.safetensors", 0.8], ["pan-left", 0.5]] and "notes" not in settings
    )
    assert len(read_clip(Path("one.mp4")).frames) == 4
    capsys.readouterr()
    assert main(["inspect", str(file)]) == 0
    said = capsys.readouterr().out
    assert "MapGenerator with 22 blocks of 16 channels" in said and "sliding" in said


def test_a_dry_run_counts_clips_and_parameters(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = clips(tmp_path / "sliding")
    assert train(tiny, data, Path("none"), "--dry-run") == 0, capsys.readouterr().err
    plan = json.loads(capsys.readouterr().out)
    assert plan["clips"]["used"] == 2 and len(plan["clips"]["refused"]) == 1
    adapter = plan["parameters"]["adapter"]
    assert adapter["total"] == adapter["trained"] == sum(adapter["parts"].values()) > 0
    assert plan["parameters"]["generator"]["trained"] == 0 and plan["time"]["seconds_per_step"] > 0
    assert not Path("none").exists() and not Path("latents").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.frames=8", "got data.frames 8"),
        ("stage.word=pan-left", "expected a local motion"),
        ("stage.word=sae", "knows no motion"),
        ("stage.base=tiny-wan", "has no map generator"),
        ("data.skip_bad=false", "1 of 3 clips in"),
    ],
)
def test_what_cannot_be_trained(
    tiny: Path, tmp_path: Path, change: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tiny, clips(tmp_path / "sliding"), Path("run"), change) == 2
    assert said in capsys.readouterr().err


def test_windows_have_the_flow_of_their_clip(tmp_path: Path) -> None:
    """Pictures that slide by a known step: the latent decodes to it."""
    from motionloom.datasets.clips import ClipFolder

    motion = LinearMotion(flow_modes=1, light_modes=1)
    tau = torch.linspace(0, 1, 16)
    motion.flow_basis, motion.light_basis = (tau / tau.norm())[None], (tau / tau.norm())[None]
    squares = Squares(ClipFolder(clips(tmp_path / "c", 2), 16, 12.0, (96, 64), skip_bad=True), seed=0)
    frames = squares.at(0, 0)["frames"]
    assert frames.shape == (3, 16, 128, 128) and torch.equal(frames, squares.at(0, 0)["frames"])
    latent = FlowEncoder(motion).encode_motion(frames[None]).mean
    local = motion.decode(latent).local[
        0, -1
    ]  # (2, 16, 16), backward: the scene moves right, so x is negative
    middle = local[:, 4:12, 8:12].mean((1, 2))
    least = 15 * 2 / 64  # frame units, for the largest square: the whole height
    assert -1.6 * least < float(middle[0]) < -0.6 * 0.35 and abs(float(middle[1])) < 0.05

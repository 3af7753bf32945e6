"""MIVA as a user runs it: adapter files on the tiny bases, through the command, in seconds."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import motionloom as ml
from motionloom.adapters.adapter import Adapter, new_adapter
from motionloom.cli import main
from motionloom.denoisers.base import Base
from motionloom.video.read import read_clip, read_settings

TINY = ("tiny-animatediff", "tiny-wan")
QUICK = ["--steps", "2"]
FRAMES = {"tiny-animatediff": 4, "tiny-wan": 5}


@pytest.fixture(scope="module", params=TINY)
def base(request: pytest.FixtureRequest) -> Base:
    return ml.load_base(request.param)


def trained(base: Base, seed: int, masked: bool = False) -> Adapter:
    """An adapter whose zero-initialised parts are not zero, as after training."""
    network = base.denoiser.network
    adapter = new_adapter(network, masked=masked, seed=seed, motion=f"motion {seed}", base=base.name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            if not parameter.any():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return adapter


@pytest.fixture(scope="module")
def stock(base: Base, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp(base.name)
    return [trained(base, seed).save(folder / f"motion{seed}.safetensors") for seed in (1, 2)]


@pytest.fixture
def adapters(stock: list[Path]) -> list[Path]:
    """Two adapter files in the working folder."""
    return [Path(shutil.copy(file, file.name)) for file in stock]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    folder = tmp_path / "private" / "photos"
    folder.mkdir(parents=True)
    Image.effect_noise((100, 80), 60).convert("RGB").save(folder / "photo.png")
    return folder / "photo.png"


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def animate(base: Base, photo: Path, *options: str, out: str = "clip.mp4") -> int:
    frames = ["--frames", str(FRAMES[base.name])]
    return main(["animate", str(photo), "--base", base.name, *frames, *QUICK, "-o", out, *options])


def test_frame_0_is_the_photo_and_the_others_are_not(
    base: Base, adapters: list[Path], picture: np.ndarray
) -> None:
    clip = ml.generate(base, picture, [adapters[0]], frames=FRAMES[base.name], steps=2)
    assert clip.frames.shape == (FRAMES[base.name], 64, 64, 3) and clip.fps == base.fps
    assert np.array_equal(clip.frames[0], picture)
    assert not np.array_equal(clip.frames[1], picture)


def test_defaults_are_the_papers(base: Base, adapters: list[Path], picture: np.ndarray) -> None:
    clip = ml.generate(base, picture, [adapters[0]], steps=1)
    expected = {"tiny-animatediff": (16, 8.0, 50), "tiny-wan": (17, 16.0, 50)}[base.name]
    assert (len(clip.frames), clip.fps, base.num_steps) == expected


def test_the_base_is_as_before_bit_for_bit(base: Base, adapters: list[Path], picture: np.ndarray) -> None:
    latents = torch.randn(1, *base.codec.latent_shape(FRAMES[base.name], 64, 64))
    with torch.no_grad():
        before = base.denoiser(latents, torch.tensor([500]))
        ml.generate(base, picture, [adapters[0]], frames=FRAMES[base.name], steps=1)
        assert torch.equal(before, base.denoiser(latents, torch.tensor([500])))


def test_files_and_adapters_are_the_same_motion(
    base: Base, adapters: list[Path], picture: np.ndarray
) -> None:
    def clip(motion: object, seed: int = 0) -> np.ndarray:
        return ml.generate(base, picture, [motion], frames=FRAMES[base.name], steps=2, seed=seed).frames

    assert np.array_equal(clip(adapters[0]), clip(str(adapters[0])))
    assert np.array_equal(clip(adapters[0]), clip((ml.load_adapter(adapters[0]), 1.0)))
    assert not np.array_equal(clip(adapters[0]), clip(adapters[1]))
    assert not np.array_equal(clip(adapters[0]), clip(adapters[0], seed=1))


def test_weights_curves_and_masks_change_the_clip(
    base: Base, adapters: list[Path], picture: np.ndarray
) -> None:
    mask = np.zeros((64, 64), np.float32)
    mask[:, 32:] = 1

    def clip(weight: float | tuple[float, float], masks: list[np.ndarray] | None = None) -> bytes:
        motions = [(adapters[0], weight)]
        return ml.generate(
            base, picture, motions, masks=masks, frames=FRAMES[base.name], steps=3
        ).frames.tobytes()

    clips = {clip(1.0), clip(0.5), clip((1.0, 0.0)), clip((0.0, 1.0)), clip(1.0, [mask])}
    assert len(clips) == 5
    assert clip((1.0, 1.0)) == clip(1.0, [np.ones((64, 64), np.float32)])


def test_half_and_half_of_one_adapter_is_that_adapter(
    base: Base, adapters: list[Path], picture: np.ndarray
) -> None:
    whole, halves = (
        ml.generate(base, picture, motions, frames=FRAMES[base.name], steps=1).frames.astype(int)
        for motions in ([(adapters[0], 1.0)], [(adapters[0], 0.5), (adapters[0], 0.5)])
    )
    assert np.abs(whole - halves).max() <= 2


def test_a_curve_runs_from_the_first_step_to_the_last(
    base: Base, adapters: list[Path], picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from motionloom.adapters.context import MotionContext

    told: list[float | None] = []
    monkeypatch.setattr(MotionContext, "at", lambda self, progress: told.append(progress))
    ml.generate(base, picture, [adapters[0]], frames=FRAMES[base.name], steps=5)
    assert told == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_the_command_repeats_bit_for_bit_and_keeps_folders_private(
    base: Base, adapters: list[Path], photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (100, 80), 255).save("mask.png")
    motions = ["--motion", "motion1.safetensors:0.7", "--motion", str(adapters[1].absolute()) + ":0.3"]
    assert animate(base, photo, *motions, "--mask", "-", "--mask", "mask.png", out="one.mp4") == 0
    said = capsys.readouterr()
    assert Path(said.out.strip()) == Path("one.mp4").absolute()
    assert "100 x 80 px, was scaled and cropped to 64 x 64 px" in said.err

    settings = read_settings("one.mp4")
    assert settings["motions"] == [["motion1.safetensors", 0.7], ["motion2.safetensors", 0.3]]
    assert settings["masks"] == [None, "mask.png"] and settings["photo"] == "photo.png"
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in settings["adapters_sha256"])
    assert "private" not in json.dumps(settings) and str(tmp_path) not in json.dumps(settings)

    assert main(["animate", str(photo), "--from", "one.mp4", "-o", "two.mp4"]) == 0
    assert Path("one.mp4").read_bytes() == Path("two.mp4").read_bytes()
    photo.rename("photo.png")  # beside the clip it is found again
    assert main(["animate", "--from", "one.mp4", "-o", "three.mp4"]) == 0
    assert Path("one.mp4").read_bytes() == Path("three.mp4").read_bytes()


def test_options_of_the_base_are_repeated(base: Base, adapters: list[Path], photo: Path) -> None:
    options = ["--base-option", "shared_noise=0.2", "--base-option", "seed=1"]
    assert animate(base, photo, "--motion", "motion1.safetensors", *options, out="one.mp4") == 0
    assert read_settings("one.mp4")["base_facts"]["options"] == {"shared_noise": 0.2, "seed": 1}
    assert main(["animate", str(photo), "--from", "one.mp4", "-o", "two.mp4"]) == 0
    assert Path("one.mp4").read_bytes() == Path("two.mp4").read_bytes()


def test_a_masked_adapter_moves_its_subject(base: Base, picture: np.ndarray) -> None:
    """Frames and subject mask are denoised together: another subject, another clip; frame 0 is the photo."""
    left, right = (np.zeros((64, 64), np.float32) for _ in range(2))
    left[:, :32], right[:, 32:] = 1, 1
    masked = trained(base, 3, masked=True)

    def clip(mask: np.ndarray) -> np.ndarray:
        return ml.generate(base, picture, [masked], masks=[mask], frames=FRAMES[base.name], steps=3).frames

    assert np.array_equal(clip(left), clip(left)) and not np.array_equal(clip(left), clip(right))
    assert np.array_equal(clip(left)[0], picture)
    with pytest.raises(ml.errors.ConfigError, match="is a masked adapter"):
        ml.generate(base, picture, [masked], frames=FRAMES[base.name], steps=1)


def test_a_masked_adapter_beside_a_plain_one(base: Base, adapters: list[Path], picture: np.ndarray) -> None:
    mask = np.zeros((64, 64), np.float32)
    mask[:, :32] = 1
    motions = [(trained(base, 3, masked=True), 0.5), (adapters[0], 0.5)]
    clip = ml.generate(base, picture, motions, masks=[mask, None], frames=FRAMES[base.name], steps=2)
    assert np.array_equal(clip.frames[0], picture) and not np.array_equal(clip.frames[1], picture)


def test_a_size_of_ones_own(base: Base, adapters: list[Path], photo: Path) -> None:
    assert animate(base, photo, "--motion", "motion1.safetensors", "--size", "128x64") == 0
    clip = read_clip("clip.mp4")
    assert clip.frames.shape[1:3] == (64, 128) and "notes" not in read_settings("clip.mp4")


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error."""
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error[") and said.err.count("\n") == 1, said.err
    assert "Fix: " in said.err and not Path("clip.mp4").exists()
    return said.err


@pytest.mark.parametrize("base", ["tiny-wan"], indirect=True)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "through adapters alone, and no motion was given"),
        (["--motion", "clouds"], 'knows no motion words, got "clouds"'),
        (["--motion", "nowhere.safetensors"], 'cannot read adapter "nowhere.safetensors": no such file'),
        (["--motion", "noise.safetensors"], 'cannot read weights "noise.safetensors"'),
        (["--motion", "motion1.safetensors:-1"], "got the weight -1.0 for motion1.safetensors"),
        (["--motion", "motion1.safetensors", "--prompt", "rain"], "reads no text"),
        (["--motion", "motion1.safetensors", "--loop"], 'has no "loop"'),
        (["--motion", "motion1.safetensors", "--overscan"], 'has no "overscan"'),
        (["--motion", "motion1.safetensors", "--size", "100x64"], "takes only multiples of"),
        (["--motion", "motion1.safetensors", "--preset", "turbo"], 'has "exact" alone'),
        (["--motion", "motion1.safetensors", "--preset", "fast"], 'there is no preset "fast"'),
        (["--motion", "motion1.safetensors", "--base-option", "rho=1"], 'has no option "rho"'),
        (["--motion", "motion1.safetensors", "--base-option", "rho"], "expected NAME=VALUE"),
    ],
)
def test_what_is_refused(
    base: Base, adapters: list[Path], photo: Path, options: list[str], said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    Path("noise.safetensors").write_bytes(bytes(range(200)))
    assert animate(base, photo, *options) == 2
    assert said in refusal(capsys)


def test_an_adapter_of_another_base(
    base: Base, adapters: list[Path], photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = next(name for name in TINY if name != base.name)
    told = ["animate", str(photo), "--base", other, "--motion", "motion1.safetensors", "-o", "clip.mp4"]
    assert main([*told, *QUICK]) == 2
    refusal(capsys)
    assert main(["animate", str(photo), "--motion", "motion1.safetensors", "-o", "clip.mp4"]) == 2
    said = refusal(capsys)
    assert (
        'adapter "motion1.safetensors" does not fit this base' in said
        and "the host is a MapGenerator" in said
    )


def test_from_refuses_another_adapter_and_other_weights(
    base: Base, adapters: list[Path], photo: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    Image.new("L", (100, 80), 255).save("mask.png")
    given = ["--motion", "motion1.safetensors", "--mask", "mask.png"]
    assert animate(base, photo, *given, out="one.mp4") == 0
    repeat = ["animate", str(photo), "--from", "one.mp4", "-o", "clip.mp4"]
    capsys.readouterr()
    Image.new("L", (100, 80), 200).save("mask.png")
    assert main(repeat) == 2
    assert '"mask.png" is not the file "one.mp4" was made from' in refusal(capsys)
    Image.new("L", (100, 80), 255).save("mask.png")
    original = type(base).facts
    with monkeypatch.context() as other:
        other.setattr(type(base), "facts", lambda self: original(self) | {"weights": "others"})
        assert main(repeat) == 2
    assert "made with other weights" in refusal(capsys)
    Path("motion1.safetensors").write_bytes(Path("motion2.safetensors").read_bytes())
    assert main(repeat) == 2
    assert "its sha256 differs. Fix: give that file: --motion FILE" in refusal(capsys)
    Path("motion1.safetensors").unlink()
    assert main(repeat) == 2
    assert "neither here nor beside it" in refusal(capsys)

"""What benchmarks/lamd_quality.py measures trained models with: each number where its true value is known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from motionloom.codecs.mcd_vae import BlendOutput, MCDVAEConfig, MotionContentAutoencoder
from motionloom.datasets.cater_captions import parse_caption
from motionloom.datasets.worlds.blocks.folder import BlocksWorld
from motionloom.datasets.worlds.write import write_world
from motionloom.denoisers.lamd import load_lamd
from motionloom.denoisers.motion_generator import MotionGenerator, MotionGeneratorConfig
from motionloom.denoisers.motion_unet import MotionUNetConfig
from motionloom.sampling.schedules import describe, ldm_linear

SIDE_PX = 32


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    import benchmarks.lamd_quality

    return benchmarks.lamd_quality


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blocks")
    write_world(BlocksWorld(1, 3, size_px=SIDE_PX), folder)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Random weights whose decoder shows the first frame."""
    torch.manual_seed(0)
    config = MCDVAEConfig(
        16, (SIDE_PX, SIDE_PX), motion_base=4, content_base=8, thin_tail=True, output=BlendOutput
    )
    codec = MotionContentAutoencoder(config)
    assert codec.decoder.last.bias is not None
    torch.nn.init.constant_(codec.decoder.last.bias[3:], -60.0)
    codec.save(tmp_path / "model" / "mcd_vae.safetensors")
    unet = MotionUNetConfig(base=16, heads=2, multipliers=(1,), attention_levels=(0,), context_width=32)
    MotionGenerator(MotionGeneratorConfig(unet, content_width=32)).save(
        tmp_path / "model" / "dmg.safetensors", describe(ldm_linear())
    )
    return tmp_path / "model"


def test_a_codec_that_copies_is_as_good_as_copying(quality: Any, world: Path, model: Path) -> None:
    found = quality.reconstructed(model, world, limit=3)
    assert found["clips"] == 3 and found["kl_nats_per_dim"] > 0
    assert found["codec_db"] == pytest.approx(found["copy_db"])
    assert found["codec_moving_db"] == pytest.approx(found["copy_moving_db"]) and found["copy_moving_db"] < 16
    assert found["lightness_error_left"] == found["colour_error_left"] == pytest.approx(1)
    apart = quality.decomposed(model, world, limit=2)
    assert apart["levels_off_the_photo_elsewhere"] == apart["levels_off_the_photo_from_a_still_source"] == 0


def test_errors_of_lightness_and_of_colour_are_apart_and_are_the_whole(quality: Any) -> None:
    grey, red = torch.full((1, 3, 2, 4, 4), 0.5), torch.zeros(1, 3, 2, 4, 4)
    red[:, 0], red[:, 1] = 0.4, -0.4
    where = torch.ones(1, 2, 4, 4, dtype=torch.bool)
    for difference, whose in ((grey, 0), (red, 1)):
        parts = quality._lightness_and_colour(difference, where)
        assert parts[whose] == pytest.approx(float(difference.square().sum()), rel=1e-5)
        assert parts[1 - whose] == pytest.approx(0, abs=1e-6)
    assert not quality._lightness_and_colour(grey, ~where).any()


def test_a_sample_depends_on_its_own_seed_alone(quality: Any, world: Path, model: Path) -> None:
    base, one = load_lamd(model), quality.test_clips(world, 16, (SIDE_PX, SIDE_PX), 1)[0]
    three, single = (quality.latents_for(base, one, count, 2, seed=5) for count in (3, 1))
    assert torch.allclose(three[:1], single, atol=1e-5)
    assert not torch.allclose(three[0], three[1], atol=0.1)
    frames = quality.shown(base, three, one.photo)
    assert frames.shape == (3, 3, 16, SIDE_PX, SIDE_PX) and torch.equal(frames[1, :, 0], one.photo[0])


def test_energy_distance_is_zero_in_the_mean_for_one_distribution_and_grows_with_a_shift(
    quality: Any,
) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(2, 40, 9, generator=generator) for _ in range(60)]
    equal = torch.tensor([quality.energy_distance(a, b) for a, b in draws])
    assert abs(float(equal.mean())) < 3 * float(equal.std()) / 60**0.5
    assert quality.energy_distance(draws[0][0], draws[0][1] + 1) > 10 * float(equal.std())


def test_labels_say_what_moves_how_and_where_to(quality: Any) -> None:
    said = parse_caption("the gold snitch is sliding to the third quadrant. the cone is rotating.")
    labels = dict(zip(quality.LABELS, quality.labels_of(said).tolist(), strict=True))
    assert {name for name, value in labels.items() if value} == {"slide", "rotate", "to 3"}


def test_the_classifier_learns_saves_and_measures_no_distance_to_itself(
    quality: Any, world: Path, tmp_path: Path
) -> None:
    from motionloom.video.clip import Clip

    network = quality.ClipClassifier()
    file = network.save(tmp_path / "classifier.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name, offset in (("a", 0), ("b", 60)):
        (tmp_path / name).mkdir()
        for number in range(6):
            frames = torch.randint(0, 190, (16, 64, 64, 3), generator=generator, dtype=torch.uint8) + offset
            Clip(frames.numpy(), 8.0).save(tmp_path / name / f"{number}.mp4")
    same, other = (quality.distances(tmp_path / name, tmp_path / "b", file)["distance"] for name in "ba")
    assert same == pytest.approx(0, abs=1e-9) and other > 1e-3
    pixels, labels = quality._labelled(world, "test")
    assert pixels.shape == (3, 3, 16, 64, 64) and labels.shape == (3, 8) and labels.sum(1).min() >= 1


def test_what_cannot_be_measured_is_one_sentence_and_leaves_nothing(
    quality: Any,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    classifier = quality.ClipClassifier().save(tmp_path / "classifier.safetensors")
    out = tmp_path / "out"
    for case, sentence in (
        (["reconstruct", model, empty], "no data set with a test split"),
        (["sample", empty, empty, "-o", out], "dmg.safetensors|mcd_vae.safetensors|holds"),
        (["distance", empty, empty, "--classifier", classifier], "holds 0 MP4 clips"),
        (["distance", empty, empty], "needs --classifier"),
        (["solvers", model, empty, "--limit", "1"], "expected 2 or more"),
        (["curves", empty, "-o", out], "no run folder"),
    ):
        monkeypatch.setattr("sys.argv", ["lamd_quality.py", *map(str, case)])
        with pytest.raises(SystemExit) as stopped:
            quality.main()
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert stopped.value.code == 2 and re.search(sentence, said), said
        assert not out.exists()


def test_curves_are_one_picture_of_all_runs(quality: Any, tmp_path: Path) -> None:
    for name, factor in (("one", 1.0), ("two", 2.0)):
        (tmp_path / name).mkdir()
        lines = [{"step": 20 * i, "losses": {"autoencoder": factor / (1 + i)}} for i in range(1, 12)]
        text = "\n".join(json.dumps(line) for line in [{"event": "data", "step": 0}, *lines])
        (tmp_path / name / "log.jsonl").write_text(text)
    found = quality.curves([tmp_path / "one", tmp_path / "two"], tmp_path / "curves.svg")
    assert found["two"] == pytest.approx(2 * found["one"])
    drawing = (tmp_path / "curves.svg").read_text()
    assert drawing.startswith("<svg") and drawing.count('class="line"') == 2 and ">two</text>" in drawing

"""`motionloom merge` as a user runs it: on the shipped model, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from motionloom.cli import main
from motionloom.denoisers.catalog import load_base
from motionloom.merging.recipe import load_merge_recipe
from motionloom.merging.sweep import Measurement, SweepResult, run_sweep
from motionloom.weights import load_weights, save_weights
from motionloom.zoo import MINI

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe() -> Path:
    """mini against a generator whose output layer was scaled: its task vector changes the amount of motion."""
    tensors, metadata = load_weights(MINI / "generator.safetensors")
    near = {name: (1.2 * w if ".out.2." in f".{name}" else w) for name, w in tensors.items()}
    save_weights("tuned.safetensors", near, metadata)
    path = Path("mine.yaml")
    path.write_text(
        "method: {kind: extrapolate, alpha: 0.5}\nbase: mini\ntuned: tuned.safetensors\nkeys: partial\n"
    )
    return path


def test_merge_writes_a_base(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(recipe), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["family"] == "mini" and plan["merged"] == len(load_file(MINI / "generator.safetensors"))
    assert not Path("merged").exists()

    assert main(["merge", str(recipe), "method.alpha=0.25", "-o", "out", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["changed"] == {"merged": 2}
    assert {one["role"] for one in done["inputs"]} == {"base", "tuned 0"}
    pre, ft = load_file(MINI / "generator.safetensors"), load_file("tuned.safetensors")
    for name, tensor in load_file("out/generator.safetensors").items():
        expected = pre[name].float() - 0.25 * (ft[name].float() - pre[name].float())
        assert torch.equal(tensor, expected.half()), name
    assert load_file("out/codec.safetensors").keys() == load_file(MINI / "codec.safetensors").keys()
    assert main(["inspect", "out"]) == 0
    assert main(["merge", str(recipe)]) == 0 and Path("merged/mine/merge.json").is_file()


def test_sweep_measures_and_picks(recipe: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Path("photos").mkdir()
    Image.fromarray(photo).resize((48, 32), Image.Resampling.BICUBIC).save("photos/a.png")
    result = run_sweep(recipe, "alpha", [-1, 0, 1], Path("photos"), Path("swept"), frames=4, steps=3)
    said = result.to_json()
    assert [one["value"] for one in said["measured"]] == [-1.0, 0.0, 1.0]
    assert said["measured"][1]["motion_degree"] == said["base"]["motion_degree"]  # alpha 0 is the base
    degrees = [one["motion_degree"] for one in said["measured"]]
    assert degrees[0] > degrees[1] > degrees[2]  # the tuned model moves more, so alpha lowers
    assert said["direction"] == "lowers" and said["picked"] in (-1.0, 0.0)
    assert json.loads(Path("swept/sweep.json").read_text()) == said
    with Image.open("swept/sheet.png") as sheet:
        assert sheet.size == (4 * 128, 4 * 128)
    assert "a larger alpha: lowers motion" in result.table()


@pytest.mark.slow
def test_sweep_on_the_command_line(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (32, 32), "teal").save("a.png")
    assert main(["merge", str(recipe), "--sweep", "alpha=0.5", "--probe", "a.png", "-o", "swept"]) == 0
    assert "picked:" in capsys.readouterr().out and Path("swept/sheet.png").is_file()


def test_rule_of_a_sweep() -> None:
    base = Measurement(None, 10.0, 1.0, 0.9, 0.9)
    rows = [
        Measurement(0.1, 12.0, 1.0, 0.9, 0.9),
        Measurement(0.5, 20.0, 1.0, 0.9, 0.7),
        Measurement(1.0, float("nan"), 1, 1, 1),
    ]
    result = SweepResult(Path("x"), "alpha", 0.9, base, rows)
    assert result.picked is rows[0]  # 0.5 moves more and is not smooth enough; undefined is never picked
    assert result.direction == "unclear"  # two numbers say nothing
    assert SweepResult(Path("x"), "alpha", 0.9, base, rows[1:]).picked is None
    assert "none keeps the base's qualities" in SweepResult(Path("x"), "alpha", 0.9, base, rows[1:]).table()
    unknown = Measurement(None, float("nan"), 1.0, float("nan"), 0.9)
    assert "cannot be followed" in SweepResult(Path("x"), "alpha", 0.9, unknown, [unknown]).table()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mine.yaml", "method.alhpa=1"], "did you mean 'alpha'"),
        (["mine.yaml", "groups=[attention, nonsense]"], 'there is no group "nonsense"'),
        (["mine.yaml", "keys=strict"], "declare it with keys: partial"),
        (["mine.yaml", "tuned=nowhere.safetensors"], "no such file"),
        (["mine.yaml", "method.alpha=0"], "changes none"),
        (["nowhere.yaml"], "no recipe at nowhere.yaml"),
        (["mine.yaml", "--sweep", "alpha=1,2"], "belong together"),
        (["mine.yaml", "--motion", "clouds"], "there is no --sweep"),
        (
            ["mine.yaml", "--sweep", "alpha=1", "--probe", ".", "--motion", "a:b"],
            "expected NAME or NAME:WEIGHT",
        ),
        (["mine.yaml", "--sweep", "alpha=x", "--probe", "."], "expected NUMBER=VALUE"),
        (["mine.yaml", "--sweep", "beta=1,2", "--probe", "."], "has no setting 'beta'"),
    ],
)
def test_mistakes(recipe: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in Path().iterdir())
    assert main(["merge", *words, "-o", "out"]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and error.strip().splitlines()[-1].startswith("error[")
    assert sorted(path.name for path in Path().iterdir()) == before


@pytest.mark.parametrize("name", ["extrapolate", "decouple_released", "decouple_paper"])
def test_recipes_read(name: str) -> None:
    recipe = load_merge_recipe(ROOT / "recipes" / "edg" / f"{name}.yaml")
    assert load_merge_recipe(Path(_written(recipe.to_yaml()))) == recipe


def _written(text: str) -> str:
    Path("again.yaml").write_text(text)
    return "again.yaml"


@pytest.mark.parametrize("kind", ["decouple", pytest.param("extrapolate", marks=pytest.mark.slow)])
def test_sweep_of_a_video_network(kind: str) -> None:
    """A base made on the spot: its network is merged under its own names, with two experts or with one model."""
    network = load_base("tiny-dynamicrafter").denoiser.network
    moved = {name: 1.1 * w if "temp_attentions" in name else w for name, w in network.state_dict().items()}
    save_weights("tuned.safetensors", moved)
    Image.new("RGB", (64, 64), "teal").save("a.png")
    recipe = {"method": {"kind": kind, **({"alpha": 0.0} if kind == "extrapolate" else {})}}
    recipe |= {"base": "tiny-dynamicrafter", "tuned": "tuned.safetensors", "groups": ["temporal_attention"]}
    number = "alpha" if kind == "extrapolate" else "dyn_beta"
    result = run_sweep(recipe, number, [2.0], Path("a.png"), Path("swept"), frames=4, steps=2)
    assert [one.value for one in result.measured] == [2.0]
    assert result.measured[0].first_frame == pytest.approx(1.0, abs=1e-6)
    assert result.measured[0].smoothness != result.base.smoothness  # another clip
    assert result.picked is None  # noise of random weights has no flow to measure: nothing is picked
    assert Path("swept/sweep.json").is_file()


def test_decoupled_experts_of_a_video_network(capsys: pytest.CaptureFixture[str]) -> None:
    """Stages 2 and 3 by the shipped recipes: dial at 0 is the base's clip, dial as merged is another."""
    from motionloom.denoisers.dynamicrafter.folder import write_folder
    from motionloom.denoisers.dynamicrafter.parts import TINY

    parts = {
        name: dict(part.state_dict())
        for name, part in load_base("tiny-dynamicrafter").parts.named().items()  # type: ignore[attr-defined]
    }
    write_folder(Path("pre"), TINY, parts)
    tuned = {name: 1.2 * w if "temp_attentions" in name else w for name, w in parts["unet"].items()}
    write_folder(Path("tuned"), TINY, {**parts, "unet": tuned})
    Image.new("RGB", (64, 64), "teal").save("a.png")

    def clip(base: str, *words: str) -> bytes:
        asked = ["animate", "a.png", "--base", base, "--frames", "3", "--steps", "2", "-o", "clip"]
        assert main([*asked, *words]) == 0
        return b"".join(path.read_bytes() for path in sorted(Path("clip").glob("*.png")))

    recipes, pair = ROOT / "recipes" / "edg", ["base=pre", "tuned=tuned"]
    assert main(["merge", str(recipes / "extrapolate.yaml"), *pair, "-o", "more"]) == 0
    assert main(["merge", str(recipes / "decouple_released.yaml"), *pair, "-o", "dialled"]) == 0
    assert main(["merge", str(recipes / "decouple_paper.yaml"), *pair, "-o", "paper"]) == 0
    plain = clip("pre")
    assert clip("dialled", "--motion-degree", "0", "--control", "0") == plain
    others = [clip("more"), clip("dialled"), clip("dialled", "--motion-degree", "1.3"), clip("paper/degree")]
    assert len({plain, *others}) == 5
    capsys.readouterr()
    assert main(["animate", "a.png", "--base", "more", "--control", "1"]) == 2
    assert "carries no experts" in capsys.readouterr().err

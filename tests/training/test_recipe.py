"""Recipes: strict YAML, errors with lines, overrides, and the shipped files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from motionloom.errors import ConfigError, InputError
from motionloom.training.recipe import differences, load_recipe, parse_yaml
from motionloom.training.stages import STAGES
from tests.training.toy import toy_recipe

REPOSITORY = Path(__file__).parents[2]
SHIPPED = sorted((REPOSITORY / "recipes/lamd").glob("*.yaml"))

GOOD = """\
stage:
  kind: lamd-autoencoder
  beta: 1e-2
data:
  folder: clips
  frames: 16
  size_px: 64
steps: 100
learning_rate: 1e-4  # a float, not the text of YAML 1.1
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_numbers_and_words_mean_what_they_look_like() -> None:
    text = "[1e-4, 1E3, -.5, 7, on, no, 12:30, 0x1F, 2020-01-01, true, ~, '1e-4', 010]"
    assert parse_yaml(text, "x") == [
        *(1e-4, 1000.0, -0.5, 7, "on", "no", "12:30", "0x1F", "2020-01-01", True, None, "1e-4", 10)
    ]


def test_scientific_notation_is_a_number(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD))
    assert recipe.learning_rate == 1e-4
    assert recipe.stage.model_dump()["beta"] == 0.01


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("steps: 100", "step: 100", "line 8: unknown key 'step'; did you mean 'steps'?"),
        ("  frames: 16", "  frame: 16", "line 6: unknown key 'data.frame'; did you mean 'frames'?"),
        ("  beta: 1e-2", "  betta: 1e-2", "line 3: unknown key 'stage.betta'; did you mean 'beta'?"),
        ("lamd-autoencoder", "lamd-autoencodr", "line 2: stage.kind: unknown kind 'lamd-autoencodr'"),
        ("steps: 100", "steps: -3", "line 8: steps: input should be greater than or equal to 1, got -3"),
        ("steps: 100", "steps: 1.5", "line 8: steps: input should be a valid integer, got 1.5"),
        ("steps: 100", "steps: '100'", "line 8: steps: input should be a valid integer, got '100'"),
        ("steps: 100", "steps: .nan", "line 8: .nan is not a usable number"),
        ("steps: 100", "seed: 1", "'steps' is missing"),
        ("steps: 100", "steps: 100\nsteps: 200", "line 9: key 'steps' given twice, first in line 8"),
        ("  size_px: 64", "  size_px: 63", "line 7: data.size_px: expected one even number of pixels"),
        ("  size_px: 64", "  size_px: 64\n  flip: on", "line 8: data.flip: input should be a valid boolean"),
        (
            "steps: 100",
            "steps: 100\nprecision: fp8",
            "line 9: precision: input should be 'fp32', 'bf16' or 'fp16'",
        ),
        ("steps: 100", "steps: !!python/object/apply:os.system [true]", "line 8: tags are not allowed"),
        ("steps: 100", "steps: &a 100\nseed: *a", "line 9: aliases (*name) are not allowed"),
        ("steps: 100", "steps: [", "line"),
        ("steps: 100", "steps: ${oc.env:HOME}", "line 8: steps: input should be a valid integer"),
    ],
)
def test_mistakes_are_told_with_their_line(old: str, new: str, told: str, tmp_path: Path) -> None:
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert told in caught.value.message and str(path) in caught.value.message
    assert caught.value.exit_code == 2


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("beta: 1e-2", "beta: -1").replace("steps: 100", "stepps: 100")
    with pytest.raises(ConfigError) as caught:
        load_recipe(written(tmp_path, text))
    for told in ("stage.beta", "'stepps'", "'steps' is missing"):
        assert told in caught.value.message


def test_bombs_are_refused_quickly(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
    )
    for text in (bomb, "a: " + "[" * 5000, "a: " + "9" * 10_000, "x" * 2_000_000):
        with pytest.raises(ConfigError):
            load_recipe(written(tmp_path, text))


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recipe at"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="expected a mapping of keys to values, got nothing"):
        load_recipe(written(tmp_path, "# only a comment\n"))


def test_overrides_reach_every_level(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    changed = ["steps=7", "data.folder=other", "stage.codec.motion_base=32", "optimizer.betas=[0.5, 0.9]"]
    recipe = load_recipe(path, changed)
    assert recipe.steps == 7 and recipe.clip_data().folder == "other"
    assert recipe.stage.model_dump()["codec"]["motion_base"] == 32
    assert recipe.optimizer.betas == [0.5, 0.9]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("steps", "expected key=value"),
        ("stepz=3", "override: unknown key 'stepz'; did you mean 'steps'?"),
        ("data.frams=3", "override: unknown key 'data.frams'; did you mean 'frames'?"),
        ("steps=many", "override: steps: input should be a valid integer"),
        ("stage.codec.z_norms=bn", "unknown key 'stage.codec.z_norms'; did you mean 'z_norm'?"),
    ],
)
def test_wrong_overrides(override: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(written(tmp_path, GOOD), [override])
    assert told in caught.value.message


def test_resolved_recipe_reads_back_equal(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD), ["data.folder='1e-4'"])
    assert recipe.clip_data().folder == "1e-4"
    assert load_recipe(written(tmp_path, recipe.to_yaml())) == recipe


def test_differences_leave_out_what_may_change() -> None:
    old = load_recipe(toy_recipe())
    new = load_recipe(toy_recipe(steps=99, log_every=7, keep_last=1, seed=4, clip_norm=None))
    assert differences(old, new) == ["clip_norm: 1.0 -> None", "seed: 3 -> 4"]


def test_warmup_must_end() -> None:
    with pytest.raises(ConfigError, match=r"warmup_steps \(12\) must be smaller than steps \(12\)"):
        load_recipe(toy_recipe(warmup_steps=12))


def test_reading_a_recipe_imports_no_torch() -> None:
    code = (
        "import sys; from motionloom.training.recipe import load_recipe;"
        f"load_recipe({str(SHIPPED[0])!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.stage.kind in STAGES
    assert "It should reach: " in path.read_text()
    assert load_recipe(recipe) == recipe


def test_both_stages_of_a_dataset_agree() -> None:
    assert len(SHIPPED) == 10
    for path in SHIPPED:
        if path.stem.endswith("_generator"):
            first, second = (
                load_recipe(path.with_name(path.name.replace("generator", "autoencoder"))),
                load_recipe(path),
            )
            assert first.data == second.data
            assert first.stage.model_dump()["codec"] == second.stage.model_dump()["codec"]

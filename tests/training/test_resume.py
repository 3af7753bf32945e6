"""A run that is stopped anywhere and called again ends with the same bits as one that never stopped."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from motionloom.errors import Interrupted, StateError
from motionloom.train import train
from motionloom.training import randomness
from motionloom.training.loop import TrainingLoop
from motionloom.training.run_folder import Checkpoint, RunFolder
from tests.training import toy
from tests.training.toy import toy_recipe

REPOSITORY = Path(__file__).parents[2]


def fingerprint(run: Path, step: int = 12) -> dict[str, str]:
    """sha256 of every file of a checkpoint, and of the exported weights; times are left out."""
    folder = run / "checkpoints" / f"step-{step:06d}"
    state = json.loads((folder / "state.json").read_text())
    del state["seconds"]
    files = [*folder.glob("*.safetensors"), *(run / "final").glob("*.safetensors")]
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return sums | {"state": json.dumps(state, sort_keys=True)}


@contextmanager
def during_micro_step(number: int, act: Callable[[], None]) -> Iterator[None]:
    def call(micro_step: int) -> None:
        if micro_step == number:
            act()

    toy.on_micro_step.append(call)
    try:
        yield
    finally:
        toy.on_micro_step.clear()


class Crash(Exception):
    pass


def crash() -> None:
    raise Crash


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    run = tmp_path_factory.mktemp("reference") / "run"
    train(toy_recipe(save_every_steps=None), run, progress=False)
    return fingerprint(run)


def test_the_reference_holds_every_kind_of_state(uninterrupted: dict[str, str]) -> None:
    assert set(uninterrupted) == {
        "networks.safetensors",
        "optimizers.safetensors",
        "averages.safetensors",
        "randomness.safetensors",
        "model.safetensors",
        "state",
    }


@pytest.mark.parametrize("micro_step", range(0, 24, 2))
def test_terminated_at_every_step(micro_step: int, tmp_path: Path, uninterrupted: dict[str, str]) -> None:
    recipe = toy_recipe(save_every_steps=None)
    if micro_step < 22:  # in the last step there is nothing left to interrupt
        with (
            during_micro_step(micro_step, lambda: signal.raise_signal(signal.SIGTERM)),
            pytest.raises(Interrupted) as caught,
        ):
            train(recipe, tmp_path / "run", progress=False)
        assert caught.value.exit_code == 143
        assert caught.value.fix == "run the same command again to continue"
    result = train(recipe, tmp_path / "run", progress=False)
    assert result.resumed_from == (micro_step // 2 + 1 if micro_step < 22 else None)
    assert fingerprint(tmp_path / "run") == uninterrupted


@pytest.mark.parametrize("micro_step", [0, 1, 6, 7, 13, 22, 23])
def test_crashed_anywhere(micro_step: int, tmp_path: Path, uninterrupted: dict[str, str]) -> None:
    """Odd micro-steps are in the middle of an accumulation."""
    recipe = toy_recipe(save_every_steps=3)
    with during_micro_step(micro_step, crash), pytest.raises(Crash):
        train(recipe, tmp_path / "run", progress=False)
    result = train(recipe, tmp_path / "run", progress=False)
    assert result.resumed_from == (micro_step // 6 * 3 or None)
    assert fingerprint(tmp_path / "run") == uninterrupted


def test_interrupt_key_gives_130(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with (
        during_micro_step(2, lambda: signal.raise_signal(signal.SIGINT)),
        pytest.raises(Interrupted) as caught,
    ):
        train(toy_recipe(), tmp_path / "run", progress=False)
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_previews_logs_and_loader_processes_change_nothing(
    tmp_path: Path, uninterrupted: dict[str, str]
) -> None:
    recipe = toy_recipe(sample_every=3, log_every=5, save_every_minutes=0.0001)
    train(recipe, tmp_path / "run", progress=False)
    assert fingerprint(tmp_path / "run") == uninterrupted
    assert sorted(path.name for path in (tmp_path / "run/samples").iterdir())[0] == "step-000003.mp4"


def _forget_optimizer(checkpoint: Checkpoint) -> None:
    for key, value in checkpoint.tensors["optimizers"].items():
        if "exp_avg" in key:
            value.zero_()


def _forget_average(checkpoint: Checkpoint) -> None:
    networks = checkpoint.tensors["networks"]
    checkpoint.tensors["averages"] = {k: v for k, v in networks.items() if k.startswith("model.")}


def _forget_average_count(checkpoint: Checkpoint) -> None:
    checkpoint.numbers["average_updates"] = 0


def _forget_position(checkpoint: Checkpoint) -> None:
    checkpoint.numbers["position"] = 0


def _forget_step(checkpoint: Checkpoint) -> None:
    checkpoint.step -= 1


def _forget_torch_randomness(checkpoint: Checkpoint) -> None:
    checkpoint.tensors["randomness"]["0.torch"] = randomness.capture()["torch"]


def _forget_training_generator(checkpoint: Checkpoint) -> None:
    other = randomness.training_generator(99, 0, __import__("torch").device("cpu"))
    checkpoint.tensors["randomness"]["0.training"] = other.get_state()


def _forget_buffers(checkpoint: Checkpoint) -> None:
    checkpoint.tensors["networks"]["model.1.running_mean"].zero_()


@pytest.mark.parametrize(
    "forget",
    [
        _forget_optimizer,
        _forget_average,
        _forget_average_count,
        _forget_position,
        _forget_step,
        _forget_torch_randomness,
        _forget_training_generator,
        _forget_buffers,
    ],
)
def test_every_part_of_the_state_matters(
    forget: Callable[[Checkpoint], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[str, str],
) -> None:
    """Dropping any part must show, or the equality tests above would prove nothing."""
    recipe = toy_recipe(save_every_steps=5)
    with during_micro_step(10, crash), pytest.raises(Crash):
        train(recipe, tmp_path / "run", progress=False)
    restore = TrainingLoop.restore

    def forgetful(self: TrainingLoop, checkpoint: Checkpoint) -> None:
        forget(checkpoint)
        restore(self, checkpoint)

    monkeypatch.setattr(TrainingLoop, "restore", forgetful)
    train(recipe, tmp_path / "run", progress=False)
    assert fingerprint(tmp_path / "run") != uninterrupted


def test_damaged_newest_checkpoint_is_skipped_and_said(
    tmp_path: Path, uninterrupted: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = toy_recipe(save_every_steps=3, keep_last=3)
    with during_micro_step(20, crash), pytest.raises(Crash):
        train(recipe, tmp_path / "run", progress=False)
    newest = tmp_path / "run/checkpoints/step-000009/networks.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    result = train(recipe, tmp_path / "run")
    assert result.resumed_from == 6
    assert "step-000009" in result.skipped_checkpoints[0] and "checksum" in result.skipped_checkpoints[0]
    assert "skipped checkpoint step-000009" in capsys.readouterr().err
    assert fingerprint(tmp_path / "run") == uninterrupted


def test_log_is_continued_without_doubles(tmp_path: Path) -> None:
    recipe = toy_recipe(save_every_steps=4)
    with during_micro_step(13, crash), pytest.raises(Crash):
        train(recipe, tmp_path / "run", progress=False)
    with (tmp_path / "run/log.jsonl").open("a") as log:
        log.write('{"step": 7, "los')  # torn by a kill
    train(recipe, tmp_path / "run", progress=False)
    records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "event" not in record] == list(range(1, 13))
    assert [record["event"] for record in records if "event" in record] == ["resumed", "finished"]
    assert set(records[0]) == {
        "step",
        "losses",
        "lr",
        "grad_norm",
        "numbers",
        "samples_per_second",
        "eta_seconds",
        "elapsed_seconds",
    }


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"learning_rate": 0.02}, "learning_rate: 0.01 -> 0.02"),
        ({"stage": {"kind": "toy", "length": 11}}, "stage.length: 10 -> 11"),
        ({"optimizer": {"kind": "adam"}}, "optimizer.kind: adamw -> adam"),
    ],
)
def test_changed_recipe_is_refused_with_the_difference(
    changes: dict[str, Any], shown: str, tmp_path: Path
) -> None:
    train(toy_recipe(steps=4), tmp_path / "run", progress=False)
    with pytest.raises(StateError, match=shown):
        train(toy_recipe(steps=4, **changes), tmp_path / "run", progress=False)


def test_other_dataset_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(toy_recipe(steps=4), tmp_path / "run", progress=False)
    monkeypatch.setattr(toy.ToyNumbers, "fingerprint", "another")
    with pytest.raises(StateError, match="dataset fingerprint: ToyNumbers:10 -> another"):
        train(toy_recipe(steps=8), tmp_path / "run", progress=False)


def test_intervals_and_length_may_change(tmp_path: Path) -> None:
    train(toy_recipe(steps=4), tmp_path / "run", progress=False)
    result = train(toy_recipe(steps=6, log_every=2, save_every_steps=3), tmp_path / "run", progress=False)
    assert (result.resumed_from, result.steps) == (4, 6)


def test_finished_run_called_again_only_exports(tmp_path: Path, uninterrupted: dict[str, str]) -> None:
    recipe = toy_recipe(save_every_steps=None)
    train(recipe, tmp_path / "run", progress=False)
    result = train(recipe, tmp_path / "run", progress=False)
    assert result.resumed_from == 12
    assert fingerprint(tmp_path / "run") == uninterrupted


SCRIPT = """
import sys, time
from tests.training import toy
from motionloom.train import train
toy.on_micro_step.append(lambda n: time.sleep(0.01))
train(toy.toy_recipe(), sys.argv[1], progress=False)
"""


def start_training(run: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(run)], cwd=REPOSITORY, env=dict(os.environ))


@pytest.mark.slow
def test_killed_at_many_moments(tmp_path: Path, uninterrupted: dict[str, str]) -> None:
    """kill -9 during steps and during checkpoint writes; the run is called again until it finishes."""
    run, kills = tmp_path / "run", 0
    checkpoints = run / "checkpoints"
    for delay in (0.0, 0.011, 0.023, 0.037, 0.05, 0.071):
        process = start_training(run)
        before = set(checkpoints.glob("step-*"))
        while process.poll() is None and set(checkpoints.glob("step-*")) <= before:
            time.sleep(0.002)
        time.sleep(delay)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 3
    assert start_training(run).wait() == 0
    assert fingerprint(run) == uninterrupted
    assert not list(run.rglob("*.part"))


@pytest.mark.slow
def test_second_run_waits_outside_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_training(run)
    while not list(run.glob("checkpoints/step-*")):
        assert process.poll() is None
        time.sleep(0.005)
    with pytest.raises(StateError, match=f"in use by pid {process.pid}"), RunFolder(run, _recipe()):
        pass
    process.kill()
    process.wait()
    said: list[str] = []
    with RunFolder(run, _recipe(), said.append):
        assert said == [
            f"recovered the lock of pid {process.pid} on {os.uname().nodename}, which is no longer running"
        ]


def _recipe() -> Any:
    from motionloom.training.recipe import load_recipe

    return load_recipe(toy_recipe())

"""fp16 in the loop: what an overflow skips and what it leaves alone, where it ends, and runs that resume across overflows.

An overflow is made by a loss 1e30 times larger: finite itself, with gradients that are not in fp16. Scales start at 1024,
where the toy overflows nowhere else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from motionloom.errors import ConfigError, NumericError
from motionloom.train import train
from motionloom.training import precision
from motionloom.training.loop import TrainingLoop, new_accelerator
from motionloom.training.recipe import learning_rate_at, load_recipe
from motionloom.training.run_folder import Checkpoint
from motionloom.video.clip import Clip
from tests.training import toy
from tests.training.test_loop import final_weights, log_of
from tests.training.test_resume import Crash, crash, during_micro_step, fingerprint
from tests.training.toy import ToyObjective, toy_recipe

REPOSITORY = Path(__file__).parents[2]


def overflowing(at_steps: set[int], of: str = "model") -> type:
    """A toy whose loss `of` overflows in these steps (0, 1, ...)."""

    class Overflowing(ToyObjective):
        def losses(self, batch: Any, step: int, generator: Any) -> Iterator[Any]:
            for name, loss, numbers in super().losses(batch, step, generator):
                yield name, loss.float() * (1e30 if step in at_steps and name == of else 1), numbers

    return Overflowing


def toy_stage_builds(cls: type) -> None:
    toy.ToyStage.objective = lambda self, recipe, dry_run=False: cls()  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def own_toy_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(precision, "INITIAL_SCALE", 1024.0)
    yield
    toy_stage_builds(ToyObjective)


def fp16_recipe(**changes: Any) -> dict[str, Any]:
    return toy_recipe(precision="fp16", **changes)


def overflows_of(run: Path) -> list[dict[str, Any]]:
    return [record for record in log_of(run) if record.get("event") == "overflow"]


def state_of(run: Path, step: int) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((run / f"checkpoints/step-{step:06d}/state.json").read_text())
    return state


def tensors_of(run: Path, step: int, file: str) -> dict[str, Tensor]:
    from motionloom.weights import load_weights

    return load_weights(run / f"checkpoints/step-{step:06d}/{file}.safetensors")[0]


# --- what an overflow skips ---------------------------------------------------------------------------------


def test_one_overflow_skips_one_update_and_nothing_else(tmp_path: Path) -> None:
    """Step 4 overflows for the model; the critic, the step, the schedule and the data go on."""
    toy_stage_builds(overflowing({3}))
    recipe = fp16_recipe(keep_last=9)
    train(recipe, tmp_path / "run", progress=False)
    (event,) = overflows_of(tmp_path / "run")
    assert (event["step"], event["optimizer"], event["loss_scale"], event["overflows"]) == (
        4,
        "model",
        512,
        1,
    )
    assert "its update was skipped; loss scale now 512" in event["message"]
    assert not [record for record in log_of(tmp_path / "run") if record.get("event") == "skipped"]

    learned = {"model.0.weight", "model.0.bias", "model.1.weight", "model.3.weight", "model.3.bias"}
    before, after = (tensors_of(tmp_path / "run", step, "networks") for step in (4, 5))
    assert any(not torch.equal(before[key], after[key]) for key in learned)
    states = [state_of(tmp_path / "run", step) for step in range(4, 13)]
    assert [state["step"] for state in states] == list(range(4, 13))
    assert [state["position"] for state in states] == [8 * step for step in range(4, 13)]
    assert [state["average_updates"] for state in states] == list(range(3, 12))  # one behind the steps
    assert all(state["skipped_in_a_row"] == 0 for state in states)
    assert states[-1]["loss_scales"]["critic"]["scale"] == 1024
    lines = [record for record in log_of(tmp_path / "run") if "losses" in record]
    settled = load_recipe(recipe)
    assert [line["lr"]["model"] for line in lines] == [
        learning_rate_at(settled, "model", step) for step in range(12)
    ]
    assert [line["numbers"]["scale_model"] for line in lines] == [1024.0] * 4 + [512.0] * 8
    assert "model" not in lines[3]["grad_norm"] and "critic" in lines[3]["grad_norm"]
    assert lines[3]["losses"]["model"] > 100  # the loss itself is fine


def test_weights_moments_and_averages_are_untouched_by_a_skipped_update(tmp_path: Path) -> None:
    toy_stage_builds(overflowing({3}))
    train(fp16_recipe(steps=4, keep_last=9), tmp_path / "run", progress=False)
    for file, prefix in (("networks", "model."), ("optimizers", "model."), ("averages", "")):
        before, after = (tensors_of(tmp_path / "run", step, file) for step in (3, 4))
        changed = {
            key
            for key in before
            if key.startswith(prefix)
            and "running" not in key
            and "num_batches" not in key
            and not torch.equal(before[key], after[key])
        }
        assert changed == set(), file
    before, after = (tensors_of(tmp_path / "run", step, "networks") for step in (3, 4))
    assert not torch.equal(before["critic.weight"], after["critic.weight"])


def test_an_overflow_of_the_critic_leaves_the_average_of_the_model_going(tmp_path: Path) -> None:
    toy_stage_builds(overflowing({1, 2}, of="critic"))
    train(fp16_recipe(steps=4), tmp_path / "run", progress=False)
    state = state_of(tmp_path / "run", 4)
    assert state["average_updates"] == 4
    scales = {name: entry["scale"] for name, entry in state["loss_scales"].items()}
    assert scales == {"model": 1024.0, "critic": 256.0}


def test_an_optimizer_updated_twice_a_step_skips_only_what_overflowed(tmp_path: Path) -> None:
    class Twice(ToyObjective):
        def losses(self, batch: Any, step: int, generator: Any) -> Iterator[Any]:
            for size in (1e30 if step == 1 else 1, 1):
                yield "model", size * self.model(batch["values"]).float().square().mean(), {}

    toy_stage_builds(Twice)
    train(fp16_recipe(steps=3, accumulation=1, warmup_steps=0), tmp_path / "run", progress=False)
    assert [event["step"] for event in overflows_of(tmp_path / "run")] == [2]
    moments = tensors_of(tmp_path / "run", 3, "optimizers")
    assert float(moments["model.0.step"]) == 5  # 6 updates less one
    assert state_of(tmp_path / "run", 3)["average_updates"] == 3


def test_one_bad_micro_batch_skips_the_whole_accumulated_update(tmp_path: Path) -> None:
    calls: list[int] = []

    class FirstOnly(ToyObjective):
        def losses(self, batch: Any, step: int, generator: Any) -> Iterator[Any]:
            calls.append(step)
            size = 1e30 if len(calls) == 3 else 1  # the first of step 2's two
            yield "model", size * (self.model(batch["values"]) - batch["values"]).square().mean(), {}

    toy_stage_builds(FirstOnly)
    train(fp16_recipe(steps=3, accumulation=2, warmup_steps=0), tmp_path / "run", progress=False)
    assert [event["step"] for event in overflows_of(tmp_path / "run")] == [2]
    assert float(tensors_of(tmp_path / "run", 3, "optimizers")["model.0.step"]) == 2


# --- where it stops -----------------------------------------------------------------------------------------


def test_a_run_whose_gradients_never_fit_stops_at_the_smallest_scale(tmp_path: Path) -> None:
    """1024 = 2^10: the 11th overflow in a row leaves 1/2."""

    class Kink(ToyObjective):
        def losses(self, batch: Any, step: int, generator: Any) -> Iterator[Any]:
            weight = self.model[0].weight
            yield "model", (weight - weight.detach()).abs().sum().sqrt() + 1, {}  # slope 0 * inf at 0

    toy_stage_builds(Kink)
    with pytest.raises(NumericError) as caught:
        train(fp16_recipe(steps=30), tmp_path / "run", progress=False)
    message = str(caught.value)
    assert "step 11: the loss scale of model fell to 0.5, below 1" in message
    assert "step-000010" in message and "precision=fp32" in message and caught.value.exit_code == 2
    assert len(overflows_of(tmp_path / "run")) == 11 and not (tmp_path / "run/final").exists()


def test_a_loss_that_is_nan_is_no_overflow(tmp_path: Path) -> None:
    class Poisoned(ToyObjective):
        def losses(self, batch: Any, step: int, generator: Any) -> Iterator[Any]:
            factor = float("nan") if step >= 5 else 1.0
            yield from super().losses({"values": batch["values"] * factor}, step, generator)

    toy_stage_builds(Poisoned)
    with pytest.raises(NumericError, match="step 9: loss of model is nan"):
        train(fp16_recipe(), tmp_path / "run", progress=False)
    assert overflows_of(tmp_path / "run") == []
    assert state_of(tmp_path / "run", 8)["loss_scales"]["model"]["scale"] == 1024


def test_overflows_between_nan_losses_do_not_make_them_harmless(tmp_path: Path) -> None:
    """An overflow is no good step: four NaN losses stop the run though one stands between them."""

    class Both(ToyObjective):
        def losses(self, batch: Any, step: int, generator: Any) -> Iterator[Any]:
            factor = float("nan") if step in (2, 3, 5, 6) else 1.0
            loss = (self.model(batch["values"] * factor) - batch["values"]).square().mean()
            yield "model", loss * (1e30 if step == 4 else 1), {}

    toy_stage_builds(Both)
    with pytest.raises(NumericError, match="step 7: loss of model is nan"):
        train(fp16_recipe(), tmp_path / "run", progress=False)


# --- the update ---------------------------------------------------------------------------------------------


def test_the_forward_pass_is_fp16_and_weights_stay_fp32(tmp_path: Path) -> None:
    kinds: set[torch.dtype] = set()

    class Watching(ToyObjective):
        def losses(self, batch: Any, step: int, generator: Any) -> Iterator[Any]:
            kinds.add(self.critic(batch["values"]).dtype)
            yield from super().losses(batch, step, generator)

    toy_stage_builds(Watching)
    train(fp16_recipe(), tmp_path / "run", progress=False)
    assert kinds == {torch.float16}
    assert {value.dtype for value in final_weights(tmp_path / "run").values()} == {torch.float32, torch.int64}


def test_gradients_are_unscaled_before_they_are_measured_and_clipped(tmp_path: Path) -> None:
    """Norms equal those of fp32 to half precision, and what reaches the optimizer is clipped to the limit."""
    norms: list[float] = []

    def spy(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in params])))

    told = {}
    handle = register_optimizer_step_pre_hook(spy)
    try:
        for name in ("fp32", "fp16"):
            train(
                toy_recipe(steps=3, warmup_steps=0, precision=name, clip_norm=0.5),
                tmp_path / name,
                progress=False,
            )
            told[name] = [line["grad_norm"] for line in log_of(tmp_path / name) if "losses" in line]
    finally:
        handle.remove()
    assert max(norms) == pytest.approx(0.5, abs=1e-5)
    for one, other in zip(told["fp32"], told["fp16"], strict=True):
        assert one["model"] > 1  # clipped
        assert other == pytest.approx(one, rel=1e-2)


def test_accumulation_equals_one_large_batch(tmp_path: Path) -> None:
    """For a mean over samples, to half precision, after an overflow too."""

    class Plain(ToyObjective):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(nn.Linear(4, 4))
            self.networks["model"] = self.model

        def losses(self, batch: Any, step: int, generator: Any) -> Iterator[Any]:
            size = 1e30 if step == 2 else 1
            yield "model", size * (self.model(batch["values"]).float() - 1).square().mean(), {}

    weights = []
    for number, (batch, accumulation) in enumerate([(8, 1), (2, 4)]):
        toy_stage_builds(Plain)
        recipe = fp16_recipe(batch_size=batch, accumulation=accumulation, steps=6)
        train(recipe, tmp_path / str(number), progress=False)
        assert [event["step"] for event in overflows_of(tmp_path / str(number))] == [3]
        weights.append(final_weights(tmp_path / str(number)))
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=2e-3, atol=2e-3)


def test_an_operation_missing_in_fp16_is_one_sentence(tmp_path: Path) -> None:
    class Random(ToyObjective):
        def losses(self, batch: Any, step: int, generator: Any) -> Iterator[Any]:
            yield "model", nn.functional.rrelu(self.model(batch["values"]), training=True).sum(), {}

    toy_stage_builds(Random)
    with pytest.raises(ConfigError) as caught:
        train(fp16_recipe(), tmp_path / "run", progress=False)
    assert str(caught.value) == (
        'precision=fp16, but cpu cannot compute all of this model in float16: "rrelu_with_noise_out_cpu" not '
        "implemented for 'Half'. Fix: use precision=bf16 or precision=fp32, or train on a GPU"
    )


# --- resume -------------------------------------------------------------------------------------------------


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale also grows within twelve steps, and overflows in steps 2, 5 and 10."""
    monkeypatch.setattr(precision, "GROWTH_INTERVAL", 3)
    monkeypatch.setattr(precision, "INITIAL_SCALE", 16.0)
    toy_stage_builds(overflowing({1, 4, 9}))


@pytest.fixture
def uninterrupted(growing: None, tmp_path: Path) -> dict[str, str]:
    train(fp16_recipe(save_every_steps=None), tmp_path / "reference", progress=False)
    assert [event["step"] for event in overflows_of(tmp_path / "reference")] == [2, 5, 10]
    scales = state_of(tmp_path / "reference", 12)["loss_scales"]
    # 16, 8 after step 2, 4 after 5, 8 after 8, 4 after 10; the critic's doubles every three steps
    assert (scales["model"]["scale"], scales["model"]["_growth_tracker"]) == (4.0, 2)
    assert (scales["model"]["overflows"], scales["critic"]["scale"]) == (3, 256.0)
    return fingerprint(tmp_path / "reference")


def test_terminated_or_crashed_anywhere(tmp_path: Path, uninterrupted: dict[str, str]) -> None:
    for micro_step in range(0, 22, 2):
        run = tmp_path / f"terminated-{micro_step}"
        with (
            during_micro_step(micro_step, lambda: signal.raise_signal(signal.SIGTERM)),
            pytest.raises(Exception, match="stopped by signal"),
        ):
            train(fp16_recipe(save_every_steps=None), run, progress=False)
        result = train(fp16_recipe(save_every_steps=None), run, progress=False)
        assert result.resumed_from == micro_step // 2 + 1
        assert fingerprint(run) == uninterrupted, micro_step
    for micro_step in (3, 9, 13, 19):
        run = tmp_path / f"crashed-{micro_step}"
        with during_micro_step(micro_step, crash), pytest.raises(Crash):
            train(fp16_recipe(save_every_steps=3), run, progress=False)
        train(fp16_recipe(save_every_steps=3), run, progress=False)
        assert fingerprint(run) == uninterrupted, micro_step


def _forget(key: str, value: Any) -> Callable[[Checkpoint], None]:
    def forget(checkpoint: Checkpoint) -> None:
        checkpoint.numbers["loss_scales"]["model"][key] = value

    return forget


@pytest.mark.parametrize(
    "forget", [_forget("scale", 65536.0), _forget("_growth_tracker", 0), _forget("overflows", 0)]
)
def test_scale_counter_and_count_matter(
    forget: Callable[[Checkpoint], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[str, str],
) -> None:
    """Dropping any must show, or the equality above would prove nothing."""
    with during_micro_step(15, crash), pytest.raises(Crash):
        train(fp16_recipe(save_every_steps=7), tmp_path / "run", progress=False)
    restore = TrainingLoop.restore

    def forgetful(self: TrainingLoop, checkpoint: Checkpoint) -> None:
        forget(checkpoint)
        restore(self, checkpoint)

    monkeypatch.setattr(TrainingLoop, "restore", forgetful)
    train(fp16_recipe(save_every_steps=7), tmp_path / "run", progress=False)
    assert fingerprint(tmp_path / "run") != uninterrupted


def test_a_run_does_not_resume_in_another_precision(tmp_path: Path) -> None:
    train(fp16_recipe(steps=4), tmp_path / "run", progress=False)
    with pytest.raises(Exception, match="precision: fp16 -> bf16"):
        train(toy_recipe(steps=6, precision="bf16"), tmp_path / "run", progress=False)


SCRIPT = """
import sys, time
from tests.training import toy
from tests.training.test_fp16 import overflowing
from motionloom.train import train
from motionloom.training import precision
precision.GROWTH_INTERVAL, precision.INITIAL_SCALE = 3, 16.0
toy.ToyStage.objective = lambda self, recipe, dry_run=False: overflowing({1, 4, 9})()
toy.on_micro_step.append(lambda n: time.sleep(0.05))
train(toy.toy_recipe(precision="fp16"), sys.argv[1], progress=False)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_between_two_overflows(tmp_path: Path, uninterrupted: dict[str, str]) -> None:
    """SIGKILL after the checkpoint of step 3, 6 and 8."""
    run = tmp_path / "run"
    start = [sys.executable, "-c", SCRIPT, str(run)]
    for step in (3, 6, 8):
        process = subprocess.Popen(start, cwd=REPOSITORY, env=dict(os.environ))
        while process.poll() is None and not (run / f"checkpoints/step-{step:06d}").exists():
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    subprocess.run(start, cwd=REPOSITORY, env=dict(os.environ), check=True)
    assert fingerprint(run) == uninterrupted


# --- accelerate ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["fp16", "bf16"])
def test_the_precision_of_a_launch_is_not_added_to_that_of_the_recipe(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`accelerate launch --mixed_precision` sets this variable: loss, scale and result stay as they are without."""
    from accelerate.state import AcceleratorState

    train(fp16_recipe(), tmp_path / "plain", progress=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", asked)
    try:
        accelerator = new_accelerator(load_recipe(fp16_recipe()))
        assert accelerator.mixed_precision == "no" and accelerator.scaler is None
        train(fp16_recipe(), tmp_path / "launched", progress=False)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert fingerprint(tmp_path / "launched") == fingerprint(tmp_path / "plain")


TWO_PROCESSES = """
import os, sys
from tests.training import toy
from motionloom.train import train
from motionloom.training import precision
precision.INITIAL_SCALE = 1024.0
from torch import nn
class Plain(toy.ToyObjective):
    def losses(self, batch, step, generator):
        here = int(os.environ.get("RANK", sys.argv[2])) == int(sys.argv[2])
        size = 1e30 if here and step == 2 else 1
        loss = (self.model(batch["values"]).float() - 1).square().mean()
        yield "model", loss + (size - 1) * (loss - loss.detach()), {}
        yield "critic", self.critic(batch["values"]).square().mean(), {}
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 4))
        self.networks["model"] = self.model
toy.ToyStage.objective = lambda self, recipe, dry_run=False: Plain()
for steps in (2, 6):
    train(toy.toy_recipe(steps=steps, schedule="constant", precision="fp16"), sys.argv[1], progress=False)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rank", [0, 1])
def test_processes_skip_together(rank: int, tmp_path: Path) -> None:
    """One of two overflows; neither takes the update, and both end where one process does (gloo, resumed on the way)."""
    script = tmp_path / "run.py"
    script.write_text(TWO_PROCESSES)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "ACCELERATE_USE_CPU": "true"}
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run([sys.executable, str(script), str(one), str(rank)], env=environment, check=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*launch, str(script), str(two), str(rank)], env=environment, check=True)
    for run in (one, two):
        assert [(event["step"], event["optimizer"]) for event in overflows_of(run)] == [(3, "model")]
        scales = {name: entry["scale"] for name, entry in state_of(run, 6)["loss_scales"].items()}
        assert scales == {"model": 512.0, "critic": 1024.0}
    for key, value in final_weights(one).items():
        torch.testing.assert_close(final_weights(two)[key], value, rtol=2e-3, atol=2e-3)


# --- the forecast -------------------------------------------------------------------------------------------


def test_the_forecast_counts_fp16_as_bf16(tmp_path: Path) -> None:
    stage = {"kind": "lamd-autoencoder", "codec": {"motion_base": 8, "content_base": 8}}
    data = {"folder": str(tmp_path), "frames": 8, "size_px": 16}
    recipe = {"stage": stage, "data": data, "steps": 10, "learning_rate": 1e-3}
    plans = {
        name: train(recipe | {"precision": name}, dry_run=True).forecast for name in ("fp32", "bf16", "fp16")
    }
    memory = {name: plan["memory_bytes"] for name, plan in plans.items() if plan is not None}
    assert {key: value for key, value in memory["fp16"].items() if key != "how"} == {
        key: value for key, value in memory["bf16"].items() if key != "how"
    }
    assert memory["fp16"]["activations"] < 0.7 * memory["fp32"]["activations"]
    assert memory["fp16"]["how"].endswith("times 0.6 for fp16")
    plan = plans["fp16"]
    assert plan is not None and plan["time"]["how"].startswith("the second of two real steps")


# --- motion adapters ----------------------------------------------------------------------------------------


def moving_squares(folder: Path) -> Path:
    folder.mkdir()
    for number in range(4):
        frames = np.full((8, 64, 64, 3), 30 + 10 * number, dtype=np.uint8)
        for t, frame in enumerate(frames):
            frame[20:40, 3 * t : 3 * t + 16] = 230
        Clip(frames, 8.0).save(folder / f"{number}.mp4")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_adapter_learns_in_fp16_what_it_learns_in_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty steps of the Wan recipe on the tiny base, scale 65536: losses stay within 1e-3 of those of fp32, where not
    learning at all moves them by more."""
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    data = moving_squares(tmp_path / "clips")
    common = f"""stage.base=tiny-wan data.folder={data} data.size_px=[64,64] data.frames=5 data.fps=8 stage.windows=1
        stage.preview_steps=1 stage.cache={tmp_path}/latents stage.gradient_checkpointing=false optimizer.kind=adamw
        steps=20 sample_every=null log_every=1""".split()
    losses = {}
    for name, *changes in (
        ("fp32", "learning_rate=1e-3"),
        ("fp16", "learning_rate=1e-3"),
        ("still", "learning_rate=1e-12"),
    ):
        form = "fp32" if name == "still" else name
        recipe = REPOSITORY / "recipes/miva/wan.yaml"
        train(recipe, tmp_path / name, [*common, *changes, f"precision={form}"], progress=False)
        losses[name] = np.array(
            [line["losses"]["adapter"] for line in log_of(tmp_path / name) if "losses" in line]
        )
    assert len(losses["fp16"]) == 20 and overflows_of(tmp_path / "fp16") == []
    away = {name: float(np.abs(losses[name] / losses["fp32"] - 1).max()) for name in ("fp16", "still")}
    assert away["fp16"] < 1e-3 < away["still"], away

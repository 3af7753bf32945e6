"""What one step of the loop does: which weights move, when, how far, and when it refuses."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from motionloom.datasets.base import sample_seed
from motionloom.errors import ConfigError, InputError, NumericError, ResourceError
from motionloom.train import train
from motionloom.training.data_order import SampleOrder, load_batches
from motionloom.training.ema import WeightAverage
from motionloom.training.precision import autocast
from motionloom.training.recipe import learning_rate_at, load_recipe
from tests.training import toy
from tests.training.toy import ToyNumbers, ToyObjective, toy_recipe

REPOSITORY = Path(__file__).parents[2]


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def final_weights(run: Path) -> dict[str, Tensor]:
    from motionloom.weights import load_weights

    return load_weights(run / "final/model.safetensors")[0]


# --- data order ---------------------------------------------------------------------------------------------


def test_every_epoch_is_another_permutation() -> None:
    order = SampleOrder(7, seed=1)
    epochs = [[order.at(7 * epoch + i) for i in range(7)] for epoch in range(3)]
    for number, epoch in enumerate(epochs):
        assert {e for e, _ in epoch} == {number}
        assert sorted(index for _, index in epoch) == list(range(7))
    assert len({tuple(index for _, index in epoch) for epoch in epochs}) == 3
    assert SampleOrder(7, seed=1).at(15) == order.at(15)  # no history needed


def test_processes_share_each_batch() -> None:
    one = list(SampleOrder(10, 0).batches(3, 4, 4, 0, 1))
    shares = [list(SampleOrder(10, 0).batches(3, 4, 4, rank, 2)) for rank in range(2)]
    assert [a + b for a, b in zip(*shares, strict=True)] == one


def test_sample_seeds_do_not_collide() -> None:
    seeds = {sample_seed(s, e, i) for s in range(5) for e in range(20) for i in range(50)}
    assert len(seeds) == 5000 and min(seeds) >= 0 and max(seeds) < 2**63


def test_loader_processes_give_the_same_batches_and_draw_nothing_global() -> None:
    places = [[(0, 1), (0, 3)], [(1, 0), (1, 2)], [(1, 4), (2, 0)]]
    before = torch.get_rng_state()
    alone, together = (
        [batch["values"] for batch in load_batches(ToyNumbers(5, 6), iter(places), workers)]
        for workers in (0, 2)
    )
    assert torch.equal(torch.stack(alone), torch.stack(together))
    assert torch.equal(torch.get_rng_state(), before)


class Broken(ToyNumbers):
    def __init__(self, error: str) -> None:
        super().__init__(0, 4)
        self.error = error

    def at(self, epoch: int, index: int) -> dict[str, Any]:
        if self.error == "input":
            raise InputError("clip b.mp4 is gone", fix="restore it")
        os._exit(3)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_the_data_arrives_as_one_sentence(workers: int) -> None:
    with pytest.raises(InputError) as caught:
        next(load_batches(Broken("input"), iter([[(0, 0)]]), workers))
    assert str(caught.value) == "clip b.mp4 is gone. Fix: restore it"


def test_a_dead_loader_process_is_one_clear_error() -> None:
    with pytest.raises(ResourceError, match="a loader process died or hung"):
        next(load_batches(Broken("exit"), iter([[(0, 0)]]), 1))


# --- the step -----------------------------------------------------------------------------------------------


def test_learning_rate_warms_up_then_follows_half_a_cosine() -> None:
    recipe = load_recipe(
        toy_recipe(steps=110, warmup_steps=10, learning_rate=0.5, learning_rates={"critic": 1.0})
    )
    rates = [learning_rate_at(recipe, "model", step) for step in range(111)]
    assert rates[0] == pytest.approx(0.05) and rates[9] == rates[10] == 0.5
    assert rates[60] == pytest.approx(0.25) and rates[110] == pytest.approx(0, abs=1e-12)
    assert learning_rate_at(recipe, "critic", 9) == 1.0
    constant = load_recipe(toy_recipe(schedule="constant", warmup_steps=0))
    assert learning_rate_at(constant, "model", 11) == 0.01


def test_accumulation_equals_one_large_batch(tmp_path: Path) -> None:
    """For a loss that is a mean over samples, without BatchNorm, dropout or noise."""

    class Plain(ToyObjective):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(nn.Linear(4, 4))
            self.networks["model"] = self.model

        def losses(self, batch: Any, step: int, generator: Any) -> Iterator[Any]:
            yield "model", (self.model(batch["values"]) - 1).square().mean(), {}
            yield "critic", self.critic(batch["values"]).square().mean(), {}

    weights = []
    for number, (batch, accumulation) in enumerate([(8, 1), (2, 4)]):
        toy_stage_builds(Plain)
        recipe = toy_recipe(batch_size=batch, accumulation=accumulation, steps=5)
        train(recipe, tmp_path / str(number), progress=False)
        weights.append(final_weights(tmp_path / str(number)))
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=1e-5, atol=1e-6)


@pytest.fixture(autouse=True)
def own_toy_again() -> Iterator[None]:
    yield
    toy_stage_builds(ToyObjective)


def toy_stage_builds(cls: type) -> None:
    toy.ToyStage.objective = lambda self, recipe, dry_run=False: cls()  # type: ignore[method-assign]


def test_a_loss_moves_only_its_own_group_and_the_next_loss_sees_it(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []

    class Watching(ToyObjective):
        def losses(self, batch: Any, step: int, generator: Any) -> Iterator[Any]:
            before = [self.model[0].weight.detach().clone(), self.critic.weight.detach().clone()]
            gradient = None if self.critic.weight.grad is None else self.critic.weight.grad.clone()
            yield "model", self.critic(self.model(batch["values"])).sum(), {}
            assert (gradient is None) == (self.critic.weight.grad is None)
            assert gradient is None or torch.equal(gradient, self.critic.weight.grad)
            seen.append(
                (torch.equal(before[0], self.model[0].weight), torch.equal(before[1], self.critic.weight))
            )
            yield "critic", self.critic(batch["values"]).sum(), {}

    toy_stage_builds(Watching)
    train(toy_recipe(steps=2, accumulation=2, warmup_steps=0), tmp_path / "run", progress=False)
    # the first micro-batch of each step only accumulates
    assert seen == [(True, True), (False, True)] * 2


def test_gradients_are_clipped_to_the_norm_and_reported_before(tmp_path: Path) -> None:
    norms: list[float] = []

    class Large(ToyObjective):
        def losses(self, batch: Any, step: int, generator: Any) -> Iterator[Any]:
            yield "model", 1000 * self.model(batch["values"]).sum(), {}
            yield "critic", self.critic(batch["values"]).sum(), {}

    def spy(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in params])))

    toy_stage_builds(Large)
    handle = register_optimizer_step_pre_hook(spy)
    try:
        train(toy_recipe(steps=2, warmup_steps=0, clip_norm=0.5), tmp_path / "run", progress=False)
    finally:
        handle.remove()
    assert all(norm <= 0.5 + 1e-5 for norm in norms) and max(norms) == pytest.approx(0.5, abs=1e-5)
    assert log_of(tmp_path / "run")[0]["grad_norm"]["model"] > 100


def poisoned(at_steps: set[int], value: float = math.nan) -> type:
    class Poisoned(ToyObjective):
        def losses(self, batch: Any, step: int, generator: Any) -> Iterator[Any]:
            if step in at_steps:
                batch = {"values": batch["values"] * value}
            yield from super().losses(batch, step, generator)

    return Poisoned


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_steps_are_skipped_and_poison_nothing(value: float, tmp_path: Path) -> None:
    toy_stage_builds(poisoned({2, 3, 4, 7}, value))
    train(toy_recipe(steps=9, save_every_steps=2), tmp_path / "run", progress=False)
    skipped = [record for record in log_of(tmp_path / "run") if record.get("event") == "skipped"]
    assert [record["step"] for record in skipped] == [3, 4, 5, 8]
    assert all(bool(torch.isfinite(value).all()) for value in final_weights(tmp_path / "run").values())


def test_too_many_in_a_row_stop_the_run_and_keep_the_last_good_checkpoint(tmp_path: Path) -> None:
    toy_stage_builds(poisoned(set(range(5, 12))))
    with pytest.raises(NumericError) as caught:
        train(toy_recipe(save_every_steps=1, keep_last=9), tmp_path / "run", progress=False)
    message = str(caught.value)
    assert (
        "step 9: loss of model is nan" in message and "step-000008" in message and "learning_rate" in message
    )
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run/final").exists()


def test_a_gradient_that_is_not_finite_is_caught_before_the_step(tmp_path: Path) -> None:
    class Kink(ToyObjective):
        def losses(self, batch: Any, step: int, generator: Any) -> Iterator[Any]:
            weight = self.model[0].weight
            yield "model", (weight - weight.detach()).abs().sum().sqrt() + 1, {}  # slope 0 * inf at 0

    toy_stage_builds(Kink)
    with pytest.raises(NumericError, match="gradient norm of model is nan"):
        train(toy_recipe(), tmp_path / "run", progress=False)


def test_nan_weights_are_never_saved(tmp_path: Path) -> None:
    class Silent(ToyObjective):
        def losses(self, batch: Any, step: int, generator: Any) -> Iterator[Any]:
            if step == 3:
                with torch.no_grad():
                    self.critic.bias.fill_(math.nan)
            yield "model", self.model(batch["values"]).square().mean(), {}

    toy_stage_builds(Silent)
    with pytest.raises(NumericError, match="'critic.bias' holds NaN"):
        train(toy_recipe(), tmp_path / "run", progress=False)
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == [
        "step-000002",
        "step-000003",
    ]


def test_unknown_optimizer_name_and_uneven_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"learning_rates names \['decoder'\].*\['critic', 'model'\]"):
        train(toy_recipe(learning_rates={"decoder": 0.1}), tmp_path / "run", progress=False)
    with pytest.raises(InputError, match="no sample to train on"):
        train(toy_recipe(stage={"kind": "toy", "length": 0}), tmp_path / "other", progress=False)
    assert not (tmp_path / "other").exists()


def test_missing_tracker_package_names_the_install_command(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        train(toy_recipe(trackers=["trackio"]), tmp_path / "run", progress=False)
    assert caught.value.fix == "pip install trackio"
    assert not (tmp_path / "run").exists()


def test_out_of_memory_says_what_to_lower(tmp_path: Path) -> None:
    class Huge(ToyObjective):
        def losses(self, batch: Any, step: int, generator: Any) -> Iterator[Any]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            yield

    toy_stage_builds(Huge)
    with pytest.raises(ResourceError, match="out of memory") as caught:
        train(toy_recipe(), tmp_path / "run", progress=False)
    assert "batch_size" in caught.value.fix


def test_training_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(toy_recipe(steps=4), tmp_path / "run", progress=False)
    assert torch.equal(torch.rand(3), expected)


def test_bf16_runs_the_forward_pass_in_bf16_and_keeps_weights_fp32(tmp_path: Path) -> None:
    kinds: set[torch.dtype] = set()

    class Watching(ToyObjective):
        def losses(self, batch: Any, step: int, generator: Any) -> Iterator[Any]:
            kinds.add(self.critic(batch["values"]).dtype)
            yield from super().losses(batch, step, generator)

    toy_stage_builds(Watching)
    train(toy_recipe(precision="bf16"), tmp_path / "run", progress=False)
    assert kinds == {torch.bfloat16}
    assert {value.dtype for value in final_weights(tmp_path / "run").values()} == {torch.float32, torch.int64}
    with autocast(torch.device("cpu"), "fp32"):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_format_computed_in_software_is_said_in_the_log(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    train(toy_recipe(precision=precision), tmp_path / "run", progress=False)
    said = [
        line for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines() if "in software" in line
    ]
    assert len(said) == (precision == "bf16")


# --- averaged weights ---------------------------------------------------------------------------------------


def test_average_follows_its_formula_and_lends_itself_bit_for_bit() -> None:
    network = nn.Linear(3, 2)
    average = WeightAverage({"net": network}, 0.5)
    expected = network.weight.detach().clone()
    for n in range(8):
        with torch.no_grad():
            network.weight += 1
        average.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * network.weight.detach()
    torch.testing.assert_close(average.state_dict()["net.weight"], expected)
    live = network.weight.detach().clone()
    with average.applied():
        assert torch.equal(network.weight, average.state_dict()["net.weight"])
    assert torch.equal(network.weight, live)


def test_exported_weights_are_the_averaged_ones(tmp_path: Path) -> None:
    train(toy_recipe(), tmp_path / "run", progress=False)
    from motionloom.weights import load_weights

    averages, _ = load_weights(tmp_path / "run/checkpoints/step-000012/averages.safetensors")
    for key, value in final_weights(tmp_path / "run").items():
        assert torch.equal(value, averages[f"model.{key}"])


# --- several processes --------------------------------------------------------------------------------------

TWO_PROCESSES = """
import sys
from tests.training import toy
from motionloom.train import train
from torch import nn
class Plain(toy.ToyObjective):
    def losses(self, batch, step, generator):
        yield "model", (self.model(batch["values"]) - 1).square().mean(), {}
        yield "critic", self.critic(batch["values"]).square().mean(), {}
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 4))
        self.networks["model"] = self.model
toy.ToyStage.objective = lambda self, recipe, dry_run=False: Plain()
for steps in (4, 6):
    train(toy.toy_recipe(steps=steps, schedule="constant"), sys.argv[1], progress=False)
"""


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    """gloo on CPU, with a resume in between; equal up to the order of the sums."""
    script = tmp_path / "run.py"
    script.write_text(TWO_PROCESSES)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "ACCELERATE_USE_CPU": "true"}
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run([sys.executable, str(script), str(one)], env=environment, check=True)
    # torchrun: on CPU `accelerate launch` starts several processes through MPI only
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*launch, str(script), str(two)], env=environment, check=True)
    state = json.loads((two / "checkpoints/step-000006/state.json").read_text())
    assert state["processes"] == 2 and len(state["randomness"]) == 2
    for key, value in final_weights(one).items():
        torch.testing.assert_close(final_weights(two)[key], value, rtol=1e-5, atol=1e-6)
    with pytest.raises(Exception, match="processes: 2 -> 1"):
        toy_stage_builds(ToyObjective)
        train(toy_recipe(steps=8, schedule="constant"), two, progress=False)

"""The training loop: one for every stage, resumable at any moment with bit-identical results.

    for each step:
        for each micro-batch:
            for name, loss, numbers in objective.losses(batch, step, generator):
                backward into the parameters of optimizer `name`
                on the last micro-batch: average over processes, unscale, check, clip, step
        average the weights; log, preview, save when due; stop when asked to

What a step does depends on the training state alone (networks, optimizers, loss scales, averaged weights, random
generators and the counters of `Progress`), and a checkpoint holds all of it. Order and augmentation of the
data are functions of (seed, position), the learning rate is one of the step.

Two things are skipped, and either way the step counts: learning rate and data move on.
    a loss or norm that is not finite    the whole step; `MAX_SKIPPED_IN_A_ROW` more of them end the run
    gradients that overflow fp16         that optimizer's update; ends the run when the loss scale passes its floor
Averaged weights take part only where an update was made to what they average.

Several processes (`accelerate launch`, `torchrun`) each take a share of every batch; gradients are averaged
by one all- reduce per optimizer step, which needs no wrapping of networks, so an objective may call any
method of them. Weights are
replicated: sharding (FSDP, DeepSpeed) is refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs, broadcast_object_list, gather_object
from torch import Tensor, nn

from motionloom import __version__
from motionloom.datasets.base import TrainingDataset, sample_seed
from motionloom.errors import ConfigError, Interrupted, NumericError, ResourceError, StateError, UserError
from motionloom.training import randomness
from motionloom.training.data_order import SampleOrder, load_batches, require_samples
from motionloom.training.ema import WeightAverage
from motionloom.training.muon import Muon
from motionloom.training.objectives.base import Objective
from motionloom.training.precision import (
    EMULATED,
    SMALLEST_SCALE,
    LossScale,
    autocast,
    emulated,
    missing_operations_told,
)
from motionloom.training.progress import ProgressBar
from motionloom.training.recipe import Recipe, learning_rate_at
from motionloom.training.run_folder import Checkpoint, RunFolder

CHECKPOINT_FORMAT = 1
MAX_SKIPPED_IN_A_ROW = 3
PREVIEW_SAMPLES = 4
GRADIENT_BUCKET = 2**24  # numbers averaged over processes at a time
_TRACKER_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}


@dataclass
class Progress:
    """The counters of a run: everything of the training state that is not a tensor or a generator."""

    step: int = 0  # finished steps, skipped ones included
    position: int = 0  # samples drawn from the order so far, over all processes
    skipped_in_a_row: int = 0
    seconds: float = 0.0  # spent training, over all sessions


@dataclass(frozen=True)
class Overflow:
    """An update that was not made, because gradients were not finite at a loss scale of fp16."""

    optimizer: str
    loss_scale: float  # from now on
    overflows: int  # of this optimizer, in the whole run


@dataclass
class _Window:
    """What happened since the last line of the log."""

    began: float = field(default_factory=time.monotonic)
    steps: int = 0
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, numbers: dict[str, float]) -> None:
        for key, value in numbers.items():
            self.sums[key] += float(value)
            self.counts[key] += 1

    def means(self) -> dict[str, float]:
        return {key: total / self.counts[key] for key, total in self.sums.items()}


class TrainingLoop:
    """Trains an objective on a dataset as a recipe says, and keeps its run folder.

    Args:
        recipe: the resolved recipe.
        objective: networks and losses, already on the accelerator's device.
        dataset: the samples.
        run: the open run folder; used by the main process only.
        accelerator: from `new_accelerator`.
        bar: shows progress; used by the main process only.
    """

    def __init__(
        self,
        recipe: Recipe,
        objective: Objective,
        dataset: TrainingDataset,
        run: RunFolder,
        accelerator: Accelerator,
        bar: ProgressBar,
    ) -> None:
        self.recipe, self.objective, self.dataset = recipe, objective, dataset
        self.run_folder, self.accelerator, self.bar = run, accelerator, bar
        self.device: torch.device = accelerator.device
        self.world, self.rank = accelerator.num_processes, accelerator.process_index
        self.is_main: bool = accelerator.is_main_process
        self.progress = Progress()
        self.resumed_from: int | None = None
        self.skipped_checkpoints: list[str] = []
        self.last_numbers: dict[str, float] = {}
        require_samples(dataset)
        _check_fits(recipe, self.world)

        for network in objective.networks.values():
            network.to(self.device)
        self.groups = {
            name: [p for p in params if p.requires_grad]
            for name, params in objective.parameter_groups().items()
        }
        unknown = sorted(recipe.learning_rates.keys() - self.groups.keys())
        if unknown:
            raise ConfigError(
                f"learning_rates names {unknown}, but this stage's optimizers are {sorted(self.groups)}",
                fix="correct learning_rates",
            )
        self.optimizers = {name: new_optimizer(recipe, params) for name, params in self.groups.items()}
        self.loss_scales = {name: LossScale(self.device, recipe.precision) for name in self.groups}
        self.average = (
            WeightAverage({n: objective.networks[n] for n in objective.ema_networks}, recipe.ema_decay)
            if recipe.ema_decay is not None and objective.ema_networks
            else None
        )
        self.order = SampleOrder(len(dataset), recipe.seed)
        self.generator = randomness.training_generator(recipe.seed, self.rank, self.device)
        randomness.seed_everything(
            sample_seed(recipe.seed, -2, self.rank)
        )  # dropout differs between processes
        self._share_weights()
        self._saved_at_step = -1

    # --- the flow -------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Continue from the newest checkpoint that verifies, if there is one, and say which were skipped and
        why.
        """
        checkpoint, self.skipped_checkpoints = self.run_folder.newest() if self.is_main else (None, [])
        if self.world > 1:  # the others read what the main process found to be whole
            found = [checkpoint.step if checkpoint else None]
            broadcast_object_list(found)
            if found[0] is not None and checkpoint is None:
                checkpoint = self.run_folder.read(found[0])
        for sentence in self.skipped_checkpoints:
            self._tell("checkpoint_skipped", sentence)
        if checkpoint is None:
            if self.is_main:
                self.run_folder.rewind_log(-1)
            if self.skipped_checkpoints:
                self._tell("restarted", "no checkpoint verifies: starting again from step 0")
            return
        self.restore(checkpoint)
        self.resumed_from = self._saved_at_step = checkpoint.step
        if self.is_main:
            self.run_folder.rewind_log(checkpoint.step)
        self._tell("resumed", f"resumed from step {checkpoint.step} of {self.recipe.steps}")

    def run(self) -> None:
        """Train to the last step.

        Raises:
            Interrupted: SIGINT, SIGTERM or SIGHUP arrived; the step was finished and the state saved.
            NumericError: loss or gradients were not finite more than `MAX_SKIPPED_IN_A_ROW` times in a row, or a loss
                scale fell below `SMALLEST_SCALE`.
            ConfigError: the device lacks an operation in fp16.
            ResourceError: memory or disk ran out; the last checkpoint is intact.
        """
        recipe = self.recipe
        batches = self._batches()
        began, before = time.monotonic(), self.progress.seconds
        saved = began
        window = _Window()
        with (
            stop_signals() as stop,
            _memory_errors(),
            missing_operations_told(self.device, recipe.precision),
        ):
            self.bar.at(self.progress.step)
            while self.progress.step < recipe.steps:
                window.add(self._step(batches))
                window.steps += 1
                self.progress.seconds = before + time.monotonic() - began
                step = self.progress.step
                stopping, hour_struck = self._agree(
                    stop.received,
                    bool(recipe.save_every_minutes and self.is_main)
                    and time.monotonic() - saved >= 60 * (recipe.save_every_minutes or 0),
                )
                if step % recipe.log_every == 0 or step == recipe.steps:
                    self._log(window)
                    window = _Window()
                if recipe.sample_every and step % recipe.sample_every == 0:
                    self._preview()
                due = recipe.save_every_steps and step % recipe.save_every_steps == 0
                if due or hour_struck or stopping or step == recipe.steps:
                    self.save()
                    saved = time.monotonic()
                self.bar.at(step, _note(self.last_numbers))
                if stopping and step < recipe.steps:
                    self._tell("interrupted", f"saved at step {step}")
                    raise Interrupted(
                        f"stopped by signal {stopping} after step {step}; the state was saved", stopping
                    )

    def export(self) -> None:
        """Write `final/`, with the averaged weights where they are kept."""
        if self.is_main:
            with self._shown_weights():
                self.run_folder.export(self.objective.export)
            self._tell("finished", f"finished {self.progress.step} steps: {self.run_folder.final}")
        self.accelerator.wait_for_everyone()

    def report_refused(self) -> None:
        """Say and log what is not as the recipe asks, what the dataset changed, and which clips it left out and why."""
        if self.recipe.optimizer.kind == "adamw8bit" and not has_8bit_optimizer():
            self._tell(
                "optimizer", "bitsandbytes is not installed (pip install bitsandbytes): moments keep 32 bits"
            )
        if emulated(self.device, self.recipe.precision):
            self._tell("precision", EMULATED.format(self.recipe.precision))
        for note in self.dataset.notes:
            self._tell("data", note)
        for name, reason in self.dataset.refused:
            self._tell("clip_refused", f"left out {name}: {reason}")

    # --- one step -------------------------------------------------------------------------------------------

    def _step(self, batches: Iterator[dict[str, Any]]) -> dict[str, float]:
        """One optimizer step, over `accumulation` micro-batches. Returns numbers to log."""
        step, counters = self.progress.step, self.progress
        for name, optimizer in self.optimizers.items():
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(self.recipe, name, step)
        buffers = self._buffers()
        kept = [buffer.clone() for buffer in buffers]
        told: dict[str, list[float]] = defaultdict(list)
        overflowed: list[Overflow] = []
        problem = ""
        for micro in range(self.recipe.accumulation):
            batch = _to_device(next(batches), self.device)
            counters.position += self.recipe.batch_size
            if not problem:
                is_last = micro == self.recipe.accumulation - 1
                problem = self._micro_step(batch, step, is_last, told, overflowed)
        counters.step += 1
        for overflow in overflowed:
            self._tell_overflow(overflow)
        if problem:
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)  # a NaN batch poisons the running statistics of norms
            self._skip(problem)
            return {}
        updated = {name for name in self.groups if f"grad_norm_{name}" in told}
        if updated or not overflowed:
            counters.skipped_in_a_row = 0
        self._share_buffers(buffers)
        if self.average is not None and not self._average_waits(updated, {o.optimizer for o in overflowed}):
            self.average.update()
        return {key: sum(values) / len(values) for key, values in told.items()}

    def _micro_step(
        self,
        batch: dict[str, Any],
        step: int,
        is_last: bool,
        told: dict[str, list[float]],
        overflowed: list[Overflow],
    ) -> str:
        """Forward and backward of every loss on one micro-batch, and the updates if it is the last of its
        step.

        Returns what was not finite, or ""; updates that were not made because fp16 overflowed go to `overflowed`.
        """
        losses = self.objective.losses(batch, step, self.generator)
        while True:
            with autocast(self.device, self.recipe.precision):
                drawn = next(losses, None)
            if drawn is None:
                return ""
            name, loss, numbers = drawn
            value = float(loss.detach())
            problem = "" if math.isfinite(value) else f"loss of {name} is {value}"
            if not self._all_agree(problem == ""):
                return problem or f"loss of {name} is not finite in another process"
            params, scale = self.groups[name], self.loss_scales[name]
            self.accelerator.backward(scale.scaled(loss / self.recipe.accumulation), inputs=params)
            told[f"loss_{name}"].append(value)
            for key, number in numbers.items():
                told[key].append(number)
            if is_last:
                if scale.enabled:
                    told[f"scale_{name}"].append(scale.value)
                norm = self._update(name, params)
                if scale.adapt():
                    overflowed.append(Overflow(name, scale.value, scale.overflows))
                elif not math.isfinite(norm):
                    return f"gradient norm of {name} is {norm}"
                else:
                    told[f"grad_norm_{name}"].append(norm)

    def _update(self, name: str, params: list[nn.Parameter]) -> float:
        """Average the gradients over processes, unscale, check, clip and step. Returns their norm; NaN or Inf: no
        step.
        """
        optimizer, scale = self.optimizers[name], self.loss_scales[name]
        if self.world > 1:
            self._average_gradients(params)  # still scaled: what overflowed in one process does so in all
        scale.unscale(optimizer)
        grads = [p.grad for p in params if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        value = float(norm)
        if math.isfinite(value):
            if self.recipe.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(params, self.recipe.clip_norm, norm)
            scale.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
        return value

    def _average_waits(self, updated: set[str], overflowed: set[str]) -> bool:
        """Whether overflows kept everything that is averaged as it was."""
        learned = {
            id(p) for name in self.objective.ema_networks for p in self.objective.networks[name].parameters()
        }
        movers = {name for name, params in self.groups.items() if any(id(p) in learned for p in params)}
        return bool(movers & overflowed) and not movers & updated

    def _tell_overflow(self, overflow: Overflow) -> None:
        """Say and log an update that was not made. Raises NumericError below the smallest loss scale."""
        step, name, scale = self.progress.step, overflow.optimizer, f"{overflow.loss_scale:g}"
        self._tell(
            "overflow",
            f"step {step}: gradients of {name} overflowed fp16, its update was skipped; loss scale now {scale}",
            **asdict(overflow),
        )
        if overflow.loss_scale < SMALLEST_SCALE:
            self._diverged(
                f"step {step}: the loss scale of {name} fell to {scale}, below {SMALLEST_SCALE:g}: its gradients "
                "are not finite in fp16 even unscaled"
            )

    def _skip(self, problem: str) -> None:
        counters = self.progress
        counters.skipped_in_a_row += 1
        if counters.skipped_in_a_row > MAX_SKIPPED_IN_A_ROW:
            self._diverged(
                f"step {counters.step}: {problem}",
                f", and the {MAX_SKIPPED_IN_A_ROW} steps before were skipped for such reasons",
            )
        self._tell("skipped", f"skipped step {counters.step}: {problem}")

    def _diverged(self, problem: str, why_now: str = "") -> NoReturn:
        good = self.run_folder.last_good() if self.is_main else "see the main process"
        self._tell("diverged", problem)
        raise NumericError(
            f"{problem}{why_now}; last good checkpoint: {good}",
            fix="start a new run with a lower learning_rate, a clip_norm, or precision=fp32",
        )

    def _batches(self) -> Iterator[dict[str, Any]]:
        recipe = self.recipe
        count = (recipe.steps - self.progress.step) * recipe.accumulation
        places = self.order.batches(self.progress.position, count, recipe.batch_size, self.rank, self.world)
        return load_batches(self.dataset, places, recipe.data.num_workers if recipe.data else 0)

    # --- state ----------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint of the finished step, if this step has none yet."""
        if self.progress.step == self._saved_at_step:
            return
        random_states = gather_object([randomness.capture(self.generator)])
        if self.is_main:
            self.run_folder.save(self.snapshot(random_states))
        self._saved_at_step = self.progress.step
        self.accelerator.wait_for_everyone()

    def snapshot(self, random_states: list[dict[str, Any]]) -> Checkpoint:
        """The whole training state. Tensors are the live ones, so write them before the next step."""
        tensors = {
            "networks": {
                f"{name}.{key}": value
                for name, network in self.objective.networks.items()
                for key, value in network.state_dict().items()
            },
            "optimizers": {
                f"{name}.{index}.{key}": torch.as_tensor(value)
                for name, optimizer in self.optimizers.items()
                for index, entry in optimizer.state_dict()["state"].items()
                for key, value in _flat(entry)
            },
            "randomness": {
                f"{rank}.{key}": value
                for rank, state in enumerate(random_states)
                for key, value in state.items()
                if isinstance(value, Tensor)
            },
        }
        if self.average is not None:
            tensors["averages"] = self.average.state_dict()
        epoch, index = divmod(self.progress.position, len(self.dataset))
        numbers = {
            "format": CHECKPOINT_FORMAT,
            **asdict(self.progress),
            "epoch": epoch,
            "index": index,
            "average_updates": self.average.updates if self.average is not None else None,
            **self._loss_scale_states(),
            "randomness": [{key: state[key] for key in ("python", "numpy")} for state in random_states],
            "processes": self.world,
            "dataset": {"length": len(self.dataset), "fingerprint": self.dataset.fingerprint},
            "versions": {"motionloom": __version__, "torch": str(torch.__version__)},
        }
        del numbers["step"]
        return Checkpoint(self.progress.step, tensors, numbers)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put a saved training state back. Raises StateError when it is another run's."""
        numbers, tensors = checkpoint.numbers, checkpoint.tensors
        self._refuse_other_run(numbers)
        for name, network in self.objective.networks.items():
            _load_network(name, network, _below(tensors["networks"], name))
        for name, optimizer in self.optimizers.items():
            _load_optimizer(optimizer, _below(tensors["optimizers"], name))
        for name, state in numbers.get("loss_scales", {}).items():
            self.loss_scales[name].load_state_dict(state)
        if self.average is not None:
            self.average.load_state_dict(
                {key: value.to(self.device) for key, value in tensors["averages"].items()},
                int(numbers["average_updates"]),
            )
        self.progress = Progress(
            checkpoint.step, numbers["position"], numbers["skipped_in_a_row"], numbers["seconds"]
        )
        rank = str(self.rank)
        randomness.restore(
            numbers["randomness"][self.rank] | _below(tensors["randomness"], rank), self.generator
        )

    def _loss_scale_states(self) -> dict[str, Any]:
        """{"loss_scales": {optimizer: state}} of an fp16 run, else nothing."""
        states = {name: scale.state_dict() for name, scale in self.loss_scales.items() if scale.enabled}
        return {"loss_scales": states} if states else {}

    def _refuse_other_run(self, numbers: dict[str, Any]) -> None:
        told = []
        if numbers["format"] != CHECKPOINT_FORMAT:
            told.append(f"checkpoint format: {numbers['format']} -> {CHECKPOINT_FORMAT}")
        if numbers["processes"] != self.world:
            told.append(f"processes: {numbers['processes']} -> {self.world}")
        now = {"length": len(self.dataset), "fingerprint": self.dataset.fingerprint}
        told += [
            f"dataset {key}: {numbers['dataset'][key]} -> {now[key]}"
            for key in now
            if numbers["dataset"][key] != now[key]
        ]
        if told:
            raise StateError(
                f"{self.run_folder.path} cannot resume: " + "; ".join(told),
                fix="restore the data and the number of processes, or give another run folder",
            )
        versions = {"motionloom": __version__, "torch": str(torch.__version__)}
        if numbers["versions"] != versions:
            self._tell(
                "other_versions",
                f"the checkpoint was made with {numbers['versions']}, this is {versions}: "
                "the numbers may differ in the last bits",
            )

    def _buffers(self) -> list[Tensor]:
        return [buffer for network in self.objective.networks.values() for buffer in network.buffers()]

    # --- several processes ----------------------------------------------------------------------------------

    def _share_weights(self) -> None:
        if self.world > 1:
            for network in self.objective.networks.values():
                for tensor in (*network.parameters(), *network.buffers()):
                    torch.distributed.broadcast(tensor.data, 0)

    def _share_buffers(self, buffers: list[Tensor]) -> None:
        """Running statistics follow the main process, which is the one that saves."""
        if self.world > 1:
            for buffer in buffers:
                torch.distributed.broadcast(buffer, 0)

    def _average_gradients(self, params: list[nn.Parameter]) -> None:
        """Mean over processes, in buckets; a parameter without gradient counts as zero."""
        for bucket in _buckets(params):
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([grad.flatten() for grad in grads])
            torch.distributed.all_reduce(flat)
            flat /= self.world
            for param, part in zip(bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True):
                param.grad = part.view_as(param)

    def _all_agree(self, answer: bool) -> bool:
        if self.world == 1:
            return answer
        yes = torch.tensor(int(answer), device=self.device)
        torch.distributed.all_reduce(yes, op=torch.distributed.ReduceOp.MIN)
        return bool(yes.item())

    def _agree(self, stopping: int, save_now: bool) -> tuple[int, bool]:
        """One answer for all processes: the signal that any received, and whether any wants to save."""
        if self.world == 1:
            return stopping, save_now
        flags = torch.tensor([stopping, int(save_now)], device=self.device)
        torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
        return int(flags[0]), bool(flags[1])

    # --- what a person sees ---------------------------------------------------------------------------------

    def _tell(self, event: str, sentence: str, **facts: Any) -> None:
        if self.is_main:
            self.bar.say(sentence)
            self.run_folder.log({"event": event, "step": self.progress.step, "message": sentence, **facts})

    def _log(self, window: _Window) -> None:
        seconds = (time.monotonic() - window.began) / max(1, window.steps)
        recipe, step = self.recipe, self.progress.step
        means = window.means()
        if self.world > 1:
            every = gather_object([means])
            keys = set().union(*every)
            means = {k: float(np.mean([m[k] for m in every if k in m])) for k in sorted(keys)}
        self.last_numbers = means
        rates = {name: learning_rate_at(recipe, name, step - 1) for name in self.groups}
        if not self.is_main:
            return
        record = {
            "step": step,
            "losses": {k.removeprefix("loss_"): v for k, v in means.items() if k.startswith("loss_")},
            "lr": rates,
            "grad_norm": {
                k.removeprefix("grad_norm_"): v for k, v in means.items() if k.startswith("grad_norm_")
            },
            "numbers": {k: v for k, v in means.items() if not k.startswith(("loss_", "grad_norm_"))},
            "samples_per_second": recipe.batch_size * recipe.accumulation / max(seconds, 1e-9),
            "eta_seconds": (recipe.steps - step) * seconds,
            "elapsed_seconds": self.progress.seconds,
        }
        self.run_folder.log(record)
        if recipe.trackers:
            self.accelerator.log({**means, **{f"lr_{k}": v for k, v in rates.items()}}, step=step)

    def _preview(self) -> None:
        """A clip in samples/. It has its own generators, so making one changes no result."""
        if self.is_main:
            from motionloom.video.clip import Clip

            step = self.progress.step
            count = min(PREVIEW_SAMPLES, len(self.dataset))
            fps = self.recipe.data.fps if self.recipe.data and self.recipe.data.fps else 8.0
            with randomness.unchanged_randomness(), self._shown_weights(), torch.no_grad():
                places = iter([[(0, index) for index in range(count)]])
                batch = _to_device(next(load_batches(self.dataset, places, 0)), self.device)
                generator = torch.Generator(self.device).manual_seed(sample_seed(self.recipe.seed, -3, 0))
                frames = self.objective.preview(batch, generator)
            if frames is not None:
                settings = {"run": str(self.run_folder.path), "step": step}
                try:
                    self.run_folder.samples.mkdir(exist_ok=True)
                    Clip(frames, fps, settings).save(self.run_folder.samples / f"step-{step:06d}.mp4")
                except (UserError, OSError) as error:  # a preview is not worth a run
                    self._tell("preview_failed", f"no preview at step {step}: {error}")
        self.accelerator.wait_for_everyone()

    @contextmanager
    def _shown_weights(self) -> Iterator[None]:
        """Inside, networks are in eval mode and hold the averaged weights; on exit they are as before."""
        modules = [module for network in self.objective.networks.values() for module in network.modules()]
        modes = [module.training for module in modules]
        for network in self.objective.networks.values():
            network.eval()
        try:
            with self.average.applied() if self.average is not None else nullcontext():
                yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode


def new_accelerator(recipe: Recipe, run_dir: Any = None) -> Accelerator:
    """The accelerator of a run: device, processes, trackers. Precision stays the recipe's, see precision.py.

    Raises ConfigError for a tracker whose package is missing, and for sharded (FSDP, DeepSpeed) launches.
    """
    for name in recipe.trackers:
        if importlib.util.find_spec(_TRACKER_PACKAGES[name]) is None:
            raise ConfigError(
                f"the recipe asks for the tracker {name!r}, but its package is not installed",
                fix=f"pip install {_TRACKER_PACKAGES[name]}",
            )
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=24))  # others wait while one prepares data
    accelerator = Accelerator(
        mixed_precision="no",
        log_with=list(recipe.trackers) or None,
        project_dir=run_dir,
        kwargs_handlers=[patience],
    )
    replicated = (
        DistributedType.NO,
        DistributedType.MULTI_CPU,
        DistributedType.MULTI_GPU,
        DistributedType.MULTI_XPU,
    )
    if accelerator.distributed_type not in replicated:
        raise ConfigError(
            f"launched with {accelerator.distributed_type}, expected plain data parallelism",
            fix="use `accelerate launch --multi_gpu` (weights are replicated on each device)",
        )
    if recipe.trackers:
        flat = {key: str(value) for key, value in recipe.to_dict().items()}
        accelerator.init_trackers("motionloom", config=flat)
    return accelerator


@contextmanager
def trackers_finished(accelerator: Accelerator) -> Iterator[None]:
    """On exit, trackers write what they hold back."""
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


# --- signals and errors -------------------------------------------------------------------------------------


@dataclass
class StopRequest:
    received: int = 0  # the signal's number, 0 while there is none


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Inside, the first SIGINT, SIGTERM or SIGHUP is only noted; a second one ends the process at once.

    Finished files are complete at any moment, so an immediate end loses only the steps since the last
    checkpoint. Outside the main thread no handler can be installed, and none is.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]

    def note(number: int, frame: FrameType | None) -> None:
        if request.received:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        request.received = number

    previous = {number: signal.signal(number, note) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _memory_errors() -> Iterator[None]:
    fix = "lower batch_size and raise accumulation by the same factor, or try precision=bf16"
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ResourceError(
            f"out of memory while training: {str(error).splitlines()[:1]}", fix=fix
        ) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise ResourceError(f"out of memory while training: {error}", fix=fix) from error


# --- parts --------------------------------------------------------------------------------------------------


def _check_fits(recipe: Recipe, world: int) -> None:
    if recipe.batch_size % world:
        raise ConfigError(
            f"batch_size {recipe.batch_size} cannot be split evenly between {world} processes",
            fix=f"choose a multiple of {world}",
        )


def new_optimizer(recipe: Recipe, params: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam, AdamW, with moments of 8 bits where asked and possible, or Muon; weight decay spares vectors (biases, norms)."""
    settings = recipe.optimizer
    kinds = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "adamw8bit": torch.optim.AdamW,
        "muon": Muon,
    }
    cls: Any = kinds[settings.kind]
    if settings.kind == "adamw8bit" and has_8bit_optimizer():
        cls = importlib.import_module("bitsandbytes.optim").AdamW8bit
    groups = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
    ]
    betas = (settings.betas[0], settings.betas[1])
    optimizer: torch.optim.Optimizer = cls(
        [group for group in groups if group["params"]], lr=recipe.learning_rate, betas=betas, eps=settings.eps
    )
    return optimizer


def has_8bit_optimizer() -> bool:
    """Whether bitsandbytes is installed."""
    return importlib.util.find_spec("bitsandbytes") is not None


def _load_network(name: str, network: nn.Module, tensors: dict[str, Tensor]) -> None:
    expected = network.state_dict()
    wrong = sorted(expected.keys() ^ tensors.keys())
    wrong += [key for key in expected.keys() & tensors.keys() if expected[key].shape != tensors[key].shape]
    if wrong:
        raise StateError(
            f"the checkpoint holds another network {name!r}: {len(wrong)} keys differ, first {wrong[:5]}",
            fix="give another run folder",
        )
    network.load_state_dict(tensors)


def _flat(entry: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The state of one parameter; 8-bit moments lie in a dict of their own."""
    for key, value in entry.items():
        if isinstance(value, dict):
            yield from value.items()
        else:
            yield key, value


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Any]] = defaultdict(dict)
    for key, value in tensors.items():
        index, _, part = key.partition(".")
        was_int = value.ndim == 0 and value.dtype == torch.int64
        state[int(index)][part] = int(value) if was_int else value
    in_8_bits = any("state1" in entry for entry in state.values())
    if state and in_8_bits == isinstance(optimizer, torch.optim.Adam):
        raise StateError(
            f"the checkpoint's optimizer keeps its moments in {8 if in_8_bits else 32} bits, here they would be in "
            f"{32 if in_8_bits else 8}",
            fix=f"{'install' if in_8_bits else 'uninstall'} bitsandbytes to go on with this run",
        )
    optimizer.load_state_dict({"state": dict(state), "param_groups": optimizer.state_dict()["param_groups"]})


def _below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(name + "."): value for key, value in tensors.items() if key.startswith(name + ".")
    }


def _buckets(params: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for param in params:
        if bucket and sum(p.numel() for p in bucket) + param.numel() > GRADIENT_BUCKET:
            yield bucket
            bucket = []
        bucket.append(param)
    if bucket:
        yield bucket


def _to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}


def _note(numbers: dict[str, float]) -> str:
    return " ".join(f"{k.removeprefix('loss_')} {v:.4g}" for k, v in numbers.items() if k.startswith("loss_"))

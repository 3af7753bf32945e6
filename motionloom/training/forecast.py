"""What a run would need, without training: parameters, memory, time, and the clips it would use.

The networks are built on the meta device, where tensors have shapes and no memory, so the largest recipe is
forecast in seconds. One step is run there to count what backward keeps and how much is computed. Where the
step is small enough it is also run for real, twice, and the second one is timed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from motionloom.datasets.base import TrainingDataset
from motionloom.errors import UserError
from motionloom.training import randomness
from motionloom.training.loop import has_8bit_optimizer, new_optimizer
from motionloom.training.objectives.base import Objective
from motionloom.training.precision import EMULATED, HALVES, LossScale, autocast, emulated
from motionloom.training.recipe import Recipe

# A step above this is not run for real: about half a minute on two slow cores.
LARGEST_REAL_STEP_FLOP = 4e11
LARGEST_EMULATED_STEP_FLOP = 1e10  # in a number format that the processor lacks
# bf16 and fp16 halve most of what backward keeps; norms and losses stay fp32.
HALF_ACTIVATION_SHARE = 0.6


def forecast(recipe: Recipe) -> dict[str, Any]:
    """Plain values for JSON: `parameters`, `memory_bytes`, `steps`, `time`, `clips`. Nothing is written.

    Raises ConfigError when the recipe's sizes do not fit together.
    """
    clips, dataset = _clips(recipe)
    with randomness.unchanged_randomness():
        with torch.device("meta"):
            objective = recipe.stage.objective(recipe, dry_run=True)
        cost = _cost_on_meta(recipe, objective, dataset)
        step = _time_real_step(recipe, dataset, cost)
    samples = recipe.steps * recipe.batch_size * recipe.accumulation
    return {
        "stage": recipe.stage.kind,
        "parameters": _parameters(objective),
        "memory_bytes": _memory(recipe, objective, cost),
        "steps": recipe.steps,
        "samples": samples,
        "epochs": round(samples / len(dataset), 2) if dataset is not None else None,
        "time": {
            "seconds_per_step": step[0],
            "total_seconds": None if step[0] is None else step[0] * recipe.steps,
            "flop_per_step": cost["flop"],
            "how": step[1],
        },
        "clips": clips,
    }


def _clips(recipe: Recipe) -> tuple[dict[str, Any], TrainingDataset | None]:
    """Clips used and refused; missing data is reported, not an error, so that a plan needs no data."""
    tolerant = recipe
    if recipe.data is not None:
        data = recipe.data.model_copy(update={"skip_bad": True})
        tolerant = recipe.model_copy(update={"data": data})
    try:
        dataset = tolerant.stage.clips(tolerant)
    except UserError as error:
        return {"used": 0, "refused": [], "stops_training": True, "problem": str(error)}, None
    refused = [{"name": name, "reason": reason} for name, reason in dataset.refused]
    stops = bool(refused) and not (recipe.data is not None and recipe.data.skip_bad)
    return {"used": len(dataset), "refused": refused, "stops_training": stops, "problem": None}, dataset


def _parameters(objective: Objective) -> dict[str, Any]:
    trained = {id(p) for params in objective.parameter_groups().values() for p in params if p.requires_grad}
    own_names = getattr(objective, "part_sizes", None)  # an objective may know better names than the modules'
    sizes: dict[str, dict[str, int]] = {} if own_names is None else own_names()
    return {
        name: {
            "total": sum(p.numel() for p in network.parameters()),
            "trained": sum(p.numel() for p in network.parameters() if id(p) in trained),
            "parts": sizes.get(name)
            or {child: sum(p.numel() for p in part.parameters()) for child, part in network.named_children()},
        }
        for name, network in (objective.networks | _frozen(objective)).items()
    }


def moment_bytes(recipe: Recipe, params: list[nn.Parameter]) -> int:
    """What an optimizer keeps: two moments of Adam, of 8 bits where asked and possible; one of Muon's kernels."""
    kind = recipe.optimizer.kind
    each = 2 if kind == "adamw8bit" and has_8bit_optimizer() else 8
    return sum(p.numel() * (4 if kind == "muon" and p.ndim > 1 else each) for p in params)


def _memory(recipe: Recipe, objective: Objective, cost: dict[str, Any]) -> dict[str, Any]:
    networks = objective.networks
    params = [p for group in objective.parameter_groups().values() for p in group if p.requires_grad]
    averaged = objective.ema_networks if recipe.ema_decay is not None else ()
    activations = cost["activation_bytes"]
    if activations is not None and recipe.precision in HALVES:
        activations = int(activations * HALF_ACTIVATION_SHARE)
    parts = {
        "weights": sum(_bytes(network) for network in networks.values()),
        "frozen_weights": sum(_bytes(network) for network in _frozen(objective).values()),
        "gradients": 4 * sum(p.numel() for p in params),
        "optimizer": moment_bytes(recipe, params),
        "averaged_weights": sum(_bytes(networks[name]) for name in averaged),
        "activations": activations,
    }
    how = "of one process that takes the whole batch; weights, gradients, moments and averages counted"
    how += "; activations: " + cost["how"]
    if recipe.precision in HALVES:
        how += f", times {HALF_ACTIVATION_SHARE} for {recipe.precision}"
    if getattr(recipe.stage, "gradient_checkpointing", False):
        how += "; what a checkpointed layer holds while it is run again is not counted"
    return {**parts, "total": sum(value for value in parts.values() if value is not None), "how": how}


def _frozen(objective: Objective) -> dict[str, nn.Module]:
    """What an objective uses and does not save, such as the codec of a generator."""
    saved = {id(module) for network in objective.networks.values() for module in network.modules()}
    held = {name: value for name, value in vars(objective).items() if isinstance(value, nn.Module)}
    return {name: module for name, module in held.items() if id(module) not in saved}


def _bytes(network: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))


# --- one step on the meta device ----------------------------------------------------------------------------


def _cost_on_meta(recipe: Recipe, objective: Objective, dataset: TrainingDataset | None) -> dict[str, Any]:
    """FLOP and kept activations of one optimizer step, or why they are unknown."""
    unknown = {"activation_bytes": None, "flop": None}
    try:
        with torch.device("meta"):
            batch = recipe.stage.example_batch(recipe, recipe.batch_size)
        if batch is None and dataset is not None:
            batch = _to_meta(_real_batch(recipe, dataset))
        if batch is None:
            return {**unknown, "how": "not measured: no clips and no example batch"}
        counter = FlopCounterMode(display=False)
        with torch.device("meta"), _PretendNumbers(), counter:
            peak = _run_losses(objective, batch, recipe.steps - 1)
    except Exception as error:  # a forecast must not fail where training would not
        return {
            **unknown,
            "how": f"not measured: one step on the meta device raised {type(error).__name__}: {error}",
        }
    return {
        "activation_bytes": peak,
        "flop": counter.get_total_flops() * recipe.accumulation,
        "how": "tensors kept for backward, counted in one fp32 step on the meta device",
    }


def _run_losses(objective: Objective, batch: dict[str, Any], step: int) -> int:
    """Forward and backward of each loss of a step. Returns the most bytes that any backward found kept."""
    groups = objective.parameter_groups()
    own = {
        p.untyped_storage()._cdata for network in objective.networks.values() for p in network.parameters()
    }
    generator = torch.Generator().manual_seed(0)
    peak = 0
    with _kept_for_backward(own) as kept:
        for name, loss, _ in objective.losses(batch, step, generator):
            torch.autograd.backward(loss, inputs=[p for p in groups[name] if p.requires_grad])
            peak = max(peak, sum(storage.nbytes() for storage in kept.values()))
            kept.clear()
    return peak


@contextmanager
def _kept_for_backward(own: set[int]) -> Iterator[dict[int, torch.UntypedStorage]]:
    """Collects the storages autograd saves, by identity, without the weights themselves."""
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


class _PretendNumbers(TorchFunctionMode):
    """Meta tensors have no values; where code reads one (to log a loss, say), it reads 1."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.item, torch.Tensor.__float__):
            return 1.0
        if func is torch.Tensor.__bool__:
            return True
        return func(*args, **(kwargs or {}))


def _to_meta(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: value.to("meta") if isinstance(value, Tensor) else value for key, value in batch.items()}


def _real_batch(recipe: Recipe, dataset: TrainingDataset) -> dict[str, Any]:
    batch: dict[str, Any] = default_collate(
        [dataset.at(0, i % len(dataset)) for i in range(recipe.batch_size)]
    )
    return batch


# --- time ---------------------------------------------------------------------------------------------------


def _time_real_step(
    recipe: Recipe, dataset: TrainingDataset | None, cost: dict[str, Any]
) -> tuple[float | None, str]:
    """(seconds of one optimizer step, how we know)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    in_software = emulated(device, recipe.precision)
    largest = LARGEST_EMULATED_STEP_FLOP if in_software else LARGEST_REAL_STEP_FLOP
    if cost["flop"] is not None and (device.type == "cuda" or cost["flop"] <= largest):
        try:
            return _run_real_steps(recipe, dataset, device), f"the second of two real steps on {device.type}"
        except UserError as error:
            reason = f"no real step: {error}"
        except (RuntimeError, MemoryError) as error:
            reason = f"no real step: {type(error).__name__}: {str(error).splitlines()[0]}"
    else:
        reason = "too large for a real step here"
    if in_software:
        reason += "; " + EMULATED.format(recipe.precision)
    if cost["flop"] is None:
        return None, reason
    rate = _conv_flop_per_second(device, recipe.precision)
    return cost[
        "flop"
    ] / rate, f"{reason}; counted FLOP at the measured {rate / 1e9:.0f} GFLOP/s of a convolution"


def _run_real_steps(recipe: Recipe, dataset: TrainingDataset | None, device: torch.device) -> float:
    randomness.seed_everything(recipe.seed)
    with torch.device(device):
        objective = recipe.stage.objective(recipe)
        batch = recipe.stage.example_batch(
            recipe, recipe.batch_size
        )  # before the clips, which a stage may encode
        if batch is None and dataset is not None:
            batch = _real_batch(recipe, dataset)
    assert batch is not None
    batch = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
    for network in objective.networks.values():
        network.to(device)
    groups = {
        name: [p for p in params if p.requires_grad] for name, params in objective.parameter_groups().items()
    }
    optimizers = {name: new_optimizer(recipe, params) for name, params in groups.items()}
    scales = {name: LossScale(device, recipe.precision) for name in groups}
    generator = torch.Generator(device).manual_seed(0)
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        losses = objective.losses(batch, recipe.steps - 1, generator)  # a late step: every loss is on
        while True:
            with autocast(device, recipe.precision):
                drawn = next(losses, None)
            if drawn is None:
                break
            name, loss, _numbers = drawn
            torch.autograd.backward(scales[name].scaled(loss), inputs=groups[name])
            scales[name].unscale(optimizers[name])
            scales[name].step(optimizers[name])
            scales[name].adapt()
            optimizers[name].zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - began
    return seconds * recipe.accumulation


def _conv_flop_per_second(device: torch.device, precision: str) -> float:
    """Measured on a 3-D convolution, what these networks mostly are."""
    layer = nn.Conv3d(64, 64, 3, padding=1).to(device)
    frames = torch.randn(1, 64, 8, 16, 16, device=device)
    with torch.no_grad(), autocast(device, precision):
        layer(frames)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < 0.3:
            layer(frames)
            count += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    flop = 2 * 64 * 64 * 27 * 8 * 16 * 16
    return count * flop / (time.perf_counter() - began)

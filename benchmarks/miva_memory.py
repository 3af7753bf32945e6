"""Peak GPU memory of training MIVA adapters at the paper's settings: one clip a step, random weights, nothing downloaded.

    python benchmarks/miva_memory.py --out memory.json            needs a CUDA device, and says so where there is none

The paper, on one V100 of 32 GB: 9.8 and 11.0 GB (U-Net, 16 x 320 x 512, without and with masks), 10.4 and 22.2 GB (Wan,
17 x 480 x 832).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from random_base import random_base

from motionloom.train import train
from motionloom.training.loop import new_optimizer
from motionloom.training.miva_stages import MivaAdapter
from motionloom.training.precision import autocast
from motionloom.training.recipe import Recipe, load_recipe

RECIPES = Path(__file__).parents[1] / "recipes/miva"
PAPER_GB = {"animatediff": 9.8, "animatediff_masked": 11.0, "wan": 10.4, "wan_masked": 22.2}
STEPS = 3  # the optimizer's moments appear after the first


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PAPER_GB)}; default all")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no CUDA device here, and GPU memory can be measured on one only", file=sys.stderr)
        return 2
    numbers = {name: measured(name) for name in given.names or PAPER_GB}
    facts = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "recipes": numbers}
    print(json.dumps(facts, indent=2))
    if given.out is not None:
        given.out.write_text(json.dumps(facts, indent=2) + "\n")
    return 0


def measured(name: str) -> dict[str, Any]:
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run_steps(recipe, "cuda")
    peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    plan = train(recipe, dry_run=True).forecast
    assert plan is not None
    return {
        "peak_gb": round(peak / 1e9, 2),
        "reserved_gb": round(reserved / 1e9, 2),
        "paper_gb": PAPER_GB[name],
        "forecast_gb": round(plan["memory_bytes"]["total"] / 1e9, 2),
    }


def run_steps(recipe: Recipe, device: str) -> None:
    """A few real steps on random latents, as the training loop takes them."""
    stage = recipe.stage
    assert isinstance(stage, MivaAdapter)
    base = random_base(stage.base, device, torch.bfloat16 if recipe.precision == "bf16" else torch.float32)
    if stage.masks is None:
        base.codec.network.to("cpu")
    objective = stage.objective_on(recipe, base, device)
    objective.networks["adapter"].to(device)
    params = objective.parameter_groups()["adapter"]
    optimizer = new_optimizer(recipe, params)
    generator = torch.Generator(device).manual_seed(0)
    batch = {
        key: torch.rand(value.shape, device=device) for key, value in stage.example_batch(recipe, 1).items()
    }
    for step in range(STEPS):
        losses = objective.losses(batch, step, generator)
        while True:
            with autocast(torch.device(device), recipe.precision):
                drawn = next(losses, None)
            if drawn is None:
                break
            torch.autograd.backward(drawn[1], inputs=params)
            torch.nn.utils.clip_grad_norm_(params, recipe.clip_norm or 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


if __name__ == "__main__":
    sys.exit(main())

"""What MIVA adapters add to a denoising step of the full-size U-Net, with random weights.

    python benchmarks/miva_overhead.py --frames 16 --size 256 --out overhead.json

Processor seconds of one forward pass, which other processes on the machine disturb little: the plain network (with 77
text tokens), one adapter, two adapters, and a masked adapter at a mask step (video and mask frames together). The paper,
on a V100 and for 50 steps: base 40.04 s, MIVA 44.50 s (1.11), M-MIVA with masks at every step 114.25 s (2.85), at 8 steps
54.53 s (1.36).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from random_base import random_base

from motionloom.adapters.adapter import new_adapter
from motionloom.adapters.context import context_of
from motionloom.adapters.mount import mounted

PAPER = {"miva": 44.50 / 40.04, "masked_every_step": 114.25 / 40.04, "masked_8_of_50": 54.53 / 40.04}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()

    base = random_base("animatediff-v3", given.device, getattr(torch, given.dtype))
    clock = Clock(given.device, given.repeat)
    numbers: dict[str, Any] = {"settings": vars(given) | {"out": None, "threads": torch.get_num_threads()}}
    numbers |= measure(base, given.frames, given.size // 8, clock)
    print(json.dumps(numbers, indent=2))
    if given.out is not None:
        given.out.write_text(json.dumps(numbers, indent=2) + "\n")


class Clock:
    """Seconds of a call: of the processor on a CPU, of the device on a GPU; the least of some."""

    def __init__(self, device: str, repeat: int) -> None:
        self.on_gpu, self.repeat = device.startswith("cuda"), repeat

    def __call__(self, call: Callable[[], Any]) -> float:
        now = time.perf_counter if self.on_gpu else time.process_time
        seconds = []
        for _ in range(self.repeat):
            began = now()
            call()
            if self.on_gpu:
                torch.cuda.synchronize()
            seconds.append(now() - began)
        return min(seconds)


@torch.no_grad()
def measure(base: Any, frames: int, side: int, clock: Clock) -> dict[str, Any]:
    network = base.denoiser.network
    one = torch.randn(1, 4, frames, side, side, device=network.device, dtype=network.dtype)
    timestep = torch.tensor([501.0], device=network.device)
    text = torch.zeros(
        frames, 77, network.config.cross_attention_dim, device=network.device, dtype=network.dtype
    )

    def run(latents: torch.Tensor) -> Any:
        return network(latents, timestep, encoder_hidden_states=text)

    run(one[:, :, :1].expand(-1, -1, frames, -1, -1)) if clock.on_gpu else None  # warm up
    seconds = {"plain": clock(lambda: run(one))}
    for name, count in (("miva", 1), ("miva_two", 2)):
        with adapters(network, count, masked=False):
            seconds[name] = clock(lambda: run(one))
    with adapters(network, 1, masked=True):
        context = context_of(network)
        context.show_masks(torch.rand(1, frames, side, side))
        seconds["masked_video_only"] = clock(lambda: run(one))
        with context.with_masks():
            both = torch.cat([one, one], dim=2)
            seconds["masked_both"] = clock(lambda: run(both))
    seconds["masked_8_of_50"] = (8 * seconds["masked_both"] + 42 * seconds["masked_video_only"]) / 50
    ratios = {name: round(value / seconds["plain"], 3) for name, value in seconds.items()}
    return {"seconds": seconds, "ratios": ratios, "paper_ratios": PAPER}


@contextmanager
def adapters(network: Any, count: int, masked: bool) -> Iterator[None]:
    with ExitStack() as stack:
        made = [new_adapter(network, masked=masked, seed=k).to(network.dtype) for k in range(count)]
        stack.enter_context(mounted(network, [(one, 1 / count) for one in made]))
        yield


if __name__ == "__main__":
    main()

"""What MIVA adapters add to a denoising step of the full-size U-Net, with random weights.

    python benchmarks/miva_overhead.py --frames 16 --size 256 --out overhead.json

Processor seconds (`time.process_time`, not the clock on the wall) of one forward pass, which other processes on the
machine disturb little: the plain network (with 77 text tokens), one adapter, two adapters, and a masked adapter with its
biases kept (42 of 50 steps) and at a mask step (8 of 50: video and mask frames together, new biases, and the masks
decoded, or read off linearly). The paper, on a V100 and for 50 steps: base 40.04 s, MIVA 44.50 s (1.11), M-MIVA with masks
at every step 114.25 s (2.85), at 8 steps 54.53 s (1.36); it does not say whether that counts the decoding.
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
from motionloom.adapters.context import MotionContext, context_of
from motionloom.adapters.mount import mounted
from motionloom.adapters.proxy_mask import fitted_pixels

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

    run(one)  # warm up: the first call pays for starting
    seconds = {"plain": clock(lambda: run(one))}
    for name, count in (("miva", 1), ("miva_two", 2)):
        with adapters(network, count, masked=False):
            seconds[name] = clock(lambda: run(one))
    with adapters(network, 1, masked=True):
        context = context_of(network)
        context.show_masks(torch.rand(1, frames, side, side))
        seconds["biases"] = clock(lambda: make_biases(context, side, one))
        seconds["masked_video_only"] = clock(lambda: run(one))
        with context.with_masks():
            both = torch.cat([one, one], dim=2)
            seconds["masked_both"] = clock(lambda: run(both))
    seconds |= decoding(base, one, clock)
    at_mask_step = seconds["masked_both"] + seconds["biases"]
    for name, read in (("", 0.0), ("_fitted", seconds["fitted"]), ("_decoded", seconds["decoded"])):
        whole = 8 * (at_mask_step + read) + 42 * seconds["masked_video_only"]
        seconds[f"masked_8_of_50{name}"] = whole / 50
    ratios = {name: round(value / seconds["plain"], 3) for name, value in seconds.items()}
    return {"seconds": seconds, "ratios": ratios, "paper_ratios": PAPER}


def make_biases(context: MotionContext, side: int, like: torch.Tensor) -> None:
    """Every bias that the layers of a U-Net of four levels ask for, kept for the calls that follow."""
    context._biases.clear()
    for grid in [(-(-side // 2**level),) * 2 for level in range(4)]:
        context.base_bias(grid, like, whole_clip=False)
        for bias in (context.cross_frame_bias, context.temporal_bias, context.gate):
            bias(0, grid, like)


def decoding(base: Any, latents: torch.Tensor, clock: Clock) -> dict[str, float]:
    """Seconds to read the masks of a mask step off their latents: decoded (one frame's time for all), and fitted."""
    picture = torch.rand(1, 3, *(side * base.codec.factor for side in latents.shape[-2:])).to(latents.device)
    one_frame = clock(lambda: base.codec.decode(latents[:, :, :2].float(), picture))
    return {
        "decoded": one_frame * (latents.shape[2] - 1),
        "fitted": clock(lambda: fitted_pixels(latents.float(), picture)),
    }


@contextmanager
def adapters(network: Any, count: int, masked: bool) -> Iterator[None]:
    with ExitStack() as stack:
        made = [new_adapter(network, masked=masked, seed=k).to(network.dtype) for k in range(count)]
        stack.enter_context(mounted(network, [(one, 1 / count) for one in made]))
        yield


if __name__ == "__main__":
    main()

"""What motion adapters cost: floating-point operations of one denoising step at the bases' own sizes, counted without
memory.

    python benchmarks/miva_operations.py

Operations of matrix products, convolutions and attention, on the meta device; the networks have no values and nothing
is timed. The paper's seconds (one V100, 50 steps) stand beside them: base 40.04, MIVA 44.50, M-MIVA 54.53 with masks at
8 steps and 114.25 at all 50. Whether those count the decoding of the predicted masks it does not say, so it stands apart.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import motionloom as ml
from motionloom.adapters import context_of
from motionloom.convert import _EMPTY_NETWORKS
from motionloom.denoisers.planned import planned_base
from motionloom.sampling.masked import mask_steps

# base => (latents, text) of one call
SHAPES = {
    "animatediff-v3": ((1, 4, 16, 40, 64), (16, 77, 768)),
    "wan2.1-t2v-1.3b": ((1, 16, 5, 60, 104), (1, 512, 4096)),
}
NUM_STEPS = 50
PAPER = {"MIVA": 44.50, "M-MIVA, masks at 8 of 50 steps": 54.53, "M-MIVA, masks at every step": 114.25}
PAPER_BASE = 40.04


def tera(host: Any, latents: torch.Tensor, text: torch.Tensor | None) -> float:
    """10^12 operations of one call."""
    timestep = torch.full((len(latents),), 500.0, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        host(latents, timestep, encoder_hidden_states=text)
    return counter.get_total_flops() / 1e12


def costs(base: str) -> dict[str, float]:
    """What runs -> 10^12 operations a step."""
    host = _EMPTY_NETWORKS[base]()
    latents, text = (torch.empty(shape, device="meta") for shape in SHAPES[base])
    found = {"base, with text": tera(host, latents, text)}
    adapter, masked = ml.new_adapter(host), ml.new_adapter(host, masked=True)
    for count, name in ((1, "MIVA"), (2, "two MIVAs"), (4, "four MIVAs")):
        with ml.mounted(host, [(adapter, 1 / count)] * count):
            found[name] = tera(host, latents, None)
    with ml.mounted(host, [(masked, 1.0)]):
        context = context_of(host)
        context.show_masks(torch.empty(1, 1, *latents.shape[2:], device="meta"))
        alone = tera(host, latents, None)
        with context.with_masks():
            joint = tera(host, torch.cat([latents, latents], dim=context.modalities_axis), None)
    at = len(mask_steps(NUM_STEPS))
    mean = (at * joint + (NUM_STEPS - at) * alone) / NUM_STEPS
    found[f"M-MIVA, masks at {at} of {NUM_STEPS} steps"] = mean
    found["... and decoded"] = mean + at * decoding(base, latents) / NUM_STEPS
    found["M-MIVA, masks at every step"] = joint
    return found


def decoding(base: str, latents: torch.Tensor) -> float:
    """10^12 operations to decode the masks of a mask step: pictures one by one but the first, a video as a whole."""
    network = planned_base(base).codec.network
    frames = latents.shape[2] - 1
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.decode(latents[:, :, 0] if base.startswith("anim") else latents)
    return counter.get_total_flops() * (frames if base.startswith("anim") else 1) / 1e12


def main() -> None:
    for base in SHAPES:
        found = costs(base)
        whole = found["base, with text"]
        print(f"\n{base}\n| | TFLOP a step | to the base | paper, seconds to the base's |\n|---|---|---|---|")
        for name, value in found.items():
            paper = f"{PAPER[name] / PAPER_BASE:.2f}" if name in PAPER and base.startswith("anim") else ""
            print(f"| {name} | {value:.2f} | {value / whole:.2f} | {paper} |")


if __name__ == "__main__":
    main()

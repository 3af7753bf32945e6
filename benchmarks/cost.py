"""What animating costs: python benchmarks/cost.py -o cost.json

    mini         1024 x 768 photo, 16/32/64/128 frames: motion generation (flat), decoding per frame, peak memory
    paper size   LaMD config A with random weights, 16 frames at 64 px: generator step, decoding, peak memory

Each case runs in a process of its own, so that peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def mini(frames: int) -> dict[str, Any]:
    import numpy as np

    from motionloom.denoisers.catalog import load_base
    from motionloom.generate import generate

    picture = np.random.default_rng(0).integers(0, 255, (768, 1024, 3), dtype=np.uint8)
    began = time.monotonic()
    base = load_base("mini")
    loaded = time.monotonic()
    marks: dict[str, list[float]] = {}
    generate(base, picture, ["zoom-in"], frames=4, steps=2)  # first calls allocate
    started = time.monotonic()
    generate(
        base,
        picture,
        ["zoom-in"],
        frames=frames,
        progress=lambda stage, *_: marks.setdefault(stage, []).append(time.monotonic()),
    )
    ended = time.monotonic()
    motion, drawing = marks["denoising"][-1] - started, ended - marks["denoising"][-1]
    return {
        "frames": frames,
        "load_s": loaded - began,
        "motion_s": motion,
        "decode_s": drawing,
        "decode_s_per_frame": drawing / frames,
        "total_s": ended - started,
        "peak_mib": _peak_mib(),
    }


def paper(frames: int) -> dict[str, Any]:
    import torch

    from motionloom.codecs.mcd_vae import MCDVAEConfig, MotionContentAutoencoder
    from motionloom.conditions.content import content_tokens
    from motionloom.denoisers.base import MotionCondition
    from motionloom.denoisers.motion_unet import MotionUNet

    torch.manual_seed(0)
    with torch.no_grad():
        codec = MotionContentAutoencoder(MCDVAEConfig(num_frames=frames, size_px=64)).eval()
        denoiser = MotionUNet().eval()
        photo = torch.rand(1, 3, 64, 64) * 2 - 1
        content = codec.content(photo)
        condition = MotionCondition(tokens=content_tokens(content.f_x0))
        z = torch.randn(1, 3, 16, 16)
        denoiser(z, torch.tensor([500.0]), condition)
        began = time.monotonic()
        for _ in range(3):
            denoiser(z, torch.tensor([500.0]), condition)
        step = (time.monotonic() - began) / 3
        began = time.monotonic()
        codec.decode(z, photo)
        decode = time.monotonic() - began
    return {
        "frames": frames,
        "step_s": step,
        "motion_200_steps_s": 200 * step,
        "motion_20_steps_s": 20 * step,
        "decode_s": decode,
        "peak_mib": _peak_mib(),
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--case", help="run one case in this process: mini:16 or paper:16")
    arguments = parser.parse_args()
    if arguments.case:
        name, frames = arguments.case.split(":")
        print(json.dumps({"mini": mini, "paper": paper}[name](int(frames))))
        return
    numbers = {}
    for case in ("mini:16", "mini:32", "mini:64", "mini:128", "paper:16"):
        done = subprocess.run(
            [sys.executable, __file__, "--case", case], capture_output=True, text=True, check=True
        )
        numbers[case] = json.loads(done.stdout.splitlines()[-1])
        print(case, numbers[case], flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()

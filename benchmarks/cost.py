"""What animating costs: python benchmarks/cost.py -o cost.json

    mini         1024 x 768 photo, 16/32/64/128 frames: motion generation (flat), decoding per frame, peak memory
    paper size   LaMD config A with random weights, 16 frames at 64 px: generator step, decoding, peak memory

Each case runs in a process of its own, so that peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def mini(frames: int) -> dict[str, Any]:
    import numpy as np
    import torch

    from motionloom.codecs.run import Once
    from motionloom.conditions.asked import Asked
    from motionloom.denoisers.catalog import load_base
    from motionloom.generate import generate
    from motionloom.sampling.loop import sample

    picture = np.random.default_rng(0).integers(0, 255, (768, 1024, 3), dtype=np.uint8)
    began = time.monotonic()
    base = load_base("mini")
    loaded = time.monotonic()
    generate(base, picture, ["zoom-in"], frames=2, steps=2)  # first calls allocate
    started = time.monotonic()
    generate(base, picture, ["zoom-in"], frames=frames)
    total, peak = time.monotonic() - started, _peak_mib()

    asked, pixels = [Asked("zoom-in")], torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    noise = torch.randn(1, *base.codec.latent_shape(frames, 768, 1024))
    motion = []
    with torch.no_grad():
        told = base.told(pixels)
        for _ in range(15):
            mark = time.monotonic()
            latents = sample(base.woven(asked), base.schedule(), noise, told, base.num_steps, None)
            motion.append(time.monotonic() - mark)
        mark = time.monotonic()
        base.codec.decode(latents, pixels, frames, base.where(asked, 768, 1024), Once())
        decode = time.monotonic() - mark
    motion_s = statistics.median(motion)
    return {
        "frames": frames, "load_s": loaded - began, "motion_s": motion_s, "decode_s": decode,
        "decode_s_per_frame": decode / frames, "total_s": total, "peak_mib": peak,
    }  # fmt: skip


def paper(frames: int) -> dict[str, Any]:
    import torch

    from motionloom.codecs.mcd_vae import MCDVAEConfig, MotionContentAutoencoder
    from motionloom.conditions.content import content_tokens
    from motionloom.denoisers.base import MotionCondition
    from motionloom.denoisers.motion_unet import MotionUNet

    torch.manual_seed(0)
    with torch.no_grad():
        codec = MotionContentAutoencoder(MCDVAEConfig(num_frames=frames, size_px=(64, 64))).eval()
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

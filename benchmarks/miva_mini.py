"""What an adapter of `mini` learned: python benchmarks/miva_mini.py adapter.safetensors --clips HELD_OUT -o numbers.json

Clips generated from the first frames of windows of held-out clips, with the adapter, by the word that carries it and by
other words alone, and standing still, each against those windows:

    speed, shape   distance of measured flow statistics, and of headings (`statistics` and `apart` of benchmarks/mini.py)
    field          cosine of the flow at the end, generated and real, mean over windows: 1 where a motion has one direction
    place          correlation of how far each place goes, generated and real, mean over windows
    amount         mean way, generated over real; `dial` is that of weight 0.5 over weight 1
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mini import SIZE, apart, drawn, latents_for, statistics
from torch import Tensor

from motionloom.adapters import load_adapter, mounted
from motionloom.conditions.asked import Asked
from motionloom.datasets.clips import ClipFolder
from motionloom.datasets.flow_windows import FlowEncoder, Squares
from motionloom.datasets.motion_windows import FPS, NUM_FRAMES
from motionloom.denoisers.mini import MiniBase, load_mini
from motionloom.motion.speeds import way

Numbers = dict[str, Any]


def windows_of(folder: Path, count: int) -> Tensor:
    """`count` windows of every clip: (N, 3, 16, 128, 128), -1..1."""
    clips = Squares(ClipFolder(folder, NUM_FRAMES, FPS, (320, 180)), seed=1)
    return torch.stack([clips.at(k, index)["frames"] for index in range(len(clips)) for k in range(count)])


def moved(base: MiniBase, photos: Tensor, asked: Sequence[Asked], seed: int) -> Tensor:
    """Latents (N, d, 16, 16) with the adapters mounted."""
    with ExitStack() as stack:
        if pairs := base.weighted(asked, SIZE, SIZE):
            stack.enter_context(mounted(base.denoiser, pairs))
        return latents_for(base, photos, asked, seed)


def field(made: Tensor, real: Tensor) -> float:
    """Mean cosine of flows at the end (N, 2, h, w)."""
    return float(torch.cosine_similarity(made.flatten(1), real.flatten(1)).mean())


def place(made: Tensor, real: Tensor) -> float:
    """Mean correlation of ways (N, h, w)."""
    rows = zip(made.flatten(1).numpy(), real.flatten(1).numpy(), strict=True)
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in rows]))


@torch.no_grad()
def measure(base: MiniBase, windows: Tensor, ways: Sequence[Asked], seeds: int = 1) -> Numbers:
    """Each motion against the windows."""
    photos = windows[:, :, 0]
    frames = ((windows.permute(0, 2, 3, 4, 1) + 1) * 127.5).round().byte().numpy()
    seen = [statistics(clip) for clip in frames]
    true = base.codec.motion.decode(FlowEncoder(base.codec.motion).encode_motion(windows).mean).local
    real = way(true)
    still = [statistics(np.repeat(clip[:1], NUM_FRAMES, 0)) for clip in frames]
    half = len(seen) // 2
    out: Numbers = {
        "still": {what: apart(still, seen, what) for what in ("speed", "shape")},
        "real against real": {what: apart(seen[:half], seen[half:], what) for what in ("speed", "shape")},
    }
    for one in ways:
        latents = [moved(base, photos, [one], 500 + seed) for seed in range(seeds)]
        local = torch.cat([base.codec.motion.decode(z).local for z in latents])
        gone = way(local)
        clips = [statistics(drawn(base, z, p, [one])) for z, p in zip(latents[0], photos, strict=True)]
        out[one.name] = {
            "speed": apart(clips, seen, "speed"),
            "shape": apart(clips, seen, "shape"),
            "field": field(local[:, -1], true[:, -1].repeat(seeds, 1, 1, 1)),
            "place": place(gone, real.repeat(seeds, 1, 1)),
            "amount": float(gone.mean() / real.mean()),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=4, help="of each clip")
    parser.add_argument(
        "--words", default="", help="comma-separated, beside the one that carries the adapter"
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    base, adapter = load_mini(), load_adapter(arguments.adapter)
    words = [adapter.settings.word or "", *filter(None, arguments.words.split(","))]
    windows = windows_of(arguments.clips, arguments.windows)
    taught = Asked("the adapter", adapter=adapter)
    numbers = measure(base, windows, [taught, *map(Asked, words)])
    with torch.no_grad():
        gone = [
            way(base.codec.motion.decode(moved(base, windows[:, :, 0], [one], 500)).local).mean()
            for one in (taught, Asked("half", 0.5, adapter=adapter))
        ]
    numbers["dial"] = float(gone[1] / gone[0])
    numbers["windows"] = len(windows)
    arguments.out.write_text(json.dumps(numbers, indent=1) + "\n")
    print(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()

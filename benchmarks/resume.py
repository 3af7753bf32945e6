"""Does a killed run end with the bits of an uninterrupted one?  python benchmarks/resume.py --kills 3

Writes synthetic clips from scikit-image's photographs, trains a small LaMD autoencoder on them twice through the command
line, kills one of the runs with SIGKILL at random moments and starts it again, and compares the exported weights.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from motionloom.datasets.synthetic import write_clips

RECIPE = """
stage: {{kind: lamd-autoencoder, perceptual: gradient-ssim, codec: {{motion_base: 8, content_base: 16}}}}
data: {{folder: {clips}, frames: 16, size_px: 32}}
steps: {steps}
batch_size: 2
accumulation: 2
learning_rate: 1e-3
ema_decay: 0.9
precision: bf16
save_every_steps: 5
"""


def start(recipe: Path, run: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "motionloom", "train", str(recipe), "--run-dir", str(run)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def weights(run: Path) -> dict[str, str]:
    files = sorted((run / "final").rglob("*.safetensors"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main() -> None:
    import skimage

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photo = Path(skimage.__file__).parent / "data" / "coffee.png"
        write_clips(photo, folder / "clips", 8, frames=16, size_px=32, fps=8.0)
        recipe = folder / "recipe.yaml"
        recipe.write_text(RECIPE.format(clips=folder / "clips", steps=arguments.steps))

        began = time.monotonic()
        assert start(recipe, folder / "whole").wait() == 0
        seconds = time.monotonic() - began
        for number in range(arguments.kills):
            process = start(recipe, folder / "killed")
            time.sleep(chance.uniform(0.25, 0.5) * seconds)
            killed = process.poll() is None
            process.kill()
            process.wait()
            kept = sorted(path.name for path in (folder / "killed" / "checkpoints").glob("step-*"))
            print(f"kill {number + 1}: {'SIGKILL' if killed else 'had finished'}, checkpoints {kept}")
        assert start(recipe, folder / "killed").wait() == 0
        one, two = weights(folder / "whole"), weights(folder / "killed")
        print("uninterrupted:", one)
        print("killed:       ", two)
        print("identical" if one == two and one else "DIFFERENT")
        sys.exit(one != two)


if __name__ == "__main__":
    main()

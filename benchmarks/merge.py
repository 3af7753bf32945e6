"""How fast and how small a merge streams, against `cp` and against merging in memory.

    python benchmarks/merge.py --gigabytes 5 --folder /tmp/merge-bench -o merge.json

Three synthetic fp16 checkpoints with the tensor sizes of a video U-Net are written. Every job runs in a process of its own:
its peak memory is the kernel's, its speed the bytes it reads and writes a second. Cold means that the inputs were dropped
from the page cache before. `cp` runs three times, for it varies; the middle one counts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SHAPES = [
    (1280, 1280, 3, 3),
    (1280, 2560),
    (10240, 1280),
    (1280, 5120),
    (1280, 1280, 3, 1, 1),
    (640, 640, 3, 3),
    (1280,),
]
METHODS: dict[str, tuple[dict[str, Any], int]] = {
    "extrapolate": ({"kind": "extrapolate", "alpha": 0.25}, 1),
    "task arithmetic of two": ({"kind": "task-arithmetic", "weights": [0.5, 0.5]}, 2),
    "DARE of one": ({"kind": "dare", "drop": 0.7}, 1),
}


def write_checkpoint(path: Path, gigabytes: float, seed: int) -> None:
    """fp16 weights of std about 0.02, a fresh offset into one block of noise a tensor."""
    import numpy as np
    import torch

    from motionloom.merging.streaming import PiecewiseFile

    noise = torch.from_numpy(np.random.default_rng(seed).standard_normal(1 << 24, np.float32) * 0.02).half()
    tensors, size = [], 0
    while size < gigabytes * 1e9:
        shape = SHAPES[len(tensors) % len(SHAPES)]
        tensors.append((f"block.{len(tensors)}.weight", torch.float16, shape))
        size += 2 * torch.Size(shape).numel()
    with PiecewiseFile(path, tensors, {}) as file:
        for index, (_, _, shape) in enumerate(tensors):
            count = torch.Size(shape).numel()
            file.write(noise[7919 * index % 1_000_000 :][:count])


def drop_from_cache(paths: list[Path]) -> None:
    os.sync()
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def naive(inputs: list[str], out: str) -> None:
    """What scripts do: every model in memory, one dict of results, saved at the end."""
    from safetensors.torch import load_file, save_file

    pre, tuned = (load_file(path) for path in inputs[:2])
    save_file(
        {name: (w.float() - 0.25 * (tuned[name].float() - w.float())).half() for name, w in pre.items()}, out
    )


def job(name: str, inputs: list[str], out: str) -> None:
    """One job in this process; prints what it took."""
    import torch

    import motionloom as ml

    torch.set_num_threads(1)
    if name == "naive":
        import safetensors.torch  # noqa: F401
    else:
        import motionloom.merging.streaming
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started, cpu = time.monotonic(), time.process_time()
    if name == "naive":
        naive(inputs, out + ".safetensors")
        os.sync()
    else:
        method, count = METHODS[name]
        ml.merge({"method": method, "base": inputs[0], "tuned": inputs[1 : 1 + count]}, out)
    facts = {
        "seconds": time.monotonic() - started,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "imports_mb": before_mb,
    }
    print(json.dumps(facts))


def run(name: str, inputs: list[Path], out: Path, cold: bool) -> dict[str, Any]:
    """One job in a fresh process, its output removed afterwards."""
    used = inputs[: 1 + (METHODS[name][1] if name in METHODS else 1)]
    if cold:
        drop_from_cache(used)
    command = [sys.executable, __file__, "--job", name, "--folder", str(out), *map(str, inputs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout.splitlines()[-1])
    size = inputs[0].stat().st_size
    facts["gigabytes_per_second"] = (len(used) + 1) * size / 1e9 / facts["seconds"]
    remove(out)
    return {"job": name, "cold": cold, **facts}


def copy(source: Path, out: Path, cold: bool) -> dict[str, Any]:
    """`cp` and a sync of what it wrote: bytes read and written a second."""
    if cold:
        drop_from_cache([source])
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["cp", source, out], check=True)
    subprocess.run(["sync", out], check=True)
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    facts = {"seconds": seconds, "cpu_seconds": cpu}
    facts["gigabytes_per_second"] = 2 * source.stat().st_size / 1e9 / seconds
    remove(out)
    return {"job": "cp", "cold": cold, **facts}


def measured(inputs: list[Path], out: Path, cold: bool, with_naive: bool) -> list[dict[str, Any]]:
    """Every job, printed as it is done."""
    copies = sorted((copy(inputs[0], out, cold) for _ in range(3)), key=lambda row: row["seconds"])
    rows = [copies[1] | {"seconds_of_three": [row["seconds"] for row in copies]}]
    show(rows[0], rows[0])
    for name in [*METHODS, *(["naive"] if with_naive and not cold else [])]:
        rows.append(run(name, inputs, out, cold))
        show(rows[-1], rows[0])
    return rows


def show(row: dict[str, Any], cp: dict[str, Any]) -> None:
    """One line. By CPU time: bytes moved a CPU second, in which other load has no say."""
    share = row["gigabytes_per_second"] / cp["gigabytes_per_second"]
    by_cpu = share * row["seconds"] / row["cpu_seconds"] * cp["cpu_seconds"] / cp["seconds"]
    print(
        f"{'cold' if row['cold'] else 'warm'} {row['job']:24}{row['seconds']:7.1f} {row['cpu_seconds']:7.1f} "
        f"{row['gigabytes_per_second']:7.2f} {share:7.2f} {by_cpu:19.2f} {row.get('peak_mb', 0):9.0f}",
        flush=True,
    )


def remove(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    for path in (out, out.with_name(out.name + ".safetensors")):
        path.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=5.0, help="of each checkpoint")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/merge-bench"))
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--without-naive", action="store_true", help="it needs memory for four checkpoints")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("inputs", nargs="*", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.job:
        job(asked.job, asked.inputs, str(asked.folder))
        return

    asked.folder.mkdir(parents=True, exist_ok=True)
    inputs = [asked.folder / f"{name}.safetensors" for name in ("base", "first", "second")]
    needed = 5 * asked.gigabytes * 1e9
    if shutil.disk_usage(asked.folder).free < needed:
        sys.exit(f"{asked.folder} needs {needed / 1e9:.0f} GB free")
    for seed, path in enumerate(inputs):
        if not path.exists():  # complete or absent
            write_checkpoint(path.with_suffix(".part"), asked.gigabytes, seed)
            path.with_suffix(".part").rename(path)
    out = asked.folder / "out"
    print(
        "                                  s   CPU s    GB/s   of cp   of cp by CPU time   peak MB",
        flush=True,
    )
    rows = [row for cold in (False, True) for row in measured(inputs, out, cold, not asked.without_naive)]
    if asked.out:
        asked.out.write_text(json.dumps({"gigabytes": asked.gigabytes, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

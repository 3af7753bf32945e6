"""Clips encoded once: what the motion generator trains on.

    folder/
      cache.json                  whose latents these are: the identity below, written first
      shard-000000.safetensors    SHARD_SIZE samples: mean, logvar, first_frame, text_ids, and what `also` adds
      MANIFEST.json               written last

The generator draws z = mean + exp(logvar / 2) epsilon anew each time, so the cache holds the posterior, not a
sample. A cache knows the sha256 of the codec's weights and how clips were cut; a run with another codec or
cut is refused. Building can be interrupted: finished shards are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors
import torch
from torch import Tensor

from motionloom.codecs.base import Gaussian
from motionloom.datasets.base import Sample, TrainingDataset
from motionloom.durable import sweep_stale_parts, verify_manifest, write_json, write_manifest
from motionloom.errors import InputError, MotionLoomError, StateError
from motionloom.weights import load_weights, save_weights

SHARD_SIZE = 256
FORMAT = 1


class MotionCodec(Protocol):
    """The part of a codec that a cache needs."""

    def encode_motion(self, frames: Tensor) -> Gaussian: ...


@dataclass(frozen=True)
class CacheIdentity:
    """What makes two caches the same."""

    codec_sha256: str  # of the codec's weights file
    transform: dict[str, Any]  # how clips become samples: frames, fps, size, fit, flip, seed
    dataset: str  # fingerprint of the clips
    windows: int  # samples cut from each clip
    vocabulary: tuple[str, ...] = ()
    text_positions: int = 0  # length of text_ids; 0 without text

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self), "vocabulary": list(self.vocabulary)}

    def folder_in(self, root: str | Path) -> Path:
        """The folder of `root` that a cache of this identity is kept in."""
        said = json.dumps(self.to_json(), sort_keys=True)
        return Path(root) / hashlib.sha256(said.encode()).hexdigest()[:16]


class LatentCache(TrainingDataset):
    """A finished cache.

    A sample is {"mean": (d, h, w), "logvar": (d, h, w), "first_frame": (3, H, W) float -1..1} and, where the
    cache was built with text, "text_ids": (n,) int64. On disk the first frame is uint8.

    Args:
        folder: a folder that `build_latent_cache` filled.
        identity: what this run expects.

    Raises:
        InputError: there is no finished cache.
        StateError: it is another codec's, or clips were cut differently; the message shows the difference.
    """

    def __init__(self, folder: str | Path, identity: CacheIdentity) -> None:
        self.folder, self.identity = Path(folder), identity
        self._samples = _check_identity(self.folder, identity)
        problems = verify_manifest(self.folder)
        if problems:
            raise InputError(
                f"the latent cache {self.folder} is not whole: {'; '.join(problems)}", fix="rebuild it"
            )
        self._files: dict[int, Any] = {}

    def __len__(self) -> int:
        return self._samples

    def at(self, epoch: int, index: int) -> Sample:
        """The same sample in every epoch: what varies is the draw from its posterior."""
        shard, row = divmod(index, SHARD_SIZE)
        if shard not in self._files:
            self._files[shard] = safetensors.safe_open(_shard(self.folder, shard), framework="pt")
        file = self._files[shard]
        sample = {key: file.get_slice(key)[row : row + 1].squeeze(0) for key in file.keys()}  # noqa: SIM118
        return sample | {"first_frame": sample["first_frame"].float().div(127.5).sub(1)}

    @property
    def fingerprint(self) -> str:
        return json.dumps(self.identity.to_json(), sort_keys=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}  # open files do not travel to loader processes


@torch.no_grad()
def build_latent_cache(
    folder: str | Path,
    codec: MotionCodec,
    clips: TrainingDataset,
    identity: CacheIdentity,
    *,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    text_ids: Callable[[Sequence[str]], Tensor] | None = None,
    also: Callable[[list[Sample]], dict[str, Tensor]] = lambda samples: {},
    on_sample: Callable[[int, int], None] = lambda done, total: None,
) -> LatentCache:
    """Encode every window of every clip, unless a finished cache of this identity exists.

    Args:
        folder: where to; an interrupted build continues.
        codec: in evaluation mode, on `device`.
        clips: samples with "frames" (3, T, H, W), and perhaps "text"; window k of a clip is its sample of
            epoch k.
        identity: written into the cache.
        batch_size: clips encoded together.
        device: of the codec.
        text_ids: captions => (B, n) ids; None leaves text out.
        also: samples => further tensors (B, ...) to keep, by name.
        on_sample: called with (samples done, samples in all).

    Raises:
        StateError: the folder holds another cache.
        ResourceError: the folder cannot be written.
    """
    root, total = Path(folder), len(clips) * identity.windows
    assert not isinstance(codec, torch.nn.Module) or not codec.training, (
        "cached latents need running statistics"
    )
    if is_finished(root, identity):
        return LatentCache(root, identity)
    if (root / "cache.json").exists():
        sweep_stale_parts(root)
    else:
        write_json(root / "cache.json", {**identity.to_json(), "samples": total})
    for shard in range((total + SHARD_SIZE - 1) // SHARD_SIZE):
        first, end = shard * SHARD_SIZE, min(total, (shard + 1) * SHARD_SIZE)  # [first, end)
        if not _is_whole(_shard(root, shard)):
            rows = []
            for start in range(first, end, batch_size):
                places = [divmod(n, len(clips)) for n in range(start, min(end, start + batch_size))]
                samples = [clips.at(*place) for place in places]
                rows.append(_encode(samples, codec, device, text_ids) | also(samples))
                on_sample(places[-1][0] * len(clips) + places[-1][1] + 1, total)
            save_weights(_shard(root, shard), {key: torch.cat([row[key] for row in rows]) for key in rows[0]})
        on_sample(end, total)
    write_manifest(root)
    return LatentCache(root, identity)


def is_finished(folder: str | Path, identity: CacheIdentity) -> bool:
    """True when a whole cache of this identity is there. Raises StateError when it is another's."""
    root = Path(folder)
    if not (root / "cache.json").exists():
        return False
    _check_identity(root, identity)
    return not verify_manifest(root)


def _encode(
    samples: list[Sample],
    codec: MotionCodec,
    device: torch.device | str,
    text_ids: Callable[[Sequence[str]], Tensor] | None,
) -> dict[str, Tensor]:
    frames = torch.stack([sample["frames"] for sample in samples])  # (B, 3, T, H, W)
    posterior = codec.encode_motion(frames.to(device))
    first = frames[:, :, 0].add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)  # (B, 3, H, W)
    encoded = {
        "mean": posterior.mean.float().cpu(),
        "logvar": posterior.logvar.float().cpu(),
        "first_frame": first,
    }
    if text_ids is not None:
        encoded["text_ids"] = text_ids([sample.get("text", "") for sample in samples])
    return encoded


def _shard(root: Path, number: int) -> Path:
    return root / f"shard-{number:06d}.safetensors"


def _is_whole(path: Path) -> bool:
    """True when an earlier, interrupted build finished this shard: `load_weights` checks its checksum."""
    try:
        return path.exists() and bool(load_weights(path))
    except MotionLoomError:
        return False


def _check_identity(root: Path, identity: CacheIdentity) -> int:
    """The number of samples a cache says it has. Raises InputError or StateError when it is not the one
    expected.
    """
    try:
        found = json.loads((root / "cache.json").read_text(encoding="utf-8"))
        samples = int(found.pop("samples"))
    except FileNotFoundError:
        raise InputError(f"no latent cache at {root}", fix="build it first") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise StateError(
            f"{root}/cache.json is damaged: {error}", fix=f"delete {root} and run again"
        ) from None
    expected = json.loads(json.dumps(identity.to_json()))
    changed = [
        f"{key}: {_short(found.get(key))} -> {_short(expected.get(key))}"
        for key in sorted(found.keys() | expected.keys())
        if found.get(key) != expected.get(key)
    ]
    if changed:
        raise StateError(
            f"the latent cache {root} was built for something else: {'; '.join(changed)}",
            fix="rebuild it: delete that folder, or name another one in stage.cache",
        )
    return samples


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."

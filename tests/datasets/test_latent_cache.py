"""The latent cache: what it holds, whose it is, and that building it can be interrupted."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from motionloom.codecs.base import Gaussian
from motionloom.datasets import latent_cache
from motionloom.datasets.base import Sample, TrainingDataset
from motionloom.datasets.latent_cache import CacheIdentity, LatentCache, build_latent_cache
from motionloom.errors import InputError, StateError

IDENTITY = CacheIdentity("ab12", {"frames": 4, "size_px": 8}, "clips", windows=2)


class Numbered(TrainingDataset):
    """Clip `index` in epoch `epoch` is all (10 index + epoch) / 128 - 1, 4 frames of 8 x 8."""

    def __len__(self) -> int:
        return 3

    def at(self, epoch: int, index: int) -> Sample:
        value = (10 * index + epoch) / 127.5 - 1
        return {"frames": torch.full((3, 4, 8, 8), value), "text": f"clip {index}"}


class MeanCodec:
    """mean = the clip's mean, logvar = -2; counts what it encodes."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.encoded, self.fail_after = 0, fail_after

    def encode_motion(self, frames: Tensor) -> Gaussian:
        self.encoded += len(frames)
        if self.fail_after is not None and self.encoded > self.fail_after:
            raise KeyboardInterrupt
        mean = frames.mean(dim=(1, 2, 3, 4), keepdim=True)[..., 0].expand(-1, 3, 2, 2)
        return Gaussian(mean, torch.full_like(mean, -2.0))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_cache, "SHARD_SIZE", 2)


def build(
    folder: Path, codec: MeanCodec | None = None, identity: CacheIdentity = IDENTITY, **options: Any
) -> LatentCache:
    return build_latent_cache(folder, codec or MeanCodec(), Numbered(), identity, batch_size=2, **options)


def test_samples_are_the_posteriors_of_every_window(tmp_path: Path, small_shards: None) -> None:
    cache = build(tmp_path / "cache")
    assert len(cache) == 6
    for number in range(6):
        window, clip = divmod(number, 3)
        sample = cache.at(7, number)
        assert set(sample) == {"mean", "logvar", "first_frame"}
        value = torch.full((3, 2, 2), (10 * clip + window) / 127.5 - 1)
        torch.testing.assert_close(sample["mean"], value)
        assert torch.equal(sample["logvar"], torch.full((3, 2, 2), -2.0))
        torch.testing.assert_close(sample["first_frame"], torch.full((3, 8, 8), float(value[0, 0, 0])))


def test_text_becomes_ids(tmp_path: Path) -> None:
    def text_ids(captions: Sequence[str]) -> Tensor:
        return torch.tensor([[int(caption.split()[1]), 9] for caption in captions])

    cache = build(tmp_path / "cache", text_ids=text_ids)
    assert [cache.at(0, n)["text_ids"].tolist() for n in range(4)] == [[0, 9], [1, 9], [2, 9], [0, 9]]


def test_finished_cache_is_found_again(tmp_path: Path) -> None:
    build(tmp_path / "cache")
    codec = MeanCodec()
    build(tmp_path / "cache", codec)
    assert codec.encoded == 0
    assert len(LatentCache(tmp_path / "cache", IDENTITY)) == 6


def test_interrupted_build_continues_and_ends_the_same(tmp_path: Path, small_shards: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "cache", MeanCodec(fail_after=4))
    with pytest.raises(InputError, match="is not whole"):
        LatentCache(tmp_path / "cache", IDENTITY)
    codec, seen = MeanCodec(), []
    cache = build(tmp_path / "cache", codec, on_sample=lambda done, total: seen.append((done, total)))
    assert codec.encoded == 2 and seen[-1] == (6, 6)
    whole = build(tmp_path / "other")
    for path in sorted((tmp_path / "other").iterdir()):
        assert path.read_bytes() == (cache.folder / path.name).read_bytes()
    assert torch.equal(whole.at(0, 5)["mean"], cache.at(0, 5)["mean"])


def test_damaged_shard_is_made_again(tmp_path: Path, small_shards: None) -> None:
    build(tmp_path / "cache")
    shard = tmp_path / "cache/shard-000001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match="checksum"):
        LatentCache(tmp_path / "cache", IDENTITY)
    codec = MeanCodec()
    build(tmp_path / "cache", codec)
    assert codec.encoded == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"codec_sha256": "cd34"}, 'codec_sha256: "ab12" -> "cd34"'),
        ({"transform": {"frames": 8, "size_px": 8}}, "transform"),
        ({"dataset": "others"}, "dataset"),
        ({"windows": 1}, "windows: 2 -> 1"),
        ({"vocabulary": ("ball",)}, "vocabulary"),
    ],
)
def test_another_codec_or_cut_is_refused(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    build(tmp_path / "cache")
    other = dataclasses.replace(IDENTITY, **changes)
    for attempt in (
        lambda: LatentCache(tmp_path / "cache", other),
        lambda: build(tmp_path / "cache", identity=other),
    ):
        with pytest.raises(StateError) as caught:
            attempt()
        assert told in caught.value.message and "rebuild" in caught.value.fix


def test_missing_cache(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no latent cache at"):
        LatentCache(tmp_path / "none", IDENTITY)


def test_cache_travels_to_loader_processes(tmp_path: Path) -> None:
    cache = build(tmp_path / "cache")
    cache.at(0, 0)
    copy = pickle.loads(pickle.dumps(cache))
    assert torch.equal(copy.at(0, 3)["mean"], cache.at(0, 3)["mean"])
    assert copy.fingerprint == cache.fingerprint

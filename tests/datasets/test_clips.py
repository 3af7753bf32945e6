"""Clip folders: what is found, what is refused and why, and windows that depend on (seed, epoch, index)
alone.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from motionloom.datasets.clips import ClipFolder, fingerprint_of, read_captions
from motionloom.errors import InputError
from motionloom.video.clip import Clip


def save_clip(path: Path, frames: int = 12, fps: float = 8.0, width: int = 48, height: int = 32) -> Path:
    """Frame k is a left-to-right ramp, brighter by 10 each frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 100, width, dtype=np.float32)[None, None, :, None]
    times = 10.0 * np.arange(frames, dtype=np.float32)[:, None, None, None]
    pixels = np.broadcast_to(ramp + times, (frames, height, width, 3)).round().astype(np.uint8)
    return Clip(pixels, fps).save(path)


def start_of(sample: torch.Tensor) -> int:
    """Which frame a window of `save_clip` starts at."""
    first = float((sample[:, 0].mean() + 1) * 127.5)
    return round((first - 50) / 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b", "a", "c"):
        save_clip(tmp_path / f"data/clips/{name}.mp4")
    return tmp_path / "data"


def test_samples_are_pixels_of_the_asked_size(folder: Path) -> None:
    clips = ClipFolder(folder, frames=4, fps=None, size_px=(24, 16))
    frames = clips.at(0, 0)["frames"]
    assert len(clips) == 3 and clips.refused == () and clips.notes == ()
    assert frames.shape == (3, 4, 16, 24) and frames.dtype == torch.float32
    assert float(frames.min()) >= -1 and float(frames.max()) <= 1
    steps = frames.mean(dim=(0, 2, 3)).diff() * 127.5
    torch.testing.assert_close(steps, torch.full((3,), 10.0), atol=1.5, rtol=0)  # consecutive frames


def test_windows_depend_on_seed_epoch_and_index_alone(folder: Path) -> None:
    clips, again = (ClipFolder(folder, 4, None, 16, seed=1) for _ in range(2))
    again.at(5, 2)
    assert torch.equal(clips.at(3, 1)["frames"], again.at(3, 1)["frames"])
    starts = {start_of(clips.at(epoch, 0)["frames"]) for epoch in range(60)}
    assert starts == set(range(9))  # [0, 12 - 4]
    other = ClipFolder(folder, 4, None, 16, seed=2)
    assert any(not torch.equal(clips.at(e, 0)["frames"], other.at(e, 0)["frames"]) for e in range(4))


def test_cache_and_pickling_change_nothing(folder: Path) -> None:
    clips = ClipFolder(folder, 4, 4.0, 16)
    for other in (ClipFolder(folder, 4, 4.0, 16, cache_mb=0), pickle.loads(pickle.dumps(clips))):
        assert all(torch.equal(clips.at(1, i)["frames"], other.at(1, i)["frames"]) for i in range(3))


def test_flip_mirrors_half_and_moves_no_window(folder: Path) -> None:
    plain, flipped = ClipFolder(folder, 4, None, 16), ClipFolder(folder, 4, None, 16, flip=True)
    mirrored = 0
    for epoch in range(60):
        one, two = plain.at(epoch, 0)["frames"], flipped.at(epoch, 0)["frames"]
        if not torch.equal(one, two):
            assert torch.equal(one.flip(-1), two)
            mirrored += 1
    assert 18 <= mirrored <= 42  # 4 sigma around 30


def test_frame_rate_is_resampled_and_said(folder: Path) -> None:
    save_clip(folder / "clips/d.mp4", frames=12, fps=4.0)
    clips = ClipFolder(folder, 4, 4.0, 16)
    assert clips.notes == ("3 of 4 clips resampled from 8 to 4 frames per second",)
    steps = clips.at(0, 0)["frames"].mean(dim=(0, 2, 3)).diff() * 127.5
    torch.testing.assert_close(steps, torch.full((3,), 20.0), atol=2.0, rtol=0)


def test_unusable_clips_are_listed_and_stop_training(folder: Path) -> None:
    save_clip(folder / "clips/short.mp4", frames=3)
    (folder / "clips/broken.mp4").write_bytes((folder / "clips/a.mp4").read_bytes()[:900])
    (folder / "clips/empty.mp4").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        ClipFolder(folder, 4, None, 16)
    message = caught.value.message
    assert "3 of 6 clips" in message and "clips/short.mp4 (3 frames, 4 needed)" in message
    assert "clips/broken.mp4" in message and "clips/empty.mp4" in message
    assert "skip_bad" in caught.value.fix
    clips = ClipFolder(folder, 4, None, 16, skip_bad=True)
    assert len(clips) == 3 and [name for name, _ in clips.refused] == [
        "clips/broken.mp4",
        "clips/empty.mp4",
        "clips/short.mp4",
    ]
    with pytest.raises(InputError, match="6 of 6 clips"):
        ClipFolder(folder, 99, None, 16, skip_bad=True)


def test_too_short_after_resampling_says_the_rate(folder: Path) -> None:
    with pytest.raises(InputError, match=r"3 frames at 2 frames per second, 4 needed"):
        ClipFolder(folder, 4, 2.0, 16)


def test_captions_beside_clips(folder: Path) -> None:
    (folder / "clips/a.txt").write_text("a red\n ball\n")
    clips = ClipFolder(folder, 4, None, 16)
    assert [clips.at(0, i)["text"] for i in range(3)] == ["a red ball", "", ""]
    assert read_captions(folder) == ["a red ball", "", ""]
    assert clips.notes == ("2 of 3 clips have no caption",)


def test_metadata_list(folder: Path) -> None:
    lines = [{"file_name": "clips/c.mp4", "text": "see"}, {"file_name": "clips/a.mp4", "text": "ay"}]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    clips = ClipFolder(folder, 4, None, 16)
    assert [clips.at(0, i)["text"] for i in range(2)] == ["see", "ay"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"file_name": "../../etc/passwd"}', 'line 1: "../../etc/passwd" lies outside'),
        ('{"file_name": "/etc/passwd"}', "lies outside"),
        ('{"name": "a"}', "line 1: expected a JSON object with a file_name"),
        ("nonsense", "line 1: expected a JSON object"),
        ('{"file_name": "clips/a.mp4", "text": 3}', "line 1: text is 3, expected words"),
        ('{"file_name": "clips/gone.mp4"}', "clips/gone.mp4"),
        ("", "lists no clip"),
    ],
)
def test_wrong_metadata_is_told_with_its_line(line: str, told: str, folder: Path) -> None:
    (folder / "metadata.jsonl").write_text(line)
    with pytest.raises(InputError) as caught:
        ClipFolder(folder, 4, None, 16)
    assert told in str(caught.value)


def test_no_folder_and_no_clip(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder of clips at"):
        ClipFolder(tmp_path / "none", 4, None, 16)
    with pytest.raises(InputError, match="no clip in"):
        ClipFolder(tmp_path, 4, None, 16)


def test_a_clip_replaced_during_training_is_named(folder: Path) -> None:
    clips = ClipFolder(folder, 4, None, 16, cache_mb=0)
    save_clip(folder / "clips/a.mp4", frames=2)
    with pytest.raises(InputError, match='"clips/a.mp4" was replaced during training: 2 frames, 4 needed'):
        clips.at(0, 0)
    (folder / "clips/b.mp4").unlink()
    with pytest.raises(InputError, match=r"b\.mp4"):
        clips.at(0, 1)


def test_fingerprint_sees_names_sizes_and_captions(folder: Path) -> None:
    seen = {fingerprint_of(folder)}
    assert ClipFolder(folder, 4, None, 16).fingerprint in seen
    (folder / "clips/a.txt").write_text("words")
    seen.add(fingerprint_of(folder))
    (folder / "clips/c.mp4").rename(folder / "clips/d.mp4")
    seen.add(fingerprint_of(folder))
    save_clip(folder / "clips/d.mp4", frames=9)
    seen.add(fingerprint_of(folder))
    assert len(seen) == 4

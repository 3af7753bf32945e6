"""What is written comes back: frames, rate, size and settings, in every format, with the same bytes each
time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import FrozenInstanceError
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from motionloom.durable import sha256_of
from motionloom.errors import ConfigError, InputError, ResourceError
from motionloom.video import write as write_module
from motionloom.video.clip import Clip
from motionloom.video.embedded import FACTS_KEY, extract
from motionloom.video.read import read_clip, read_settings
from motionloom.video.write import write_clip
from tests.video.making_clips import golden_errors, golden_frames, numbered_frames, numbers_of, smooth_frames

ALL_FORMATS = ("clip.mp4", "clip.gif", "clip.webp", "clip")
SETTINGS = {"seed": 3, "prompt": "ein Bächlein 🌊 " * 700, "motions": [["clouds", 0.6]], "nothing": None}


def test_clip_knows_its_sizes() -> None:
    clip = Clip(smooth_frames(6, 48, 64), 8)
    assert (len(clip), clip.num_frames, clip.height_px, clip.width_px) == (6, 6, 48, 64)
    assert clip.duration_seconds == 0.75
    assert clip.fps == 8.0 and isinstance(clip.fps, float) and clip.settings == {}


@pytest.mark.parametrize(
    ("frames", "fps", "said"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), 8, "float32"),
        (np.zeros((4, 4, 3), np.uint8), 8, "(4, 4, 3)"),
        (np.zeros((2, 3, 4, 4), np.uint8), 8, "(2, 3, 4, 4)"),
        (np.zeros((0, 4, 4, 3), np.uint8), 8, "(0, 4, 4, 3)"),
        ([[1]], 8, "list"),
        (np.zeros((2, 4, 4, 3), np.uint8), 0, "fps is 0"),
        (np.zeros((2, 4, 4, 3), np.uint8), -1, "fps is -1"),
        (np.zeros((2, 4, 4, 3), np.uint8), float("nan"), "fps is nan"),
        (np.zeros((2, 4, 4, 3), np.uint8), float("inf"), "fps is inf"),
        (np.zeros((2, 4, 4, 3), np.uint8), 1001, "1001"),
        (np.zeros((2, 4, 4, 3), np.uint8), "8", "'8'"),
        (np.zeros((2, 4, 4, 3), np.uint8), True, "True"),
    ],
)
def test_clip_refuses_what_is_not_one(frames: object, fps: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        Clip(frames, fps)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_clip_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Clip(smooth_frames(1), 8).fps = 9.0  # type: ignore[misc]


@pytest.mark.parametrize("name", ALL_FORMATS)
@pytest.mark.parametrize("fps", [8, 29.97, 7.3, 50])
def test_round_trip(name: str, fps: float, tmp_path: Path) -> None:
    clip = Clip(smooth_frames(13, 49, 71), fps, SETTINGS)
    path = clip.save(tmp_path / name)
    again = read_clip(path)
    assert again.fps == clip.fps
    assert again.settings == SETTINGS == read_settings(path)
    assert again.frames.shape == clip.frames.shape  # odd sizes included
    error = np.abs(again.frames.astype(int) - clip.frames).mean()
    assert error <= {"clip.mp4": 2.5, "clip.gif": 9.0, "clip.webp": 2.5, "clip": 0.0}[name]
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ALL_FORMATS)
@pytest.mark.parametrize("picked", [[0], [0] * 9, [0, 0, 0, 1, 1, 2, 3, 3, 3, 3]])
def test_equal_frames_are_not_lost(name: str, picked: list[int], tmp_path: Path) -> None:
    clip = Clip(numbered_frames(4)[picked], 8)
    again = read_clip(clip.save(tmp_path / name))
    assert numbers_of(again.frames) == picked and again.fps == 8


@pytest.mark.parametrize("name", ALL_FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (7, 7)])
def test_small_and_odd_sizes(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    clip = Clip(np.full((3, *size, 3), 90, np.uint8), 8)
    again = read_clip(clip.save(tmp_path / name))
    assert again.frames.shape == clip.frames.shape
    assert np.abs(again.frames.astype(int) - 90).max() <= 2


@pytest.mark.parametrize("name", ALL_FORMATS)
def test_same_clip_same_bytes(name: str, tmp_path: Path) -> None:
    clip = Clip(smooth_frames(20, 96, 128), 24, SETTINGS)
    first, second = clip.save(tmp_path / "a" / name), clip.save(tmp_path / "b" / name)
    files = [first, second] if first.is_file() else [*sorted(first.iterdir()), *sorted(second.iterdir())]
    sums = [sha256_of(file) for file in files]
    assert sums[: len(sums) // 2] == sums[len(sums) // 2 :]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_mp4_bytes_do_not_depend_on_the_number_of_cores(tmp_path: Path) -> None:
    """256 rows: below that x264 uses fewer threads than it is told, and the guard would not show."""
    code = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from tests.video.making_clips import smooth_frames; from motionloom.video.clip import Clip\n"
        "Clip(smooth_frames(4, 256, 64), 24).save(sys.argv[1])"
    )
    root = Path(write_module.__file__).parents[2]
    one_core = tmp_path / "one.mp4"
    subprocess.run(
        [sys.executable, "-c", code, str(one_core)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    every_core = Clip(smooth_frames(4, 256, 64), 24).save(tmp_path / "all.mp4")
    assert sha256_of(one_core) == sha256_of(every_core)
    written = every_core.read_bytes()  # x264 puts its own settings into the stream
    assert b" threads=4 " in written and b" mbtree=0 " in written


def test_mp4_is_what_players_expect(tmp_path: Path) -> None:
    path = Clip(golden_frames(6), 29.97, {"seed": 1}).save(tmp_path / "clip.mp4")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(30000, 1001) and stream.frames == 6
        assert (context.colorspace, context.color_range) == (1, 1)
        assert (context.color_primaries, context.color_trc) == (1, 1)
        red = bytes(next(container.decode(video=0)).planes[0])[0]
        assert abs(red - 63) <= 1  # Y of pure red: 16 + 219 * 0.2126 in bt709; bt601 would give 81
        assert set(container.metadata) & {"encoder", "creation_time"} == set()
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # starts playing before it is fully loaded


def test_mp4_keeps_golden_colours(tmp_path: Path) -> None:
    again = read_clip(Clip(golden_frames(), 10).save(tmp_path / "clip.mp4"))
    assert golden_errors(again.frames) <= 3


def test_mp4_is_unbiased(tmp_path: Path) -> None:
    clip = Clip(smooth_frames(4, 96, 128), 10)
    again = read_clip(clip.save(tmp_path / "clip.mp4", crf=4))
    bias = (again.frames.astype(float) - clip.frames).mean(axis=(0, 1, 2))
    assert np.abs(bias).max() < 0.3


def test_lower_crf_is_closer(tmp_path: Path) -> None:
    clip = Clip(smooth_frames(), 10)
    errors = [
        np.abs(read_clip(clip.save(tmp_path / f"{crf}.mp4", crf=crf)).frames.astype(int) - clip.frames).mean()
        for crf in (2, 40)
    ]
    assert errors[0] < errors[1] / 2


def test_odd_mp4_repeats_its_last_row_and_column(tmp_path: Path) -> None:
    frames = np.full((2, 33, 33, 3), 60, np.uint8)
    frames[:, -1:], frames[:, :, -1:] = 200, 200
    path = Clip(frames, 8).save(tmp_path / "clip.mp4", crf=1)
    with av.open(str(path)) as container:
        padded = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert padded.shape == (34, 34, 3)
    assert padded[33, 5, 0] > 150 and padded[5, 33, 0] > 150


def test_settings_are_plain_json_in_the_comment_tag(tmp_path: Path) -> None:
    path = Clip(smooth_frames(), 8, SETTINGS).save(tmp_path / "clip.mp4")
    with av.open(str(path)) as container:
        comment = container.metadata["comment"]
    assert len(comment) > 10_000 and "Bächlein 🌊" in comment
    found = extract(comment)
    assert found is not None and found[0] == SETTINGS and found[1].num_frames == 6


def test_settings_take_numpy_values_and_paths(tmp_path: Path) -> None:
    settings = {"scale": np.float32(0.5), "picture": Path("a.png"), "sizes": np.arange(3)}
    path = Clip(smooth_frames(2), 8, settings).save(tmp_path / "clip.gif")
    assert read_settings(path) == {"scale": 0.5, "picture": "a.png", "sizes": [0, 1, 2]}


@pytest.mark.parametrize("value", [float("nan"), object(), "\ud800", "x" * 1_000_001])
def test_settings_that_json_cannot_hold(value: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="settings"):
        Clip(smooth_frames(2), 8, {"bad": value}).save(tmp_path / "clip.mp4")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[1]", '{"seed": 1}', FACTS_KEY, f'{{"{FACTS_KEY}": 3}}', "[" * 100_000 + FACTS_KEY]
    + [
        f'{{"{FACTS_KEY}": {{"format_version": {version}, "fps": {fps}, '
        f'"num_frames": {n}, "height_px": 1, "width_px": 1}}}}'
        for version, fps, n in (
            (2, 8, 1),
            (1, 0, 1),
            (1, "true", 1),
            (1, 8, 0),
            (1, 8, "1.5"),
            (1, 8, "true"),
        )
    ],
)
def test_texts_of_others_are_not_settings(text: str) -> None:
    assert extract(text) is None


def test_facts_of_a_reencoded_clip_are_not_trusted(tmp_path: Path) -> None:
    """Another tool may keep our comment while it changes size and rate."""
    from tests.video.making_clips import encode

    path = Clip(smooth_frames(6, 47, 63), 8).save(tmp_path / "ours.mp4")
    with av.open(str(path)) as container:
        comment = container.metadata["comment"]
    theirs = read_clip(encode(tmp_path / "theirs.mp4", smooth_frames(6, 32, 32), comment=comment))
    assert theirs.frames.shape == (6, 32, 32, 3) and theirs.fps == 10


@pytest.mark.parametrize("name", ["clip.avi", "clip.png", "clip.v2", "clip.mov"])
def test_other_suffixes_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        write_clip(Clip(smooth_frames(2), 8), tmp_path / name)
    assert name in str(caught.value) and ".mp4" in caught.value.fix
    assert os.listdir(tmp_path) == []


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="GIF"):
        Clip(smooth_frames(2), 60).save(tmp_path / "clip.gif")
    with pytest.raises(InputError, match="16383"):
        Clip(np.zeros((1, 1, 16384, 3), np.uint8), 8).save(tmp_path / "clip.webp")
    with pytest.raises(InputError, match="8192"):
        Clip(np.zeros((1, 8193, 2, 3), np.uint8), 8).save(tmp_path / "clip.mp4")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("options", [{"crf": -1}, {"crf": 52}, {"quality": 0}, {"quality": 101}])
def test_qualities_out_of_range(options: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Clip(smooth_frames(2), 8).save(tmp_path / "clip.mp4", **options)


def test_failing_encoder_keeps_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Clip(smooth_frames(), 8).save(tmp_path / "clip.mp4")
    before = path.read_bytes()
    calls = []

    def fail_at_third(frame: object) -> object:
        calls.append(frame)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return original(frame)  # type: ignore[arg-type]

    original = write_module._to_yuv420p
    monkeypatch.setattr(write_module, "_to_yuv420p", fail_at_third)
    with pytest.raises(ResourceError, match="No space left on device"):
        Clip(smooth_frames(), 8).save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["clip.mp4"]


def test_mp4_is_read_back_before_it_replaces_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Clip(smooth_frames(), 8).save(tmp_path / "clip.mp4")
    before = path.read_bytes()
    monkeypatch.setattr(
        write_module, "_write_mp4", lambda clip, text, temporary, crf: temporary.write_bytes(before[:500])
    )
    with pytest.raises(ResourceError, match="0 of 6 frames read back"):
        Clip(smooth_frames(), 8).save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["clip.mp4"]


@pytest.mark.skipif(os.name == "nt", reason="no file size limit there")
def test_full_disk_during_encoding(tmp_path: Path) -> None:
    """A real refusal of the kernel, through FFmpeg: its own exception class must become ours."""
    code = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np; from motionloom.video.clip import Clip\n"
        "from motionloom.errors import ResourceError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "frames = np.random.default_rng(0).integers(0, 255, (20, 64, 256, 3), np.uint8)\n"
        "try: Clip(frames, 8).save(sys.argv[2])\n"
        "except ResourceError as problem: print(problem)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(write_module.__file__).parents[2]), str(tmp_path / "big.mp4")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "big.mp4" in done.stdout and "File too large" in done.stdout and "bytes free" in done.stdout
    assert os.listdir(tmp_path) == []


def test_folder_of_ours_is_replaced(tmp_path: Path) -> None:
    Clip(smooth_frames(6), 8).save(tmp_path / "clip")
    Clip(smooth_frames(3), 12).save(tmp_path / "clip")
    assert len(read_clip(tmp_path / "clip")) == 3 and os.listdir(tmp_path) == ["clip"]
    (tmp_path / "empty").mkdir()
    assert len(read_clip(Clip(smooth_frames(2), 8).save(tmp_path / "empty"))) == 2


@pytest.mark.parametrize("extra", ["notes.txt", "frame_1.png"])
def test_folder_with_foreign_files_is_refused(extra: str, tmp_path: Path) -> None:
    clip = Clip(smooth_frames(2), 8)
    folder = clip.save(tmp_path / "clip")
    (folder / extra).write_text("mine")
    before = sorted(os.listdir(folder))
    with pytest.raises(InputError, match="clip"):
        clip.save(folder)
    assert sorted(os.listdir(folder)) == before and os.listdir(tmp_path) == ["clip"]


def test_folder_with_a_foreign_clip_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "clip.json").write_text('{"fps": 8}')
    with pytest.raises(InputError):
        Clip(smooth_frames(2), 8).save(tmp_path / "clip")
    assert (tmp_path / "clip" / "clip.json").read_text() == '{"fps": 8}'


def test_gif_shares_one_palette(tmp_path: Path) -> None:
    """A still corner keeps its colour in every frame."""
    frames = smooth_frames(8)
    frames[:, :16, :16] = (200, 120, 40)
    again = read_clip(Clip(frames, 8).save(tmp_path / "clip.gif")).frames
    assert len(np.unique(again[:, :16, :16].reshape(8, -1), axis=0)) == 1


def test_gif_time_never_drifts(tmp_path: Path) -> None:
    path = Clip(numbered_frames(16), 24).save(tmp_path / "clip.gif")
    total_ms = 0
    with Image.open(path) as picture:
        for index in range(picture.n_frames):  # type: ignore[attr-defined]
            picture.seek(index)
            total_ms += picture.info["duration"]
    assert total_ms == 670  # 16 / 24 s = 666.7 ms, to the nearest hundredth


def test_video_never_imports_torch() -> None:
    code = (
        "import sys, motionloom.video.read, motionloom.video.resize, motionloom.video.resample\n"
        "assert not {'torch', 'cv2'} & set(sys.modules)"
    )
    root = Path(write_module.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(root)})


def test_equal_clips_are_equal_files_whatever_memory_held_before(tmp_path: Path) -> None:
    """The encoder's rate control once read memory it never wrote, at sides that are no multiple of 16."""
    torch = pytest.importorskip("torch")
    rows, columns = np.mgrid[0:60, 0:82]
    frames = [
        np.stack([rows * 4 + t, columns * 3 + 5 * t, rows * columns + 9 * t], -1) % 256 for t in range(4)
    ]
    clip = Clip(np.stack(frames).astype(np.uint8), 8.0)
    files = set()
    for run in range(12):
        for side in (17, 33, 48, 64, 90):  # leave the heap dirty
            torch.nn.functional.conv2d(torch.randn(3, 32, side, side + run % 7), torch.randn(32, 32, 3, 3))
        files.add(clip.save(tmp_path / "clip.mp4").read_bytes())
    assert len(files) == 1

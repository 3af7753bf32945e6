"""Videos as cameras, editors and other tools make them: colours, turns, time, transparency."""

from __future__ import annotations

import logging
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from motionloom.video.clip import Clip
from motionloom.video.read import read_clip
from tests.video.making_clips import (
    encode,
    golden_errors,
    golden_frames,
    numbered_frames,
    numbers_of,
    smooth_frames,
)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"colorspace": 6},
        {"full_range": True},
        {"pix_fmt": "yuv420p10le"},
        {"pix_fmt": "yuv444p"},
        {"pix_fmt": "yuv444p10le", "full_range": True},
        {"codec": "libx265", "options": {"x265-params": "lossless=1:log-level=none"}},
        {"codec": "libvpx-vp9", "container": "webm", "options": {"crf": "4", "b": "0"}},
        {"codec": "ffv1", "container": "matroska", "pix_fmt": "bgr0", "colorspace": None},
        {
            "codec": "mpeg4",
            "container": "avi",
            "colorspace": None,
            "options": {"qscale": "1", "flags": "qscale"},
        },
        {"codec": "prores_ks", "container": "mov", "pix_fmt": "yuv422p10le"},
    ],
    ids=str,
)
def test_golden_colours(options: dict[str, object], tmp_path: Path) -> None:
    clip = read_clip(encode(tmp_path / "clip", golden_frames(), **options))  # type: ignore[arg-type]
    assert clip.frames.shape == golden_frames().shape and clip.fps == 10
    assert golden_errors(clip.frames) <= 4


def test_grey_video(tmp_path: Path) -> None:
    clip = read_clip(
        encode(tmp_path / "grey.mkv", numbered_frames(4), codec="ffv1", container="matroska", pix_fmt="gray")
    )
    assert numbers_of(clip.frames) == [0, 1, 2, 3]
    assert np.ptp(clip.frames, axis=3).max() <= 1


@pytest.mark.parametrize(("height", "matrix"), [(64, 6), (592, 1)])
def test_untagged_colours_follow_the_size(height: int, matrix: int, tmp_path: Path) -> None:
    red = np.zeros((1, height, 64, 3), np.uint8)
    red[..., 0] = 255
    tagged = encode(tmp_path / "tagged.mkv", red, codec="ffv1", container="matroska", colorspace=matrix)
    with av.open(str(tagged)) as container:
        frame = next(container.decode(video=0))
    with av.open(str(tmp_path / "untagged.mkv"), "w", format="matroska") as output:
        stream = output.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, height, "yuv420p"
        frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range = 2, 2, 2, 0
        frame.pts, frame.time_base = 0, Fraction(1, 10)
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    assert np.abs(read_clip(tmp_path / "untagged.mkv").frames.astype(int) - red).max() <= 3


@pytest.mark.parametrize("pix_fmt", ["yuva420p", "bgra"])
def test_transparent_pixels_show_black(pix_fmt: str, tmp_path: Path) -> None:
    frames = np.full((2, 32, 64, 4), 200, np.uint8)
    frames[:, :, :32, 3], frames[:, :, 32:, 3] = 0, 128
    path = encode(
        tmp_path / "clip.mkv", frames, codec="ffv1", container="matroska", pix_fmt=pix_fmt, colorspace=None
    )
    clip = read_clip(path)
    assert clip.frames[:, :, 4:28].max() <= 1
    assert np.abs(clip.frames[:, :, 36:60].astype(int) - 100).max() <= 2


# what each display matrix must do to the stored frame
TURNS = {
    (90,): lambda frame: np.rot90(frame, 1),
    (180,): lambda frame: np.rot90(frame, 2),
    (270,): lambda frame: np.rot90(frame, 3),
    (0, True, False): lambda frame: frame[:, ::-1],
    (0, False, True): lambda frame: frame[::-1],
    (45,): lambda frame: frame,  # no quarter turn: left alone
    (135,): lambda frame: frame,
}


@pytest.mark.parametrize("rotation", TURNS, ids=str)
def test_rotation_is_applied(rotation: tuple[int, ...], tmp_path: Path) -> None:
    frames = smooth_frames(3, 48, 64)
    frames[:, :16, :16] = 250  # a corner that tells every turn from every other
    clip = read_clip(encode(tmp_path / "clip.mp4", frames, rotation=rotation))
    expected = np.stack([TURNS[rotation](frame) for frame in frames])
    assert clip.frames.shape == expected.shape
    assert np.abs(clip.frames.astype(int) - expected).mean() < 2


def test_mirrored_quarter_turn(tmp_path: Path) -> None:
    """The matrix sends column p, row q to column b' p + d' q; checked against the matrix itself, pixel by
    pixel.
    """
    frames = smooth_frames(2, 48, 64)
    frames[:, :16, :16] = 250
    path = encode(tmp_path / "clip.mp4", frames, rotation=(90, True, False))
    expected = np.stack([frame.swapaxes(0, 1)[::-1, ::-1] for frame in frames])  # measured: 0 -1 / -1 0
    assert np.abs(read_clip(path).frames.astype(int) - expected).mean() < 2


def test_variable_rate_is_put_on_a_grid_and_said(tmp_path: Path) -> None:
    pts = [0, 1, 2, 5, 6, 7, 9, 10]  # ticks of 0.1 s
    clip = read_clip(encode(tmp_path / "clip.mp4", numbered_frames(8), pts=pts))
    assert len(clip) == 8 and clip.fps == pytest.approx(8 / 1.1, abs=0.01)  # 8 frames within 1.1 s
    shown = [max(k for k, start in enumerate(pts) if start <= tick * 11 / 8 + 1e-9) for tick in range(8)]
    assert numbers_of(clip.frames) == shown
    assert any("variable frame rate" in note for note in clip.settings["notes"])


def test_constant_rate_needs_no_note(tmp_path: Path) -> None:
    for container in ("mp4", "matroska"):  # Matroska rounds times to milliseconds
        rate = Fraction(30000, 1001)
        clip = read_clip(encode(tmp_path / container, numbered_frames(12), container=container, rate=rate))
        assert clip.fps == pytest.approx(29.97, abs=0.001)
        assert numbers_of(clip.frames) == list(range(12)) and clip.settings == {}


def test_edit_list_hides_frames_without_being_damage(tmp_path: Path) -> None:
    """A phone's trim: packets are there, the edit list hides the first five."""
    source = encode(tmp_path / "whole.mp4", numbered_frames(15), options={"crf": "1", "bf": "0"})
    with av.open(str(source)) as whole, av.open(str(tmp_path / "cut.mp4"), "w") as output:
        stream = output.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None and packet.pts is not None and packet.time_base is not None:
                ticks = int(Fraction(1, 2) / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - ticks, packet.dts - ticks, stream
                output.mux(packet)
    assert numbers_of(read_clip(tmp_path / "cut.mp4").frames) == list(range(5, 15))


def test_fragmented_mp4(tmp_path: Path) -> None:
    path = encode(
        tmp_path / "clip.mp4",
        numbered_frames(9),
        container_options={"movflags": "frag_keyframe+empty_moov"},
        options={"g": "3"},
    )
    assert numbers_of(read_clip(path).frames) == list(range(9))


def test_hdr_and_interlaced_are_said(tmp_path: Path) -> None:
    clip = read_clip(encode(tmp_path / "hdr.mp4", smooth_frames(), trc=16))
    assert any("HDR (PQ)" in note for note in clip.settings["notes"])
    path = encode(tmp_path / "tff.mp4", smooth_frames(), options={"x264-params": "tff=1"})
    assert any("interlaced" in note for note in read_clip(path).settings["notes"])


def test_sound_beside_the_video_is_ignored(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "both.mkv"), "w", format="matroska") as output:
        sound = output.add_stream("aac", rate=8000)
        video = output.add_stream("libx264", rate=10)
        video.width = video.height = 32
        for index in range(24):  # three seconds of sound, half a second of video: no damage
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, index * 1024
            output.mux(sound.encode(frame))
        for index, picture in enumerate(numbered_frames(5)):
            coded = av.VideoFrame.from_ndarray(picture, format="rgb24")
            coded.pts = index
            output.mux(video.encode(coded))
        output.mux(sound.encode())
        output.mux(video.encode())
    assert numbers_of(read_clip(tmp_path / "both.mkv").frames) == list(range(5))
    # without durations of its own the file only says how long the sound is: no damage either
    data = (tmp_path / "both.mkv").read_bytes()
    assert b"DURATION" in data
    (tmp_path / "both.mkv").write_bytes(data.replace(b"DURATION", b"DURATIOX"))
    assert numbers_of(read_clip(tmp_path / "both.mkv").frames) == list(range(5))


def test_metadata_in_another_encoding_costs_nothing(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", numbered_frames(3), comment="COMMENTX")
    data = path.read_bytes()
    assert data.count(b"COMMENTX") == 1
    path.write_bytes(data.replace(b"COMMENTX", b"caf\xe9 \xff\xfe!"))
    assert numbers_of(read_clip(path).frames) == [0, 1, 2]


def test_names_that_look_like_addresses_are_files(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", numbered_frames(3))
    for name in ("concat:a|b", "data:x.mp4", "%03d.mp4", "über 🌊.mp4", "-i.mp4"):
        shutil.copy(path, tmp_path / name)
        assert len(read_clip(tmp_path / name)) == 3
        assert len(read_clip(name)) == 3  # relative


def test_decoders_print_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = encode(tmp_path / "clip.mp4", smooth_frames(20), container_options={"movflags": "+faststart"})
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :: 97] = bytes(len(data[len(data) // 2 :: 97]))
    path.write_bytes(data)
    caplog.set_level(logging.DEBUG)
    try:
        read_clip(path)
    except Exception as problem:
        assert "clip.mp4" in str(problem)
    assert capfd.readouterr().err == ""


# --- GIF, WebP, folders made by others ----------------------------------------------------------------------


def save_animation(path: Path, frames: np.ndarray, duration: int | list[int], **options: Any) -> Path:
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=duration, loop=0, **options)
    return path


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations_of_others(suffix: str, tmp_path: Path) -> None:
    clip = read_clip(save_animation(tmp_path / f"a{suffix}", numbered_frames(5), 120))
    assert clip.fps == pytest.approx(1 / 0.12) and numbers_of(clip.frames) == list(range(5))
    assert clip.settings == {}
    held = read_clip(save_animation(tmp_path / f"b{suffix}", numbered_frames(3), [100, 300, 200]))
    assert held.fps == pytest.approx(10) and numbers_of(held.frames) == [0, 1, 1, 1, 2, 2]
    uneven = read_clip(save_animation(tmp_path / f"c{suffix}", numbered_frames(4), [100, 250, 100, 100]))
    assert uneven.fps == pytest.approx(4 / 0.55, abs=0.01) and numbers_of(uneven.frames) == [0, 1, 1, 2]
    assert any("variable frame rate" in note for note in uneven.settings["notes"])


def test_gif_without_times_plays_as_browsers_play_it(tmp_path: Path) -> None:
    assert read_clip(save_animation(tmp_path / "a.gif", numbered_frames(3), 0)).fps == pytest.approx(10)


def test_transparent_animation_shows_black(tmp_path: Path) -> None:
    frames = np.full((2, 8, 8, 4), 200, np.uint8)
    frames[1, ..., :3] = 100
    frames[..., 3] = 255
    frames[:, :, :4, 3] = 0
    clip = read_clip(save_animation(tmp_path / "a.webp", frames, 100, lossless=True, exact=True))
    assert clip.frames[:, :, :4].max() == 0 and clip.frames[0, 0, 7, 0] == 200


def test_renamed_animation_is_recognised(tmp_path: Path) -> None:
    path = Clip(numbered_frames(3), 8).save(tmp_path / "a.gif")
    assert len(read_clip(path.rename(tmp_path / "a.mp4"))) == 3


def test_folder_of_others_in_natural_order(tmp_path: Path) -> None:
    for number, frame in zip((9, 10, 1, 100), numbered_frames(4), strict=True):
        Image.fromarray(frame).save(tmp_path / f"shot{number}.png")
    Image.fromarray(numbered_frames(1)[0]).save(tmp_path / ".hidden.png")
    (tmp_path / "readme.txt").write_text("not a frame")
    clip = read_clip(tmp_path)
    assert numbers_of(clip.frames) == [2, 0, 1, 3]
    assert clip.fps == 8 and any("8 frames per second assumed" in note for note in clip.settings["notes"])
    (tmp_path / "clip.json").write_text('{"fps": 12.5}')
    assert read_clip(tmp_path).fps == 12.5 and read_clip(tmp_path).settings == {}


def test_folder_of_jpegs_with_turns_and_alpha(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth_frames(1, 48, 64)[0]).save(tmp_path / "0.jpg", exif=exif)
    see_through = np.zeros((64, 48, 4), np.uint8)
    see_through[..., :3] = 200
    Image.fromarray(see_through).save(tmp_path / "1.png")
    clip = read_clip(tmp_path)
    assert clip.frames.shape == (2, 64, 48, 3) and clip.frames[1].max() == 0  # black, as in every clip

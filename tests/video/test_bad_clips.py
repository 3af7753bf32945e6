"""What cannot be a clip: one error class, one sentence with file and reason, nothing left on disk, no second
file touched.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from motionloom.errors import InputError
from motionloom.video import read as read_module
from motionloom.video.clip import Clip
from motionloom.video.read import read_clip, read_settings
from tests.video.making_clips import cut, encode, encode_sound, numbered_frames, smooth_frames

FASTSTART = {"movflags": "+faststart"}


def good_mp4(path: Path) -> Path:
    return encode(path, smooth_frames(48), container_options=FASTSTART, options={"crf": "16"})


def matroska(path: Path, container: str = "matroska", codec: str = "libx264") -> Path:
    return encode(path, smooth_frames(48), container=container, codec=codec, options={})


def zero_frames(path: Path) -> Path:
    """An MP4 whose video stream was declared and never fed."""
    whole = encode(path.with_name("source.mp4"), smooth_frames(2))
    with av.open(str(whole)) as source, av.open(str(path), "w", format="mp4") as output:
        output.add_stream_from_template(source.streams.video[0])
        output.start_encoding()
    whole.unlink()
    return path


def changing_size(path: Path) -> Path:
    """Two MPEG-4 elementary sizes in one AVI."""
    parts = [
        encode(
            path.with_name(f"{size}.avi"),
            smooth_frames(3, size, size),
            container="avi",
            codec="mjpeg",
            pix_fmt="yuvj420p",
            colorspace=None,
        )
        for size in (32, 48)
    ]
    with (
        av.open(str(parts[0])) as first,
        av.open(str(parts[1])) as second,
        av.open(str(path), "w", format="avi") as out,
    ):
        stream = out.add_stream_from_template(first.streams.video[0])
        index = 0
        for source in (first, second):
            for packet in source.demux(video=0):
                if packet.size:
                    packet.pts = packet.dts = index
                    packet.stream, index = stream, index + 1
                    out.mux(packet)
    for part in parts:
        part.unlink()
    return path


def huge_header(path: Path) -> Path:
    """Raw video in a MOV whose sample entry says 16000 x 16000 pixels."""
    data = bytearray(
        encode(
            path, smooth_frames(2), codec="rawvideo", container="mov", pix_fmt="rgb24", colorspace=None
        ).read_bytes()
    )
    entry = data.index(b"raw ") + 4
    data[entry + 24 : entry + 28] = struct.pack(">HH", 16000, 16000)
    path.write_bytes(data)
    return path


def long_header(path: Path) -> Path:
    """Matroska that promises an hour."""
    data = matroska(path).read_bytes()
    path.write_bytes(data.replace(b"00:00:04.800000000", b"01:00:00.000000000"))
    return path


def many_streams(path: Path) -> Path:
    with av.open(str(path), "w", format="matroska") as output:
        streams = [output.add_stream("mpeg4", rate=10) for _ in range(40)]
        for stream in streams:
            stream.width = stream.height = 16
            stream.pix_fmt = "yuv420p"
        for stream in streams:
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            output.mux(stream.encode(frame))
            output.mux(stream.encode())
    return path


def music_with_cover(path: Path) -> Path:
    picture = io.BytesIO()
    Image.fromarray(smooth_frames(1)[0]).save(picture, format="PNG")
    with av.open(str(path), "w", format="matroska") as output:
        stream = output.add_stream("aac", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        output.add_attachment("cover.png", "image/png", picture.getvalue())
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def text(content: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


def gif(path: Path) -> Path:
    return Clip(smooth_frames(8), 8).save(path.with_suffix(".gif")).rename(path)


def webp(path: Path) -> Path:
    return Clip(smooth_frames(8), 8).save(path.with_suffix(".webp")).rename(path)


def damaged_gif(path: Path) -> Path:
    """Cut in the middle, with the end mark put back."""
    data = gif(path).read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"\x00;")
    return path


def damaged_webp(path: Path) -> Path:
    data = bytearray(webp(path).read_bytes())
    data[len(data) // 3 : len(data) // 3 * 2] = bytes(len(data) // 3)
    path.write_bytes(data)
    return path


def wide_gif(path: Path) -> Path:
    """A header of 60000 x 60000 pixels and nothing behind it."""
    path.write_bytes(
        b"GIF89a"
        + struct.pack("<HH", 60000, 60000)
        + b"\x80\x00\x00"
        + b"\x00" * 6
        + b"\x2c"
        + struct.pack("<HHHH", 0, 0, 60000, 60000)
        + b"\x00\x02\x02\x4c\x01\x00;"
    )
    return path


def folder(**files: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.mkdir()
        for name, content in files.items():
            (path / name.replace("_", ".")).write_bytes(content)
        return path

    return write


def png(size: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(stream, format="PNG")
    return stream.getvalue()


def folder_short_of_a_frame(path: Path) -> Path:
    made = Clip(smooth_frames(4), 8).save(path.with_suffix(""))
    (made / "frame_000002.png").unlink()
    return made.rename(path)


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "empty": (text(b""), "empty file (0 bytes)"),
    "text": (text(b"hello, I am not a clip\n" * 50), "it is plain text"),
    "one byte": (text(b"\x01"), "it is not a video we know"),
    "noise": (text(np.random.default_rng(0).bytes(5000)), "it is not a video we know"),
    "web page": (text(b"<!DOCTYPE html><html><body>404"), "it is a web page"),
    "server error": (text(b'{"error": "not found"}'), "it is a JSON text"),
    "git-lfs pointer": (
        text(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "it is a Git-LFS pointer",
    ),
    "ffconcat": (text(b"ffconcat version 1.0\nfile other.mp4\n"), "it is an ffconcat playlist"),
    "hls": (
        text(b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.mp4\n#EXT-X-ENDLIST\n"),
        "it is an HLS playlist",
    ),
    "hls of the network": (text(b"#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n"), "it is an HLS playlist"),
    "sdp": (
        text(b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"),
        "it is an SDP stream description",
    ),
    "picture": (text(png(8)), "it is a PNG picture"),
    "zip": (text(b"PK\x03\x04" + bytes(100)), "it is a zip archive"),
    "mp4 without index": (
        lambda path: cut(encode(path, smooth_frames(48)), 0.5),
        "its index is missing or damaged",
    ),
    "mp4 whose index is cut": (
        lambda path: cut(encode(path, smooth_frames(48)), 0.97),
        "its index is empty, missing or damaged",
    ),
    "mp4 cut at 50 %": (lambda path: cut(good_mp4(path), 0.5), "of 48 frames decoded"),
    "mp4 cut at 95 %": (lambda path: cut(good_mp4(path), 0.95), "of 48 frames decoded"),
    "mkv cut at 50 %": (lambda path: cut(matroska(path), 0.5), "of 48 frames decoded"),
    "mkv cut at 90 %": (lambda path: cut(matroska(path), 0.9), "of 48 frames decoded"),
    "webm cut": (lambda path: cut(matroska(path, "webm", "libvpx-vp9"), 0.5), "of 48 frames decoded"),
    "avi cut": (lambda path: cut(matroska(path, "avi", "mpeg4"), 0.9), "of 48 frames decoded"),
    "zero frames": (zero_frames, "it has no streams"),
    "only sound": (encode_sound, "it has no video stream, only sound"),
    "music with a cover": (music_with_cover, "it has no video stream"),
    "wav": (lambda path: encode_sound(path, "wav", "pcm_f32le"), "it is a WAV sound file"),
    "unusual codec": (lambda path: matroska(path, "matroska", "mpeg2video"), 'its codec is "mpeg2video"'),
    "changing size": (changing_size, "frame 3 is 48x48 pixels, the ones before are 32x32"),
    "huge frames": (huge_header, "frames of 16000x16000 pixels"),
    "an hour": (long_header, "it lasts 3600 seconds"),
    "many streams": (many_streams, "streams"),
    "gif cut": (lambda path: cut(gif(path), 0.5), "truncated: its end mark is missing"),
    "gif damaged": (damaged_gif, "truncated or damaged"),
    "gif of 60000 px": (wide_gif, "frames"),
    "gif header only": (text(b"GIF89a"), "truncated: its end mark is missing"),
    "gif header and end": (text(b"GIF89a;"), "damaged header"),
    "webp cut": (lambda path: cut(webp(path), 0.5), "truncated: its header promises"),
    "webp damaged": (damaged_webp, "damaged"),
    "webp header only": (text(b"RIFF\x04\x00\x00\x00WEBP"), "damaged header"),
    "empty folder": (folder(), "this folder has no PNG or JPEG frames"),
    "folder of texts": (folder(a_txt=b"a"), "this folder has no PNG or JPEG frames"),
    "folder of two sizes": (folder(a_png=png(8), b_png=png(9)), '"b.png" is 9x9 pixels, "a.png" is 8x8'),
    "folder with a bad frame": (folder(a_png=png(8), b_png=b"text"), "b.png"),
    "folder short of a frame": (folder_short_of_a_frame, "3 of 4 frames are there"),
    "folder with a bad clip.json": (
        folder(a_png=png(8), clip_json=b'{"fps": "fast"}'),
        "its clip.json is damaged",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_with_file_and_reason(case: str, tmp_path: Path) -> None:
    make, reason = CASES[case]
    path = tmp_path / "bad clip.mp4"
    make(path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError) as caught:
        read_clip(path)
    sentence = str(caught.value)
    assert "bad clip.mp4" in sentence and reason in sentence and "\n" not in sentence
    assert sentence.startswith(("cannot read clip", "cannot read picture")) and caught.value.fix
    assert caught.value.exit_code == 2
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    ("content", "fix"),
    [
        (b"version https://git-lfs", "git lfs pull"),
        (b"<html>", "download it again"),
        (b"words", "convert it to MP4"),
    ],
)
def test_the_remedy_fits_the_content(content: bytes, fix: str, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_clip(tmp_path / "clip.mp4")
    assert fix in caught.value.fix


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi", "webm"])
def test_no_cut_goes_unnoticed(container: str, tmp_path: Path) -> None:
    """Wherever the file ends, all frames come back or an error does."""
    codec = {"avi": "mpeg4", "webm": "libvpx-vp9"}.get(container, "libx264")
    options = {"movflags": "+faststart"} if container == "mp4" else {}
    path = encode(
        tmp_path / "clip",
        smooth_frames(24),
        container=container,
        codec=codec,
        options={},
        container_options=options,
    )
    data = path.read_bytes()
    for end in range(len(data) // 3, len(data), max(1, len(data) // 40)):
        path.write_bytes(data[:end])
        try:
            assert len(read_clip(path)) == 24, f"cut at {end} of {len(data)} bytes"
        except InputError as problem:
            assert "clip" in str(problem)


def test_a_near_name_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "waterfall.mp4").write_bytes(b"")
    with pytest.raises(InputError, match='did you mean ".*waterfall.mp4"'):
        read_clip(tmp_path / "waterfal.mp4")
    with pytest.raises(InputError, match="does not exist"):
        read_clip(tmp_path / "nowhere" / "a.mp4")


def test_special_files_and_odd_names(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(InputError, match="not a regular file"):
        read_clip(tmp_path / "pipe.mp4")
    with pytest.raises(InputError, match="NUL"):
        read_clip("a\x00b.mp4")


@pytest.mark.parametrize(
    "name",
    ["http://127.0.0.1:9/a.mp4", "rtsp://127.0.0.1/a", "concat:a.mp4|b.mp4", "data:video/mp4;base64,AAAA"],
)
def test_addresses_are_not_opened(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(InputError, match="no such file"):
        read_clip(name)


def test_a_playlist_cannot_reach_another_file(tmp_path: Path) -> None:
    """The neighbour it names exists and is good; without the format list this decodes it."""
    good_mp4(tmp_path / "other.mp4")
    script = tmp_path / "clip.mp4"
    script.write_text("ffconcat version 1.0\nfile other.mp4\n")
    with av.open(str(script)) as container:  # what an unguarded reader does
        assert next(container.decode(video=0)) is not None
    with pytest.raises(InputError, match="ffconcat"):
        read_clip(script)


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [
        ("MAX_FRAMES", 5, "6 frames, at most 5"),
        ("MAX_PIXELS_PER_FRAME", 1000, "64x48 pixels, at most 1000"),
        ("MAX_SECONDS", 0.5, "at most 0 seconds|lasts 1 seconds"),
        ("MAX_DECODED_BYTES", 6 * 48 * 64 * 3 - 1, "6 frames of 64x48 pixels, over 0 GiB"),
        ("MAX_STREAMS", 0, "more than 0 streams"),
    ],
)
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_limits_come_from_the_header(
    container: str, limit: str, value: float, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(tmp_path / "clip.mp4", smooth_frames(6), container=container)
    assert len(read_clip(path)) == 6
    monkeypatch.setattr(read_module, limit, value)
    monkeypatch.setattr(read_module, "_decode", lambda *args: pytest.fail("decoding began"))
    with pytest.raises(InputError, match=reason):
        read_clip(path)


def test_damage_counts_even_when_no_number_was_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cut(good_mp4(tmp_path / "clip.mp4"), 0.5)
    monkeypatch.setattr(read_module, "_expected_frames", lambda *args: len(args[-1].frames))
    with pytest.raises(InputError, match="truncated or damaged"):
        read_clip(path)


def test_limits_hold_while_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header may promise less than the data holds."""
    path = encode(
        tmp_path / "clip.mp4", smooth_frames(6), container_options={"movflags": "frag_keyframe+empty_moov"}
    )
    monkeypatch.setattr(read_module, "MAX_FRAMES", 5)
    monkeypatch.setattr(read_module, "_check_video_header", lambda *args: None)
    with pytest.raises(InputError, match="6 frames, at most 5"):
        read_clip(path)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a"])
def test_limits_of_animations_and_folders(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Clip(smooth_frames(6), 8).save(tmp_path / name)
    monkeypatch.setattr(read_module, "MAX_FRAMES", 5)
    with pytest.raises(InputError, match="6 frames, at most 5"):
        read_clip(path)


def test_a_held_frame_cannot_grow_without_limit(tmp_path: Path) -> None:
    """Equal neighbours are expanded again, but not to a million frames."""
    pictures = [Image.fromarray(frame) for frame in numbered_frames(2)]
    pictures[0].save(
        tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=[11, 11 * 500_000]
    )
    assert len(read_clip(tmp_path / "a.webp")) == 2


def test_every_byte_of_a_header_may_be_wrong(tmp_path: Path) -> None:
    """Mutated files give a clip or an InputError, never another class."""
    random = np.random.default_rng(7)
    for name in ("a.mp4", "a.mkv", "a.gif", "a.webp"):
        if name == "a.mkv":
            path = encode(tmp_path / name, smooth_frames(4, 32, 32), container="matroska")
        else:
            path = Clip(smooth_frames(4, 32, 32), 8).save(tmp_path / name)
        original = path.read_bytes()
        for _ in range(60):
            data = bytearray(original)
            for position in random.integers(0, min(len(data), 1500), 3):
                data[position] = random.integers(256)
            path.write_bytes(data)
            try:
                assert read_clip(path).num_frames >= 1
            except InputError as problem:
                assert name in str(problem)


def test_frames_the_decoder_guessed_are_counted(tmp_path: Path) -> None:
    """MPEG-4 hides damage: either every frame is there and the note counts the guessed ones, or it is an error."""
    noted = 0
    for seed in range(6):
        path = encode(
            tmp_path / "a.avi",
            smooth_frames(12),
            container="avi",
            codec="mpeg4",
            colorspace=None,
            options={"threads": "3"},  # as many slices on every machine
        )
        data = bytearray(path.read_bytes())
        start, end = data.index(b"movi"), data.index(b"idx1")
        for position in np.random.default_rng(seed).integers(start + (end - start) // 2, end - 200, 6):
            data[position] ^= 255
        path.write_bytes(data)
        try:
            clip = read_clip(path)
        except InputError as problem:
            assert "of 12 frames decoded" in str(problem)
            continue
        assert len(clip) == 12
        noted += any("of 12 frames had decoding errors" in note for note in clip.settings.get("notes", []))
    assert noted >= 1


def test_bit_flips_are_counted_or_refused(tmp_path: Path) -> None:
    data = bytearray(good_mp4(tmp_path / "clip.mp4").read_bytes())
    for position in np.random.default_rng(0).integers(len(data) // 2, len(data), 30):
        data[position] ^= 255
    (tmp_path / "clip.mp4").write_bytes(data)
    try:
        notes = read_clip(tmp_path / "clip.mp4").settings.get("notes", [])
        assert any("had decoding errors" in note for note in notes)
    except InputError as problem:
        assert "clip.mp4" in str(problem) and "of 48 frames decoded" in str(problem)


@pytest.mark.parametrize("kind", ["mp4", "gif", "webp", "folder", "text", "missing"])
def test_no_settings_is_an_input_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    if kind == "mp4":
        encode(path, smooth_frames(2), comment='{"seed": 1}')
    elif kind in ("gif", "webp"):
        Image.fromarray(smooth_frames(1)[0]).save(path, format=kind.upper())
    elif kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("hello")
    with pytest.raises(InputError, match="theirs"):
        read_settings(path)


def test_png_with_a_bomb_in_a_folder(tmp_path: Path) -> None:
    """The pictures' own limit guards folders too."""
    shutil.rmtree(tmp_path / "f", ignore_errors=True)
    (tmp_path / "f").mkdir()
    body = struct.pack(">IIBBBBB", 50000, 50000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
    (tmp_path / "f" / "0.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 8) + b"IDAT" + bytes(12)
    )
    with pytest.raises(InputError, match="megapixels"):
        read_clip(tmp_path / "f")

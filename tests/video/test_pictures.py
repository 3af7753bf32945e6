"""Every kind of picture becomes the same upright sRGB array; everything else is one sentence."""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from motionloom.errors import InputError
from motionloom.video.picture import read_mask, read_picture, read_picture_with_notes
from tests.video.making_clips import cut, smooth_frames

RGB = smooth_frames(1, 24, 40)[0]


def png_header(width: int, height: int, bits: int = 8, colour: int = 2) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    body = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", body) + chunk(b"IDAT", zlib.compress(bytes(64)))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_lossless_formats_are_exact(suffix: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(RGB).save(tmp_path / f"a.{suffix}", **options)
    picture, notes = read_picture_with_notes(tmp_path / f"a.{suffix}")
    assert picture.dtype == np.uint8 and picture.flags.c_contiguous and notes == []
    assert np.array_equal(picture, RGB)


def test_jpeg_and_gif_are_close(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(RGB).save(tmp_path / "a.gif")
    assert np.abs(read_picture(tmp_path / "a.jpg").astype(int) - RGB).mean() < 2
    assert np.abs(read_picture(tmp_path / "a.gif").astype(int) - RGB).mean() < 12


UPRIGHT = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_exif_orientation_is_applied_once(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / f"a.{suffix}", exif=exif)
    assert np.array_equal(read_picture(tmp_path / f"a.{suffix}"), UPRIGHT[orientation](RGB))


def test_damaged_exif_costs_only_the_orientation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(ImageOps, "exif_transpose", lambda picture: 1 / 0)
    picture, notes = read_picture_with_notes(tmp_path / "a.png")
    assert np.array_equal(picture, RGB) and "orientation ignored" in notes[0]


def test_16_bit_is_scaled_not_clipped(tmp_path: Path) -> None:
    grey = np.array([[0, 128, 257, 300], [32768, 40000, 65407, 65535]], dtype=np.uint16)
    for suffix in ("png", "tiff"):
        Image.fromarray(grey).save(tmp_path / f"a.{suffix}")
        picture = read_picture(tmp_path / f"a.{suffix}")
        assert np.array_equal(picture[:, :, 0], np.rint(grey / 257.0)) and np.ptp(picture, axis=2).max() == 0


def test_float_pictures(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "a.tiff")
    assert read_picture(tmp_path / "a.tiff")[0, :, 0].tolist() == [0, 128, 255]
    for bad in (1.5, -0.1, np.nan, np.inf):
        Image.fromarray(np.array([[0.0, bad]], dtype=np.float32)).save(tmp_path / "b.tiff")
        with pytest.raises(InputError, match="b.tiff.*values run from"):
            read_picture(tmp_path / "b.tiff")


def test_transparency_shows_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 4, 4), np.uint8)
    rgba[0, :, 0], rgba[0, :, 3] = 200, (0, 64, 128, 255)
    alpha = rgba[0, :, 3] / 255.0
    expected = np.stack([200 * alpha + 255 * (1 - alpha), 255 * (1 - alpha), 255 * (1 - alpha)], -1)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    assert np.array_equal(read_picture(tmp_path / "rgba.png")[0], np.rint(expected))
    Image.merge("LA", [Image.fromarray(rgba[:, :, 0]), Image.fromarray(rgba[:, :, 3])]).save(
        tmp_path / "la.png"
    )
    expected_grey = np.rint(200 * alpha + 255 * (1 - alpha))
    assert np.array_equal(read_picture(tmp_path / "la.png")[0], np.repeat(expected_grey[:, None], 3, 1))
    black = read_picture_with_notes(tmp_path / "rgba.png", background=0)[0]
    assert np.array_equal(black[0, :, 0], np.rint(200 * alpha))


def test_transparent_palette_and_colour_key(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    assert read_picture(tmp_path / "p.png")[0].tolist() == [[255, 255, 255], [200, 100, 50]]
    keyed = np.array([[[10, 20, 30], [200, 100, 50]]], dtype=np.uint8)
    Image.fromarray(keyed).save(tmp_path / "key.png", transparency=(10, 20, 30))
    assert read_picture(tmp_path / "key.png")[0].tolist() == [[255, 255, 255], [200, 100, 50]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_modes_become_rgb(mode: str, tmp_path: Path) -> None:
    source = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    source.save(tmp_path / "a.tiff")
    picture = read_picture(tmp_path / "a.tiff")
    assert picture.shape == (8, 8, 3) and picture.min() >= 250


def swapped_profile() -> bytes:
    """sRGB with its red and green primaries exchanged: applying it is unmistakable."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", data[128:132])[0]
    entries = {bytes(data[132 + 12 * k : 136 + 12 * k]): 132 + 12 * k for k in range(count)}
    red, green = entries[b"rXYZ"], entries[b"gXYZ"]
    data[red + 4 : red + 12], data[green + 4 : green + 12] = (
        data[green + 4 : green + 12],
        data[red + 4 : red + 12],
    )
    description = data.find("sRGB".encode("utf-16-be"))
    while description >= 0:
        data[description : description + 8] = "test".encode("utf-16-be")
        description = data.find("sRGB".encode("utf-16-be"))
    return bytes(data).replace(b"sRGB", b"test", 0)


def test_embedded_profile_is_converted_to_srgb(tmp_path: Path) -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    Image.fromarray(red).save(tmp_path / "a.png", icc_profile=swapped_profile())
    picture, notes = read_picture_with_notes(tmp_path / "a.png")
    assert picture[0, 0, 1] > 240 and picture[0, 0, 0] < 20 and "sRGB" in notes[0]


def test_srgb_profile_changes_nothing_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(RGB).save(tmp_path / "a.png", icc_profile=srgb)
    picture, notes = read_picture_with_notes(tmp_path / "a.png")
    assert np.array_equal(picture, RGB) and notes == []
    Image.fromarray(RGB).save(tmp_path / "b.png", icc_profile=b"not a profile at all")
    picture, notes = read_picture_with_notes(tmp_path / "b.png")
    assert np.array_equal(picture, RGB) and "damaged: ignored" in notes[0]


@pytest.mark.parametrize("suffix", ["gif", "webp", "tiff"])
def test_first_frame_of_an_animation(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    picture, notes = read_picture_with_notes(tmp_path / f"a.{suffix}")
    assert picture[0, 0, 0] > 240 and picture[0, 0, 2] < 20
    assert notes == [f'"a.{suffix}" has 2 frames or pages: the first one is used']


def test_wrong_suffix_is_read_and_said(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png", format="JPEG")
    picture, notes = read_picture_with_notes(tmp_path / "a.png")
    assert picture.shape == RGB.shape and "JPEG picture despite its name" in notes[0]


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (7, 7)])
def test_any_size_is_allowed(size: tuple[int, int], tmp_path: Path) -> None:
    Image.fromarray(np.full((*size, 3), 9, np.uint8)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").shape == (*size, 3)


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def saved(**options: object) -> Callable[[Path], Path]:
    def save(path: Path) -> Path:
        Image.fromarray(smooth_frames(1, 200, 200)[0]).save(path, **options)  # type: ignore[arg-type]
        return path

    return save


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "it is a folder"),
    "empty": (write(b""), "empty file (0 bytes)"),
    "text": (write(b"just words"), "it is plain text"),
    "web page": (write(b"<html><body>404</body></html>"), "it is a web page"),
    "git-lfs pointer": (write(b"version https://git-lfs.github.com/spec/v1\n"), "it is a Git-LFS pointer"),
    "eps": (
        write(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "it is an EPS or PostScript drawing",
    ),
    "pdf": (write(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"), "it is a PDF document"),
    "svg": (write(b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'), "it is an SVG drawing"),
    "psd": (write(b"8BPS\x00\x01" + bytes(40)), "it is a Photoshop file"),
    "fits": (write(b"SIMPLE  =                    T" + bytes(50)), "it is a FITS file"),
    "ppm": (write(b"P6\n2 2\n255\n" + bytes(12)), "not a picture"),
    "mp4": (write(b"\x00\x00\x00\x18ftypisom" + bytes(40)), "it is an MP4 or MOV video"),
    "heic": (write(b"\x00\x00\x00\x18ftypheic" + bytes(40)), "it is an AVIF or HEIC picture"),
    "noise": (write(np.random.default_rng(1).bytes(300)), "not a picture"),
    "png signature alone": (write(b"\x89PNG\r\n\x1a\n"), "a PNG picture, but its header is damaged"),
    "png cut at 50 %": (lambda path: cut(saved(format="PNG")(path), 0.5), "truncated or damaged"),
    "jpeg cut at 50 %": (lambda path: cut(saved(format="JPEG")(path), 0.5), "truncated or damaged"),
    "webp cut at 50 %": (lambda path: cut(saved(format="WEBP")(path), 0.5), "damaged"),
    "tiff cut at 50 %": (lambda path: cut(saved(format="TIFF")(path), 0.5), "damaged"),
    "bmp cut at 50 %": (lambda path: cut(saved(format="BMP")(path), 0.5), "truncated or damaged"),
    "2500 megapixels": (write(png_header(50_000, 50_000)), "2500.0 megapixels, at most 64 are allowed"),
    "144 megapixels": (write(png_header(12_000, 12_000)), "144.0 megapixels, at most 64 are allowed"),
    "65 megapixels": (write(png_header(8_125, 8_000)), "65.0 megapixels, at most 64 are allowed"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_with_file_and_reason(case: str, tmp_path: Path) -> None:
    make, reason = CASES[case]
    path = tmp_path / "bad picture.png"
    make(path)
    before = os.listdir(tmp_path)
    started = time.perf_counter()
    with pytest.raises(InputError) as caught:
        read_picture(path)
    sentence = str(caught.value)
    assert (
        sentence.startswith("cannot read picture") and "bad picture.png" in sentence and "\n" not in sentence
    )
    assert reason in sentence and caught.value.fix
    assert time.perf_counter() - started < 1 and os.listdir(tmp_path) == before


def test_no_format_outside_the_list_is_tried(tmp_path: Path) -> None:
    """Pillow would open this one; the list does not."""
    Image.fromarray(RGB).save(tmp_path / "a.ppm")
    with Image.open(tmp_path / "a.ppm") as opened:
        assert opened.format == "PPM"
    with pytest.raises(InputError, match="not a picture, expected a picture in PNG"):
        read_picture(tmp_path / "a.ppm")


def test_every_byte_may_be_wrong(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    for suffix in ("png", "jpg", "webp", "tiff", "bmp", "gif"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(RGB).save(path)
        original = path.read_bytes()
        for _ in range(80):
            data = bytearray(original)
            for position in random.integers(0, min(len(data), 400), 3):
                data[position] = random.integers(256)
            path.write_bytes(data)
            try:
                assert read_picture(path).ndim == 3
            except InputError as problem:
                assert path.name in str(problem)


# --- masks --------------------------------------------------------------------------------------------------


def test_mask_values_and_size(tmp_path: Path) -> None:
    levels = np.array([[0, 51], [102, 255]], dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png", 2, 2)
    assert mask.dtype == np.float32 and np.allclose(mask, [[0, 0.2], [0.4, 1]], atol=1e-6)
    larger = read_mask(tmp_path / "m.png", 4, 6)
    assert larger.shape == (4, 6) and larger[0, 0] == 0 and larger[-1, -1] == pytest.approx(1)
    assert np.all(np.diff(larger[-1]) >= 0) and len(np.unique(larger)) > 8  # bilinear, no ringing


def test_mask_of_colour_and_of_transparency(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / "red.png")
    assert read_mask(tmp_path / "red.png", 2, 2)[0, 0] == pytest.approx(0.299)
    shape = np.full((1, 2, 4), 255, np.uint8)
    shape[0, 0, 3] = 0
    Image.fromarray(shape).save(tmp_path / "shape.png")
    assert read_mask(tmp_path / "shape.png", 1, 2).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_black_mask_selects_nothing(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (4, 4), 0 if mode == "L" else (0, 0, 0, 255)).save(tmp_path / "m.png")
    with pytest.raises(InputError, match="m.png.*black everywhere"):
        read_mask(tmp_path / "m.png", 8, 8)


def test_mask_errors_are_picture_errors(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_text("no")
    with pytest.raises(InputError, match="m.png"):
        read_mask(tmp_path / "m.png", 8, 8)
    stream = io.BytesIO()
    Image.fromarray(RGB).save(stream, format="PNG")
    (tmp_path / "m.png").write_bytes(stream.getvalue()[:-60])
    with pytest.raises(InputError, match="truncated or damaged"):
        read_mask(tmp_path / "m.png", 8, 8)

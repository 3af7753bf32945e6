"""Pictures from disk, in one form: uint8 RGB, upright, sRGB, on white.

    read_picture(path)                  -> (H, W, 3) uint8
    read_picture_with_notes(path)       -> the same, and sentences on what was changed on the way
    read_mask(path, height_px, width_px) -> (H, W) float32, 0..1

The size is checked in the header, before pixels are decoded. Only the formats of FORMATS are tried, so a
PostScript or SVG file never reaches an interpreter.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from motionloom.errors import InputError, ResourceError
from motionloom.filetypes import describe_content, open_head, remedy_for

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 64_000_000
WHITE, BLACK = 255, 0

_EXPECTED = "expected a picture in " + ", ".join(FORMATS[:-1]) + " or " + FORMATS[-1]
_DAMAGED = "download or export the picture again"


def read_picture(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """Read a picture as uint8 RGB of shape (H, W, 3), values 0-255.

    EXIF orientation is applied once; 16-bit values are scaled, not clipped; transparency is composited on
    white; CMYK and embedded ICC profiles become sRGB; of an animation the first frame is read. Any size from
    1x1 to 64 megapixels. Raises InputError, one sentence with file and reason, for everything else.
    """
    return read_picture_with_notes(path)[0]


def read_picture_with_notes(
    path: str | os.PathLike[str], background: int = WHITE
) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """As `read_picture`, with sentences on what was changed (first frame of an animation, wrong suffix, ...).

    `background` is the grey level, 0-255, that shows through transparent pixels.
    """
    file = Path(path)
    head = open_head(file, "cannot read picture", InputError)
    with warnings.catch_warnings(), _opened(file, head) as picture:
        warnings.simplefilter(
            "ignore"
        )  # what Pillow mutters about damaged EXIF would reach the user's screen
        try:
            notes = _notes_on(file, picture)
            picture.load()
            upright = _upright(picture, notes)
            return _to_rgb(file, upright, background, notes), notes
        except InputError:
            raise
        except MemoryError:
            raise ResourceError(
                f'cannot read picture "{file}": out of memory', fix="use a smaller picture"
            ) from None
        except Exception as problem:  # damaged files make the decoders raise almost any class
            _refuse(file, f"truncated or damaged ({_one_line(problem)})", _DAMAGED)


def read_mask(path: str | os.PathLike[str], height_px: int, width_px: int) -> npt.NDArray[np.float32]:
    """Read a picture as a region mask: float32 of shape (height_px, width_px), 0 outside to 1 inside.

    The value is the brightness (Rec. 601 luma) over black, so a white shape on a transparent ground works
    too. Resized with a bilinear filter. Raises InputError for an unreadable picture and for one that is black
    everywhere.
    """
    assert height_px >= 1 and width_px >= 1
    rgb = read_picture_with_notes(path, background=BLACK)[0]
    luma = (rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)) / 255.0
    if luma.max() < 0.5 / 255:
        _refuse(Path(path), "this mask is black everywhere, so it selects nothing", "paint the region white")
    if luma.shape != (height_px, width_px):
        resized = Image.fromarray(luma).resize((width_px, height_px), Image.Resampling.BILINEAR)
        luma = np.asarray(resized, dtype=np.float32)
    mask: npt.NDArray[np.float32] = np.clip(luma, 0.0, 1.0)
    return mask


def _refuse(path: Path, reason: str, fix: str) -> NoReturn:
    raise InputError(f'cannot read picture "{path}": {reason}', fix=fix)


def _one_line(problem: BaseException) -> str:
    return " ".join(str(problem).split()) or type(problem).__name__


# --- opening ------------------------------------------------------------------------------------------------


def _opened(path: Path, head: bytes) -> ImageFile.ImageFile:
    """Read the header, with the format and size limits. Pillow itself refuses only from 179 MP on."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as problem:
        found = re.search(r"\d+", str(problem))
        _refuse_size(path, int(found.group()) if found else 0)
    except UnidentifiedImageError:
        content = describe_content(head)
        if content.removeprefix("a ").removesuffix(" picture").upper() in FORMATS:
            _refuse(path, f"it starts like {content}, but its header is damaged", _DAMAGED)
        _refuse(
            path,
            f"it is {content or 'not a picture'}, {_EXPECTED}",
            remedy_for(content, "convert it to PNG or JPEG"),
        )
    except PermissionError as problem:
        raise ResourceError(
            f'cannot read picture "{path}": {problem.strerror}', fix="check permissions"
        ) from None
    except Exception as problem:  # a header can be damaged in more ways than Pillow has classes
        _refuse(path, f"damaged header ({_one_line(problem)})", _DAMAGED)
    width, height = picture.size
    if width * height > MAX_PIXELS:
        picture.close()
        _refuse_size(path, width * height)
    if width < 1 or height < 1:
        picture.close()
        _refuse(path, f"its header says {width}x{height} pixels", _DAMAGED)
    return picture


def _refuse_size(path: Path, pixels: int) -> NoReturn:
    reason = f"it has {pixels / 1e6:.1f} megapixels, at most {MAX_PIXELS // 1_000_000} are allowed"
    _refuse(path, reason, "scale it down first")


def _notes_on(path: Path, picture: ImageFile.ImageFile) -> list[str]:
    notes = []
    num_frames = getattr(picture, "n_frames", 1)
    if num_frames > 1:
        notes.append(f'"{path.name}" has {num_frames} frames or pages: the first one is used')
    expected = Image.registered_extensions().get(path.suffix.lower())
    if expected is not None and expected != picture.format and (expected, picture.format) != ("JPEG", "MPO"):
        notes.append(f'"{path.name}" is a {picture.format} picture despite its name')
    return notes


# --- one form -----------------------------------------------------------------------------------------------


def _upright(picture: Image.Image, notes: list[str]) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # a damaged EXIF block must not cost the picture
        notes.append("its EXIF data is damaged: orientation ignored")
        return picture


def _to_rgb(path: Path, picture: Image.Image, background: int, notes: list[str]) -> npt.NDArray[np.uint8]:
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        grey = _scaled_to_8_bit(path, picture)
        return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))
    if picture.mode in ("RGBa", "La"):
        picture = picture.convert({"RGBa": "RGBA", "La": "LA"}[picture.mode])
    alpha = None
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA") if picture.mode != "LA" else picture
        alpha = np.asarray(picture.getchannel("A"), dtype=np.float32)[:, :, None] / 255.0
        picture = picture.convert("RGB") if picture.mode == "RGBA" else picture.getchannel("L")
    rgb = np.array(_to_srgb(picture, notes))
    if alpha is not None:
        rgb = np.rint(rgb * alpha + background * (1.0 - alpha)).astype(np.uint8)
    return np.ascontiguousarray(rgb)


def _scaled_to_8_bit(path: Path, picture: Image.Image) -> npt.NDArray[np.uint8]:
    """Grey with more than 8 bits: integers are 0-65535, floats 0-1."""
    values = np.asarray(picture).astype(np.float64)
    top = 1.0 if picture.mode == "F" else 65535.0
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > top:
        reason = f"its values run from {values.min():g} to {values.max():g}, expected 0 to {top:g}"
        _refuse(path, reason, "export it as an 8-bit or 16-bit picture")
    return np.rint(values * (255.0 / top)).astype(np.uint8)


def _to_srgb(picture: Image.Image, notes: list[str]) -> Image.Image:
    """Apply the embedded ICC profile, when there is one other than sRGB, and convert to RGB."""
    profile_bytes = picture.info.get("icc_profile")
    if profile_bytes and picture.mode in ("RGB", "L", "CMYK"):
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_bytes))
            if "srgb" in ImageCms.getProfileDescription(profile).lower():
                return picture.convert("RGB")
            converted = ImageCms.profileToProfile(
                picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            notes.append("converted to sRGB with its embedded colour profile")
            return converted if converted is not None else picture.convert("RGB")
        except Exception:  # a damaged or mismatched profile must not cost the picture
            notes.append("its embedded colour profile is damaged: ignored")
    return picture.convert("RGB")

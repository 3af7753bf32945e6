"""What a file really is, from its first bytes: so that an error can say "this is a web page" instead of
"header too large".
"""

from __future__ import annotations

import difflib
import os
import stat
from pathlib import Path

from motionloom.errors import ResourceError, UserError

HEAD_BYTES = 1024  # enough for every signature below, the tar one at byte 257 included

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git-LFS pointer, not the file itself"),
    (b"%!PS", "an EPS or PostScript drawing"),
    (b"\xc5\xd0\xd3\xc6", "an EPS drawing"),
    (b"%PDF", "a PDF document"),
    (b"8BPS", "a Photoshop file"),
    (b"SIMPLE  =", "a FITS file"),
    (b"ffconcat version", "an ffconcat playlist"),
    (b"#EXTM3U", "an HLS playlist"),
    (b"v=0\r\no=", "an SDP stream description"),
    (b"v=0\no=", "an SDP stream description"),
    (b"PK\x03\x04", "a zip archive (PyTorch .pt and .ckpt files are zip archives)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"GGUF", "a GGUF model"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"),
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"OggS", "an Ogg file"),
    (b"ID3", "an MP3 sound file"),
    (b"fLaC", "a FLAC sound file"),
)


def describe_content(head: bytes) -> str:
    """Name what a file's first bytes show ("a web page", "plain text", ...), or "" when they show nothing
    known.
    """
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[4:8] == b"ftyp":
        return (
            "an AVIF or HEIC picture" if head[8:12] in (b"avif", b"heic", b"mif1") else "an MP4 or MOV video"
        )
    if head[:4] == b"RIFF":
        kind = {b"WEBP": "a WebP picture", b"AVI ": "an AVI video", b"WAVE": "a WAV sound file"}
        return kind.get(head[8:12], "a RIFF file")
    if len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return "a Python pickle, which can run code"
    if head[257:262] == b"ustar":
        return "a tar archive"
    return _describe_text(head)


def remedy_for(content: str, otherwise: str) -> str:
    """What to do about a file of this content (as `describe_content` names it) where another kind was expected."""
    if "Git-LFS" in content:
        return "run `git lfs pull` in its repository"
    if "web page" in content or "JSON" in content:
        return "download it again; the server sent an error page"
    return otherwise


def _describe_text(head: bytes) -> str:
    if any(byte < 9 or 13 < byte < 32 for byte in head):  # control characters: no text
        return ""
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n").lower()
    if text.count("\ufffd") > 1:  # one may be a character cut at the end of the head
        return ""
    if text.startswith("<svg") or (text.startswith("<?xml") and "<svg" in text):
        return "an SVG drawing"
    if text.startswith("<"):
        return "a web page"
    if text.startswith(("{", "[")):
        return "a JSON text, perhaps a server's error message"
    return "plain text"


def open_head(path: Path, action: str, error: type[UserError]) -> bytes:
    """Return the first bytes of a regular, non-empty file.

    `action` starts the sentence ("cannot read clip"); `error` is the class raised for a missing path, a
    folder, a special file or an empty file. A file that exists but cannot be read raises ResourceError.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise error(f'{action} "{path}": no such file', fix=_suggest_neighbour(path)) from None
    except ValueError:
        raise error(
            f"{action} {str(path)!r}: a path cannot contain a NUL character", fix="correct the path"
        ) from None
    except OSError as problem:
        raise ResourceError(
            f'{action} "{path}": {problem.strerror}', fix="check the path and permissions"
        ) from problem
    if stat.S_ISDIR(status.st_mode):
        raise error(
            f'{action} "{path}": it is a folder, expected a file', fix="give the path of one file inside it"
        )
    if not stat.S_ISREG(status.st_mode):
        raise error(f'{action} "{path}": it is not a regular file', fix="copy the data into a file first")
    if status.st_size == 0:
        raise error(f'{action} "{path}": empty file (0 bytes)', fix="download or create the file again")
    try:
        with open(path, "rb") as stream:
            return stream.read(HEAD_BYTES)
    except OSError as problem:
        raise ResourceError(
            f'{action} "{path}": {problem.strerror}', fix="check the permissions"
        ) from problem


def _suggest_neighbour(path: Path) -> str:
    folder = path.absolute().parent
    try:
        names = os.listdir(folder)
    except OSError:
        return f'check the path; the folder "{folder}" does not exist or cannot be listed'
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f'did you mean "{folder / close[0]}"?' if close else "check the spelling of the path"

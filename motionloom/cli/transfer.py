"""`motionloom transfer`: the motion of a clip, on another picture."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from motionloom.cli.animate import check_output, parse_base_options, parse_size
from motionloom.cli.show import AsJson, progress_bar, show
from motionloom.errors import InputError
from motionloom.filetypes import open_head

EPILOG = "Example: motionloom transfer --motion-from sea.mp4 --onto photo.jpg -o moved.mp4"


def transfer(
    motion_from: Annotated[
        Path, typer.Option(metavar="CLIP", help="The clip whose motion is taken.", show_default=False)
    ],
    onto: Annotated[
        Path, typer.Option(metavar="PHOTO", help="The picture that is moved.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="OUT", help="The clip. Default: PHOTO_moved.mp4 here."),
    ] = None,
    base: Annotated[
        str, typer.Option(help="What reads and draws the motion: mini, or a trained LaMD.")
    ] = "mini",
    strength: Annotated[
        float, typer.Option(min=0, max=4, help="1 moves as far as the clip, 0 not at all.")
    ] = 1.0,
    start: Annotated[float, typer.Option(min=0, help="Second of the clip at which the motion begins.")] = 0.0,
    frames: Annotated[
        int | None, typer.Option(min=2, help="Frames, the photo included. Default: the base's; mini: 16.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(min=0.1, max=240, help="Frames per second. Default: the base's; mini: 8.")
    ] = None,
    size: Annotated[
        str,
        typer.Option(metavar="WxH|native", help="Size in pixels; the photo is scaled and cropped to it."),
    ] = "native",
    mask: Annotated[Path | None, typer.Option(metavar="FILE", help="White where the motion acts.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="End where it began, to play without a seam.")] = False,
    base_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the base.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Move a photo as a clip moves: the clip's motion, the photo's looks."""
    out = out or Path(f"{onto.stem}_moved.mp4")
    check_output(out, sources=[motion_from, onto, mask])
    for file, what in ((onto, "cannot move"), (mask, "cannot read mask")):
        if file is not None:
            open_head(file, what, InputError)  # before a base is loaded for nothing
    ways: dict[str, Any] = {"frames": frames, "fps": fps, "size": parse_size(size), "mask": mask}

    from motionloom.denoisers.catalog import load_base
    from motionloom.transfer import transfer as transfer_verb

    started = time.monotonic()
    loaded = load_base(base, **parse_base_options(base_option or ()))
    with progress_bar(shown=not as_json) as progress:
        clip = transfer_verb(
            loaded,
            motion_from,
            onto,
            strength=strength,
            start_seconds=start,
            loop=loop,
            progress=progress,
            **ways,
        )
    written = clip.save(out)
    facts = {
        "path": str(written),
        "frames": clip.num_frames,
        "fps": clip.fps,
        "width_px": clip.width_px,
        "height_px": clip.height_px,
        "seconds_taken": round(time.monotonic() - started, 3),
        "settings": clip.settings,
    }
    show(facts if as_json else str(written))

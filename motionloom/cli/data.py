"""`motionloom data`: make and look at training clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from motionloom.cli.show import AsJson, outline, progress_bar, show

app = typer.Typer(
    help="Make and look at training clips.",
    epilog="Example: motionloom data synth photos/ -o clips/ -n 200",
    rich_markup_mode=None,
)


@app.command(epilog="Example: motionloom data synth photos/ -o clips/ -n 200 --motions pan-left,zoom-in")
def synth(
    photos: Annotated[Path, typer.Argument(help="A folder of pictures.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="CLIPS", help="The folder to write.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many clips.")] = 100,
    motions: Annotated[str | None, typer.Option(metavar="A,B", help="Which motions. Default: all.")] = None,
    frames: Annotated[int, typer.Option(min=2, help="Frames a clip.")] = 16,
    size: Annotated[int, typer.Option(min=16, help="Width and height in pixels.")] = 128,
    fps: Annotated[float, typer.Option(min=0.1, max=240, help="Frames per second.")] = 8.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same clips.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write training clips with known motions, made from photographs."""
    names = [name.strip() for name in motions.split(",") if name.strip()] if motions else None

    from motionloom.datasets.synthetic import write_clips

    with progress_bar(shown=not as_json) as progress:
        written = write_clips(
            photos,
            out,
            count,
            motions=names,
            frames=frames,
            size_px=size,
            fps=fps,
            seed=seed,
            progress=lambda done, total: progress("clips", done, total),
        )
    show({"folder": out, "clips": written} if as_json else out)


@app.command("inspect", epilog="Example: motionloom data inspect clips/")
def inspect_data(
    folder: Annotated[Path, typer.Argument(help="A folder of clips.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """List the clips of a folder, and why some cannot be read."""
    from motionloom.inspection import describe_clips

    facts = describe_clips(folder)
    show(facts if as_json else outline(facts))

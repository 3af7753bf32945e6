"""`motionloom report`: result folders in, one page out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from motionloom.cli.show import AsJson, show
from motionloom.errors import ConfigError

EPILOG = "Example: motionloom report runs/first runs/second -o report.html"
MODES = ("auto", "embed", "link", "none")


def report(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER...",
            help="Scores, run folders, studies, or folders of these; name=FOLDER names one. The first is the baseline.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The page.")] = Path("report.html"),
    clips: Annotated[
        str, typer.Option(help="auto embeds small clips and links large ones; embed, link, none.")
    ] = "auto",
    cases: Annotated[
        int, typer.Option(min=0, metavar="N", help="Clips shown in full: worst, middle and best.")
    ] = 15,
    plane: Annotated[
        str | None, typer.Option(metavar="X,Y", help="Values of the scatter plot. Default: motion, fidelity.")
    ] = None,
    paired: Annotated[
        bool, typer.Option("--paired/--unpaired", help="Compare with the first set clip by clip.")
    ] = True,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained page that compares results: table, charts, clips side by side, training curves.

    The page opens from the disk, needs no network, prints, and says what was not measured.
    """
    if clips not in MODES:
        raise ConfigError(f"--clips is {clips!r}, expected {', '.join(MODES)}", fix="auto is a good choice")
    axes = plane.split(",") if plane else None
    if axes is not None and len(axes) != 2:
        raise ConfigError(
            f"--plane is {plane!r}, expected two values", fix="for example --plane motion_dis,sharpness"
        )

    from motionloom.report import report as report_verb

    path = report_verb(
        folders,
        out,
        clips=clips,  # type: ignore[arg-type]  # checked above
        num_cases=cases,
        plane=(axes[0], axes[1]) if axes else None,
        paired=paired,
        title=title,
    )
    show({"path": str(path), "size_bytes": path.stat().st_size} if as_json else path)

"""`motionloom merge`: a recipe in, a merged checkpoint out; or a sweep over one of its numbers, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from motionloom.cli.animate import parse_motion
from motionloom.cli.show import AsJson, outline, progress_bar, show
from motionloom.errors import ConfigError

EPILOG = "Example: motionloom merge recipes/edg/extrapolate.yaml method.alpha=0.25 -o merged/"


def merge(
    recipe: Annotated[
        Path, typer.Argument(help="A recipe: which models, by what method, which parts.", show_default=False)
    ],
    override: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace the recipe's.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="The folder to write. Default: merged/NAME."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Compare the models and say what would be merged; write nothing."),
    ] = False,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="NUMBER=A,B,...", help="Try values of one number of the method; needs --probe."),
    ] = None,
    probe: Annotated[
        Path | None,
        typer.Option(metavar="PHOTOS", help="A photo, or a folder of them, animated at each value."),
    ] = None,
    fidelity: Annotated[
        float, typer.Option(min=0, max=1, help="A sweep picks only values that keep this share of fidelity.")
    ] = 0.9,
    motion: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME_OR_FILE[:WEIGHT]",
            help="A motion of the probes, as in animate; repeat for several. Default: the base's.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Merge models by a recipe; with --sweep, try one number and measure what it does to the motion."""
    for text in override or ():
        if "=" not in text.lstrip("="):
            raise ConfigError(
                f"got the override {text!r}, expected key=value", fix="for example method.alpha=0.25"
            )
    if (sweep is None) != (probe is None):
        raise ConfigError(
            "--sweep and --probe belong together", fix="--sweep alpha=0,0.25,0.5 --probe photos/"
        )
    if motion and sweep is None:
        raise ConfigError(
            "--motion says how probes move, and there is no --sweep", fix="add --sweep and --probe"
        )
    overrides = tuple(override or ())
    if sweep is not None and probe is not None:
        from motionloom.merging.sweep import parse_sweep, run_sweep

        name, values = parse_sweep(sweep)
        animating = {"motions": [parse_motion(text) for text in motion]} if motion else {}
        with progress_bar(shown=not as_json) as progress:
            measured = run_sweep(recipe, name, values, probe, out, overrides, fidelity, progress, **animating)
        show(measured.to_json() if as_json else measured.table())
        return

    from motionloom.merge import merge as merge_verb

    with progress_bar(shown=not as_json and not dry_run) as progress:
        result = merge_verb(recipe, out, overrides, dry_run, progress)
    if as_json or dry_run:
        show(result.to_json() if as_json else outline(result.to_json()))
    else:
        for export, left in result.left_out.items():
            if left["tensors"]:
                names = sorted(left["tensors"])
                shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                typer.echo(f"{export} leaves out {len(names)} changed tensors: {shown}", err=True)
            if left["lost_share"] is not None:
                typer.echo(f"{export} loses {left['lost_share']:.2%} of the difference's energy", err=True)
        show(result.out)

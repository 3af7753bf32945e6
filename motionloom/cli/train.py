"""`motionloom train`: a recipe in, a run folder out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from motionloom.cli.show import AsJson, outline, show
from motionloom.errors import ConfigError

EPILOG = "Example: motionloom train recipes/mini/generator.yaml steps=500 --run-dir runs/clouds"


def train(
    recipe: Annotated[
        Path, typer.Argument(help="A recipe: what to train, on what, for how long.", show_default=False)
    ],
    override: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace the recipe's.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the run is kept; the same command again resumes it.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and forecast everything; train nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train what a recipe says; run the same command again to resume."""
    for text in override or ():
        if "=" not in text.lstrip("="):
            raise ConfigError(f"got the override {text!r}, expected key=value", fix="for example steps=500")

    from motionloom.train import train as train_verb

    result = train_verb(
        recipe,
        run_dir=run_dir,
        overrides=tuple(override or ()),
        dry_run=dry_run,
        progress=False if as_json else None,
    )
    if as_json:
        show(result.to_json())
    else:
        show(outline(result.forecast) if dry_run else (result.final or result.run_dir))

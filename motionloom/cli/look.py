"""`motionloom bases | motions | inspect | doctor`: what there is, and what a file is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from motionloom.cli.show import AsJson, columns, outline, show


def bases(as_json: AsJson = False) -> None:
    """List what can animate, and whether it is here."""
    from motionloom.denoisers.catalog import describe_bases

    rows = describe_bases()
    show(
        [dict(zip(("name", "about", "status"), row, strict=True)) for row in rows]
        if as_json
        else columns(rows)
    )


def motions(as_json: AsJson = False) -> None:
    """List the motions that come with the package."""
    from motionloom.zoo import describe_motions

    rows = describe_motions()
    show([dict(zip(("name", "about"), row, strict=True)) for row in rows] if as_json else columns(rows))


def inspect(
    file: Annotated[
        Path, typer.Argument(help="Weights, a clip, a picture, a recipe or a folder.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Say what a file is, from its header alone."""
    from motionloom.inspection import describe

    facts = describe(file)
    show(facts if as_json else outline(facts))


def doctor(
    security: Annotated[
        bool, typer.Option("--security", help="Only versions against the known vulnerabilities.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check this machine: device, versions, codecs, disk, weights.

    Exit code 0: nothing to do; 2: the table says what to do.
    """
    from motionloom.doctor import examine, examine_security
    from motionloom.doctor import show as show_table

    findings = examine_security() if security else examine()
    if as_json:
        show([finding.as_dict() for finding in findings])
    else:
        show_table(findings)
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(2)

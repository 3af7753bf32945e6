"""The commands of `motionloom`, in the order `--help` lists them: a function in a file of this folder, and a line here."""

from __future__ import annotations

from typing import Annotated

import typer

from motionloom import __version__
from motionloom.cli import animate, convert, data, evaluate, look, merge, report, study, train, transfer

app = typer.Typer(
    name="motionloom",
    help="Turn a still image into a video whose motion you choose, learn and dial.",
    epilog="Example: motionloom animate photo.jpg --motion clouds:0.6 -o clip.mp4",
    rich_markup_mode=None,  # plain help is quicker, and fits a narrow terminal
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options_of_every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")
    ] = False,
) -> None: ...


app.command(epilog=animate.EPILOG)(animate.animate)
app.command(epilog=transfer.EPILOG)(transfer.transfer)
app.command(epilog=train.EPILOG)(train.train)
app.command(epilog=merge.EPILOG)(merge.merge)
app.command(epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command(epilog=report.EPILOG)(report.report)
app.add_typer(study.app, name="study")
app.add_typer(data.app, name="data")
app.command(epilog=convert.EPILOG)(convert.convert)
app.command(epilog=convert.PUSH_EPILOG)(convert.push)
app.command(epilog=convert.PULL_EPILOG)(convert.pull)
app.command(epilog="Example: motionloom bases")(look.bases)
app.command(epilog="Example: motionloom motions")(look.motions)
app.command(epilog="Example: motionloom inspect clip.mp4")(look.inspect)
app.command(epilog="Example: motionloom doctor --security")(look.doctor)

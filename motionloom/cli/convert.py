"""`motionloom convert`, `push` and `pull`: adapters and checkpoints from and to others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from motionloom.cli.show import AsJson, show

EPILOG = "Example: motionloom convert adapter.pt -o adapters/"
PUSH_EPILOG = "Example: motionloom push waterfall.safetensors me/waterfall"
PULL_EPILOG = "Example: motionloom pull me/waterfall"


def convert(
    checkpoint: Annotated[
        Path, typer.Argument(help="An official .ckpt, .pt or .safetensors.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="Where to write.")],
    base: Annotated[
        str | None, typer.Option(help="The base an adapter belongs to. Default: found from the tensors.")
    ] = None,
    motion: Annotated[
        str | None, typer.Option(help="What the adapter is called. Default: the file's name.")
    ] = None,
    preset: Annotated[str, typer.Option(help="released, paper or default.")] = "released",
    temperature: Annotated[
        float | None, typer.Option(min=1e-3, help="Of the adaptive weighting. Default: 0.2, Wan 1.")
    ] = None,
    lora_alpha: Annotated[
        float | None, typer.Option(min=1e-6, help="Of low-rank parts. Default: 1; Wan files need it.")
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="A converted DynamiCrafter of the same sizes, if not the released ones."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert an official checkpoint to files of ours: MIVA, MotionLoRA, DynamiCrafter."""
    from motionloom.convert import Options
    from motionloom.convert import convert as run

    done = run(checkpoint, out, Options(base, motion, preset, temperature, lora_alpha, like))
    show(done if as_json else done["path"])


def push(
    file: Annotated[Path, typer.Argument(help="An adapter.", show_default=False)],
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", show_default=False)],
    public: Annotated[bool, typer.Option("--public", help="Let everyone see a new repository.")] = False,
    as_json: AsJson = False,
) -> None:
    """Upload an adapter to the Hugging Face hub."""
    from motionloom.adapters.hub import push_adapter

    address = push_adapter(file, repository, private=not public)
    show({"address": address} if as_json else address)


def pull(
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", show_default=False)],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch an adapter from the Hugging Face hub."""
    from motionloom.adapters.hub import pull_adapter

    path = pull_adapter(repository, revision)
    show({"path": path} if as_json else path)

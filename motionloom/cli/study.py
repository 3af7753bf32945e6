"""`motionloom study`: which method's clips people prefer, asked blind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from motionloom.cli.show import AsJson, columns, progress_bar, show
from motionloom.errors import ConfigError

if TYPE_CHECKING:
    from motionloom.study.serve import StudyServer


class _FoldersRun(TyperGroup):
    """`motionloom study A B` is `motionloom study run A B`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_FoldersRun,
    help="Ask people which method's clips they prefer, blind. With folders alone: build the study and serve it.",
    epilog="Example: motionloom study ours/ theirs/ -o study/",
    rich_markup_mode=None,
)

Folders = Annotated[
    list[str],
    typer.Argument(
        metavar="FOLDER...",
        help="Clips of one method each, the same names in all; name=FOLDER names one.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("-o", "--out", metavar="STUDY", help="The study folder.")]
Study = Annotated[
    Path, typer.Argument(metavar="STUDY", help="A folder `study build` made.", show_default=False)
]
Best = Annotated[bool, typer.Option("--best-of-all", help="Show all methods at once, not pairs.")]
Questions = Annotated[
    list[str] | None,
    typer.Option(
        "--question", help="overall, motion, fidelity, naturalness; may be repeated. Default: overall."
    ),
]
Images = Annotated[Path | None, typer.Option(metavar="DIR", help="Input pictures, named like the clips.")]
Prompts = Annotated[
    Path | None, typer.Option(metavar="FILE", help='{"clip name": "prompt"}, shown with the clips.')
]
Votes = Annotated[int | None, typer.Option(min=1, metavar="N", help="Screens a viewer sees. Default: all.")]
Title = Annotated[str, typer.Option(help="What viewers read first.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the order of screens.")]
Host = Annotated[
    str, typer.Option(help="127.0.0.1 is this machine alone; 0.0.0.0 lets the whole network in.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")]

TITLE, HOST, PORT = "Which clip is better?", "127.0.0.1", 8620


@app.command(
    epilog="Example: motionloom study build ours/ theirs/ -o study/ --question overall --question motion"
)
def build(
    folders: Folders,
    out: Out = Path("study"),
    best_of_all: Best = False,
    question: Questions = None,
    images: Images = None,
    prompts: Prompts = None,
    votes: Votes = None,
    title: Title = TITLE,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Make a study folder.

    It holds the page, and the clips made alike under names that say nothing.

    viewer/ in it can be served, or sent away and opened from the disk; key.json stays with you.
    """
    _build(folders, out, best_of_all, question, images, prompts, votes, title, seed, quiet=as_json)
    show({"path": str(out)} if as_json else out)


@app.command(epilog="Example: motionloom study run ours/ theirs/ -o study/")
def run(
    folders: Folders,
    out: Out = Path("study"),
    best_of_all: Best = False,
    question: Questions = None,
    images: Images = None,
    prompts: Prompts = None,
    votes: Votes = None,
    title: Title = TITLE,
    seed: Seed = 0,
    host: Host = HOST,
    port: Port = PORT,
) -> None:
    """Build the study, unless it is there already, and serve it."""
    from motionloom.labels import named_paths
    from motionloom.study.files import KEY, read_key

    if (out / KEY).exists():
        key = read_key(out)
        if key.folders != tuple(str(path.absolute()) for _, path in named_paths(folders)):
            raise ConfigError(
                f'"{out}" is a study of other folders: {", ".join(key.folders)}', fix="give another -o"
            )
    else:
        _build(folders, out, best_of_all, question, images, prompts, votes, title, seed, quiet=False)
    _serve(out, host, port)


@app.command(epilog="Example: motionloom study serve study/ --port 8620")
def serve(study: Study, host: Host = HOST, port: Port = PORT) -> None:
    """Serve a study until Ctrl-C. Every answer is on the disk before the viewer sees the next screen."""
    _serve(study, host, port)


@app.command(epilog="Example: motionloom study analyse study/")
def analyse(
    study: Study,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Keep participants who failed their controls.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Count and fit the answers. Writes results.json and votes.csv into the study folder."""
    from motionloom.study.analyse import analyse_study

    results = analyse_study(study, keep_all=keep_all)
    show(results if as_json else _table(results))


def _build(
    folders: list[str],
    out: Path,
    best_of_all: bool,
    question: list[str] | None,
    images: Path | None,
    prompts: Path | None,
    votes: int | None,
    title: str,
    seed: int,
    *,
    quiet: bool,
) -> None:
    from motionloom.study.build import build_study

    with progress_bar(not quiet) as progress:
        build_study(
            folders,
            out,
            mode="best" if best_of_all else "pairs",
            questions=tuple(question or ("overall",)),
            images=images,
            prompts=prompts,
            votes_each=votes,
            title=title,
            seed=seed,
            progress=progress,
        )


def _serve(study: Path, host: str, port: int) -> None:
    from motionloom.study.serve import StudyServer

    with StudyServer(study, host, port) as server:
        show(server.url)
        typer.echo(f"answers go to {study / 'answers'}; Ctrl-C ends", err=True)
        _until_stopped(server)


def _until_stopped(server: StudyServer) -> None:
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        typer.echo("stopped; every answer is saved", err=True)


def _table(results: dict[str, Any]) -> str:
    """A block a question: share, its interval, strength."""
    blocks = []
    for one in results["questions"]:
        rows = [("method", "chosen", "share", "95 %", "strength")]
        for m in one["methods"]:
            low, high = m["share_interval_over_participants"] or m["share_interval"]
            strength = "–" if m["log_strength"] is None else f"{m['log_strength']:+.2f}"
            share = f"{m['share']:.1%}"
            rows.append(
                (
                    m["method"],
                    f"{m['num_chosen']}/{m['num_shown']}",
                    share,
                    f"{low:.1%} to {high:.1%}",
                    strength,
                )
            )
        alpha = one["agreement_alpha"]
        said = f"{one['question']}: {one['num_votes']} votes of {one['num_participants']} people"
        said += f", {one['num_no_difference']} saw no difference"
        said += f", agreement {alpha:.2f}" if alpha is not None else ""
        blocks.append("\n".join([said, columns(rows), *(f"note: {text}" for text in one["warnings"])]))
    left = [f"left out {p['participant']}: {p['excluded']}" for p in results["participants"] if p["excluded"]]
    return "\n\n".join([*blocks, *(["\n".join(left)] if left else [])])

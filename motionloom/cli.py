"""The `motionloom` command: parse, call the verb, print the result.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 2 something to correct,
1 our mistake, 130 or 143 stopped by a signal (errors.py). Nothing heavy is imported before a command
needs it, so every `--help` answers within half a second.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from motionloom import __version__
from motionloom.errors import ConfigError, InputError, MotionLoomError, ResourceError
from motionloom.filetypes import open_head

app = typer.Typer(
    name="motionloom",
    help="Turn a still image into a video whose motion you choose, learn and dial.",
    epilog="Example: motionloom animate photo.jpg --motion clouds:0.6 -o clip.mp4",
    rich_markup_mode=None,  # plain help is quicker, and fits a narrow terminal
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(
    help="Make and look at training clips.",
    epilog="Example: motionloom data synth photos/ -o clips/ -n 200",
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")

AsJson = Annotated[bool, typer.Option("--json", help="Print the result, or the error, as JSON.")]
Progress = Callable[[str, int, int], None]  # (stage, done, total)

# What `animate` writes into a clip and `--from` reads back: the arguments of `generate`, by name.
GENERATE_ARGUMENTS = (
    "motions",
    "prompt",
    "frames",
    "fps",
    "steps",
    "size",
    "seed",
    "overscan",
    "loop",
    "masks",
)

OUTPUT_SUFFIXES = (".mp4", ".gif", ".webp", "")  # none: a folder of PNGs


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


@app.command(
    epilog="Example: motionloom animate photo.jpg --motion clouds:0.6 --motion pan-left:0.4 -o clip.mp4"
)
def animate(
    photo: Annotated[Path | None, typer.Argument(help="The picture to animate.", show_default=False)] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="OUT", help="The clip. Default: PHOTO_animated.mp4 here."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="What animates: see `motionloom bases`. Default: mini.")
    ] = None,
    motion: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:WEIGHT]",
            help="A motion, see `motionloom motions`; repeat to weave several. WEIGHT is a number, 0.8, "
            "or a curve over the steps, 1>0.",
        ),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="White where the motion acts; the i-th belongs to the i-th --motion, - is none.",
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Text, for bases that read it.")] = None,
    frames: Annotated[
        int | None, typer.Option(min=2, help="Frames, the photo included. Default: 16.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(min=0.1, max=240, help="Frames per second. Default: 8.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps. Default: the base's.")] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH|native", help="Size in pixels. Default: native, the photo's own."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed gives the same clip. Default: 0.")
    ] = None,
    overscan: Annotated[
        bool | None,
        typer.Option("--overscan/--no-overscan", help="Zoom in a little so that no border shows."),
    ] = None,
    loop: Annotated[
        bool | None, typer.Option("--loop/--no-loop", help="End where it began, to play without a seam.")
    ] = None,
    repeat: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="CLIP", help="Repeat the settings inside a clip; options given here win."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Animate a photo: PHOTO in, a clip out."""
    given: dict[str, Any] = {
        "motions": [parse_motion(text) for text in motion] if motion else None,
        "masks": [None if file == "-" else Path(file) for file in mask] if mask else None,
        "prompt": prompt,
        "frames": frames,
        "fps": fps,
        "steps": steps,
        "size": parse_size(size) if size else None,
        "seed": seed,
        "overscan": overscan,
        "loop": loop,
    }
    arguments = {name: value for name, value in given.items() if value is not None}
    if repeat is not None:
        settings = _settings_inside(repeat)
        photo = _photo_to_repeat(settings, photo, repeat)
        base = base or settings.get("base")
        arguments = {**_repeated_arguments(settings, motions_given=bool(motion)), **arguments}
    if photo is None:
        raise ConfigError("no photo given", fix="motionloom animate PHOTO, or --from CLIP to repeat a clip")
    _check_masks(arguments)
    _check_motion_names([name for name, _ in arguments.get("motions") or []])
    out = out or Path(f"{photo.stem}_animated.mp4")
    _check_output(out, sources=[photo, repeat, *(arguments.get("masks") or [])])
    open_head(photo, "cannot animate", InputError)  # before a base is loaded for nothing

    from motionloom.denoisers.catalog import load_base
    from motionloom.generate import generate

    started = time.monotonic()
    motions = arguments.pop("motions", None)
    with _progress_bar(shown=not as_json) as progress:
        clip = generate(load_base(base or "mini"), photo, motions, progress=progress, **arguments)
    if not motions and not as_json:
        picked = ", ".join(str(name) for name, *_ in clip.settings.get("motions", []))
        typer.echo(
            f"no --motion given, so this is {picked}; `motionloom motions` lists what there is", err=True
        )
    written = clip.save(out)
    facts = {
        "path": str(written),
        "frames": len(clip.frames),
        "fps": clip.fps,
        "width_px": clip.frames.shape[2],
        "height_px": clip.frames.shape[1],
        "seconds_taken": round(time.monotonic() - started, 3),
        "settings": clip.settings,
    }
    _print(facts if as_json else str(written))


@app.command(
    epilog="Example: motionloom train recipes/mini/motion.yaml training.steps=500 --run-dir runs/clouds"
)
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
            raise ConfigError(
                f"got the override {text!r}, expected key=value", fix="for example training.steps=500"
            )

    from motionloom.train import train as train_verb

    result = train_verb(
        recipe,
        run_dir=run_dir,
        overrides=tuple(override or ()),
        dry_run=dry_run,
        progress=False if as_json else None,
    )
    if as_json:
        _print(result.to_json())
    else:
        _print(_outline(result.forecast) if dry_run else (result.final or result.run_dir))


@data_app.command(epilog="Example: motionloom data synth photos/ -o clips/ -n 200 --motions pan-left,zoom-in")
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

    with _progress_bar(shown=not as_json) as progress:
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
    _print({"folder": out, "clips": written} if as_json else out)


@data_app.command("inspect", epilog="Example: motionloom data inspect clips/")
def inspect_data(
    folder: Annotated[Path, typer.Argument(help="A folder of clips.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """List the clips of a folder, and why some cannot be read."""
    from motionloom.inspection import describe_clips

    facts = describe_clips(folder)
    _print(facts if as_json else _outline(facts))


@app.command(epilog="Example: motionloom bases")
def bases(as_json: AsJson = False) -> None:
    """List what can animate, and whether it is here."""
    from motionloom.denoisers.catalog import describe_bases

    rows = describe_bases()
    _print(
        [dict(zip(("name", "about", "status"), row, strict=True)) for row in rows]
        if as_json
        else _columns(rows)
    )


@app.command(epilog="Example: motionloom motions")
def motions(as_json: AsJson = False) -> None:
    """List the motions that come with the package."""
    from motionloom.zoo import describe_motions

    rows = describe_motions()
    _print([dict(zip(("name", "about"), row, strict=True)) for row in rows] if as_json else _columns(rows))


@app.command(epilog="Example: motionloom inspect clip.mp4")
def inspect(
    file: Annotated[
        Path, typer.Argument(help="Weights, a clip, a picture, a recipe or a folder.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Say what a file is, from its header alone."""
    from motionloom.inspection import describe

    facts = describe(file)
    _print(facts if as_json else _outline(facts))


@app.command(epilog="Example: motionloom doctor --security")
def doctor(
    security: Annotated[
        bool, typer.Option("--security", help="Only versions against the known vulnerabilities.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check this machine: device, versions, codecs, disk, weights.

    Exit code 0: nothing to do; 2: the table says what to do.
    """
    from motionloom.doctor import examine, examine_security, show

    findings = examine_security() if security else examine()
    if as_json:
        _print([finding.as_dict() for finding in findings])
    else:
        show(findings)
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(2)


# What is typed, and what it means


def parse_motion(text: str) -> tuple[str, float | tuple[float, float]]:
    """`clouds`, `clouds:0.6` or `clouds:1>0` as (name, weight); a curve is (at the first step, at the last).

    Raises:
        ConfigError: the part behind the colon is neither a number nor a curve, or the name is empty.
    """
    name, colon, weight = text.rpartition(":")
    if not colon or (os.sep in weight or "\\" in weight):  # a path may hold colons
        name, weight = text, "1"
    ends = weight.split(">")
    try:
        values = [float(end) for end in ends]
    except ValueError:
        values = []
    if not name or len(values) not in (1, 2) or not all(abs(value) < float("inf") for value in values):
        raise ConfigError(
            f"got --motion {text!r}, expected NAME or NAME:WEIGHT",
            fix="WEIGHT is a number, 0.6, or a curve, 1>0",
        )
    return (name, values[0]) if len(values) == 1 else (name, (values[0], values[1]))


def parse_size(text: str) -> str:
    """`640x360` or `native`, checked.

    Raises:
        ConfigError: neither.
    """
    if text != "native" and not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", text):
        raise ConfigError(
            f"got --size {text!r}, expected WIDTHxHEIGHT or native", fix="for example --size 640x360"
        )
    return text


def _check_motion_names(names: Sequence[str]) -> None:
    if not names:
        return
    from motionloom.zoo import describe_motions

    known = [name for name, *_ in describe_motions()]
    for name in names:
        if name not in known and not name.endswith(".safetensors"):
            raise ConfigError(
                f"there is no motion {name!r}", fix=_did_you_mean(name, known, "motionloom motions")
            )


def _did_you_mean(word: str, known: Sequence[str], list_command: str) -> str:
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return (f"did you mean {close[0]!r}? " if close else "") + f"`{list_command}` lists them"


def _check_masks(arguments: dict[str, Any]) -> None:
    """Pads the masks to one a motion, in place."""
    masks, motions = arguments.get("masks"), arguments.get("motions") or []
    if masks is None:
        return
    if len(masks) > len(motions):
        raise ConfigError(
            f"got {len(masks)} --mask for {len(motions)} --motion, expected at most one each",
            fix="give every --mask its --motion, in the same order; --mask - is none",
        )
    for mask in masks:
        if mask is not None and not mask.is_file():
            raise InputError(f'there is no mask "{mask}"', fix="check the path")
    arguments["masks"] = [*masks, *[None] * (len(motions) - len(masks))]


# Repeating a clip: --from


def _settings_inside(clip: Path) -> dict[str, Any]:
    from motionloom.video.read import read_settings

    settings: dict[str, Any] = read_settings(clip)
    if not settings.get("photo"):
        raise InputError(
            f'"{clip}" carries no settings to repeat', fix="give a clip that `motionloom animate` wrote"
        )
    return settings


def _photo_to_repeat(settings: dict[str, Any], photo: Path | None, clip: Path) -> Path:
    """The photo given, else the one the settings name; it must be the very picture the clip was made of."""
    from motionloom.durable import sha256_of

    photo = photo or Path(settings["photo"])
    if not photo.is_file():
        raise InputError(
            f'"{clip}" was made from "{photo}", which is not there',
            fix=f"motionloom animate PHOTO --from {clip}, where PHOTO is that picture",
        )
    expected = settings.get("photo_sha256")
    if expected and sha256_of(photo) != expected:
        raise InputError(
            f'"{photo}" is not the picture "{clip}" was made from: its sha256 differs',
            fix="give that picture; to animate another one, give the options instead of --from",
        )
    return photo


def _repeated_arguments(settings: dict[str, Any], motions_given: bool) -> dict[str, Any]:
    repeated = {name: settings[name] for name in GENERATE_ARGUMENTS if settings.get(name) is not None}
    if motions_given:  # the masks belong to the motions that were replaced
        repeated.pop("masks", None)
    if "motions" in repeated:  # JSON has no tuples
        repeated["motions"] = [
            (name, tuple(weight) if isinstance(weight, list) else weight)
            for name, weight in repeated["motions"]
        ]
    if "masks" in repeated:
        repeated["masks"] = [None if mask is None else Path(mask) for mask in repeated["masks"]]
    return repeated


def _check_output(out: Path, sources: Sequence[Path | None]) -> None:
    """Refuses before the work what would be refused after it."""
    for source in sources:
        if source is not None and out.resolve() == source.resolve():
            raise ConfigError(f'"{out}" would overwrite what it is made from', fix="choose another -o")
    if out.suffix.lower() not in OUTPUT_SUFFIXES:
        raise ConfigError(
            f'got -o "{out}", expected a name that ends in .mp4, .gif or .webp',
            fix=f"for example -o {out.with_suffix('.mp4')}; no ending makes a folder of PNGs",
        )
    if out.is_dir() and not (out / "clip.json").is_file():
        raise ConfigError(f'"{out}" is a folder', fix=f"name the clip: -o {out / 'clip.mp4'}")
    nearest = next(folder for folder in out.absolute().parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ResourceError(
            f'cannot write "{out}": "{nearest}" is no folder you can write to', fix="choose another -o"
        )


# What is printed


def _print(value: Any) -> None:
    """The result, on stdout: text and paths as they are, facts as JSON."""
    text = (
        str(value)
        if isinstance(value, str | Path)
        else json.dumps(_jsonable(value), indent=2, ensure_ascii=False)
    )
    typer.echo(text)


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _outline(value: Any, indent: str = "") -> str:
    """Nested facts as indented `name: value` lines."""
    if isinstance(value, dict):
        lines = []
        for key, item in value.items():
            nested = isinstance(item, dict | list) and item
            lines.append(
                f"{indent}{key}:" + ("\n" + _outline(item, indent + "  ") if nested else f" {_plain(item)}")
            )
        return "\n".join(lines)
    if isinstance(value, list):
        return "\n".join(f"{indent}- {_outline(item, indent + '  ').lstrip()}" for item in value)
    return indent + _plain(value)


def _plain(value: Any) -> str:
    return "none" if value is None or value in ([], {}) else _one_line(str(value))


@contextmanager
def _progress_bar(shown: bool) -> Iterator[Progress]:
    """A callback that draws each stage as one bar on stderr, with the time left."""
    if not shown:
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars = Bars(*columns, console=Console(stderr=True))
    tasks: dict[str, Any] = {}

    def advance(stage: str, done: int, total: int) -> None:
        if not tasks:
            bars.start()  # not before: an error on the way here prints its line and nothing else
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    try:
        yield advance
    finally:
        if tasks:
            bars.stop()


# How a command ends


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: the one place where an error becomes a line and a code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in ([], ["data"]):
        words.append("--help")
    options = words[: words.index("--")] if "--" in words else words
    debug, as_json = "--debug" in options, "--json" in options
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):  # nothing leaves this machine unasked
        os.environ.setdefault(name, "1")
    with _termination_as_interrupt() as stopped_by:
        try:
            code = app(
                [word for word in words if word != "--debug"], prog_name="motionloom", standalone_mode=False
            )
        except Exception as problem:
            if debug:
                import traceback

                traceback.print_exc()
            error = explain(problem)
            typer.echo(error_as_json(error) if as_json else error_line(error), err=True)
            return error.exit_code
    if code == 130:
        code = 128 + signal.SIGTERM if stopped_by else 130
        if not as_json:
            typer.echo("stopped; nothing half-written was left behind", err=True)
    return int(code) if isinstance(code, int) else 0


@contextmanager
def _termination_as_interrupt() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP unwind like Ctrl-C, so that temporary files go; the list says which one came."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    previous = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        try:
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                previous[number] = signal.signal(number, stop)
        except ValueError:  # only the main thread may set handlers
            break
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def explain(problem: Exception) -> MotionLoomError:
    """Any exception as one of ours: usage is `config`, full memory or disk `resource`, else `internal`."""
    if isinstance(problem, MotionLoomError):
        return problem
    if isinstance(problem, typer.TyperException):
        return _explain_usage(problem)
    said = _one_line(str(problem)) or type(problem).__name__
    if isinstance(problem, MemoryError) or "out of memory" in said.lower() or "can't allocate memory" in said:
        return ResourceError(f"out of memory ({said[:200]})", fix="a smaller --size or fewer --frames")
    if isinstance(problem, OSError) and problem.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
    ):
        return ResourceError(said, fix="free space, or write somewhere you may")
    return MotionLoomError(
        f"{type(problem).__name__}: {said[:500]}",
        fix="this is our mistake: run with --debug for the traceback and report it",
    )


def _explain_usage(problem: typer.TyperException) -> ConfigError:
    message, _, meant = problem.message.partition(" Did you mean ")
    if possible := getattr(problem, "possibilities", None):
        meant = ", ".join(sorted(possible)) + "?"
    elif not meant:
        message = problem.format_message()
    context = getattr(problem, "ctx", None)
    command = context.command_path if context is not None else "motionloom"
    fix = (f"did you mean {meant} " if meant else "") + f"see `{command} --help`"
    return ConfigError(_one_line(message).rstrip("."), fix=fix)


def error_line(error: MotionLoomError) -> str:
    """`error[kind]: sentence`, one line whatever the message holds."""
    return _one_line(f"error[{error.kind}]: {error}")


def error_as_json(error: MotionLoomError) -> str:
    facts = {"kind": error.kind, "message": error.message, "fix": error.fix, "exit_code": error.exit_code}
    return json.dumps({"error": facts}, ensure_ascii=False)


def _one_line(text: str) -> str:
    """Without line breaks and control characters: file names and foreign messages may hold both."""
    return "".join(char if char.isprintable() else " " for char in " ".join(text.split()))


if __name__ == "__main__":
    sys.exit(main())

"""One command: run it, and turn whatever happens into a line and an exit code."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer

from motionloom.cli.commands import app
from motionloom.cli.show import one_line
from motionloom.errors import ConfigError, MotionLoomError, ResourceError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: the one place where an error becomes a line and a code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in ([], ["data"], ["study"]):
        words.append("--help")
    options = words[: words.index("--")] if "--" in words else words
    debug, as_json = "--debug" in options, "--json" in options
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):  # nothing leaves this machine unasked
        os.environ.setdefault(name, "1")
    with _termination_as_interrupt() as stopped_by:
        try:
            code = _command()(
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


def _command() -> Any:
    """The whole command line. A flag of typer's own that is not given is None, which pydantic must be imported to read as a
    boolean, a quarter of a second before any help of a command; False it takes as it is.
    """
    command: Any = typer.main.get_command(app)
    groups = [command, *(one for one in command.commands.values() if hasattr(one, "commands"))]
    for group in groups:
        for option in (*group.params, group.get_help_option(typer.Context(group))):
            if getattr(option, "is_flag", False) and option.default is None:
                option.default = False
    return command


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
    said = one_line(str(problem)) or type(problem).__name__
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
    return ConfigError(one_line(message).rstrip("."), fix=fix)


def error_line(error: MotionLoomError) -> str:
    """`error[kind]: sentence`, one line whatever the message holds."""
    return one_line(f"error[{error.kind}]: {error}")


def error_as_json(error: MotionLoomError) -> str:
    facts = {"kind": error.kind, "message": error.message, "fix": error.fix, "exit_code": error.exit_code}
    return json.dumps({"error": facts}, ensure_ascii=False)

"""`motionloom evaluate`: a folder of clips in, scores.json out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from motionloom.cli.show import AsJson, columns, one_line, progress_bar, show
from motionloom.errors import ConfigError, PartialError

if TYPE_CHECKING:
    from motionloom.metrics.compare import Comparison
    from motionloom.metrics.scores import Number, Scores

EPILOG = "Example: motionloom evaluate clips/ --references real/ --metrics psnr,motion_dis -o scores.json"


def evaluate(
    clips: Annotated[
        Path | None, typer.Argument(help="A folder of clips, or a manifest.jsonl.", show_default=False)
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Real clips; those of the same name are compared by frame."),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="A,B", help="Which metrics. Default: those that need no weights.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(metavar="NAME", help="A published protocol, and what of it is not followed.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Input pictures, named like the clips.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON: clip name, prompt.")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="Where to write.")] = Path(
        "scores.json"
    ),
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames a clip for distances between sets. Default: 16.")
    ] = None,
    sizes: Annotated[
        Literal["same", "any"], typer.Option(help="Refuse clips of another size than most, or take any.")
    ] = "same",
    small_sets: Annotated[
        bool, typer.Option("--small-sets", help="Fréchet distances of fewer than 256 clips, too.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    device: Annotated[str, typer.Option(help="Where networks run.")] = "cpu",
    weights: Annotated[Path | None, typer.Option(metavar="DIR", help="Networks of the metrics.")] = None,
    accept_nc: Annotated[bool, typer.Option("--accept-nc", help="Use non-commercial networks.")] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(metavar="NETWORK=MODULE:CALLABLE", help="A network you installed; repeat for several."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Finished work by content. Default: OUT.cache.")
    ] = None,
    add_weights: Annotated[
        list[str] | None,
        typer.Option(metavar="NETWORK=FILE", help="Convert an official weights file, keep it in --weights."),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A B", help="Two scores.json: is B better than A?")
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="List the metrics and what each needs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Score clips; the same command again continues where it stopped.

    Exit code 2 when a clip or metric failed: everything else is in the scores, which say so.
    """
    if list_them:
        _list(as_json)
    elif compare is not None:
        from motionloom.metrics.compare import compare as compare_scores

        found = compare_scores(*compare)
        show(found.model_dump(mode="json") if as_json else _comparison(found))
    elif add_weights:
        from motionloom.metrics.networks.convert import add_weights as add

        for text in add_weights:
            name, file = _pair(text, "--add-weights", "NETWORK=FILE")
            show(add(name, Path(file), weights))
    elif clips is None:
        raise ConfigError("no clips given", fix="motionloom evaluate CLIPS, or --compare A B, or --list")
    else:
        from motionloom.evaluate import evaluate as evaluate_verb

        with progress_bar(shown=not as_json) as progress:
            done = evaluate_verb(
                clips,
                references,
                _names(metrics),
                images=images,
                prompts=prompts,
                protocol=protocol,
                out=out,
                cache=cache,
                frames=frames,
                sizes=sizes,
                small_sets=small_sets,
                weights=weights,
                accept_nc=accept_nc,
                plugins=dict(_pair(text, "--plugin", "NETWORK=MODULE:CALLABLE") for text in plugin or ()),
                device=device,
                workers=workers,
                command=_typed(),
                progress=progress,
            )
        show(done.record.model_dump(mode="json") if as_json else _table(done.record, out))
        _refuse_partial(done.record, out, by_name=metrics is not None or protocol is not None)


def _names(metrics: str | None) -> list[str] | None:
    return None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ConfigError(f"got {option} {text!r}, expected {form}", fix=f"see {option} in --help")
    return name, value


def _typed() -> str:
    """The command as it was typed, without what differs between equal runs."""
    words = sys.argv[1:]
    return shlex.join(["motionloom", *(words if words[:1] == ["evaluate"] else ["evaluate"])])


def _list(as_json: bool) -> None:
    from motionloom.metrics.catalog import describe_metrics
    from motionloom.metrics.protocols import PROTOCOLS

    rows = describe_metrics()
    presets = [(name, protocol.about, ", ".join(protocol.metrics)) for name, protocol in PROTOCOLS.items()]
    if as_json:
        named = [dict(zip(("name", "about", "needs"), row, strict=True)) for row in rows]
        protocols = [dict(zip(("name", "about", "metrics"), row, strict=True)) for row in presets]
        show({"metrics": named, "protocols": protocols})
    else:
        show(
            columns([("metric", "what it says", "needs"), *rows])
            + "\n\n"
            + columns([("protocol", "", ""), *presets])
        )


def _table(record: Scores, out: Path) -> str:
    """What the set scores, and by name what did not run."""
    rows = [("value", "score", "95 %", "clips", "")]
    for name, summary in record.summary.items():
        arrow = {"higher": "higher is better", "lower": "lower is better", "none": ""}[summary.direction]
        interval = (
            "" if summary.interval is None else f"{summary.interval[0]:.4g} .. {summary.interval[1]:.4g}"
        )
        sample = summary.sample
        counted = (
            f"{summary.num_used}/{summary.num_expected}"
            if sample is None
            else f"{sample.num_generated} vs {sample.num_real} real"
        )
        unit = "" if summary.unit in ("fraction", "ratio") else summary.unit
        rows.append((name, f"{_number(summary.value)} {unit}".strip(), interval, counted, arrow))
    lines = [columns(rows)] if record.summary else []
    lines += _without_number(record)
    lines += [
        f"left out: {', '.join(names)}: {why}"
        for why, names in _grouped(
            (f"{one_line(one.reason)} ({one_line(one.fix)})", one.metric) for one in record.left_out
        )
    ]
    if record.protocol is not None:
        deviations = record.protocol.deviations
        lines += [f"not as in {record.protocol.name}: {one_line(text)}" for text in deviations]
        lines += [] if deviations else [f"follows {record.protocol.name}"]
    lines += [
        f"failed: {one.file}{f' ({one.metric})' if one.metric else ''}: {one_line(one.reason)}"
        for one in record.failures
    ]
    return "\n".join([*lines, str(out)])


def _without_number(record: Scores) -> list[str]:
    """Values that are not defined, or not finite, for some clips, and so say nothing of those."""
    some = [
        (f"{summary.num_excluded} of {summary.num_excluded + summary.num_used} clips", name)
        for name, summary in record.summary.items()
        if summary.num_excluded
    ]
    return [f"no finite number for {count}: {', '.join(names)}" for count, names in _grouped(some)]


def _grouped(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Names under what is said of them, in the order of the first."""
    groups: dict[str, list[str]] = {}
    for said, name in pairs:
        groups.setdefault(said, []).append(name)
    return list(groups.items())


def _number(value: Number | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.5g}"


def _refuse_partial(record: Scores, out: Path, by_name: bool) -> None:
    """Exit code 2 when clips failed, or metrics that were asked for `by_name` are left out."""
    if not record.partial:
        return
    files = sorted({failure.file for failure in record.failures})
    parts = (
        [f"{len(files)} clips failed ({', '.join(Path(file).name for file in files[:5])})"] if files else []
    )
    if by_name and record.left_out:
        parts.append(f"left out: {', '.join(one.metric for one in record.left_out)}")
    raise PartialError(
        f'"{out}" is written without everything: {"; ".join(parts)}',
        fix="the reasons are listed above and in the file; correct that and run the same command again",
    )


def _comparison(found: Comparison) -> str:
    rows = [("value", "A", "B", "B - A", "95 %", "p (Holm)", "Cliff's delta", "better")]
    for row in found.values:
        interval = "" if row.interval is None else f"{row.interval[0]:.3g} .. {row.interval[1]:.3g}"
        cells: list[Any] = [row.name, _number(row.a), _number(row.b), _number(row.mean_difference), interval]
        cells += ["" if number is None else f"{number:.3g}" for number in (row.p_holm, row.cliffs_delta)]
        rows.append((*cells, row.better))
    warned = [f"careful: {text}" for text in found.warnings]
    return "\n".join([f"A: {found.a}   B: {found.b}   {found.num_pairs} pairs", columns(rows), *warned])

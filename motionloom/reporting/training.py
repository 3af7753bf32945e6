"""Training runs: their curves over each other, events and recipes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from motionloom.reporting.inputs import Run
from motionloom.reporting.markup import Html, join, tag
from motionloom.reporting.plots import MAX_POINTS, Series, curves, figure, legend
from motionloom.reporting.tables import MAX_LISTED, counted


def training(runs: Sequence[Run]) -> Html:
    """One drawing a logged number with all runs in it, then each run's facts."""
    charts = []
    for group, log in (("losses", True), ("numbers", False), ("grad_norm", True), ("lr", False)):
        names = dict.fromkeys(
            name for run in runs for record in run.records for name in record.get(group) or {}
        )
        charts += [_training_figure(runs, group, name, log) for name in names]
    charts.append(_training_figure(runs, "", "samples_per_second", False))
    keys = legend([(run.label, i) for i, run in enumerate(runs)]) if len(runs) > 1 else None
    plots = tag("div", [chart for chart in charts if chart is not None], class_="grid-of-plots")
    return join([keys, plots, [_run_facts(run) for run in runs]])


def _training_figure(runs: Sequence[Run], group: str, name: str, log: bool) -> Html | None:
    series, lost = [], 0
    for i, run in enumerate(runs):
        points = []
        for record in run.records:
            holder = (record.get(group) or {}) if group else record
            if isinstance(holder, dict) and name in holder:
                number = holder[name]
                is_number = isinstance(number, int | float) and math.isfinite(number)
                points.append((float(record["step"]), float(number) if is_number else math.nan))
        lost += sum(math.isnan(y) for _, y in points)
        if any(math.isfinite(y) for _, y in points):
            xs, ys = zip(*points, strict=True)
            series.append(Series(run.label, i, ys, xs))
    if not series:
        return None
    longest = max(len(one.xs) for one in series)
    per = math.ceil(longest / MAX_POINTS)
    shown = {"losses": "loss", "numbers": "", "grad_norm": "gradient norm", "lr": "learning rate", "": ""}[
        group
    ]
    words = " ".join(filter(None, (shown, name.replace("_", " ") if not group else name)))
    notes = [f" Mean of {per} logged lines a point." if per > 1 else ""]
    notes.append(f" {counted(lost, 'number')} not finite, left open." if lost else "")
    return figure(curves("step", words, series, log=log), join([tag("b", words), *notes]))


def last_step(run: Run) -> int:
    """The highest step a progress line names."""
    return max((int(record["step"]) for record in run.records), default=0)


def _run_facts(run: Run) -> Html:
    seconds = next(
        (r.get("elapsed_seconds") for r in reversed(run.records) if r.get("elapsed_seconds")), None
    )
    facts = [f"{run.label}: step {last_step(run):,}"]
    facts += [f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"] if seconds else []
    facts += [f"{counted(run.num_damaged, 'line')} of the log could not be read"] if run.num_damaged else []
    events = [
        tag("li", f"step {int(event['step']):,}: {event.get('message') or event['event']}")
        for event in run.events[-MAX_LISTED:]
    ]
    hidden = len(run.events) - len(events)
    more = tag("li", f"{hidden} earlier events stand in {run.folder.name}/log.jsonl") if hidden > 0 else None
    return join(
        [
            tag("p", ", ".join(facts) + "."),
            tag("details", tag("summary", "Events"), tag("ul", more, events)) if events else None,
            tag("details", tag("summary", "Recipe"), tag("pre", run.recipe)) if run.recipe else None,
        ]
    )

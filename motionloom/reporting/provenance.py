"""What was not measured, and how the rest was."""

from __future__ import annotations

import json
from collections.abc import Sequence

from motionloom.reporting.inputs import ScoreSet
from motionloom.reporting.markup import Html, join, tag
from motionloom.reporting.tables import MAX_LISTED, caption_of, scrolling


def not_measured(sets: Sequence[ScoreSet]) -> Html:
    """Metrics left out, by name, with reason and remedy; clips that failed, with theirs."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for one in sets:
        for item in one.scores.left_out:
            reasons.setdefault((item.metric, item.reason, item.fix), []).append(one.label)
    left = [
        tag("li", tag("code", metric), f" ({', '.join(labels)}): {reason}. Remedy: {fix}")
        for (metric, reason, fix), labels in reasons.items()
    ]
    failures = [
        tag(
            "li",
            tag("code", item.file),
            f" ({', '.join(filter(None, (one.label, item.metric)))}): {item.reason}",
        )
        for one in sets
        for item in one.scores.failures
    ]
    hidden = len(failures) - 5 * MAX_LISTED
    more = tag("p", f"{hidden} more stand in scores.json.") if hidden > 0 else None
    parts = [
        join([tag("h3", "Metrics left out"), tag("ul", left)]) if left else None,
        join([tag("h3", "Clips that failed"), tag("ul", failures[: 5 * MAX_LISTED]), more])
        if failures
        else None,
    ]
    return join(parts) if left or failures else tag("p", "Every metric asked for ran on every clip.")


def how_measured(one: ScoreSet) -> Html:
    """Command, versions, settings, protocol and networks of one set."""
    scores = one.scores
    protocol = scores.protocol
    lines: list[tuple[str, object]] = [
        ("Command", tag("code", scores.command)),
        ("Clips", tag("code", scores.clips_from)),
        ("References", tag("code", scores.references_from) if scores.references_from else "none"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in scores.versions.items())),
        ("Settings", tag("code", json.dumps(scores.settings, ensure_ascii=False))),
    ]
    if protocol is not None:
        followed = "; ".join(protocol.deviations) or "followed in full"
        lines.append(("Protocol", f"{protocol.name}: {protocol.about} ({protocol.source}). {followed}"))
    lines += [
        (
            f"Network {used.name}",
            join([f"{used.licence}, ", tag("code", used.file), " sha256 ", tag("code", used.sha256)]),
        )
        for used in scores.weights
    ]
    body = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in lines]
    table = tag("table", caption_of(f"{one.label}, {one.file}"), tag("tbody", body))
    return scrolling(table, f"How {one.label} was measured")

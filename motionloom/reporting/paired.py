"""Two sets clip by clip."""

from __future__ import annotations

import math

from motionloom.reporting.compare import Comparison, compare, pair
from motionloom.reporting.inputs import ScoreSet
from motionloom.reporting.markup import Html, join, tag
from motionloom.reporting.tables import ARROWS, caption_of, counted, fixed, scrolling


def paired_table(a: ScoreSet, b: ScoreSet) -> Html:
    """B against A on the same inputs, and how many clips could not be paired."""
    pairing = pair(a, b)
    said = f"{b.label} against {a.label}: {counted(len(pairing.pairs), 'pair')} of clips with the same name"
    said += f" ({'; '.join(pairing.refused)})" if pairing.refused else ""
    results = compare(pairing) if len(pairing.pairs) > 1 else []
    if not results:
        return tag("p", f"{said}. Nothing to compare.")
    titles = ("Value", f"{b.label} − {a.label}", "95 % interval", "p (Holm)", "Cliff's δ", "Pairs", "")
    head = tag(
        "tr",
        [tag("th", words, scope="col", class_="number" if i else None) for i, words in enumerate(titles)],
    )
    about = (
        "Differences of pairs, averaged within each prompt or picture; p by sign flips over prompts or pictures "
        "(fractions: McNemar), corrected by Holm over all values of this table. Cliff's δ: from −1, always lower, to 1."
    )
    table = tag(
        "table",
        caption_of(about),
        tag("thead", head),
        tag("tbody", [_paired_row(one) for one in results]),
    )
    return join([tag("p", f"{said}."), scrolling(table, f"{b.label} against {a.label}")])


def _paired_row(one: Comparison) -> Html:
    result, interval = one.paired, one.paired.interval
    width = (interval[1] - interval[0]) if interval else 0.0
    decimals = min(6, max(0, 1 - math.floor(math.log10(width / 2)))) if width > 0 else 4
    verdict = one.verdict
    cells: list[object] = [
        fixed(result.mean_difference, decimals),
        f"[{fixed(interval[0], decimals)}, {fixed(interval[1], decimals)}]" if interval else "–",
        "–"
        if one.p_corrected is None
        else ("< 0.001" if one.p_corrected < 0.001 else f"{one.p_corrected:.3f}"),
        fixed(result.cliffs_delta, 2),
        f"{result.num_pairs} ({result.num_clusters} independent)",
        tag("span", verdict, class_=verdict) if verdict else "",
    ]
    name = tag("th", f"{one.name} {ARROWS[one.summary.direction]}".rstrip(), scope="row")
    return tag("tr", name, [tag("td", cell, class_="number") for cell in cells])

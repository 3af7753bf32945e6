"""docs/metrics.md, written from the tables: python -m motionloom.metrics.document > docs/metrics.md

What ran where this was written depends on the weights found there; everything else is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from motionloom.errors import ResourceError, WeightsError
from motionloom.metrics.catalog import METRICS, make_metric
from motionloom.metrics.networks.table import NETWORKS, Networks
from motionloom.metrics.protocols import PROTOCOLS
from motionloom.metrics.setup import Setup

INTRODUCTION = """# Metrics

Written by `python -m motionloom.metrics.document > docs/metrics.md`; do not edit.

`motionloom evaluate CLIPS --references REAL` scores a folder and writes `scores.json` (its schema:
`motionloom/metrics/scores.py`). Metrics that need no weights are the default. The others load weights the user has
fetched; one whose weights are missing is named in `left_out` and never replaced by another.

Where a release has a defect that moves numbers, the value of the metric's name is the release's, defect included
(compat), and `/clean` is ours. A Fréchet distance stands beside its sample sizes, its extrapolation to endless sets
(`/infinity`), the unbiased kernel distance with its jackknife error (`/kernel`), and the distance between two halves
of the references (`/noise_floor`); below 256 clips it is given only with `--small-sets`. Intervals take the prompt or
picture as the unit.

Exit codes: 0 everything scored; 2 a clip or a metric asked for failed, everything else is written and `partial` is
true.
"""

PLACES = """## Weights

Nothing is downloaded. A file: `motionloom evaluate --add-weights NETWORK=FILE` converts the official one (its sha256
goes into the metadata, and is checked where the publisher states its first digits). A hub folder: `hf download ID`,
or the folder under the name of the network in `--weights` (default `~/.cache/motionloom/metrics`). A plug-in:
`--plugin NETWORK=package.module:callable`. Networks marked nc need `--accept-nc`. Every scores.json holds the sha256
of what was loaded.
"""


def document() -> str:
    """The whole page as Markdown."""
    parts = [
        INTRODUCTION,
        _counts(),
        _metrics(),
        "## Values\n",
        _values(),
        PLACES,
        _networks(),
        "## Protocols\n",
        _protocols(),
    ]
    return "\n".join(parts)


def _metrics() -> str:
    rows = [
        (
            f"`{name}`",
            row.about,
            row.source,
            ", ".join(f"`{network}`" for network in row.networks) or "none",
            row.compares or "",
            f"`tests/metrics/{row.tests}` ({_num_tests(row.tests)})",
            "yes" if _runs(name) else "no: not installed",
        )
        for name, row in METRICS.items()
    ]
    return _table(
        (
            "metric",
            "what it says",
            "formula",
            "weights",
            "compared with",
            "tests (how many)",
            "ran here with its weights",
        ),
        rows,
    )


def _counts() -> str:
    """How many metrics there are of each kind."""
    free = [name for name, row in METRICS.items() if not row.networks]
    ours = [
        name
        for name, row in METRICS.items()
        if row.networks and not any(NETWORKS[network].plugin for network in row.networks)
    ]
    run = [name for name in METRICS if _runs(name)]
    files = sorted({row.tests for row in METRICS.values()} | {"test_networks.py"})
    return (
        f"{len(METRICS)} metrics: {len(free)} need no weights; {len(ours)} need weights, their networks "
        "come with the package; "
        f"{len(METRICS) - len(free) - len(ours)} need a plug-in. {len(run)} ran with their weights where this page was "
        f"written. {sum(_num_tests(file) for file in files)} test functions in {len(files)} files pin the formulas. "
        "Without published weights the networks are tested on random ones: RAFT, I3D, Inception, LPIPS, MUSIQ and AMT-S "
        "against outputs of the released implementations on the same weights (`tests/parity/metric_networks/`); DINO, "
        "CLIP and VideoMAE are those of transformers; of C3D only shapes and preparation are tested.\n"
    )


def _runs(name: str) -> bool:
    try:
        make_metric(name, Setup(networks=Networks()))
    except (WeightsError, ResourceError):
        return False
    return True


def _num_tests(file: str) -> int:
    """Test functions of a file beside this package."""
    text = (Path(__file__).parents[2] / "tests" / "metrics" / file).read_text("utf-8")
    return sum(line.startswith("def test_") for line in text.splitlines())


def _values() -> str:
    from motionloom.metrics.base import Metric

    rows = []
    for name in METRICS:
        metric = _class_of(name)
        gives = metric.gives if isinstance(metric.gives, dict) else None
        if gives is None:  # a set distance makes its names from its own
            continue
        rows += [
            (f"`{key}`", value.definition, value.unit, {"none": ""}.get(value.direction, value.direction))
            for key, value in gives.items()
        ]
    assert rows and issubclass(_class_of("psnr"), Metric)
    text = _table(("value", "definition", "unit", "better"), rows)
    endings = "/infinity, /kernel, /noise_floor, /per_class (cFVD), /per_subject (sFVD), /per_class_kernel"
    return text + f"\nDistances between sets give `name`, and `name` with {endings}, /per_subject_kernel.\n"


def _class_of(name: str):  # type: ignore[no-untyped-def]
    import importlib

    module, _, attribute = METRICS[name].home.partition(":")
    return getattr(importlib.import_module(f"motionloom.metrics.{module}"), attribute)


def _networks() -> str:
    rows = [
        (
            f"`{name}`" + (" nc" if row.non_commercial else ""),
            row.about,
            row.origin,
            row.code_licence,
            row.weights_licence,
            row.official_sha256 and f"{row.official_sha256[:8]}...",
            "hub folder" if row.hub_id else "plug-in" if row.plugin else "file",
        )
        for name, row in NETWORKS.items()
    ]
    heads = ("network", "what it is", "origin", "code licence", "weights licence", "sha256", "how")
    plugins = [f"* `{name}`: {row.plugin}" for name, row in NETWORKS.items() if row.plugin]
    return _table(heads, rows) + "\nPlug-ins take and return:\n\n" + "\n".join(plugins) + "\n"


def _protocols() -> str:
    rows = [
        (
            f"`{name}`",
            row.about,
            row.source,
            ", ".join(f"`{metric}`" for metric in row.metrics),
            str(row.window),
        )
        for name, row in PROTOCOLS.items()
    ]
    note = "\n`scores.json` lists every deviation of a set from the protocol asked for.\n"
    return _table(("protocol", "what it asks for", "source", "metrics", "frames, of references"), rows) + note


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(document(), end="")

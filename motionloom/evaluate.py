"""folder of clips -> scores.json: the verb `evaluate`.

scores = evaluate("clips/", references="real/", metrics=["fvd", "psnr"])     # the same call again resumes
scores["psnr"]                                                                # the set's value
scores.record.summary["psnr"].interval                                        # and everything around it
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from motionloom.errors import InputError, ResourceError, WeightsError
from motionloom.metrics.base import Measured, Metric, Need, Row
from motionloom.metrics.cache import Cache
from motionloom.metrics.catalog import default_metrics, make_metric, row_of
from motionloom.metrics.distribution import SMALL_SET, SetDistance
from motionloom.metrics.networks.table import NETWORKS
from motionloom.metrics.protocols import check, protocol_of
from motionloom.metrics.scores import (
    ClipScores,
    Failure,
    LeftOut,
    Number,
    Scores,
    Summary,
    WeightsUsed,
    as_number,
)
from motionloom.metrics.setup import Setup, Window
from motionloom.metrics.sources import (
    Source,
    find_sources,
    listed,
    with_pictures,
    with_prompts,
    with_references,
)
from motionloom.metrics.work import Done, Plan, Role, Worker, run

Progress = Callable[[str, int, int], None]
Sizes = Literal["same", "any"]
Place = str | os.PathLike[str]


class Evaluation(dict[str, Number]):
    """Value names -> the set's values. `record` is everything, as scores.json holds it."""

    def __init__(self, record: Scores, path: Path | None, num_measured: int) -> None:
        super().__init__({name: summary.value for name, summary in record.summary.items()})
        self.record, self.path, self.num_measured = record, path, num_measured


def evaluate(
    clips: Place,
    references: Place | None = None,
    metrics: Sequence[str] | None = None,
    *,
    images: Place | None = None,
    prompts: Place | None = None,
    protocol: str | None = None,
    out: Place | None = "scores.json",
    cache: Place | None = None,
    frames: int | None = None,
    sizes: Sizes = "same",
    small_sets: bool = False,
    weights: Place | None = None,
    accept_nc: bool = False,
    plugins: Mapping[str, str] | None = None,
    device: str = "cpu",
    workers: int = 1,
    command: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a set of clips and write scores.json. The same call again continues, and ends with the same bytes.

    Args:
        clips: a folder, or a manifest.jsonl (see metrics/sources.py).
        references: real clips, for distances between sets and, by name, for comparison frame by frame.
        metrics: names from `describe_metrics`; default those that need no weights and for which everything is there.
        images: input pictures, named like the clips.
        prompts: a JSON object, clip name -> prompt.
        protocol: a preset of metrics/protocols.py; its metrics and frames, and a check of numbers and sizes.
        out: where to write; None writes nothing.
        cache: results by content; default `<out>.cache` beside it. Share one between models with the same references.
        frames: of each clip that a distance between sets sees; default 16, or the protocol's.
        sizes: "same" refuses clips of another size than most; "any" takes all.
        small_sets: give Fréchet distances below 256 clips, too.
        weights: folder of networks; see metrics/networks/table.py.
        accept_nc: non-commercial licences are accepted.
        plugins: network name -> "package.module:callable".
        device: "cpu", "cuda", ...
        workers: processes.
        command: recorded; default the call in words.
        progress: called with (stage, done, in all).

    Returns:
        value names -> values; `.record.partial` says whether anything failed or was left out.

    Raises:
        InputError: nothing to evaluate, or partners that are missing.
        ConfigError: an unknown metric or protocol.
        ResourceError: the disk refuses.
    """
    preset = protocol_of(protocol) if protocol else None
    asked = list(dict.fromkeys(metrics or (preset.metrics if preset else default_metrics())))
    for name in asked:
        row_of(name)
    explicit = bool(metrics or preset)
    window = preset.window if preset else Window()
    window = replace(window, frames=frames) if frames else window

    sources, ignored = find_sources(clips)
    real, _ = find_sources(references) if references is not None else ([], [])
    sources = with_references(sources, real)
    sources = with_pictures(sources, Path(images)) if images is not None else sources
    sources = with_prompts(sources, Path(prompts)) if prompts is not None else sources

    folder = Path(cache) if cache is not None else Path(out or "scores.json").with_suffix(".cache")
    plan = Plan(
        folder,
        (),
        (),
        window,
        small_sets,
        Path(weights) if weights is not None else None,
        device,
        accept_nc,
        tuple(sorted((plugins or {}).items())),
    )
    setup = plan.setup()
    usable, left_out = _usable(asked, setup, sources, real, explicit)
    plan = replace(
        plan,
        metrics=tuple(usable),
        reference_metrics=tuple(name for name, metric in usable.items() if "references" in metric.needs),
    )
    worker = Worker(plan, usable, setup)
    jobs: list[tuple[Source, Role]] = [(source, "clip") for source in sources]
    jobs += [(source, "reference") for source in real] if plan.reference_metrics else []
    done = list(run(plan, jobs, workers, worker, progress))

    results = _Results(done, Cache(folder), len(sources), len(real) if plan.reference_metrics else 0)
    results.refuse_odd_sizes(sizes if preset is None or not preset.mixed_sizes else "any")
    summary = results.summaries(usable, left_out, explicit)
    scored = results.clip_scores()
    record = Scores(
        command=command or _call(clips, references, asked, protocol),
        versions=_versions(usable),
        settings={
            "metrics": asked,
            "window": str(window),
            "sizes": sizes,
            "small_sets": small_sets,
            "device": device,
            "dtype": "float32",
            "ignored_files": ignored,
        },
        clips_from=os.fspath(clips),
        references_from=None if references is None else os.fspath(references),
        num_references=len(real),
        protocol=check(protocol, scored, len(real), left_out, window) if protocol else None,
        partial=bool(results.failures) or (explicit and bool(left_out)),
        summary=summary,
        clips=scored,
        failures=results.failures,
        left_out=left_out,
        weights=[
            WeightsUsed(
                name=used.name,
                file=used.file,
                sha256=used.sha256,
                licence=NETWORKS[used.name].weights_licence,
            )
            for used in sorted(setup.networks.used.values(), key=lambda used: used.name)
        ],
    )
    path = record.save(out) if out is not None else None
    return Evaluation(record, path, sum(one.num_measured for one in done))


# --- which metrics can run


def _usable(
    asked: Iterable[str], setup: Setup, sources: Sequence[Source], real: Sequence[Source], explicit: bool
) -> tuple[dict[str, Metric], list[LeftOut]]:
    """The metrics that can run, and the others by name. Raises InputError for partners that only some clips lack."""
    usable: dict[str, Metric] = {}
    left_out: list[LeftOut] = []
    for name in asked:
        try:
            metric = make_metric(name, setup)
        except (WeightsError, ResourceError) as problem:
            left_out.append(LeftOut(metric=name, reason=problem.message, fix=problem.fix))
            if name == "motion_dis" and not explicit:  # said by name, and its stand-in has a name of its own
                usable["motion_lk"] = make_metric("motion_lk", setup)
            continue
        reason = _missing(metric, sources, real, explicit)
        if reason is None:
            usable[name] = metric
        else:
            left_out.append(LeftOut(metric=name, reason=reason[0], fix=reason[1]))
    return usable, left_out


_PARTNERS: dict[Need, tuple[str, str, str]] = {
    "picture": ("picture", "input picture", "--images DIR, or name them in a manifest"),
    "reference": ("reference", "real clip of the same name", "--references DIR with the same names"),
    "prompt": ("prompt", "prompt", "--prompts FILE, or name them in a manifest"),
    "camera": ("camera", "camera motion", 'name it in a manifest: "camera": "pan_left"'),
}


def _missing(
    metric: Metric, sources: Sequence[Source], real: Sequence[Source], explicit: bool
) -> tuple[str, str] | None:
    """(reason, fix) when the set lacks what the metric needs."""
    if "references" in metric.needs and len(real) < 2:
        return f"it compares with a set of real clips, {len(real)} given", "--references DIR"
    for need, (field, what, fix) in _PARTNERS.items():
        if need not in metric.needs:
            continue
        lacking = [source.id for source in sources if getattr(source, field) is None]
        if explicit and 0 < len(lacking) < len(sources):
            raise InputError(f"{metric.name}: no {what} for {listed(lacking)}", fix=fix)
        if lacking:
            return f"no {what} for {len(lacking)} of {len(sources)} clips", fix
    return None


# --- what was measured


class _Results:
    """The measured clips, and what became of each."""

    def __init__(self, done: Sequence[Done], cache: Cache, num_clips: int, num_real: int) -> None:
        ordered = sorted(done, key=lambda one: (one.role, one.source.id))
        self.cache, self.num_clips, self.num_real = cache, num_clips, num_real
        self.clips = [one for one in ordered if one.role == "clip" and not one.problem]
        self.real = [one for one in ordered if one.role == "reference" and not one.problem]
        self.failures = [
            Failure(file=str(one.source.file), reason=_unnamed(one.problem, one.source.file), role=one.role)
            for one in ordered
            if one.problem
        ]
        self.failures += [
            Failure(file=str(one.source.file), reason=reason, metric=metric, role=one.role)
            for one in ordered
            for metric, reason in one.failures
        ]
        self._kept: dict[str, Measured] = {}

    def refuse_odd_sizes(self, sizes: Sizes) -> None:
        """Clips of another size than most become failures: flow, flicker and sharpness depend on it."""
        counts = Counter((one.facts["width_px"], one.facts["height_px"]) for one in self.clips)
        if sizes == "any" or len(counts) < 2:
            return
        usual = max(sorted(counts), key=lambda size: counts[size])
        kept = []
        for one in self.clips:
            size = (one.facts["width_px"], one.facts["height_px"])
            if size == usual:
                kept.append(one)
                continue
            reason = (
                f"it is {size[0]}x{size[1]} px, most clips are {usual[0]}x{usual[1]}; --sizes any takes all"
            )
            self.failures.append(Failure(file=str(one.source.file), reason=reason))
        self.clips = kept

    def summaries(
        self, metrics: Mapping[str, Metric], left_out: list[LeftOut], explicit: bool
    ) -> dict[str, Summary]:
        found: dict[str, Summary] = {}
        for name, metric in metrics.items():
            rows, real = self.rows(name, self.clips), self.rows(name, self.real)
            summaries = metric.summarise(rows, real)
            if not summaries:
                left_out.append(_nothing(name, len(rows), len(real)))
            elif isinstance(metric, SetDistance) and name not in summaries:
                left_out.append(
                    LeftOut(
                        metric=name,
                        reason=f"{len(real)} real and {len(rows)} generated clips, fewer than {SMALL_SET}: a Fréchet "
                        f"distance would be mostly bias; {name}/kernel stands in its place",
                        fix="more clips, or --small-sets",
                    )
                )
            found |= {key: self._counted(summary, len(rows)) for key, summary in summaries.items()}
        return found

    def _counted(self, summary: Summary, num_measured: int) -> Summary:
        """With the clips that failed: a mean must not hide what it is not of."""
        if num_measured == self.num_clips:
            return summary
        warning = f"of {num_measured} of {self.num_clips} clips; the others failed"
        warnings = (*summary.warnings, warning)
        expected = self.num_clips if summary.num_expected == num_measured else summary.num_expected
        return summary.model_copy(update={"warnings": warnings, "num_expected": expected})

    def rows(self, metric: str, done: Sequence[Done]) -> list[Row]:
        return [
            Row(
                one.source.id,
                one.source.cluster,
                one.facts["num_frames"],
                self._measured(one.keys[metric]),
                one.source.class_name,
                one.source.subject,
            )
            for one in done
            if metric in one.keys
        ]

    def _measured(self, key: str) -> Measured:
        if key not in self._kept:
            measured = self.cache.read(key)
            if measured is None:
                raise ResourceError(
                    f'a result vanished from "{self.cache.folder}" while we worked',
                    fix="run the same command again",
                )
            self._kept[key] = measured
        return self._kept[key]

    def clip_scores(self) -> list[ClipScores]:
        return [self._scores_of(one) for one in self.clips]

    def _scores_of(self, one: Done) -> ClipScores:
        measured = [self._measured(one.keys[name]) for name in one.keys]
        source = one.source
        return ClipScores(
            id=source.id,
            file=str(source.file),
            sha256=one.sha256,
            cluster=source.cluster,
            picture=str(source.picture) if source.picture else None,
            picture_sha256=one.picture_sha256,
            reference=source.reference_id,
            reference_sha256=one.reference_sha256,
            prompt=source.prompt,
            seed=source.seed,
            class_name=source.class_name,
            subject=source.subject,
            values={name: as_number(value) for each in measured for name, value in each.values.items()},
            curves={
                name: [as_number(number) for number in curve]
                for each in measured
                for name, curve in each.curves.items()
            },
            **{key: value for key, value in one.facts.items() if key != "notes"},
            notes=tuple(one.facts["notes"]),
        )


def _nothing(name: str, num_clips: int, num_real: int) -> LeftOut:
    if name == "diversity":
        return LeftOut(
            metric=name,
            reason="no two clips are of one picture or prompt",
            fix="several seeds of each, and --images, --prompts or a manifest",
        )
    return LeftOut(
        metric=name,
        reason=f"{num_clips} clips and {num_real} references could be measured",
        fix="see the failures",
    )


# --- what made it


def _versions(metrics: Mapping[str, Metric]) -> dict[str, str]:
    from motionloom import __version__

    packages = ["torch", "numpy", "av"]
    packages += ["transformers"] if any(row_of(name).networks for name in metrics) else []
    versions = {"motionloom": __version__, "python": ".".join(str(part) for part in sys.version_info[:3])}
    versions |= {name: importlib.metadata.version(name) for name in packages}
    if "motion_dis" in metrics:
        import cv2

        versions["opencv"] = cv2.__version__
    return versions


def _call(clips: Place, references: Place | None, metrics: Sequence[str], protocol: str | None) -> str:
    words: list[Any] = ["motionloom", "evaluate", os.fspath(clips)]
    words += ["--references", os.fspath(references)] if references is not None else []
    words += ["--protocol", protocol] if protocol else ["--metrics", ",".join(metrics)]
    return shlex.join(words)


def _unnamed(problem: str, file: Path) -> str:
    """Why a clip cannot be read, without its name, which stands beside it wherever a failure is shown."""
    return problem.removeprefix(f'cannot read clip "{file}": ')

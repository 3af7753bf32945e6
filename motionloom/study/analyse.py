"""A study's answers => shares, strengths, and how far to trust them: results.json and votes.csv."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from motionloom.durable import write_json, write_text
from motionloom.errors import InputError
from motionloom.metrics.statistics import wilson_interval
from motionloom.study.agreement import krippendorff_alpha
from motionloom.study.choice_model import Counts, Floats, fit_strengths
from motionloom.study.files import ANSWERS, NO_DIFFERENCE, Key, Sheet, read_key, read_sheet

RESULTS, VOTES = "results.json", "votes.csv"
RESAMPLES = 1000
FEW_PARTICIPANTS = 5  # below, resampling them says nothing
MIN_CONTROLS_PASSED = 2 / 3
MAX_UNFIT = 0.025  # of the resamples, without finite strengths


@dataclass(frozen=True)
class Vote:
    """One answer, with the methods' names. `choice` is None for no difference."""

    participant: str
    question: str
    case: str
    shown: tuple[str | None, ...]  # from left to right; None is the damaged copy in a control
    choice: str | None
    chose_damaged: bool
    kind: str
    screen: int
    seconds: float


def analyse_study(folder: Path, *, keep_all: bool = False) -> dict[str, Any]:
    """Count, fit, and write `results.json` and `votes.csv` into the study folder; return the results.

    Participants who prefer the damaged copy in more than a third of their controls are left out, by name of their
    random token, unless `keep_all`.

    Raises:
        InputError: not a study, or nobody has answered.
    """
    key = read_key(folder)
    sheets, refused = _sheets(folder, key)
    votes = [vote for sheet in sheets for vote in votes_of(sheet, key)]
    if not votes:
        raise InputError(
            f'nobody has answered the study "{folder}" yet', fix=f"motionloom study serve {folder}"
        )
    people = [
        _participant(sheet, [v for v in votes if v.participant == sheet.joined.participant])
        for sheet in sheets
    ]
    kept = {one["participant"] for one in people if keep_all or not one["excluded"]}
    results = {
        "kind": "motionloom study",
        "version": 1,
        "study": key.study,
        "title": key.title,
        "mode": key.mode,
        "methods": list(key.methods),
        "num_participants": len(people),
        "num_kept": len(kept),
        "kept_all": keep_all,
        "questions": [
            _question(question, [v for v in votes if v.question == question and v.participant in kept], key)
            for question in key.questions
        ],
        "participants": people,
        "refused_files": refused,
        "notes": list(key.notes),
    }
    write_text(folder / VOTES, _as_csv(votes))
    write_json(folder / RESULTS, results)
    return results


# --- answers => votes


def _sheets(folder: Path, key: Key) -> tuple[list[Sheet], list[str]]:
    sheets, refused = [], []
    for file in sorted((folder / ANSWERS).glob("*.jsonl")):
        try:
            sheets.append(read_sheet(file, key))
        except InputError as problem:
            refused.append(problem.message)
    seen: dict[str, Sheet] = {}
    for sheet in sheets:  # a file may have been copied
        if sheet.joined.participant in seen:
            refused.append(
                f"participant {sheet.joined.participant} has two files; the first by name was used"
            )
        seen.setdefault(sheet.joined.participant, sheet)
    return list(seen.values()), refused


def votes_of(sheet: Sheet, key: Key) -> list[Vote]:
    """A participant's answers with the names behind them."""
    votes = []
    for answer in sheet.answers.values():
        screen = key.sheets[sheet.joined.sheet][answer.screen]
        chosen = key.clips[answer.choice].method if answer.choice != NO_DIFFERENCE else None
        votes.append(
            Vote(
                sheet.joined.participant,
                answer.question,
                key.cases[screen.case],
                tuple(key.clips[clip].method for clip in screen.clips),
                chosen,
                answer.choice != NO_DIFFERENCE and chosen is None,
                screen.kind,
                answer.screen,
                answer.seconds,
            )
        )
    return votes


def _participant(sheet: Sheet, votes: Sequence[Vote]) -> dict[str, Any]:
    controls = [vote for vote in votes if vote.kind == "control"]
    passed = sum(not vote.chose_damaged and vote.choice is not None for vote in controls)
    failed = bool(controls) and passed < MIN_CONTROLS_PASSED * len(controls)
    repeats = [vote for vote in votes if vote.kind == "repeat"]
    first = {(v.question, v.case, frozenset(v.shown)): v.choice for v in votes if v.kind == "vote"}
    again = [
        first[place] == v.choice
        for v in repeats
        if (place := (v.question, v.case, frozenset(v.shown))) in first
    ]
    return {
        "participant": sheet.joined.participant,
        "num_answers": len(votes),
        "num_changed": sheet.num_changed,
        "num_damaged_lines": sheet.num_damaged,
        "median_seconds": median(vote.seconds for vote in votes) if votes else None,
        "controls_passed": passed,
        "num_controls": len(controls),
        "repeats_alike": sum(again),
        "num_repeats": len(again),
        "excluded": f"passed {passed} of {len(controls)} controls" if failed else "",
    }


# --- one question


def _question(question: str, votes: Sequence[Vote], key: Key) -> dict[str, Any]:
    counted = [vote for vote in votes if vote.kind == "vote"]
    people = sorted({vote.participant for vote in counted})
    strengths = _strengths(counted, people, key.methods)
    shares = _share_intervals(counted, people, key.methods)
    methods = []
    for number, method in enumerate(key.methods):
        chosen, shown = _won_and_shown(counted, method)
        won = np.zeros(shown)
        won[:chosen] = 1
        methods.append(
            {
                "method": method,
                "num_chosen": chosen,
                "num_shown": shown,
                "share": chosen / shown if shown else 0.0,
                "share_interval": list(wilson_interval(won) or (0.0, 1.0)),
                "share_interval_over_participants": shares[number],
                **strengths[number],
            }
        )
    repeats = [vote for vote in votes if vote.kind == "repeat"]
    places = max((len(vote.shown) for vote in counted), default=0)
    return {
        "question": question,
        "num_votes": len(counted),
        "num_participants": len(people),
        "num_no_difference": sum(vote.choice is None for vote in counted),
        "num_repeats": len(repeats),
        "agreement_alpha": krippendorff_alpha(_units(counted)),
        "chosen_by_place": [
            sum(v.choice is not None and v.shown[i] == v.choice for v in counted) for i in range(places)
        ],
        "methods": sorted(methods, key=lambda one: -one["share"]),
        "warnings": _warnings(counted, people, strengths),
    }


def _won_and_shown(votes: Sequence[Vote], method: str) -> tuple[int, int]:
    return sum(v.choice == method for v in votes), sum(method in v.shown for v in votes)


def _units(votes: Iterable[Vote]) -> list[list[str]]:
    """What was judged: a case with the methods shown, in whatever order."""
    units: dict[object, list[str]] = defaultdict(list)
    for vote in votes:
        units[vote.case, frozenset(vote.shown)].append(vote.choice or NO_DIFFERENCE)
    return list(units.values())


def _warnings(votes: Sequence[Vote], people: Sequence[str], strengths: Sequence[dict[str, Any]]) -> list[str]:
    warnings = []
    if len(people) < FEW_PARTICIPANTS:
        warnings.append(
            f"{len(people)} participants: intervals over participants need {FEW_PARTICIPANTS}; Wilson's take every vote "
            "as independent, which votes of one person are not"
        )
    if votes and strengths[0]["log_strength"] is None:
        warnings.append("no finite strengths: some methods were never chosen over the others")
    return warnings


def counts_of(votes: Iterable[Vote], methods: Sequence[str]) -> Counts:
    """Votes as `fit_strengths` takes them."""
    counts: dict[tuple[int, ...], Floats] = {}
    for vote in votes:
        shown = tuple(sorted(methods.index(name) for name in vote.shown if name is not None))
        row = counts.setdefault(shown, np.zeros(len(shown) + 1))
        row[shown.index(methods.index(vote.choice)) if vote.choice is not None else -1] += 1
    return counts


def _strengths(votes: Sequence[Vote], people: Sequence[str], methods: Sequence[str]) -> list[dict[str, Any]]:
    """Log strengths, with percentile intervals over resampled participants."""
    own = [counts_of((v for v in votes if v.participant == person), methods) for person in people]
    fitted = fit_strengths(_added(own), len(methods))
    if fitted is None:
        return [{"log_strength": None, "log_strength_interval": None} for _ in methods]
    intervals: list[list[float] | None] = [None] * len(methods)
    if len(people) >= FEW_PARTICIPANTS:
        drawn = [
            fit_strengths(_added([own[i] for i in chosen]), len(methods))
            for chosen in _resamples(len(people))
        ]
        fits = [fit.log_strengths for fit in drawn if fit is not None]
        if len(fits) >= (1 - MAX_UNFIT) * len(drawn):
            ends = np.percentile(np.array(fits), [2.5, 97.5], axis=0)
            intervals = [[float(low), float(high)] for low, high in ends.T]
    return [
        {"log_strength": float(strength), "log_strength_interval": interval}
        for strength, interval in zip(fitted.log_strengths, intervals, strict=True)
    ]


def _added(counts: Sequence[Counts]) -> Counts:
    total: dict[tuple[int, ...], Floats] = {}
    for one in counts:
        for shown, chosen in one.items():
            total[shown] = total.get(shown, 0) + chosen
    return total


def _share_intervals(
    votes: Sequence[Vote], people: Sequence[str], methods: Sequence[str]
) -> list[list[float] | None]:
    if len(people) < FEW_PARTICIPANTS:
        return [None] * len(methods)
    table = np.array(
        [
            [_won_and_shown([v for v in votes if v.participant == person], m) for m in methods]
            for person in people
        ]
    )  # (people, methods, 2)
    drawn = table[_resamples(len(people))].sum(1)
    shares = drawn[..., 0] / np.maximum(drawn[..., 1], 1)
    return [[float(low), float(high)] for low, high in np.percentile(shares, [2.5, 97.5], axis=0).T]


def _resamples(count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng(0).integers(0, count, (RESAMPLES, count))


# --- votes.csv


def _as_csv(votes: Sequence[Vote]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("participant", "screen", "kind", "question", "case", "shown", "choice", "seconds"))
    for v in votes:
        shown = " | ".join(name or "(damaged)" for name in v.shown)
        choice = v.choice or ("(damaged)" if v.chose_damaged else "(no difference)")
        writer.writerow(
            map(_cell, (v.participant, v.screen, v.kind, v.question, v.case, shown, choice, v.seconds))
        )
    return stream.getvalue()


def _cell(value: object) -> object:
    """A text that a spreadsheet would take for a formula is quoted."""
    return "'" + value if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value

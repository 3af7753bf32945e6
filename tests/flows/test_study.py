"""Preference studies: balanced, blind, resumable, refused where they must be, and analysed as theory says."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from motionloom.cli import main
from motionloom.errors import ConfigError, InputError, ResourceError
from motionloom.report import report
from motionloom.study.agreement import krippendorff_alpha
from motionloom.study.analyse import analyse_study
from motionloom.study.build import build_study
from motionloom.study.choice_model import fit_strengths
from motionloom.study.design import DAMAGED, Trial, balanced_square, draw_sheets
from motionloom.study.files import NO_DIFFERENCE, Answer, Key, append_line, read_key
from motionloom.study.serve import MAX_BODY_BYTES, Study, StudyServer
from motionloom.video.clip import Clip
from motionloom.video.read import read_clip
from tests.flows.browser import browsing, find

# --- who sees what


@pytest.mark.parametrize("n", range(2, 9))
def test_every_method_stands_in_every_place_and_beside_every_other_equally_often(n: int) -> None:
    rows = balanced_square(n)
    assert all(sorted(row) == list(range(n)) for row in rows)
    places = Counter((place, item) for row in rows for place, item in enumerate(row))
    assert len(places) == n * n and len(set(places.values())) == 1
    neighbours = Counter(pair for row in rows for pair in pairwise(row))
    assert set(neighbours) == set(permutations(range(n), 2)) and len(set(neighbours.values())) == 1


@pytest.mark.parametrize(("mode", "methods"), [("pairs", 2), ("pairs", 3), ("best", 3), ("best", 4)])
def test_votes_are_balanced_over_the_sheets(mode: Any, methods: int) -> None:
    sheets = draw_sheets(10, methods, mode)
    votes = [trial for sheet in sheets for trial in sheet if trial.kind == "vote"]
    places = Counter(
        (trial.case, place, method) for trial in votes for place, method in enumerate(trial.methods)
    )
    assert len(set(places.values())) == 1
    groups = math.comb(methods, 2) if mode == "pairs" else 1
    assert all(sum(trial.kind == "vote" for trial in sheet) == 10 * groups for sheet in sheets)


def test_few_votes_each_are_dealt_evenly() -> None:
    sheets = draw_sheets(10, 4, "pairs", votes_each=7)
    dealt = Counter((t.case, frozenset(t.methods)) for sheet in sheets for t in sheet if t.kind == "vote")
    assert len(dealt) == 60 and max(dealt.values()) - min(dealt.values()) <= 1
    for sheet in sheets:
        own = [(t.case, frozenset(t.methods)) for t in sheet if t.kind == "vote"]
        assert len(own) == len(set(own)) == 7


def test_repeats_come_late_and_mirrored_controls_hold_a_damaged_copy() -> None:
    for sheet in draw_sheets(30, 3, "best"):
        repeats = [(place, trial) for place, trial in enumerate(sheet) if trial.kind == "repeat"]
        controls = [trial for trial in sheet if trial.kind == "control"]
        assert len(repeats) == len(controls) == 2  # 5 to 10 % of 30
        for place, trial in repeats:
            assert sheet.index(Trial(trial.case, trial.methods[::-1])) < place
        assert all(DAMAGED in trial.methods and len(trial.methods) == 2 for trial in controls)


def test_one_seed_one_order() -> None:
    assert (
        draw_sheets(5, 3, "pairs", seed=1)
        == draw_sheets(5, 3, "pairs", seed=1)
        != draw_sheets(5, 3, "pairs", seed=2)
    )


# --- strengths


def counts(**pairs: Sequence[float]) -> dict[tuple[int, ...], Any]:
    """counts(_01=[3, 1, 0]): of 0 and 1, 0 was chosen three times and 1 once."""
    return {
        tuple(int(digit) for digit in name[1:]): np.array(chosen, float) for name, chosen in pairs.items()
    }


def test_bradley_terry_of_two_is_the_odds() -> None:
    fit = fit_strengths(counts(_01=[30, 10, 0]), 2)
    assert fit is not None and fit.log_tie is None
    assert fit.log_strengths == pytest.approx([math.log(3) / 2, -math.log(3) / 2], abs=1e-9)


def test_davidson_of_two_has_a_closed_form() -> None:
    """π0 / π1 = a / b and ν = t / sqrt(a b)."""
    fit = fit_strengths(counts(_01=[30, 12, 9]), 2)
    assert fit is not None and fit.log_tie is not None
    assert fit.log_strengths[0] - fit.log_strengths[1] == pytest.approx(math.log(30 / 12), abs=1e-9)
    assert fit.log_tie == pytest.approx(math.log(9 / math.sqrt(30 * 12)), abs=1e-9)


def test_luce_of_all_methods_is_the_share() -> None:
    shares = np.array([50.0, 30, 15, 5])
    fit = fit_strengths({(0, 1, 2, 3): np.array([*shares, 0])}, 4)
    assert fit is not None
    assert fit.log_strengths == pytest.approx(np.log(shares) - np.log(shares).mean(), abs=1e-9)


def test_a_circle_has_no_stronger_method() -> None:
    fit = fit_strengths(counts(_01=[8, 2, 1], _12=[8, 2, 1], _02=[2, 8, 1]), 3)
    assert fit is not None and fit.log_strengths == pytest.approx([0, 0, 0], abs=1e-9)


@pytest.mark.parametrize("size", [2, 3])
def test_known_strengths_come_back(size: int) -> None:
    """Expected counts of known strengths have their maximum at these strengths."""
    truth, tie = np.array([0.9, 0.2, -0.3, -0.8]), -0.7
    expected: dict[tuple[int, ...], Any] = {}
    for shown in combinations(range(4), size):
        own = truth[list(shown)]
        weights = np.exp([*own, tie + own.mean()])
        expected[shown] = 100 * weights / weights.sum()
    fit = fit_strengths(expected, 4)
    assert fit is not None and fit.log_tie is not None
    assert fit.log_strengths == pytest.approx(truth, abs=1e-8) and fit.log_tie == pytest.approx(tie, abs=1e-8)


@pytest.mark.parametrize(
    "without", [counts(_01=[5, 0, 0]), counts(_01=[3, 3, 0], _12=[4, 0, 0]), counts(_01=[0, 0, 7])]
)
def test_strengths_that_are_not_finite_are_not_given(without: Any) -> None:
    """Ford's condition; and nobody ever chose."""
    assert fit_strengths(without, max(max(shown) for shown in without) + 1) is None


def test_agreement_as_published() -> None:
    """Krippendorff, Computing Krippendorff's Alpha-Reliability (2011): examples A and C, 0.095 and 0.743."""
    meg, owen = "0100000010", "1110010000"
    assert krippendorff_alpha([[a, b] for a, b in zip(meg, owen, strict=True)]) == pytest.approx(
        0.095, abs=5e-4
    )
    judges = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    units = [[said for said in unit if said != "."] for unit in zip(*judges, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha([["a", "a"], ["b", "b"]]) == 1.0
    assert krippendorff_alpha([["a"], ["b"]]) is None and krippendorff_alpha([["a", "a"]]) is None


# --- a study folder

METHODS = ("ours-secret", "rival-secret")


def clip(seed: int, frames: int = 6, width: int = 48, fps: float = 8.0) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 255, (1, 6, 8, 3))
    large = np.kron(pixels, np.ones((1, width // 8, width // 8, 1)))
    moved = np.stack([np.roll(large[0], t, axis=1) for t in range(frames)]).astype(np.uint8)
    return Clip(moved, fps, {"motion": "secret-recipe"})


def make_folders(root: Path, cases: int = 4) -> list[str]:
    for number, method in enumerate(METHODS):
        folder = root / method
        folder.mkdir(parents=True)
        for case in range(cases):
            # another length, size and rate: all of it must go
            made = clip(case + 100 * number, 6 + 7 * number, 48 * (1 + number), 8.0 * (1 + number))
            made.save(folder / f"waterfall-{case}.mp4")
    (root / "photos").mkdir()
    for case in range(cases):
        Image.fromarray(clip(case).frames[0]).save(root / "photos" / f"waterfall-{case}.png")
    return [str(root / method) for method in METHODS]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One study for the tests that only read it."""
    root = tmp_path_factory.mktemp("study")
    folders = make_folders(root, 8)
    return build_study(folders, root / "study", questions=("overall", "fidelity"), images=root / "photos")


@pytest.fixture
def study(built: Path, tmp_path: Path) -> Path:
    """A copy to answer."""
    return Path(shutil.copytree(built, tmp_path / "study"))


def test_nothing_a_viewer_gets_tells_the_methods_apart(built: Path) -> None:
    key = read_key(built)
    viewer = built / "viewer"
    everything = b"".join(file.read_bytes() for file in viewer.rglob("*") if file.is_file())
    for word in (*METHODS, "secret", "waterfall", str(built.parent)):
        assert word.encode() not in everything, word
    page = (viewer / "index.html").read_text("utf-8")
    shown = json.loads(re.findall(r'id="study">(.*?)</script>', page, re.DOTALL)[0])
    assert {name for sheet in shown["sheets"] for screen in sheet for name in screen} == {"case", "clips"}
    assert {name for case in shown["cases"] for name in case} == {"picture", "prompt"}
    assert {path.stem for path in (viewer / "clips").glob("*.mp4")} == set(key.clips)
    for case in range(len(key.cases)):
        files = [viewer / "clips" / f"{name}.mp4" for name, one in key.clips.items() if one.case == case]
        clips = [read_clip(file) for file in files]
        assert len({(one.frames.shape, one.fps) for one in clips}) == 1
        assert len({(file.stat().st_size, file.stat().st_mtime) for file in files}) == 1
    assert {one.method for one in key.clips.values()} == {*METHODS, None}


def test_a_shown_clip_is_the_clip(built: Path) -> None:
    """Blind, and still right: the key leads back to the source, within what H.264 loses."""
    key = read_key(built)
    for name, one in key.clips.items():
        if one.method is None:
            continue
        shown = read_clip(built / "viewer" / "clips" / f"{name}.mp4").frames[0].astype(float)
        errors = {}
        for method in METHODS:
            frame = read_clip(built.parent / method / f"{key.cases[one.case]}.mp4").frames[0].astype(float)
            step = frame.shape[0] // shown.shape[0]
            errors[method] = np.abs(frame[::step, ::step] - shown).mean()
        own = errors.pop(one.method)
        assert own < 15 < 40 < min(errors.values())


def test_two_studies_share_no_names(built: Path, tmp_path: Path) -> None:
    again = build_study([str(built.parent / method) for method in METHODS], tmp_path / "again")
    assert not set(read_key(again).clips) & set(read_key(built).clips)


def test_what_cannot_be_studied(tmp_path: Path) -> None:
    a, b = make_folders(tmp_path / "x", 2)
    for places, options, kind, words in (
        ([a], {}, ConfigError, "2 to 8 methods, got 1"),
        ([a, b], {"questions": ("beauty",)}, ConfigError, "overall, motion"),
        ([a, b], {"questions": ()}, ConfigError, "none"),
        ([a, b], {"questions": ("fidelity",)}, InputError, "needs the picture of waterfall-0"),
        ([a, str(tmp_path / "nowhere")], {}, InputError, "nowhere"),
    ):
        with pytest.raises(kind, match=words):
            build_study(places, "study", **options)  # type: ignore[arg-type]
    wide = clip(0)
    Clip(wide.frames[:, :24], 8.0).save(Path(b, "waterfall-1.mp4"))
    with pytest.raises(InputError, match="different shapes"):
        build_study([a, b], "study")
    Path(b, "waterfall-1.mp4").unlink()
    with pytest.raises(InputError, match='method "rival-secret" has no clip for waterfall-1'):
        build_study([a, b], "study")
    assert not Path("study").exists() and not list(Path().glob(".study*"))


def test_a_study_is_never_replaced(study: Path, built: Path) -> None:
    before = (study / "key.json").read_bytes()
    with pytest.raises(InputError, match="exists"):
        build_study([str(built.parent / method) for method in METHODS], study)
    assert (study / "key.json").read_bytes() == before


# --- served


@contextlib.contextmanager
def served(folder: Path) -> Iterator[StudyServer]:
    with StudyServer(folder, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: StudyServer, method: str, path: str, content: Any = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", int(server.server_address[1]), timeout=20)
    body = content if isinstance(content, bytes | None) else json.dumps(content).encode()
    sent = {
        "Content-Type": "application/json",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    connection.request(method, path, body, sent)
    reply = connection.getresponse()
    found = (reply.status, reply.read(), dict(reply.getheaders()))
    connection.close()
    return found


def test_the_page_and_its_clips_are_served(study: Path) -> None:
    name = next(iter(read_key(study).clips))
    whole = (study / "viewer" / "clips" / f"{name}.mp4").read_bytes()
    with served(study) as server:
        status, body, headers = ask(server, "GET", "/")
        assert status == 200 and body == (study / "viewer" / "index.html").read_bytes()
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        status, body, headers = ask(server, "GET", f"/clips/{name}.mp4")
        assert (status, body, headers["Content-Type"]) == (200, whole, "video/mp4")
        for asked, expected in (
            ("bytes=0-9", whole[:10]),
            ("bytes=100-", whole[100:]),
            ("bytes=-7", whole[-7:]),
        ):
            status, body, headers = ask(server, "GET", f"/clips/{name}.mp4", Range=asked)
            assert (status, body) == (206, expected) and headers["Content-Range"].endswith(f"/{len(whole)}")
        assert ask(server, "GET", f"/clips/{name}.mp4", Range=f"bytes={len(whole)}-")[0] == 416
        assert ask(server, "HEAD", f"/clips/{name}.mp4")[:2] == (200, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/key.json",
        "/../key.json",
        "/clips/../../key.json",
        "/%2e%2e/key.json",
        "/clips/..%2f..%2fkey.json",
        "//etc/passwd",
        "/clips/",
        "/answers/",
        "/clips/x.mp4",
        "/viewer/index.html",
        "/clips/\\..\\..\\key.json",
    ],
)
def test_nothing_else_is_served(study: Path, path: str) -> None:
    with served(study) as server:
        status, body, _ = ask(server, "GET", path)
        assert status == 404 and b"secret" not in body


def test_requests_that_are_refused(study: Path) -> None:
    with served(study) as server:
        port = server.server_address[1]
        _, body, _ = ask(server, "POST", "/api/join", {})
        token = json.loads(body)["participant"]
        good = {
            "participant": token,
            "screen": 0,
            "question": "overall",
            "choice": "none",
            "seconds": 1.0,
            "loops": 1,
        }
        assert ask(server, "GET", "/", Host=f"evil.example:{port}")[0] == 403
        assert ask(server, "GET", "/", Host=f"localhost:{port}")[0] == 200
        assert ask(server, "POST", "/api/join", b"{}", Content_Type="text/plain")[0] == 415
        assert ask(server, "POST", "/api/join", b"[]")[0] == 400
        assert ask(server, "POST", "/api/join", b"{" * 2000)[0] == 400
        assert ask(server, "POST", "/api/answer", b"x" * (MAX_BODY_BYTES + 1))[0] == 413
        assert ask(server, "POST", "/api/other", {})[0] == 404
        for change, status in (
            ({"participant": "../../etc/pass"}, 400),
            ({"participant": "0" * 16}, 404),
            ({"screen": 10_000}, 400),
            ({"screen": -1}, 400),
            ({"question": "beauty"}, 400),
            ({"choice": "0" * 24}, 400),
            ({"loops": 0}, 400),
            ({"seconds": -1}, 400),
            ({"method": "ours"}, 400),
        ):
            assert ask(server, "POST", "/api/answer", good | change)[0] == status, change
        assert ask(server, "POST", "/api/answer", good)[0] == 200
    lines = (study / "answers" / f"{token}.jsonl").read_text().splitlines()
    assert len(lines) == 2 and json.loads(lines[1]) == good


def test_a_viewer_goes_on_where_they_stopped(study: Path) -> None:
    with served(study) as server:
        first = json.loads(ask(server, "POST", "/api/join", {})[1])
        second = json.loads(ask(server, "POST", "/api/join", {})[1])
        assert (first["sheet"], second["sheet"]) == (0, 1)
        answer = {"screen": 3, "question": "overall", "choice": "none"}
        full = answer | {"participant": first["participant"], "seconds": 2.0, "loops": 1}
        assert ask(server, "POST", "/api/answer", full)[0] == 200
    with open(study / "answers" / f"{first['participant']}.jsonl", "a") as stream:
        stream.write('{"participant": "torn by a cra')
    with served(study) as server:  # another process, later
        back = json.loads(ask(server, "POST", "/api/join", {"participant": first["participant"]})[1])
        assert back == {**first, "answers": [answer]}
        assert ask(server, "POST", "/api/answer", full | {"screen": 4})[0] == 200
        assert json.loads(ask(server, "POST", "/api/join", {"participant": "f" * 16})[1])["sheet"] == 2
        again = json.loads(ask(server, "POST", "/api/join", {"participant": first["participant"]})[1])
    assert [one["screen"] for one in again["answers"]] == [3, 4]


def test_an_answer_that_was_accepted_survives_sigkill(study: Path) -> None:
    command = [sys.executable, "-m", "motionloom", "study", "serve", str(study), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().strip()

    def post(path: str, content: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            url + path, json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.loads(reply.read())

    try:
        joined = post("api/join", {})
        for screen in range(3):
            answer = {"screen": screen, "question": "overall", "choice": "none", "seconds": 1.5, "loops": 2}
            post("api/answer", answer | {"participant": joined["participant"]})
    finally:
        process.kill()
        process.wait(timeout=60)
        process.stdout.close()
    assert [one["screen"] for one in Study(study).join(joined["participant"])["answers"]] == [0, 1, 2]


def test_a_port_in_use(study: Path) -> None:
    with served(study) as server, pytest.raises(ResourceError, match="another --port"):
        StudyServer(study, port=int(server.server_address[1]))
    with pytest.raises(InputError, match="is not a study"):
        StudyServer(study.parent)


# --- analysed


def clip_of(key: Key, clips: Sequence[str], method: str | None) -> str:
    return next(name for name in clips if key.clips[name].method == method)


def answer_all(folder: Path, choose: Any, people: int = 8) -> list[str]:
    """`people` viewers answer everything: `choose(person, screen) -> a method, None for the damaged copy, or "none"`."""
    state = Study(folder)
    tokens = []
    for person in range(people):
        joined = state.join(None)
        tokens.append(str(joined["participant"]))
        for number, screen in enumerate(state.key.sheets[joined["sheet"]]):
            for question in state.key.questions:
                chosen = choose(person, screen)
                name = NO_DIFFERENCE if chosen == NO_DIFFERENCE else clip_of(state.key, screen.clips, chosen)
                state.answer(
                    Answer(
                        participant=tokens[-1],
                        screen=number,
                        question=question,
                        choice=name,
                        seconds=3,
                        loops=1,
                    )
                )
    return tokens


def shown_method(key: Key, screen: Any) -> str:
    """Whichever of a control's clips is not the damaged one."""
    return next(method for name in screen.clips if (method := key.clips[name].method) is not None)


def test_answers_become_what_they_are(study: Path) -> None:
    """Six of eight viewers always prefer the first method: 75 %, log odds of 3, full self-consistency."""
    key = read_key(study)

    def choose(person: int, screen: Any) -> str:
        if screen.kind == "control":
            return shown_method(key, screen)
        return METHODS[0] if person < 6 else METHODS[1]

    answer_all(study, choose)
    results = analyse_study(study)
    assert results["num_participants"] == results["num_kept"] == 8
    for question in results["questions"]:
        assert question["num_votes"] == 8 * 8 and question["num_no_difference"] == 0
        best, other = question["methods"]
        assert (best["method"], best["share"], other["share"]) == (METHODS[0], 0.75, 0.25)
        assert best["log_strength"] - other["log_strength"] == pytest.approx(math.log(3))
        wilson, people = best["share_interval"], best["share_interval_over_participants"]
        assert wilson[0] < 0.75 < wilson[1] and people[1] - people[0] > wilson[1] - wilson[0]
        assert question["warnings"] == []
    assert all(one["repeats_alike"] == one["num_repeats"] for one in results["participants"])
    assert json.loads((study / "results.json").read_text()) == results
    rows = (study / "votes.csv").read_text().splitlines()
    assert len(rows) == 1 + sum(one["num_answers"] for one in results["participants"])
    text = report([study], "report.html").read_text("utf-8")
    assert "What people preferred" in text and METHODS[0] in text


def test_whoever_prefers_the_damaged_copy_is_left_out(study: Path) -> None:
    key = read_key(study)

    def choose(person: int, screen: Any) -> str | None:
        if screen.kind == "control":
            return None if person == 0 else shown_method(key, screen)
        return METHODS[person % 2]

    tokens = answer_all(study, choose, 6)
    results = analyse_study(study)
    excluded = {one["participant"]: one["excluded"] for one in results["participants"] if one["excluded"]}
    has_control = any(screen.kind == "control" for screen in key.sheets[0])
    assert has_control and set(excluded) == {tokens[0]} and results["num_kept"] == 5
    assert results["questions"][0]["methods"][0]["share"] == pytest.approx(3 / 5)
    assert analyse_study(study, keep_all=True)["num_kept"] == 6


def test_no_difference_and_one_sided_votes(study: Path) -> None:
    key = read_key(study)
    answer_all(
        study, lambda person, screen: METHODS[0] if screen.kind != "control" else shown_method(key, screen), 2
    )
    question = analyse_study(study)["questions"][0]
    assert [one["log_strength"] for one in question["methods"]] == [None, None]
    assert any("no finite strengths" in words for words in question["warnings"])
    assert any("2 participants" in words for words in question["warnings"])
    answer_all(study, lambda person, screen: NO_DIFFERENCE, 1)
    question = analyse_study(study, keep_all=True)["questions"][0]
    assert question["num_no_difference"] == 8 and question["methods"][0]["share"] == pytest.approx(16 / 24)


def test_the_last_answer_counts_and_foreign_files_are_named(study: Path) -> None:
    state = Study(study)
    joined = state.join(None)
    token, sheet = str(joined["participant"]), state.key.sheets[joined["sheet"]]
    for name in sheet[0].clips:
        state.answer(Answer(participant=token, screen=0, question="overall", choice=name, seconds=1, loops=1))
    (study / "answers" / "stranger.jsonl").write_text('{"study": "another"}\n')
    append_line(study / "answers" / f"{token}.jsonl", Answer.model_construct(participant=token, screen=999))
    results = analyse_study(study, keep_all=True)
    (one,) = results["participants"]
    assert (one["num_answers"], one["num_changed"], one["num_damaged_lines"]) == (1, 1, 1)
    assert len(results["refused_files"]) == 1 and "stranger.jsonl" in results["refused_files"][0]


def test_a_study_without_answers(study: Path) -> None:
    with pytest.raises(InputError, match="nobody has answered"):
        analyse_study(study)
    assert not (study / "results.json").exists()


# --- the command


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from motionloom.cli import study as command

    a, b = make_folders(tmp_path / "x", 2)
    addresses: list[str] = []
    monkeypatch.setattr(command, "_until_stopped", lambda server: addresses.append(server.url))
    assert main(["study", a, b, "-o", "study", "--port", "0"]) == 0
    built = Path("study/key.json").read_bytes()
    assert main(["study", a, b, "-o", "study", "--port", "0"]) == 0  # goes on
    assert Path("study/key.json").read_bytes() == built and len(addresses) == 2
    assert all(address.startswith("http://127.0.0.1:") for address in addresses)
    assert main(["study", b, a, "-o", "study", "--port", "0"]) == 2
    assert "is a study of other folders" in capsys.readouterr().err
    assert main(["study", "build", a, b, "-o", "best", "--best-of-all", "--json"]) == 0
    answer_all(
        Path("study"),
        lambda person, screen: METHODS[person % 2] if screen.kind == "vote" else NO_DIFFERENCE,
        4,
    )
    capsys.readouterr()
    assert main(["study", "analyse", "study", "--keep-all"]) == 0
    said = capsys.readouterr().out
    assert "overall: 8 votes of 4 people" in said and "4/8" in said and "50.0%" in said
    assert main(["study", "analyse", "nowhere"]) == 2
    assert "is not a study" in capsys.readouterr().err


# --- in a browser


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_in_a_real_browser(study: Path, tmp_path: Path) -> None:
    """A viewer answers by keyboard only after a full play, reloads, goes on, goes back; also from the disk."""
    programs = find()
    if programs is None:
        pytest.skip("no chromium and chromedriver on this machine")
    ready = "!document.querySelector('#neither').disabled"
    count = "document.querySelector('#count').textContent"
    with served(study) as server, browsing(programs, tmp_path / "profile") as browser:

        def begin(url: str) -> None:
            browser.open(url)
            assert browser.js("return document.querySelector('#begin').disabled")
            browser.click("#consent")
            browser.click("#begin")
            browser.until("document.querySelectorAll('#screens video').length == 2")

        begin(server.url)
        browser.press("1")  # too early
        assert browser.js(f"return {count}").startswith("1 of")
        for number, key in enumerate(("1", "2", "0"), 2):
            browser.until(ready)
            browser.press(key)
            browser.until(f"{count}.startsWith('{number} of')")
        begin(server.url)
        assert browser.js(f"return {count}").startswith("4 of")
        browser.press("Backspace")
        browser.until(f"{count}.startsWith('3 of')")
        assert browser.js("return document.querySelector('#neither').classList.contains('chosen')")
        assert browser.complaints() == []
        (file,) = (study / "answers").glob("*.jsonl")
        assert [json.loads(line)["choice"] == "none" for line in file.read_text().splitlines()[1:]] == [
            False,
            False,
            True,
        ]

        begin((study / "viewer" / "index.html").as_uri())
        browser.until(ready)
        browser.press("2")
        browser.until(f"{count}.startsWith('2 of')")
        begin((study / "viewer" / "index.html").as_uri())
        assert browser.js(f"return {count}").startswith("2 of")
        assert browser.complaints() == []

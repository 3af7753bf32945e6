"""The verb `report`: what the page says, that it escapes everything, that it needs no network, and what it refuses."""

from __future__ import annotations

import base64
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from motionloom.cli import main
from motionloom.durable import sha256_of
from motionloom.errors import ConfigError, InputError
from motionloom.metrics.scores import (
    ClipScores,
    Failure,
    LeftOut,
    ProtocolCheck,
    Sample,
    Scores,
    Summary,
)
from motionloom.report import report
from motionloom.reporting import media
from motionloom.reporting.compare import OVERALL, badness, chosen_clips, compare, pair, summary_rows
from motionloom.reporting.inputs import ScoreSet, read_run
from motionloom.reporting.markup import Html, join, tag
from motionloom.reporting.plots import MAX_POINTS, Series, axis, bucketed, curves, thinned
from motionloom.video.clip import Clip
from motionloom.video.read import read_clip
from tests.flows.browser import browsing, find

SAMPLE = Sample(num_real=256, num_generated=64, num_frames=16, num_features=400)


def summary(value: Any, direction: str = "higher", definition: str = "a definition", **more: Any) -> Summary:
    facts = {"unit": "", "num_expected": 3, "num_used": 3, "num_clusters": 3} | more
    return Summary(value=value, direction=direction, definition=definition, **facts)  # type: ignore[arg-type]


def clip_scores(name: str, **more: Any) -> ClipScores:
    facts = {
        "file": f"{name}.mp4",
        "sha256": "0" * 64,
        "num_frames": 4,
        "fps": 8.0,
        "width_px": 32,
        "height_px": 24,
    }
    return ClipScores(**({"id": name, "cluster": name} | facts | more))


def scores_of(summaries: dict[str, Summary], clips: list[ClipScores], **more: Any) -> Scores:
    facts: dict[str, Any] = {
        "command": "motionloom evaluate clips",
        "versions": {"motionloom": "0"},
        "settings": {},
        "clips_from": "clips",
        "partial": False,
    }
    return Scores(summary=summaries, clips=clips, **(facts | more))


def saved(folder: str, scores: Scores) -> str:
    Path(folder).mkdir(parents=True, exist_ok=True)
    scores.save(Path(folder, "scores.json"))
    return folder


def simple(values: list[float], direction: str = "higher", **more: Any) -> Scores:
    clips = [clip_scores(f"clip{i}", values={"sharp": value}) for i, value in enumerate(values)]
    mean = sum(values) / len(values)
    return scores_of(
        {"sharp": summary(mean, direction, num_used=len(values), num_expected=len(values))}, clips, **more
    )


def as_set(label: str, scores: Scores) -> ScoreSet:
    return ScoreSet(label, Path(label, "scores.json"), scores)


class Page(HTMLParser):
    """Tags, attributes and text; fails on tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, self._open

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))
        if name not in ("meta", "input", "br", "img"):
            self._open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self._open.pop() == name

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag_, attributes in self.tags if tag_ == name]


def page(*places: str, **options: Any) -> Page:
    return Page(report(list(places), "report.html", **options).read_text("utf-8"))


# --- what the page says


def test_the_page_says_everything_a_reader_must_know() -> None:
    summaries = {
        "dynamic/compat": summary(0.9, definition="VBench, compat", interval=(0.88, 0.92)),
        "dynamic/clean": summary(0.5, definition="VBench, clean", interval=(0.48, 0.52)),
        "fvd": summary(123.4, "lower", sample=SAMPLE, warnings=("too few clips",)),
        "fd_random3d": summary(1.5, "lower", sample=SAMPLE),
        "psnr": summary("inf", num_used=2, num_excluded=1),
    }
    saved(
        "ours",
        scores_of(
            summaries,
            [clip_scores(f"c{i}") for i in range(3)],
            partial=True,
            failures=[Failure(file="bad.mp4", reason="truncated")],
            left_out=[LeftOut(metric="aesthetic", reason="weights are missing", fix="--weights DIR")],
            protocol=ProtocolCheck(
                name="vbench", about="a suite", source="a paper", deviations=("3 clips, not 355",)
            ),
        ),
    )
    text = page("ours").text
    for words in (
        "ours is partial: 1 failure, 1 metric left out",
        "deviates from the protocol vbench: 3 clips, not 355",
        "fd_random3d stand in for published distances",
        "the official (compat) and the corrected (clean) definition of dynamic differ",
        "256 real, 64 generated",
        "16 frames, 400-d",
        "too few clips",
        "2 of 3, 1 not finite",
        "∞",
        "[0.880, 0.920]",
        "aesthetic (ours): weights are missing. Remedy: --weights DIR",
        "bad.mp4 (ours): truncated",
        "motionloom evaluate clips",
    ):
        assert words in text, words


def test_definitions_that_agree_raise_no_banner() -> None:
    both = {
        f"dynamic/{name}": summary(0.5, interval=(0.4, 0.6), definition=name) for name in ("compat", "clean")
    }
    saved("ours", scores_of(both, [clip_scores("c")]))
    assert "Two definitions" not in page("ours").text


def test_the_best_of_a_row_is_marked_and_the_close_ones_too() -> None:
    for name, value, interval in (("a", 0.9, (0.8, 1.0)), ("b", 0.85, (0.75, 0.95)), ("c", 0.2, (0.1, 0.3))):
        saved(name, scores_of({"sharp": summary(value, interval=interval)}, [clip_scores("x")]))
    found = page("a", "b", "c")
    assert [cell["class"] for cell in found.all("td") if "number" in (cell.get("class") or "")][:3] == [
        "number best",
        "number",
        "number",
    ]
    assert "≈ 0.85" in found.text and "≈ 0.20" not in found.text


@pytest.mark.parametrize(
    ("first", "second", "best"),
    [
        (summary(2.0), summary(1.0), {0}),
        (summary(2.0, "lower"), summary(1.0, "lower"), {1}),
        (summary(2.0, "none"), summary(1.0, "none"), set()),
        (summary("inf"), summary(1.0), {0}),
        (summary("undefined"), summary(1.0), set()),
        (summary(1.0), summary(1.0), set()),
        (summary(2.0, definition="clean"), summary(1.0, definition="compat"), set()),
        (summary(2.0, sample=SAMPLE), summary(1.0, sample=SAMPLE.model_copy(update={"num_real": 9})), set()),
        (summary(2.0, sample=SAMPLE), summary(1.0, sample=SAMPLE), {0}),
    ],
)
def test_what_counts_as_best(first: Summary, second: Summary, best: set[int]) -> None:
    sets = [as_set(name, scores_of({"m": one}, [])) for name, one in (("a", first), ("b", second))]
    (row,) = summary_rows(sets)
    assert row.best == best
    measured_alike = first.definition == second.definition and first.sample == second.sample
    assert any(note.startswith("not compared") for note in row.notes) == (not measured_alike)


def test_a_value_only_one_set_has_is_shown_as_not_measured() -> None:
    saved("a", scores_of({"sharp": summary(1.0)}, []))
    saved("b", scores_of({"blur": summary(1.0)}, []))
    assert page("a", "b").text.count("not measured") == 2


def test_twice_the_same_bytes() -> None:
    saved("a", simple([1.0, 2.0]))
    assert report(["a"], "one.html").read_bytes() == report(["a"], "two.html").read_bytes()


# --- the page is safe, and needs nothing from outside


def test_everything_foreign_is_escaped() -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
    scores = scores_of(
        {evil: summary(1.0, definition=evil, warnings=(evil,))},
        [
            clip_scores(
                evil, prompt=evil, file=evil, values={evil: 1.0}, curves={evil: [1.0, 2.0]}, notes=(evil,)
            )
        ],
        failures=[Failure(file=evil, reason=evil)],
        left_out=[LeftOut(metric=evil, reason=evil, fix=evil)],
        settings={evil: evil},
        command=evil,
    )
    saved("a", scores)
    run = Path("run")
    run.mkdir()
    (run / "log.jsonl").write_text(json.dumps({"step": 1, "losses": {evil: 1.0}}) + "\n")
    (run / "recipe.yaml").write_text(evil)
    found = page("a", f"{evil[:8]}=run", title=evil)
    assert len(found.all("script")) == 1 and not found.all("img")
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert evil in found.text


def test_no_network() -> None:
    saved("a", simple([1.0]))
    text = report(["a"], "report.html").read_text("utf-8")
    found = Page(text)
    assert not re.search(r"(src|href)=\"(https?:)?//", text) and "@import" not in text and "url(" not in text
    policy = next(meta["content"] for meta in found.all("meta") if meta.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'; script-src 'sha256-")


def test_markup() -> None:
    assert tag(
        "p", "5 < 6", Html("<b>"), None, [1, " ", 2.5], class_="a b", hidden=True, x=None, data_x='"'
    ) == ('<p class="a b" hidden data-x="&quot;">5 &lt; 6<b>1 2.5</p>')
    assert tag("br") == "<br>" and join(["&"]) == "&amp;"


def test_labels_and_landmarks() -> None:
    saved("a", simple([1.0, 2.0, 3.0]))
    saved("b", simple([1.0, 2.0, 4.0]))
    found = page("a", "b")
    assert found.all("html")[0]["lang"] == "en" and len(found.all("main")) == 1
    assert all(svg.get("role") == "img" or svg.get("aria-hidden") for svg in found.all("svg"))
    assert all(th.get("scope") for th in found.all("th"))
    assert len(found.all("h1")) == 1 and len(found.all("caption")) >= 2
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [(link["href"] or "")[1:] for link in found.all("a")]
    assert set(targets) <= set(ids) and targets


def test_thousands_of_clips_stay_under_three_megabytes() -> None:
    rng = np.random.default_rng(0)
    names = [f"metric_{i}" for i in range(20)]
    for label in ("a", "b"):
        clips = [
            clip_scores(f"clip{i:04d}", values=dict(zip(names, rng.random(20).tolist(), strict=True)))
            for i in range(2048)
        ]
        saved(
            label, scores_of({name: summary(0.5, num_used=2048, num_expected=2048) for name in names}, clips)
        )
    path = report(["a", "b"], "report.html", clips="none", paired=False)
    assert path.stat().st_size < 3_000_000
    text = Page(path.read_text("utf-8")).text
    assert "1,748 more clips stand in scores.json only" in text and "240 of 2,048 clips drawn" in text
    assert "15 of 2,048 clips, worst first" in text


# --- clip by clip


def test_pairs_must_be_made_from_the_same() -> None:
    a = scores_of(
        {},
        [clip_scores("x", seed=1), clip_scores("y", picture_sha256="p"), clip_scores("z"), clip_scores("w")],
    )
    b = scores_of({}, [clip_scores("x", seed=2), clip_scores("y", picture_sha256="q"), clip_scores("z")])
    pairing = pair(as_set("a", a), as_set("b", b))
    assert [one.id for one, _ in pairing.pairs] == ["z"]
    assert pairing.refused == [
        "1 clips of one name differ in picture",
        "1 clips of one name differ in seed",
        "1 clips have no partner in the other set",
    ]


def test_paired_comparison_against_theory() -> None:
    """Ten pairs that all differ one way: sign flips give p = 2 / 2^10, and one value needs no correction."""
    a, b = simple([float(i) for i in range(10)]), simple([i + 1.0 + i / 100 for i in range(10)])
    (result,) = compare(pair(as_set("a", a), as_set("b", b)))
    assert result.paired.p_value == pytest.approx(2 / 1024)
    assert result.p_corrected == pytest.approx(2 / 1024)
    assert result.paired.mean_difference == pytest.approx(1.045)
    assert result.verdict == "better"
    lower = [as_set(name, one) for name, one in (("a", simple([1.0] * 9 + [2.0], "lower")), ("b", b))]
    (other,) = compare(pair(lower[1], lower[0]))
    assert other.summary.direction == "lower" and other.verdict in ("better", "")


def test_worst_first() -> None:
    """A clip that fails in one set alone comes first; clips of equal value share their rank."""
    good, bad = simple([5.0, 5.0, 5.0, 4.0]), simple([5.0, 1.0, 5.0, 5.0])
    worst = badness([as_set("good", good), as_set("bad", bad)])
    order = sorted(worst, key=lambda name: -worst[name][OVERALL])
    assert order[:2] == ["clip1", "clip3"]
    assert worst["clip1"]["sharp"] == 1.0
    assert worst["clip0"]["sharp"] == worst["clip2"]["sharp"] == pytest.approx(2.5 / 7)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 15, 40])
def test_clips_shown(count: int) -> None:
    worst = {f"{i:02d}": {OVERALL: 1 - i / 30} for i in range(30)}
    chosen = chosen_clips(worst, count)
    assert len(chosen) == len(dict(chosen)) == min(count, 30)
    assert all(why == "worst" for _, why in chosen) or count > 2
    if 2 < count < 30:
        assert chosen[0] == ("00", "worst") and chosen[-1] == ("29", "best")


def test_a_plane_of_unknown_values_is_refused() -> None:
    saved("a", simple([1.0]))
    with pytest.raises(ConfigError, match="choose from sharp"):
        report(["a"], plane=("sharp", "shrp"))
    assert not Path("report.html").exists()
    assert "sharp against sharp" in page("a", plane=("sharp", "sharp")).text


# --- the clips themselves


def moving(frames: int = 4) -> Clip:
    rows = np.arange(24)[:, None, None] * 5 + np.arange(32)[None, :, None] * 3
    stacked = np.stack([np.broadcast_to((rows + 9 * t) % 256, (24, 32, 3)) for t in range(frames)])
    return Clip(stacked.astype(np.uint8), 8.0)


def with_clip(folder: str, suffix: str) -> str:
    """A set of one clip that exists."""
    clips = Path(folder, "clips")
    clips.mkdir(parents=True)
    path = moving().save(clips / f"one{suffix}")
    sha256 = sha256_of(path) if path.is_file() else "0" * 64
    return saved(
        folder, scores_of({}, [clip_scores("one", file=str(path), sha256=sha256)], clips_from=str(clips))
    )


def source(found: Page) -> str:
    (video,) = found.all("video")
    assert video["src"] is not None
    return video["src"]


def test_small_clips_are_embedded_byte_for_byte() -> None:
    with_clip("a", ".mp4")
    mime, _, data = source(page("a")).partition(";base64,")
    assert mime == "data:video/mp4" and base64.b64decode(data) == Path("a/clips/one.mp4").read_bytes()


@pytest.mark.parametrize("suffix", [".gif", ""])
def test_what_no_browser_steps_through_is_re_encoded(suffix: str) -> None:
    with_clip("a", suffix)
    found = page("a")
    Path("preview.mp4").write_bytes(base64.b64decode(source(found).partition("base64,")[2]))
    assert read_clip("preview.mp4").num_frames == 4 and "re-encoded for this page" in found.text


def test_large_clips_are_linked_relative_to_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    with_clip("a b", ".mp4")
    monkeypatch.setattr(media, "MAX_FILE_BYTES", 10)
    text = report(["a b"], "pages/report.html").read_text("utf-8")
    assert source(Page(text)) == "../a%20b/clips/one.mp4"
    assert source(page("a b", clips="embed")).startswith("data:")
    assert source(page("a b", clips="link")) == "a%20b/clips/one.mp4"
    assert not page("a b", clips="none").all("video")


def test_a_clip_that_changed_or_vanished_is_not_shown_for_another() -> None:
    with_clip("a", ".mp4")
    Path("a/clips/one.mp4").write_bytes(b"something else")
    found = page("a")
    assert not found.all("video") and "was changed after it was scored" in found.text
    Path("a/clips/one.mp4").unlink()
    assert "is not there any more" in page("a").text


def test_clips_are_found_after_the_folder_moved() -> None:
    with_clip("a", ".mp4")
    Path("elsewhere").mkdir()
    Path("a").rename("elsewhere/a")
    assert source(page("elsewhere/a")).startswith("data:")


# --- training curves


def write_run(folder: str, losses: list[float | None]) -> Path:
    path = Path(folder)
    path.mkdir(parents=True)
    lines = [json.dumps({"event": "started", "step": 0, "message": "from scratch"})]
    lines += [
        json.dumps({"step": i + 1, "losses": {"mse": y}, "elapsed_seconds": 7200})
        for i, y in enumerate(losses)
    ]
    (path / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 9, "los')
    (path / "recipe.yaml").write_text("steps: 3\n")
    return path


def test_runs() -> None:
    write_run("runs/first", [1.0, None, 0.25])
    write_run("runs/second", [2.0, 1.0, 0.5])
    text = page("runs").text
    for words in (
        "runs/first: step 3, 2.0 h, 1 line of the log could not be read",
        "step 0: from scratch",
        "steps: 3",
        "loss mse",
        "1 number not finite, left open",
        "runs/first ends at 0.25, runs/second ends at 0.5",
    ):
        assert words in text, words


def test_damaged_lines_are_counted() -> None:
    run = read_run("r", write_run("r", [1.0, 0.5]))
    assert (len(run.records), len(run.events), run.num_damaged) == (2, 1, 1)


def test_a_number_that_is_not_finite_leaves_a_gap() -> None:
    drawn = curves("step", "loss", [Series("r", 0, [1.0, 2.0, math.nan, 3.0], [0, 1, 2, 3])])
    path = re.findall(r'<path d="([^"]*)" class="line"', drawn)
    assert len(path) == 1 and path[0].count("M") == 2 and path[0].count("L") == 1


def test_axes_and_thinning() -> None:
    line = axis([0.0, 10.0], 100.0, 200.0, zero=True)
    assert (line(0.0), line(5.0), line(10.0)) == (100.0, 150.0, 200.0) and line.ticks == (
        0.0,
        2.5,
        5.0,
        7.5,
        10.0,
    )
    log = axis([0.01, 100.0], 0.0, 4.0, log=True)
    assert [log(x) for x in (0.01, 0.1, 1.0, 100.0)] == pytest.approx([0, 1, 2, 4])
    assert log.ticks == pytest.approx((0.01, 0.1, 1.0, 10.0, 100.0))
    flat = axis([3.0, 3.0], 0.0, 10.0)
    assert flat(3.0) == pytest.approx(5.0)
    points = bucketed(range(3 * MAX_POINTS), [float(i) for i in range(3 * MAX_POINTS)])
    assert len(points) == MAX_POINTS and points[0] == (1.0, 1.0)
    kept = thinned([float(i) for i in range(1000)])
    assert len(kept) == MAX_POINTS and (kept[0], kept[-1]) == (0.0, 999.0)


# --- what is refused


def test_refusals_leave_the_old_page() -> None:
    Path("report.html").write_text("old")
    Path("empty").mkdir()
    saved("a", simple([1.0]))
    Path("damaged").mkdir()
    Path("damaged/scores.json").write_text('{"schema_version": 1}')
    for places, kind, words in (
        (["missing"], InputError, "nothing to report"),
        (["empty"], InputError, "nothing to report"),
        (["damaged"], InputError, "cannot read scores"),
        (["a", "a"], ConfigError, "given twice"),
        (["x=a", "x=damaged"], ConfigError, "two folders are called"),
        ([], ConfigError, "nothing to report"),
    ):
        with pytest.raises(kind, match=words):
            report(places)
    assert Path("report.html").read_text() == "old"


def test_more_sets_than_colours_are_refused() -> None:
    for i in range(9):
        saved(f"all/{i}", simple([1.0]))
    with pytest.raises(ConfigError, match="at most 8"):
        report(["all"])


def test_folders_are_named_by_the_shortest_end_that_tells_them_apart() -> None:
    saved("one/scores", simple([1.0]))
    saved("two/scores", simple([2.0]))
    assert "one/scores: 1 clip; two/scores: 1 clip." in page("one/scores", "two/scores").text
    assert "ours: 1 clip; theirs: 1 clip." in page("ours=one/scores", "theirs=two/scores").text


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    saved("a", simple([1.0]))
    assert main(["report", "a", "-o", "out.html", "--clips", "none"]) == 0
    assert capsys.readouterr().out == "out.html\n" or Path("out.html").exists()
    assert main(["report", "a", "-o", "out.html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["size_bytes"] == Path("out.html").stat().st_size
    for words in (["report", "nowhere"], ["report", "a", "--clips", "some"], ["report", "a", "--plane", "x"]):
        assert main(words) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_reading_files_needs_no_torch() -> None:
    saved("a", simple([1.0, 2.0]))
    code = (
        "import sys; from motionloom.report import report; report(['a']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- in a browser


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_in_a_real_browser(tmp_path: Path) -> None:
    """Opens from the disk without a complaint; clips of a row play in step, by keyboard; frames are stepped."""
    programs = find()
    if programs is None:
        pytest.skip("no chromium and chromedriver on this machine")
    for folder in ("a", "b"):
        with_clip(folder, ".mp4")
    path = report(["a", "b"], "report.html")
    with browsing(programs, tmp_path / "profile") as browser:
        browser.open(path.absolute().as_uri())
        browser.until("[...document.querySelectorAll('video')].every(v => v.readyState > 1)")
        browser.js("document.querySelector('.case').focus()")
        browser.press(" ")
        browser.until("document.querySelector('video').currentTime > 0.2")
        browser.press(" ")
        times = browser.js("return [...document.querySelectorAll('video')].map(v => v.currentTime)")
        assert abs(times[0] - times[1]) <= 1.5 / 8
        browser.js("document.querySelector('input[type=range]').value = 0")
        browser.js("document.querySelector('input[type=range]').dispatchEvent(new Event('input'))")
        browser.press("ArrowRight")
        browser.until("document.querySelector('.case output').textContent.startsWith('frame 1 ')")
        before = browser.js("return getComputedStyle(document.body).backgroundColor")
        browser.click("#theme")
        assert browser.js("return getComputedStyle(document.body).backgroundColor") != before
        assert browser.js("return document.documentElement.scrollWidth <= innerWidth")
        assert browser.complaints() == []

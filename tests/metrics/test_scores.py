"""scores.json, the catalog, protocols and comparison."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from motionloom.errors import ConfigError, InputError
from motionloom.metrics.catalog import METRICS, default_metrics, row_of
from motionloom.metrics.compare import compare
from motionloom.metrics.networks.table import NETWORKS
from motionloom.metrics.protocols import PROTOCOLS, check, protocol_of
from motionloom.metrics.scores import ClipScores, Scores, Summary, as_float, as_number, load_scores
from motionloom.metrics.setup import Window

HERE = Path(__file__).parent


def clip(number: int, value: float, **more: object) -> ClipScores:
    facts = {"id": f"c{number}", "file": f"c{number}.mp4", "sha256": "0" * 64, "num_frames": 16, "fps": 8.0}
    facts |= {"width_px": 64, "height_px": 64, "cluster": f"p{number}", "values": {"score": as_number(value)}}
    return ClipScores.model_validate(facts | more)


def scores(values: list[float], **more: object) -> Scores:
    mean = as_number(float(np.mean([value for value in values if np.isfinite(value)])))
    row = Summary(
        value=mean,
        unit="",
        direction="higher",
        definition="test",
        num_expected=len(values),
        num_used=len(values),
    )
    base = {
        "command": "motionloom evaluate",
        "versions": {"motionloom": "1"},
        "settings": {},
        "clips_from": "clips",
        "partial": False,
        "summary": {"score": row},
        "clips": [clip(i, value) for i, value in enumerate(values)],
    }
    return Scores.model_validate(base | more)


def test_round_trip_and_words_for_what_json_cannot_hold(tmp_path: Path) -> None:
    made = scores([1.0, np.inf, np.nan])
    path = made.save(tmp_path / "scores.json")
    assert load_scores(path) == made == load_scores(tmp_path)
    content = json.loads(path.read_text("utf-8"))
    assert [one["values"]["score"] for one in content["clips"]] == [1.0, "inf", "undefined"]
    assert np.isnan(as_float("undefined")) and as_float("inf") == np.inf
    assert as_number(0.1 + 0.2) == 0.3
    assert made.save(tmp_path / "again.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not JSON"), ("[]", "schema version None"), ('{"schema_version": 9}', "schema version 9")],
)
def test_what_is_no_scores_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(InputError, match=said):
        load_scores(tmp_path)
    with pytest.raises(InputError, match="No such file"):
        load_scores(tmp_path / "nowhere.json")


def test_compare_finds_a_small_shift_and_its_direction(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    a = generator.normal(0, 5, 25).tolist()
    b = [value + 1 + 0.2 * generator.normal() for value in a]
    scores(a).save(tmp_path / "a.json")
    scores(b).save(tmp_path / "b.json")
    found = compare(tmp_path / "a.json", tmp_path / "b.json")
    (row,) = found.values
    assert (row.num_pairs, row.num_clusters, row.better) == (25, 25, "B")
    assert row.mean_difference == pytest.approx(1, abs=0.1)
    assert row.interval is not None and row.interval[0] > 0.8
    assert row.p_holm is not None and row.p_holm < 0.001
    assert compare(tmp_path / "b.json", tmp_path / "a.json").values[0].better == "A"
    assert compare(tmp_path / "a.json", tmp_path / "a.json").values[0].better == ""


def test_compare_says_when_nothing_could_be_decided(tmp_path: Path) -> None:
    """Five pairs: at best p = 2 / 2^5 = 0.0625, whatever they show; six: 0.031."""
    for count, said in ((5, True), (6, False)):
        scores([0.0] * count).save(tmp_path / "a.json")
        scores([float(i + 1) for i in range(count)]).save(tmp_path / "b.json")
        found = compare(tmp_path / "a.json", tmp_path / "b.json")
        assert any("cannot reach p = 0.05" in text and "0.062" in text for text in found.warnings) == said
        assert found.values[0].better == ("" if said else "B")


def test_compare_says_what_is_not_fair(tmp_path: Path) -> None:
    scores([1.0, 2.0, 3.0]).save(tmp_path / "a.json")
    moved = [clip(0, 1.0), clip(1, np.nan), clip(7, 1.0, picture_sha256="1" * 64)]
    scores([1.0], clips=moved, partial=True, versions={"motionloom": "2"}).save(tmp_path / "b.json")
    found = compare(tmp_path / "a.json", tmp_path / "b.json")
    assert found.num_pairs == 2 and found.values[0].num_pairs == 1
    said = " ".join(found.warnings)
    for part in ("1 clips of A have no partner", "B is partial", "different versions of motionloom"):
        assert part in said
    scores([1.0], summary={}).save(tmp_path / "c.json")
    with pytest.raises(InputError, match="share no value"):
        compare(tmp_path / "a.json", tmp_path / "c.json")


def test_every_row_of_the_catalog_holds() -> None:
    for name, row in METRICS.items():
        assert (HERE / row.tests).is_file(), name
        assert all(network in NETWORKS for network in row.networks), name
        assert not (row.default and row.networks), name
        module, _, attribute = row.home.partition(":")
        text = (HERE.parents[1] / "motionloom" / "metrics" / f"{module}.py").read_text("utf-8")
        assert f"class {attribute}(" in text and f'name = "{name}"' in text, name
    assert "fvd" not in default_metrics() and "temporal_flickering" in default_metrics()
    with pytest.raises(ConfigError, match="did you mean 'psnr'"):
        row_of("pnsr")


def test_protocols_name_metrics_that_exist() -> None:
    for protocol in PROTOCOLS.values():
        assert all(metric in METRICS for metric in protocol.metrics)
    with pytest.raises(ConfigError, match="did you mean 'bair'"):
        protocol_of("bai")


def test_a_protocol_lists_every_deviation() -> None:
    clips = [clip(i, 1.0, cluster=f"p{i // 100}") for i in range(300)]
    found = check("bair", clips, 256, [], Window(16))
    assert any("generated clips: 300, the protocol has 25600" in text for text in found.deviations)
    assert any("pictures or prompts: 3, the protocol has 256" in text for text in found.deviations)
    assert not any("real clips" in text or "size" in text or "window" in text for text in found.deviations)
    one = clip(0, 1.0)
    whole = [one.model_copy(update={"cluster": f"p{i // 100}"}) for i in range(25_600)]
    assert check("bair", whole, 256, [], Window(16)).deviations == ()
    wrong = check("bair", whole, 256, [], Window(15)).deviations
    assert wrong == ("window of frames: 15-first, the protocol has 16-first",)


def test_the_catalog_needs_no_torch() -> None:
    code = (
        "import sys; from motionloom.metrics.catalog import describe_metrics; describe_metrics();"
        "from motionloom.metrics.scores import load_scores;"
        "print([name for name in ('torch', 'transformers', 'av') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_of_metrics_names_everything() -> None:
    page = (HERE.parents[1] / "docs" / "metrics.md").read_text("utf-8")
    for name in (*METRICS, *NETWORKS, *PROTOCOLS):
        assert f"`{name}`" in page, f"{name}: python -m motionloom.metrics.document > docs/metrics.md"

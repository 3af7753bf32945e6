"""Intervals, tests and corrections against scipy's and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from motionloom.metrics import statistics
from motionloom.metrics.statistics import (
    cluster_means,
    holm,
    mcnemar,
    mean_interval,
    paired_difference,
    sign_flip,
    t_quantile,
    wilson_interval,
)


@pytest.mark.parametrize("degrees", [1, 2, 7, 30])
def test_t_quantile(degrees: int) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-5)


def test_wilson_against_scipy() -> None:
    booleans = np.array([1.0] * 7 + [0.0] * 3)
    expected = stats.binomtest(7, 10).proportion_ci(method="wilson")
    assert wilson_interval(booleans) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_clusters_are_the_unit() -> None:
    """Five equal clips of each picture say no more than one: the interval must not shrink."""
    once = np.array([1.0, 2.0, 4.0, 7.0])
    names = ["a", "b", "c", "d"]
    five = np.repeat(once, 5)
    assert mean_interval(five, [name for name in names for _ in range(5)]) == mean_interval(once, names)
    assert mean_interval(once, names)[0] == pytest.approx(
        stats.t.interval(0.95, 3, once.mean(), stats.sem(once)), rel=1e-5
    )
    assert mean_interval(once, ["a"] * 4) == (None, "")


def test_order_of_clips_does_not_matter() -> None:
    generator = np.random.default_rng(3)
    numbers, names = generator.normal(size=60), [str(i // 2) for i in range(60)]
    order = generator.permutation(60)
    assert mean_interval(numbers[order], [names[i] for i in order]) == mean_interval(numbers, names)
    assert cluster_means(numbers[order], [names[i] for i in order]).tolist() == pytest.approx(
        cluster_means(numbers, names).tolist()
    )


def test_interval_covers_the_mean_under_correlation() -> None:
    """Five seeds a prompt, correlation 0.5 within: 95 % intervals hold the truth about 95 % of the time."""
    generator = np.random.default_rng(0)
    names = [str(i // 5) for i in range(150)]
    hits = 0
    for _ in range(200):
        numbers = (generator.normal(size=(30, 1)) + generator.normal(size=(30, 5))).ravel()
        interval, _ = mean_interval(numbers, names)
        assert interval is not None
        hits += interval[0] <= 0 <= interval[1]
    assert hits / 200 > 0.89


def test_sign_flip_agrees_with_the_t_test_on_normal_data() -> None:
    numbers = np.random.default_rng(1).normal(0.4, 1, 40)
    assert sign_flip(numbers) == pytest.approx(stats.ttest_1samp(numbers, 0).pvalue, abs=0.01)
    assert sign_flip(np.ones(10)) == 2 / 2**10
    assert sign_flip(np.zeros(5)) == 1
    for count in (3, 14, 40):
        assert sign_flip(np.ones(count)) == pytest.approx(statistics.smallest_p(count), rel=1e-9)


def test_sign_flips_are_drawn_in_parts_and_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(7).normal(0.1, 1, 300)
    signs = np.random.default_rng(0).integers(0, 2, (statistics.FLIPS, 300)) * 2 - 1
    at_once = (np.abs((signs * numbers).mean(1)) >= abs(numbers.mean())).sum()
    assert sign_flip(numbers) == (at_once + 1) / (statistics.FLIPS + 1)
    monkeypatch.setattr(statistics, "SIGNS_AT_ONCE", 7777)
    assert sign_flip(numbers) == (at_once + 1) / (statistics.FLIPS + 1)
    largest = max(rows.size for rows in statistics._drawn_patterns(300))
    assert largest <= 7777


def test_mcnemar_is_the_binomial_test_of_discordant_pairs() -> None:
    a = np.array([0.0] * 9 + [1.0] * 2 + [1.0] * 20)
    b = np.array([1.0] * 9 + [0.0] * 2 + [1.0] * 20)
    assert mcnemar(a, b) == pytest.approx(stats.binomtest(2, 11).pvalue)


def test_holm() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [
        pytest.approx(0.03),
        None,
        pytest.approx(0.06),
        pytest.approx(0.06),
    ]


def test_paired_beats_unpaired() -> None:
    """A small shift on inputs that differ much: pairs see it, sets do not."""
    generator = np.random.default_rng(2)
    a = generator.normal(0, 5, 30)
    b = a + 0.5 + generator.normal(0, 0.5, 30)
    found = paired_difference(a, b, [str(i) for i in range(30)])
    assert found.p_value is not None and found.p_value < 0.001 < 0.3 < stats.ttest_ind(a, b).pvalue
    assert found.interval is not None and found.interval[0] > 0
    assert abs(found.cliffs_delta) < 0.3

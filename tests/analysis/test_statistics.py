from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tailkeep.analysis import statistics

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_text())


@pytest.mark.parametrize("case", REFERENCE["mcnemar_exact_two_sided"], ids=lambda c: f"{c['n10']}-{c['n01']}")
def test_mcnemar_equals_the_reference_and_the_binomial_test(case: dict) -> None:
    p = statistics.mcnemar_exact(case["n10"], case["n01"])
    assert p == pytest.approx(case["p"], rel=1e-12)
    total = case["n10"] + case["n01"]
    if total:
        assert p == pytest.approx(stats.binomtest(case["n10"], total).pvalue, rel=1e-9)


def test_mcnemar_equals_statsmodels() -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    theirs = tables.mcnemar([[50, 13], [4, 33]], exact=True).pvalue
    assert statistics.mcnemar_exact(13, 4) == pytest.approx(theirs)
    with pytest.raises(ValueError, match=">= 0"):
        statistics.mcnemar_exact(-1, 2)


@pytest.mark.parametrize("case", REFERENCE["wilson_95"], ids=lambda c: f"{c['successes']}/{c['n']}")
def test_wilson_equals_the_reference_and_scipy(case: dict) -> None:
    ours = statistics.wilson(case["successes"], case["n"])
    assert ours == pytest.approx(tuple(case["interval"]), abs=1e-12)
    theirs = stats.binomtest(case["successes"], case["n"]).proportion_ci(method="wilson")
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_wilson_of_nothing_and_of_nonsense() -> None:
    assert all(math.isnan(bound) for bound in statistics.wilson(0, 0))
    with pytest.raises(ValueError, match="successes"):
        statistics.wilson(3, 2)


def test_t_interval_and_p_equal_scipy(rng: np.random.Generator) -> None:
    values = rng.normal(0.4, 1.0, 6)
    theirs = stats.ttest_1samp(values, 0.0)
    assert statistics.paired_t_p(values) == pytest.approx(theirs.pvalue)
    interval = theirs.confidence_interval(0.95)
    assert statistics.t_interval(values) == pytest.approx((interval.low, interval.high))


def test_the_paired_test_is_the_one_sample_test_of_differences(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=5), rng.normal(size=5)
    assert statistics.paired_t_p(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_upper_bound_is_one_sided_and_shared_among_contrasts(rng: np.random.Generator) -> None:
    values = rng.normal(size=5)
    one = stats.ttest_1samp(values, 0.0, alternative="less").confidence_interval(0.95).high
    three = stats.ttest_1samp(values, 0.0, alternative="less").confidence_interval(1 - 0.05 / 3).high
    assert statistics.upper_bound(values) == pytest.approx(one)
    assert statistics.upper_bound(values, contrasts=3) == pytest.approx(three)
    assert three > one


@pytest.mark.parametrize(("values", "p"), [([0.0] * 5, 1.0), ([2.0] * 5, 0.0), ([1e-14, 0.0, -1e-14], 1.0)])
def test_values_without_spread_give_a_sane_result(values: list[float], p: float) -> None:
    mean = float(np.mean(values))
    assert statistics.paired_t_p(values) == p
    assert statistics.t_interval(values) == (mean, mean)
    assert statistics.upper_bound(values, 3) == mean


def test_rounding_is_no_spread() -> None:
    # 0.1 + 0.2 and 0.3: equal gaps, reached over different sums.
    assert statistics.mean_and_spread([0.1 + 0.2, 0.3])[1] == 0.0


def test_too_few_values_give_nan() -> None:
    for values in ([], [1.0]):
        assert math.isnan(statistics.paired_t_p(values))
        assert math.isnan(statistics.upper_bound(values))
        assert all(math.isnan(bound) for bound in statistics.t_interval(values))
    assert math.isnan(statistics.sign_flip_p([]))
    with pytest.raises(ValueError, match="NaN"):
        statistics.paired_t_p([1.0, math.nan])


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_holm_equals_statsmodels(size: int, rng: np.random.Generator) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for _ in range(5):
        p_values = (rng.random(size) ** 3).tolist()
        theirs = multitest.multipletests(p_values, method="holm")[1]
        assert statistics.holm(p_values) == pytest.approx(theirs.tolist())


def test_holm_by_hand_with_ties_and_none() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.5]) == [1.0, 1.0]
    assert statistics.holm([]) == []


@pytest.mark.parametrize("n", [1, 3, 5, 10])
def test_sign_flip_reaches_its_floor_and_no_lower(n: int) -> None:
    # Differences of one sign: only the observed signs and their mirror are as extreme.
    assert statistics.sign_flip_p(np.arange(1, n + 1, dtype=float)) == statistics.sign_flip_floor(n)
    assert statistics.sign_flip_floor(n) == 2 / 2**n


def test_sign_flip_equals_plain_enumeration_and_scipy(rng: np.random.Generator) -> None:
    values = rng.normal(0.5, 1.0, 7)
    sums = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in product((-1, 1), repeat=7)]
    by_hand = np.mean([s >= abs(values.sum()) - 1e-12 for s in sums])
    assert statistics.sign_flip_p(values) == pytest.approx(by_hand)
    theirs = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert statistics.sign_flip_p(values) == pytest.approx(theirs.pvalue)


def test_sign_flip_of_zeros_and_ties() -> None:
    assert statistics.sign_flip_p([0.0] * 5) == 1.0
    assert statistics.sign_flip_p([0.1, 0.2, -0.3]) == 1.0  # a sum of 0 but for rounding


def test_sign_flip_beyond_enumeration_is_seeded_and_near_the_exact(rng: np.random.Generator) -> None:
    values = rng.normal(0.5, 1.0, 12)
    exact = statistics.sign_flip_p(values)
    drawn = statistics.sign_flip_p(values, exact_to=5)
    assert drawn == statistics.sign_flip_p(values, exact_to=5)
    assert drawn == pytest.approx(exact, abs=0.01)
    assert statistics.sign_flip_p(np.ones(40), draws=999) == pytest.approx(1 / 1000)

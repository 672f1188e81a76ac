from __future__ import annotations

import json
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from tailkeep.analysis import statistics, tango

REFERENCE = json.loads((Path(__file__).parent / "tango.json").read_text())


def log_likelihood(p01: float, b: int, c: int, n: int, delta: float) -> float:
    shares = np.array([p01 + delta, p01, 1 - 2 * p01 - delta])
    counts = np.array([b, c, n - b - c])
    if (shares < 0).any() or ((shares == 0) & (counts > 0)).any():
        return -np.inf
    return float((counts[counts > 0] * np.log(shares[counts > 0])).sum())


def maximised(b: int, c: int, n: int, delta: float) -> float:
    """The share p01 of the highest likelihood with the loss held at delta, by search."""
    low, high = max(0.0, -delta), (1 - delta) / 2
    found = optimize.minimize_scalar(
        lambda q: -log_likelihood(q, b, c, n, delta), bounds=(low, high), method="bounded", options={"xatol": 1e-12}
    )
    # The search never looks at the ends themselves, where the maximum often is.
    return float(max((low, high, found.x), key=lambda q: log_likelihood(q, b, c, n, delta)))


@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: f"{c['n10']}-{c['n01']}-{c['n']}")
def test_the_statistic_and_its_score_p_equal_the_reference(case: dict) -> None:
    table = case["n10"], case["n01"], case["n"], case["delta"]
    assert float(tango.statistic(*table)) == pytest.approx(case["Z"], abs=1e-9)
    broken, kept = tango.score_p(*table)
    assert float(broken) == pytest.approx(case["p_loss_above_delta_score"], abs=1e-9)
    assert float(broken + kept) == pytest.approx(1.0)


def test_the_statistic_is_the_score_at_the_numerically_maximised_likelihood(rng: np.random.Generator) -> None:
    for _ in range(150):
        n = int(rng.integers(5, 400))
        b, c, _ = rng.multinomial(n, rng.dirichlet([1, 1, 8]))
        delta = float(rng.choice([-0.2, -0.03, 0.01, 0.02, 0.05, 0.2]))
        q = maximised(int(b), int(c), n, delta)
        variance = n * (2 * q + delta * (1 - delta))
        z = (b - c - n * delta) / np.sqrt(variance)
        assert float(tango.constrained_mle(b, c, n, delta)) == pytest.approx(q, abs=1e-6)
        assert float(tango.statistic(b, c, n, delta)) == pytest.approx(z, abs=1e-4), (b, c, n, delta)


def test_without_a_limit_the_statistic_is_mcnemars() -> None:
    assert float(tango.statistic(12, 5, 100, 0)) == pytest.approx(7 / np.sqrt(17))
    assert float(tango.statistic(0, 0, 100, 0)) == 0


@pytest.mark.parametrize(("n", "delta"), [(1, 0.02), (7, 0.0), (20, 0.05), (40, 0.3), (60, 0.001)])
def test_the_statistic_keeps_barnards_condition(n: int, delta: float) -> None:
    """Rises with each image from n01 to neither and from neither to n10: what the exact test's structure rests on."""
    b, c = (values.ravel() for values in np.mgrid[: n + 1, : n + 1])
    z = np.where(b + c <= n, tango.statistic(b, c, n, delta), np.nan).reshape(n + 1, n + 1)
    for rise in (np.diff(z, axis=0), -np.diff(z, axis=1)):
        assert rise[~np.isnan(rise)].min() > -1e-12


def test_the_interval_holds_what_the_score_test_does_not_reject() -> None:
    b, c, n = (values.ravel() for values in np.meshgrid([0, 1, 7, 30], [0, 2, 20], [50, 51, 500]))
    for level in (0.9, 0.95, 0.99):
        low, high = tango.interval(b, c, n, level)
        z = stats.norm.ppf(0.5 + level / 2)
        assert tango.statistic(b, c, n, low) == pytest.approx(np.full(len(b), z), abs=1e-6)
        assert tango.statistic(b, c, n, high) == pytest.approx(np.full(len(b), -z), abs=1e-6)
        assert (low <= (b - c) / n).all()
        assert (high >= (b - c) / n).all()


def test_the_interval_equals_another_implementation() -> None:
    """The R package contingencytables (Fagerland, Lydersen and Laake 2017) on the data of Cavo et al. 2012."""
    low, high = tango.interval(6, 16, 161)
    assert (float(low), float(high)) == pytest.approx((-0.1240, -0.0054), abs=5e-5)


def test_the_interval_turns_with_the_models_and_ends_at_one() -> None:
    low, high = tango.interval([12, 2, 0, 30], [2, 12, 0, 0], [100, 100, 100, 30])
    assert low[0] == pytest.approx(-high[1])
    assert high[0] == pytest.approx(-low[1])
    assert low[2] == pytest.approx(-high[2])
    assert high[3] == pytest.approx(1.0)
    assert np.isnan(tango.interval(0, 0, 0)).all()


def test_a_thousand_intervals_are_quick(rng: np.random.Generator) -> None:
    counts = rng.multinomial(1000, [0.05, 0.04, 0.91], size=1000)
    start = time.process_time()
    tango.interval(counts[:, 0], counts[:, 1], np.full(1000, 1000))
    assert time.process_time() - start < 0.2


def test_mcnemar_equals_scipy_on_every_small_table() -> None:
    for b, c in product(range(13), range(13)):
        theirs = stats.binomtest(b, b + c).pvalue if b + c else 1.0
        assert statistics.mcnemar_exact(b, c) == pytest.approx(theirs, rel=1e-9)

"""The quick tail against the sum over every table."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tailkeep.analysis import tails, tango


def tables(n: int) -> tuple[np.ndarray, np.ndarray]:
    b, c = np.mgrid[: n + 1, : n + 1]
    return b[b + c <= n], c[b + c <= n]


def summed(n: int, delta: float, z: float, p10: float, p01: float) -> tuple[float, float]:
    """P(Z >= z) and P(Z <= z) over every table."""
    b, c = tables(n)
    chance = stats.multinomial.pmf(np.stack([b, c, n - b - c], axis=1), n, [p10, p01, 1 - p10 - p01])
    statistic = tango.statistic(b, c, n, delta)
    return float(chance[statistic >= z - 1e-8].sum()), float(chance[statistic <= z + 1e-8].sum())


def both(n: int, delta: float, z: float, p10: float, p01: float) -> tuple[float, float]:
    above, below = tails.split(n, delta, z).tails(np.array([0]), np.array([p10]), np.array([p01]))
    return float(above[0]), float(below[0])


def test_a_tail_equals_the_sum_over_every_table(rng: np.random.Generator) -> None:
    for _ in range(120):
        n = int(rng.choice([1, 2, 9, 30, 61]))
        delta = float(rng.choice([0.0, 0.001, 0.02, 0.1, 0.6]))
        p10, p01, _ = rng.dirichlet(rng.choice([[1, 1, 1], [1, 1, 20], [5, 1, 1]]))
        b, c, _ = rng.multinomial(n, [p10, p01, 1 - p10 - p01])
        z = float(rng.choice([tango.statistic(b, c, n, delta), rng.normal()]))
        assert both(n, delta, z, p10, p01) == pytest.approx(summed(n, delta, z, p10, p01), abs=1e-11), (n, delta, z)


@pytest.mark.parametrize(("p10", "p01"), [(0.0, 0.0), (0.05, 0.0), (0.0, 0.3), (1.0, 0.0), (0.5, 0.5), (0.0, 1.0)])
def test_shares_of_nothing_and_of_all(p10: float, p01: float) -> None:
    for z in (-3.0, -1.0, 0.0, 0.5, 2.0):
        assert both(25, 0.05, z, p10, p01) == pytest.approx(summed(25, 0.05, z, p10, p01), abs=1e-11)


def test_beyond_every_table_there_is_nothing() -> None:
    assert both(30, 0.02, 50.0, 0.1, 0.1) == pytest.approx((0.0, 1.0), abs=1e-12)
    assert both(30, 0.02, -50.0, 0.1, 0.1) == pytest.approx((1.0, 0.0), abs=1e-12)


def test_tables_that_tie_count_on_both_sides() -> None:
    """At delta 0, (1, 0) has Z = 1 as (3, 1) does; rounding must not part them."""
    above, below = both(12, 0.0, 1.0, 0.1, 0.1)
    expected = summed(12, 0.0, 1.0, 0.1, 0.1)
    assert (above, below) == pytest.approx(expected, abs=1e-11)
    assert above + below - 1 > 0.1


@pytest.mark.parametrize("n", [3, 40, 333])
def test_a_row_begins_where_its_statistic_passes(n: int) -> None:
    for delta, z in ((0.0, 0.7), (0.001, 3.0), (0.02, -1.6), (0.05, 2.5), (0.4, -4.0), (0.0005, -0.3)):
        k = tails.split(n, delta, z).k.astype(int)
        t = np.arange(n + 1)
        own, before = k[:-1], k[:-1] - 1
        has, had = own <= t, before >= 0
        assert (tango.statistic(own[has], (t - own)[has], n, delta) >= z - 1e-8).all()
        assert (tango.statistic(before[had], (t - before)[had], n, delta) < z).all()
        assert set(np.diff(k).tolist()) <= {0, 1}


def test_units_do_not_mix() -> None:
    n, delta, z = np.array([20, 300, 7]), np.array([0.02, 0.05, 0.1]), np.array([1.0, -1.5, 0.2])
    unit, p10, p01 = np.array([1, 0, 2, 1]), np.array([0.1, 0.05, 0.3, 0.06]), np.array([0.02, 0.05, 0.1, 0.0])
    above, below = tails.split(n, delta, z).tails(unit, p10, p01)
    for place, index in enumerate(unit):
        alone = both(int(n[index]), float(delta[index]), float(z[index]), float(p10[place]), float(p01[place]))
        assert (above[place], below[place]) == pytest.approx(alone, abs=1e-14)


def test_a_large_unit_equals_the_binomial_where_no_image_is_won() -> None:
    """With p01 = 0 the table is (b, 0), so the tail is a binomial's."""
    n, delta = 200_000, 0.02
    b = 4_150
    z = float(tango.statistic(b, 0, n, delta))
    above, below = both(n, delta, z, delta, 0.0)
    assert above == pytest.approx(stats.binom.sf(b - 1, n, delta), rel=1e-6)
    assert below == pytest.approx(stats.binom.cdf(b, n, delta), rel=1e-6)

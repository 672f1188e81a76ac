from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tailkeep.analysis import tails, tango, trinomial

REFERENCE = json.loads((Path(__file__).parent / "tango.json").read_text())


def densely(n10: int, n01: int, n: int, delta: float) -> tuple[float, float]:
    """Both p values over a grid of p01 that is even and far denser than any spread of a count."""
    split = tails.split(n, delta, tango.statistic(n10, n01, n, delta))
    top = (1 - delta) / 2
    roots = np.linspace(0, 1, 1501) ** 2
    p01 = np.concatenate([top * roots, top * (1 - roots)])
    above, below = split.tails(np.zeros(len(p01), dtype=int), p01 + delta, p01)
    return float(above.max()), float(below.max())


def by_every_table(n10: int, n01: int, n: int, delta: float) -> tuple[float, float]:
    """Both p values by the sum over every table, at 1,500 nuisance shares."""
    b, c = (values[np.add(*np.mgrid[: n + 1, : n + 1]) <= n] for values in np.mgrid[: n + 1, : n + 1])
    z, own = tango.statistic(b, c, n, delta), float(tango.statistic(n10, n01, n, delta))
    top = (1 - delta) / 2
    shares = np.concatenate([top * np.linspace(0, 1, 750) ** 2, top * (1 - np.linspace(0, 1, 750) ** 2)])
    counts = np.stack([b, c, n - b - c], axis=1)
    best = np.zeros(2)
    for q in shares:
        chance = stats.multinomial.pmf(counts, n, [q + delta, q, max(0.0, 1 - 2 * q - delta)])
        best = np.maximum(best, [chance[z >= own - 1e-9].sum(), chance[z <= own + 1e-9].sum()])
    return float(best[0]), float(best[1])


@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: f"{c['n10']}-{c['n01']}-{c['n']}")
def test_p_values_equal_the_reference(case: dict) -> None:
    table = case["n10"], case["n01"], case["n"], case["delta"]
    p = trinomial.p_values(*table)
    assert float(p.broken[0]) == pytest.approx(case["p_loss_above_delta_exact"], abs=1e-4)
    # One value of the reference misses a peak at p01 = 0.4826, by 1.1e-4: the sum over every table there says so.
    missed = 2e-4 if table == (14, 3, 200, 0.02) else 1e-4
    assert float(p.kept[0]) == pytest.approx(case["p_loss_below_delta_exact"], abs=missed)
    assert p.exact.all()


def test_the_peak_that_the_reference_misses_is_there() -> None:
    n, delta, q = 200, 0.02, 0.482623
    b, c = (values[np.add(*np.mgrid[: n + 1, : n + 1]) <= n] for values in np.mgrid[: n + 1, : n + 1])
    inside = tango.statistic(b, c, n, delta) <= float(tango.statistic(14, 3, n, delta)) + 1e-9
    counts = np.stack([b, c, n - b - c], axis=1)[inside]
    there = float(stats.multinomial.pmf(counts, n, [q + delta, q, 1 - 2 * q - delta]).sum())
    assert there == pytest.approx(0.965260, abs=1e-6)
    assert float(trinomial.p_values(14, 3, n, delta).kept[0]) == pytest.approx(there, abs=1e-6)


@pytest.mark.parametrize(
    "table",
    [(0, 0, 1, 0.05), (1, 0, 2, 0.02), (3, 1, 12, 0.1), (5, 0, 20, 0.02), (2, 2, 25, 0.0), (9, 2, 30, 0.05)],
)
def test_p_values_equal_the_sum_over_every_table(table: tuple[int, int, int, float]) -> None:
    p = trinomial.p_values(*table)
    assert (float(p.broken[0]), float(p.kept[0])) == pytest.approx(by_every_table(*table), abs=2e-5)


def test_no_peak_is_missed(rng: np.random.Generator) -> None:
    for _ in range(40):
        n = int(np.exp(rng.uniform(np.log(5), np.log(1000))))
        delta = float(rng.choice([0.0, 0.001, 0.01, 0.02, 0.05, 0.3]))
        discordant = min(0.9, delta + float(rng.choice([0.0, 0.02, 0.1, 0.4])))
        loss = np.clip(delta + rng.uniform(-3, 3) * np.sqrt(max(discordant, 0.001) / n), -discordant, discordant)
        shares = [(discordant + loss) / 2, (discordant - loss) / 2, 1 - discordant]
        b, c, _ = (int(count) for count in rng.multinomial(n, shares))
        ours = trinomial.p_values(b, c, n, delta)
        for own, dense in zip((ours.broken[0], ours.kept[0]), densely(b, c, n, delta), strict=True):
            allowed = 5e-3 if dense > 0.5 else 1e-3 * dense
            assert own >= dense - allowed, (b, c, n, delta)


def test_no_loss_inside_the_hypothesis_is_more_likely_to_be_called_broken() -> None:
    n, delta = 60, 0.05
    for b, c in ((7, 0), (9, 3), (14, 6)):
        split = tails.split(n, delta, tango.statistic(b, c, n, delta))
        p = float(trinomial.p_values(b, c, n, delta).broken[0])
        p10, p01 = (values.ravel() for values in np.meshgrid(np.linspace(0, 1, 81), np.linspace(0, 1, 81)))
        inside = (p10 - p01 <= delta) & (p10 + p01 <= 1)
        above, _ = split.tails(np.zeros(int(inside.sum()), dtype=int), p10[inside], p01[inside])
        assert above.max() <= p + 1e-6


def test_p_values_move_with_the_counts_and_the_limit() -> None:
    b = np.arange(0, 31)
    lost, won = trinomial.p_values(b, 4, 150, 0.05), trinomial.p_values(8, b, 150, 0.05)
    limits = trinomial.p_values(8, 4, 150, np.linspace(0, 0.3, 31))
    for p, way in ((lost, 1), (won, -1), (limits, -1)):
        # Above a half a value may miss a little of its peak.
        assert (way * np.diff(p.broken) <= 1e-3).all()
        assert (way * np.diff(p.kept) >= -1e-3).all()


def test_no_discordant_image_is_the_binomial_zero_while_that_is_the_peak() -> None:
    for n, delta in ((50, 0.05), (100, 0.02)):
        assert float(trinomial.p_values(0, 0, n, delta).kept[0]) == pytest.approx((1 - delta) ** n, rel=1e-9)
    # With many images the tables of many discordant ones with as low a statistic are likelier: about the normal tail.
    assert float(trinomial.p_values(0, 0, 500, 0.02).kept[0]) == pytest.approx(7.4e-4, rel=0.05)


def test_above_the_size_limit_the_score_test_stands_in_and_says_so() -> None:
    p = trinomial.p_values([12, 12], [2, 2], [100, 100], [0.02, 0.05], exact_to=99)
    assert not p.exact.any()
    assert p.broken == pytest.approx([0.0128977, 0.0736546], abs=1e-6)
    mixed = trinomial.p_values([12, 12], [2, 2], [99, 100], 0.02, exact_to=99)
    assert mixed.exact.tolist() == [True, False]
    assert mixed.broken[0] == pytest.approx(float(trinomial.p_values(12, 2, 99, 0.02).broken[0]))


def test_where_the_score_test_stands_in_its_size_is_right() -> None:
    """At the size limit, by the exact tail at its critical value for one of ten classes: 5 % over what is asked."""
    z = float(stats.norm.isf(0.005))
    above, _ = trinomial.maximal_tails(trinomial.EXACT_TO, 0.005, z)
    _, below = trinomial.maximal_tails(trinomial.EXACT_TO, 0.005, -z)
    assert 0.005 < float(above[0]) < 1.06 * 0.005
    assert 0.005 < float(below[0]) < 1.01 * 0.005


def test_tables_are_answered_in_their_order_and_alone(rng: np.random.Generator) -> None:
    n = rng.integers(1, 700, size=90)
    counts = np.array([rng.multinomial(images, [0.08, 0.05, 0.87]) for images in n])
    limits = rng.choice([0.0, 0.02, 0.05], size=90)
    together = trinomial.p_values(counts[:, 0], counts[:, 1], n, limits)
    for place in range(0, 90, 9):
        alone = trinomial.p_values(*counts[place, :2], n[place], limits[place])
        assert together.broken[place] == pytest.approx(alone.broken[0], abs=1e-12)
        assert together.kept[place] == pytest.approx(alone.kept[0], abs=1e-12)


def test_nonsense_is_refused() -> None:
    for table in ((3, 3, 5, 0.02), (-1, 0, 5, 0.02), (0, 0, 0, 0.02)):
        with pytest.raises(ValueError, match="n10"):
            trinomial.p_values(*table)
    for limit in (1.0, -0.1):
        with pytest.raises(ValueError, match="delta"):
            trinomial.p_values(1, 0, 5, limit)


def test_thousands_of_images_are_quick() -> None:
    trinomial.p_values(1, 1, 10, 0.02)
    start = time.process_time()
    trinomial.p_values(190, 150, 5_000, 0.02)
    assert time.process_time() - start < 0.3

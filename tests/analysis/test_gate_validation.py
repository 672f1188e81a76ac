"""The gate's error rates, power and coverage where they can be known: by summing over every table, or by simulation.

A simulation fails only where the 99 % lower bound of its rate is over what was promised. ``benchmarks/gate.py`` is the
fuller form.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from scipy import special, stats

from tailkeep.analysis import power, statistics, tango, trinomial
from tailkeep.analysis.gate import Check, gate

ALPHA = 0.05
RUNS = 10_000


@lru_cache(maxsize=16)
def tables(n: int) -> tuple[np.ndarray, np.ndarray]:
    b, c = np.mgrid[: n + 1, : n + 1]
    return b[b + c <= n], c[b + c <= n]


def chances(b: np.ndarray, c: np.ndarray, n: int, p10: float, p01: float) -> np.ndarray:
    """The trinomial probabilities, by their formula."""
    ways = special.gammaln([n + 1]) - sum(special.gammaln(count + 1) for count in (b, c, n - b - c))
    rest = max(0.0, 1 - p10 - p01)
    return np.exp(ways + special.xlogy(b, p10) + special.xlogy(c, p01) + special.xlogy(n - b - c, rest))


def rejected(n: int, delta: float, alpha: float, side: str) -> np.ndarray:
    """Which of ``tables(n)`` have that p value at most alpha, by bisection in the order of Z."""
    b, c = tables(n)
    z = tango.statistic(b, c, n, delta) * (-1 if side == "broken" else 1)
    order = np.argsort(z, kind="stable")
    low, high = -1, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        p = getattr(trinomial.p_values(b[order[middle]], c[order[middle]], n, delta), side)
        low, high = (middle, high) if p[0] <= alpha else (low, middle)
    return z <= z[order[low]] + 1e-9 if low >= 0 else np.zeros(len(order), dtype=bool)


@pytest.mark.slow
def test_a_wrong_claim_is_as_rare_as_promised_by_enumeration() -> None:
    """A single class that loses exactly its limit: exit 1, exit 0, and exit 1 by a gate of ten such classes."""
    seen = []
    for n in (50, 100, 200):
        b, c = tables(n)
        for delta in (0.02, 0.05):
            regions = [
                rejected(n, delta, alpha, side)
                for alpha, side in ((ALPHA, "broken"), (ALPHA / 10, "broken"), (ALPHA, "kept"))
            ]
            for discordance in np.arange(max(delta, 0.02), 0.2001, 0.005):
                chance = chances(b, c, n, (discordance + delta) / 2, (discordance - delta) / 2)
                broken, of_ten, kept = (float(chance[region].sum()) for region in regions)
                assert broken <= ALPHA + 1e-6, (n, delta, discordance)
                assert 1 - (1 - of_ten) ** 10 <= ALPHA + 1e-6, (n, delta, discordance)
                assert kept <= ALPHA + 1e-6, (n, delta, discordance)
                seen.append((broken, kept))
    # Not by never saying anything: the maximum over the nuisance is nearly reached.
    assert np.max(seen, axis=0) == pytest.approx([ALPHA, ALPHA], abs=0.005)


@pytest.mark.slow
def test_every_table_of_fifty_images_is_decided_by_its_p_value() -> None:
    """The regions that the enumeration bisects for are those of the p values one by one."""
    n, delta = 50, 0.05
    p = trinomial.p_values(*tables(n), n, delta)
    assert np.array_equal(p.broken <= ALPHA, rejected(n, delta, ALPHA, "broken"))
    assert np.array_equal(p.kept <= ALPHA, rejected(n, delta, ALPHA, "kept"))


def simulated(n: np.ndarray, p10: np.ndarray, p01: np.ndarray, delta: float, seed: int) -> np.ndarray:
    """The exit codes of RUNS gates of classes (M,), by the p values of the tables that were drawn."""
    rng = np.random.default_rng(seed)
    draws = np.stack(
        [rng.multinomial(*args, size=RUNS) for args in zip(n, np.stack([p10, p01, 1 - p10 - p01], axis=1), strict=True)]
    )
    b, c = draws[:, :, 0].T, draws[:, :, 1].T
    sizes = np.broadcast_to(n, b.shape)
    p = trinomial.p_values(b.ravel(), c.ravel(), sizes.ravel(), delta)
    broken, kept = p.broken.reshape(b.shape), p.kept.reshape(b.shape)
    fails = np.array([min(statistics.holm(row.tolist())) <= ALPHA for row in broken])
    codes = np.where(fails, 1, np.where((kept <= ALPHA).all(axis=1), 0, 5))
    for run in range(0, RUNS, RUNS // 10):
        checks = [
            Check("drop", "class", str(place), *map(int, (sizes[run, place], b[run, place], c[run, place])), delta)
            for place in range(len(n))
        ]
        assert gate(checks).exit_code == codes[run]
    return codes


def at_most(count: int, rate: float) -> bool:
    """Whether a rate's 99 % lower bound allows it."""
    return bool(stats.binomtest(int(count), RUNS).proportion_ci(0.98, method="exact").low <= rate)


@pytest.mark.slow
@pytest.mark.parametrize(("delta", "discordance"), [(0.05, 0.05), (0.05, 0.12), (0.02, 0.04)])
def test_a_gate_of_ten_classes_at_their_limits_rarely_fails(delta: float, discordance: float) -> None:
    n = np.array([50, 60, 80, 100, 100, 120, 150, 200, 200, 300])
    p01 = np.full(10, (discordance - delta) / 2)
    codes = simulated(n, p01 + delta, p01, delta, seed=11)
    assert at_most((codes == 1).sum(), ALPHA)
    assert at_most((codes == 0).sum(), ALPHA)


@pytest.mark.slow
def test_a_gate_rarely_passes_for_one_class_at_its_limit() -> None:
    """The other nine are as good as they can be, which leaves the whole risk to the one."""
    n = np.array([200] + [400] * 9)
    p01 = np.array([0.03] + [0.0] * 9)
    p10 = np.array([0.08] + [0.0] * 9)
    codes = simulated(n, p10, p01, 0.05, seed=12)
    assert at_most((codes == 0).sum(), ALPHA)
    assert (codes == 0).sum() > 0.02 * RUNS


@pytest.mark.slow
def test_the_power_of_a_whole_gate_is_what_simulation_finds() -> None:
    for n, p10, p01, delta in ((np.full(10, 400), 0.03, 0.03, 0.05), (np.arange(150, 650, 50), 0.015, 0.01, 0.05)):
        both = np.full(len(n), p10), np.full(len(n), p01)
        codes = simulated(n, *both, delta, seed=13)
        predicted = power.of_gate(power.power(n, delta, *both, ALPHA))
        assert 0.2 < predicted < 0.98
        assert float((codes == 0).mean()) == pytest.approx(predicted, abs=0.03)


def covered(n: int, expected: float, share: float) -> float:
    """The coverage of Tango's 95 % interval: ``expected`` discordant images of n, ``share`` of them won."""
    most = min(n, int(expected + 12 * np.sqrt(expected) + 20))
    b, c = (count[np.add(*np.mgrid[: most + 1, : most + 1]) <= n] for count in np.mgrid[: most + 1, : most + 1])
    p01 = expected / n * share
    p10 = expected / n - p01
    inside = np.abs(tango.statistic(b, c, n, p10 - p01)) <= stats.norm.ppf(0.975)
    return float(chances(b[inside], c[inside], n, p10, p01).sum())


@pytest.mark.slow
def test_tangos_interval_covers_by_enumeration() -> None:
    """From 50 images. 93 to 97 % from 10 expected discordant images on, and from 5 on with 5 % of them won or more.

    From 5 to 10 with hardly one won 92.5 to 97.4 % in narrow bands (with more, 92.9 to 97); below, never under 92.9 %.
    """
    sizes, shares = (50, 75, 125, 300, 1000), (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
    for n in sizes:
        for expected in (0.5, 1, 2, *np.arange(3, 20, 0.5)):
            for share in shares:
                found = covered(n, expected, share)
                if expected >= 10:
                    assert 0.93 <= found <= 0.97, (n, expected, share)
                elif expected >= 5:
                    assert (0.929 if share >= 0.05 else 0.925) <= found <= (0.97 if share >= 0.05 else 0.974)
                else:
                    assert found >= (0.929 if expected > 2 else 0.95), (n, expected, share)
    assert covered(125, 5.5, 0.0) < 0.93


@pytest.mark.slow
def test_wilsons_interval_covers_by_enumeration() -> None:
    """93 to 97 % where n(1-p) >= 8, from 50 images; but for a dip to 92.8 % with 52 to 55 and 109 to 111."""
    for n in (*range(50, 125), 150, 200, 500, 1000):
        right = np.arange(n + 1)
        low, high = np.array([statistics.wilson(int(count), n) for count in right]).T[:, :, None]
        recall = np.linspace(0.5, 1 - 8 / n, 400)
        coverage = (stats.binom.pmf(right[:, None], n, recall) * ((low <= recall) & (recall <= high))).sum(axis=0)
        assert coverage.min() >= (0.928 if n in {*range(52, 56), *range(109, 112)} else 0.93), n
        assert coverage.max() <= 0.97, n

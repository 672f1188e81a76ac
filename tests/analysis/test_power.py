from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats

from tailkeep.analysis import power, tango, trinomial


def enumerated(n: int, delta: float, p10: float, p01: float, alpha: float) -> tuple[float, float]:
    """The chance that p_kept, and p_broken, is at most alpha: by the p value of every table."""
    b, c = (values[np.add(*np.mgrid[: n + 1, : n + 1]) <= n] for values in np.mgrid[: n + 1, : n + 1])
    chance = stats.multinomial.pmf(np.stack([b, c, n - b - c], axis=1), n, [p10, p01, 1 - p10 - p01])
    p = trinomial.p_values(b, c, n, delta)
    return float(chance[p.kept <= alpha].sum()), float(chance[p.broken <= alpha].sum())


@pytest.mark.parametrize(
    ("n", "delta", "p10", "p01", "alpha"),
    [(30, 0.1, 0.03, 0.03, 0.05), (25, 0.05, 0.3, 0.02, 0.05), (40, 0.2, 0, 0, 0.01)],
)
def test_power_equals_the_chance_of_the_tables_that_reject(
    n: int, delta: float, p10: float, p01: float, alpha: float
) -> None:
    kept, broken = enumerated(n, delta, p10, p01, alpha)
    assert float(power.power(n, delta, p10, p01, alpha)[0]) == pytest.approx(kept, abs=1e-6)
    assert float(power.power(n, delta, p10, p01, alpha, kept=False)[0]) == pytest.approx(broken, abs=1e-6)


def test_a_critical_value_is_the_last_that_its_size_allows() -> None:
    n = np.array([12, 50, 300])
    for kept, step in ((True, 1e-5), (False, -1e-5)):
        z = power.critical_values(n, 0.05, 0.05, kept)
        size = trinomial.maximal_tails(n, 0.05, z)[int(kept)]
        beyond = trinomial.maximal_tails(n, 0.05, z + step)[int(kept)]
        assert (size <= 0.05).all()
        assert (beyond > 0.05).all()


def test_power_grows_with_the_images_and_falls_with_discordance_and_loss() -> None:
    assert (np.diff(power.power([200, 800, 3200], 0.02, 0.03, 0.03)) > 0).all()
    assert (np.diff(power.power(1000, 0.02, [0.01, 0.03, 0.1], [0.01, 0.03, 0.1])) < 0).all()
    assert (np.diff(power.power(1000, 0.02, [0.02, 0.03, 0.04], 0.02)) < 0).all()
    assert (np.diff(power.power(1000, 0.02, [0.04, 0.06, 0.08], 0.02, kept=False)) > 0).all()


def test_at_the_limit_the_power_is_the_size() -> None:
    for kept in (True, False):
        assert 0.02 < float(power.power(400, 0.02, 0.05, 0.03, 0.05, kept)[0]) <= 0.05


def test_the_power_of_a_gate_is_the_product() -> None:
    assert power.of_gate([0.866] * 10) == pytest.approx(0.24, abs=0.005)
    assert power.of_gate([]) == 1.0


def test_images_for_ten_classes_are_of_the_known_scale() -> None:
    """About 3,345 a class at 10 % discordance, delta 2 points, 80 % over ten classes (by the normal approximation)."""
    share = 0.8 ** (1 / 10)
    (images,) = power.images_needed(0.1, 0.02, goal=share)
    assert images == pytest.approx(3345, rel=0.03)
    assert power.of_gate(np.repeat(power.power(3345, 0.02, 0.05, 0.05), 10)) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(
    ("discordance", "delta", "alpha"),
    [(0.1, 0.02, 0.05), (0.02, 0.02, 0.05), (0.05, 0.05, 0.01), (0.01, 0.1, 0.05), (0.3, 0.05, 0.05)],
)
def test_that_many_images_are_enough_and_a_tenth_fewer_are_not(discordance: float, delta: float, alpha: float) -> None:
    (images,) = power.images_needed(discordance, delta, alpha)
    assert images is not None
    reached = power.power([images, round(images * 0.88)], delta, discordance / 2, discordance / 2, alpha)
    # A critical value is found to a hundredth: about half a point of power.
    assert reached[0] >= 0.79
    assert reached[1] < 0.8


def test_without_a_discordant_image_the_table_of_none_must_tell() -> None:
    found = power.images_needed([0.0, 0.0], [0.02, 0.05])
    assert found == [150, 59]
    kept = trinomial.p_values(0, 0, [149, 148, 59, 58], [0.02, 0.02, 0.05, 0.05]).kept
    assert (kept <= 0.05).tolist() == [True, False, True, False]


def test_above_the_search_the_normal_approximation_goes_on_smoothly() -> None:
    (near,) = power.images_needed(0.1, 0.0081)
    (far,) = power.images_needed(0.1, 0.008)
    assert near is not None
    assert far is not None
    assert near < power.EXACT_TO * 1.3
    assert 1 <= far / near < 1.1
    (exact,) = power.power(far, 0.008, 0.05, 0.05)
    assert exact == pytest.approx(0.8, abs=0.02)


def test_where_no_number_of_images_tells() -> None:
    assert power.images_needed([0.1, 0.0, 0.1], [0.0, 0.0, 1e-9]) == [None, None, None]


def test_images_are_told_by_two_digits() -> None:
    found = power.images_needed(np.linspace(0.01, 0.2, 8), 0.02)
    assert all(images is not None and images % 10 ** (len(str(images)) - 2) == 0 for images in found)
    assert found == sorted(found, key=lambda images: images or 0)


@pytest.mark.parametrize(("recall", "limit"), [(0.9, 0.8), (1.0, 0.8), (0.7, 0.8), (0.0, 0.3), (0.62, 0.6)])
def test_images_for_a_recall(recall: float, limit: float) -> None:
    images = power.recall_images_needed(recall, limit, 0.05, 0.005)
    assert images is not None

    def told(n: int) -> float:
        right = np.arange(n + 1)
        if recall > limit:
            says = stats.binom.sf(right - 1, n, limit) <= 0.05
        else:
            says = stats.binom.cdf(right, n, limit) <= 0.005
        return float(stats.binom.pmf(right, n, recall)[says].sum())

    assert told(images) >= 0.8
    assert told(round(images * 0.85)) < 0.85


def test_no_number_of_images_tells_a_recall_at_its_limit() -> None:
    assert power.recall_images_needed(0.8, 0.8, 0.05, 0.05) is None
    assert power.recall_images_needed(0.8 + 1e-6, 0.8, 0.05, 0.05) is None
    assert power.recall_images_needed(1.0, 1.0, 0.05, 0.05) is None


def test_a_hundred_classes_are_answered_quickly(rng: np.random.Generator) -> None:
    start = time.process_time()
    power.images_needed(rng.integers(20, 120, size=100) / 1000, 0.02)
    assert time.process_time() - start < 3


def test_the_normal_approximation_is_tangos() -> None:
    """At that many images the mean of Z lies the two quantiles below its limit, by the spread under the limit."""
    n = power._asymptotic_images(0.1, 0.02, 0.05, 0.8)
    mean = float(tango.statistic(0.05 * n, 0.05 * n, n, 0.02))
    q = float(tango.constrained_mle(0.05 * n, 0.05 * n, n, 0.02))
    ratio = np.sqrt(0.1 / (2 * q + 0.02 * 0.98))
    assert mean == pytest.approx(-stats.norm.isf(0.05) - stats.norm.isf(0.2) * ratio, abs=1e-9)

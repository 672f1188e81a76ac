from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from tailkeep.analysis import bootstrap as module
from tailkeep.analysis.bootstrap import bootstrap, percentile_interval, resample
from tailkeep.analysis.bootstrap_rows import bootstrap_rows
from tailkeep.analysis.summaries import reliability_warning
from tailkeep.evaluation import metrics

SUMMARIES = ("accuracy", "balanced_accuracy", "worst_class_recall", "g_mean", "recall_slope", "tail_share")
JOINT = np.array([[40, 6, 3, 11], [70, 2, 5, 23], [20, 9, 1, 10], [55, 0, 0, 5]])
TAIL = ([0, 1], [2])


def summarise(joint: np.ndarray) -> dict[str, float]:
    """The summaries of joint counts (C, 4), by the project's metrics."""
    n = joint.sum(axis=1)
    x, y = (joint[:, 0] + joint[:, 1]) / n, (joint[:, 0] + joint[:, 2]) / n
    return {
        "accuracy": (joint[:, 2] - joint[:, 1]).sum() / n.sum(),
        "balanced_accuracy": y.mean() - x.mean(),
        "worst_class_recall": y.min() - x.min(),
        "g_mean": metrics.g_mean_of_recalls(y) - metrics.g_mean_of_recalls(x),
        "recall_slope": metrics.recall_slope(y, x),
        "tail_share": (x - y)[TAIL[1]].mean() - (x - y)[TAIL[0]].mean(),
    }


def test_the_summaries_are_those_of_the_draws() -> None:
    draws = bootstrap(JOINT, 50, seed=3, tail=TAIL)
    expected = [summarise(joint) for joint in resample(JOINT, 50, seed=3)]
    for name in SUMMARIES:
        np.testing.assert_allclose(getattr(draws, name), [one[name] for one in expected], rtol=0, atol=1e-12)


def test_counts_are_drawn_as_rows_would_be() -> None:
    rng = np.random.default_rng(0)
    drawn = resample(JOINT, 20_000, pseudo_counts=0)
    assert (drawn.sum(axis=2) == JOINT.sum(axis=1)).all()
    assert (drawn[:, 3, 1:3] == 0).all()  # nothing to draw from
    by_rows = np.empty((4000, 4, 4))
    for index, cells in enumerate(JOINT):
        rows = np.repeat(np.arange(4), cells)
        for number in range(4000):
            by_rows[number, index] = np.bincount(rng.choice(rows, len(rows)), minlength=4)
    for ours, theirs in ((drawn, by_rows), *zip(_summaries(drawn), _summaries(by_rows), strict=True)):
        error = np.sqrt(ours.var(axis=0) / len(ours) + theirs.var(axis=0) / len(theirs))
        assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) <= 4.5 * error + 1e-12).all()
        np.testing.assert_allclose(ours.std(axis=0), theirs.std(axis=0), rtol=0.06)


def _summaries(joint: np.ndarray) -> list[np.ndarray]:
    found = [summarise(one) for one in joint[:4000]]
    return [np.array([one[name] for one in found]) for name in SUMMARIES]


@pytest.mark.parametrize(("n", "cells"), [(30, [20, 1, 2, 7]), (5000, [3000, 100, 60, 1840]), (200_000, [9, 2, 1, 0])])
def test_a_class_is_multinomial(n: int, cells: list[int]) -> None:
    rng = np.random.default_rng(1)
    drawn = module.draw_class(n, np.array(cells, dtype=np.float64), 20_000, rng)
    share = np.array(cells) / sum(cells)
    for values, p in zip(drawn, share, strict=False):
        assert values.mean() == pytest.approx(n * p, abs=5 * math.sqrt(n * p * (1 - p) / 20_000))
        assert values.std() == pytest.approx(math.sqrt(n * p * (1 - p)), rel=0.03)
    covariance = np.cov(np.stack(drawn))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        spread = n * math.sqrt(share[i] * (1 - share[i]) * share[j] * (1 - share[j]))
        assert covariance[i, j] == pytest.approx(-n * share[i] * share[j], abs=0.04 * spread)
    # Draws are in no order: neighbours have nothing to do with each other.
    assert abs(np.corrcoef(drawn[0][1:], drawn[0][:-1])[0, 1]) < 0.04


def test_few_images_have_the_exact_distribution() -> None:
    drawn = resample([[3, 2, 1, 2]], 40_000, pseudo_counts=0)[:, 0]
    seen = np.bincount(drawn[:, 1] * 9 + drawn[:, 2], minlength=81)
    tables = [(i, j) for i in range(9) for j in range(9 - i)]
    expected = {
        i * 9 + j: 40_000 * stats.multinomial.pmf([i, j, 8 - i - j], 8, [2 / 8, 1 / 8, 5 / 8]) for i, j in tables
    }
    often = [key for key, count in expected.items() if count > 10]
    rest = 40_000 - sum(expected[key] for key in often)
    found = [*seen[often], 40_000 - seen[often].sum()]
    assert stats.chisquare(found, [*(expected[key] for key in often), rest]).pvalue > 0.001


def test_classes_are_drawn_independently() -> None:
    drawn = resample(np.tile([[50, 10, 10, 30]], (40, 1)), 5000)
    together = np.corrcoef(drawn[:, :, 1].T)
    assert np.abs(together - np.eye(40)).max() < 0.08


def test_the_seed_decides_and_the_threads_do_not() -> None:
    joint = np.tile(JOINT, (20, 1))
    one, two, other = bootstrap(joint, 300, 1, workers=1), bootstrap(joint, 300, 1, workers=3), bootstrap(joint, 300, 2)
    for name in SUMMARIES[:-1]:
        assert np.array_equal(getattr(one, name), getattr(two, name))
        assert not np.array_equal(getattr(one, name), getattr(other, name))
    assert one.tail_share is None


def test_pseudo_counts_are_two_images_in_all() -> None:
    assert module.default_pseudo_counts(10) * 40 == pytest.approx(2)
    # Without discordance the plain bootstrap is sure; with pseudo-counts it is not.
    joint = [[50, 0, 0, 50], [50, 0, 0, 50]]
    plain, ours = bootstrap(joint, 2000, pseudo_counts=0), bootstrap(joint, 2000)
    assert percentile_interval(plain.accuracy) == (0, 0)
    low, high = percentile_interval(ours.accuracy)
    assert -0.03 < low < 0 < high < 0.03
    # A class without images takes no part, and no pseudo-count.
    added = bootstrap([*joint, [0, 0, 0, 0]], 2000)
    assert np.array_equal(added.balanced_accuracy, ours.balanced_accuracy)


def test_a_recall_of_zero_and_equal_recalls() -> None:
    draws = bootstrap([[0, 0, 0, 9], [0, 0, 0, 9]], 20, pseudo_counts=0)
    assert (draws.g_mean == 0).all()
    assert np.isnan(draws.recall_slope).all()
    assert all(math.isnan(bound) for bound in percentile_interval(draws.recall_slope))


def test_a_percentile_interval_is_that_of_the_known_draws() -> None:
    values = np.array([*range(101), math.nan])
    assert percentile_interval(values, 0.9) == pytest.approx((5, 95))


def test_many_classes_take_little_memory() -> None:
    joint = np.tile(JOINT, (75, 1))
    tracemalloc.start()
    bootstrap(joint, 10_000, workers=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 15e6  # all draws would take 96 MB


@pytest.mark.parametrize("counts", [[[1, 2, 3]], [[1.5, 2, 3, 4]], [[-1, 2, 3, 4]], [[0, 0, 0, 0]]])
def test_what_are_no_counts_is_refused(counts: list) -> None:
    with pytest.raises(ValueError, match="expected"):
        bootstrap(counts, 10)
    with pytest.raises(ValueError, match="pseudo_counts"):
        bootstrap(JOINT, 10, pseudo_counts=-1)


def test_warnings_name_what_is_too_few() -> None:
    assert reliability_warning(np.array([[40, 6, 4, 11]])) == ""
    assert "rests on 9 images that only one" in reliability_warning(np.array([[40, 5, 4, 11]]))
    assert "rests on 7 images wrong" in reliability_warning(np.array([[90, 5, 6, 2]]))


def test_rows_of_several_labels_are_drawn_whole() -> None:
    rng = np.random.default_rng(4)
    labels = (rng.random((200, 3)) < [0.5, 0.3, 0.4]).astype(np.uint8)
    before, after = (np.where(rng.random(labels.shape) < 0.8, labels, 1 - labels) for _ in range(2))
    draws = bootstrap_rows(labels, before, after, 4000, 0, (np.array([0]), np.array([1])))
    assert draws is not None
    brute = []
    for _ in range(2000):
        rows = rng.integers(0, 200, 200)
        truth, x, y = labels[rows], before[rows], after[rows]
        recall = [(truth & guess).sum(axis=0) / truth.sum(axis=0) for guess in (x, y)]
        loss = recall[0] - recall[1]
        right = [(guess == truth).all(axis=1).mean() for guess in (x, y)]
        brute.append([right[1] - right[0], -loss.mean(), loss[1] - loss[0]])
    for ours, theirs in zip(
        (draws.accuracy, draws.balanced_accuracy, draws.tail_share), np.array(brute).T, strict=True
    ):
        assert ours.mean() == pytest.approx(theirs.mean(), abs=5 * theirs.std() / math.sqrt(1300))
        assert ours.std() == pytest.approx(theirs.std(), rel=0.08)


# Expected discordant images in all: 10 (and n (1 - p) from 10 up), 250, 3, 2.5.
DESIGNS = [
    (10, 100, 0.01, 0.5, (0.97, 0.99), "tight"),
    (2, 100, 0.05, 0.5, (0.8, 0.9), "tight"),
    (10, 500, 0.05, 0.7, (0.4, 0.95), "tight"),
    (2, 100, 0.015, 0.7, (0.8, 0.9), "loose"),
    (10, 50, 0.005, 0.5, (0.5, 0.95), "loose"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "n", "discordance", "lost", "recalls", "kind"), DESIGNS)
def test_coverage(classes: int, n: int, discordance: float, lost: float, recalls: tuple, kind: str) -> None:
    """93 to 97 % where ten discordant images are expected, and with pseudo-counts never under 93 %.

    A rate fails where its 99 % bound lies outside.
    """
    rng = np.random.default_rng(7)
    x = np.linspace(*recalls, classes)
    p10, p01 = np.full(classes, discordance * lost), np.minimum(discordance * (1 - lost), 0.9 * (1 - x))
    cells = np.stack([x - p10, p10, p01, 1 - x - p01], axis=1)
    true = (p01 - p10).mean()
    runs, inside = 1500, {"accuracy": 0, "balanced_accuracy": 0}
    for run in range(runs):
        joint = np.stack([rng.multinomial(n, p) for p in cells])
        draws = bootstrap(joint, 999, run, workers=1)
        for name in inside:
            low, high = percentile_interval(getattr(draws, name))
            inside[name] += low - 1e-9 <= true <= high + 1e-9
    for name, hits in inside.items():
        low = stats.beta.ppf(0.01, hits, runs - hits + 1)
        high = stats.beta.ppf(0.99, hits + 1, runs - hits) if hits < runs else 1.0
        assert high >= 0.93, f"{name}: {hits / runs:.3f}"
        assert kind == "loose" or low <= 0.97, f"{name}: {hits / runs:.3f}"

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from tailkeep.evaluation import metrics


@pytest.fixture(params=[(200, 4, 0), (57, 10, 1), (3, 2, 2)])
def example(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    n, classes, seed = request.param
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n)])
    guess = np.where(rng.random(len(labels)) < 0.6, labels, rng.integers(0, classes, len(labels)))
    other = np.where(rng.random(len(labels)) < 0.7, labels, rng.integers(0, classes, len(labels)))
    return labels, guess, other, classes


def test_confusion_counts_are_those_of_the_confusion_matrix(example) -> None:
    labels, guess, _, classes = example
    matrix = reference.confusion_matrix(labels, guess, labels=range(classes))
    counts = metrics.confusion_counts(labels, guess, classes)
    assert counts.n.tolist() == matrix.sum(axis=1).tolist()
    assert counts.tp.tolist() == np.diag(matrix).tolist()
    assert counts.fp.tolist() == (matrix.sum(axis=0) - np.diag(matrix)).tolist()
    assert counts.fn.tolist() == (matrix.sum(axis=1) - np.diag(matrix)).tolist()


def test_summaries_equal_scikit_learns(example) -> None:
    labels, guess, _, classes = example
    recall = reference.recall_score(labels, guess, labels=range(classes), average=None, zero_division=0)
    np.testing.assert_allclose(metrics.recall_per_class(labels, guess, classes), recall)
    assert metrics.accuracy(labels, guess) == pytest.approx(reference.accuracy_score(labels, guess))
    assert metrics.balanced_accuracy(labels, guess, classes) == pytest.approx(
        reference.balanced_accuracy_score(labels, guess)
    )
    f1 = reference.f1_score(labels, guess, labels=range(classes), average="macro", zero_division=0)
    assert metrics.macro_f1(labels, guess, classes) == pytest.approx(f1)
    assert metrics.worst_class(labels, guess, classes) == (int(recall.argmin()), pytest.approx(recall.min()))
    assert metrics.g_mean(labels, guess, classes) == pytest.approx(np.prod(recall) ** (1 / classes))


def test_paired_counts_by_hand() -> None:
    labels = [0, 0, 0, 0, 1, 1]
    guess = [0, 0, 1, 2, 1, 0]
    other = [0, 1, 0, 1, 1, 0]
    paired = metrics.paired_counts(labels, guess, other, 3)
    assert {name: values.tolist() for name, values in paired._asdict().items()} == {
        "n11": [1, 1, 0],
        "n10": [1, 0, 0],
        "n01": [1, 0, 0],
        "n00": [1, 1, 0],
        "changed": [3, 0, 0],  # the both-wrong image of class 0 moved from class 1 to class 2
    }


def test_paired_counts_add_up(example) -> None:
    labels, guess, other, classes = example
    own = metrics.confusion_counts(labels, guess, classes)
    paired = metrics.paired_counts(labels, guess, other, classes)
    assert (paired.n11 + paired.n10 + paired.n01 + paired.n00 == own.n).all()
    assert (paired.n11 + paired.n01 == own.tp).all()
    assert paired.changed.sum() / len(labels) == pytest.approx(metrics.churn(guess, other))


def test_cross_entropy_equals_log_loss_and_stands_large_logits(example) -> None:
    labels, _, _, classes = example
    logits = np.random.default_rng(3).normal(size=(len(labels), classes)).astype(np.float32)
    shares = np.exp(logits.astype(np.float64))
    shares /= shares.sum(axis=1, keepdims=True)
    loss = metrics.cross_entropy(labels, logits)
    assert loss.dtype == np.float64
    assert loss.mean() == pytest.approx(reference.log_loss(labels, shares, labels=range(classes)), rel=1e-9)
    np.testing.assert_allclose(loss, -np.log(shares[np.arange(len(labels)), labels]), rtol=1e-9)
    assert metrics.cross_entropy([0, 1], np.array([[1e4, 0.0], [1e4, 0.0]], dtype=np.float32)).tolist() == [0.0, 1e4]


def test_cross_entropy_of_float32_logits_is_computed_in_float64() -> None:
    logits = np.array([[20.0, 0.0]], dtype=np.float32)
    assert metrics.cross_entropy([0], logits)[0] == pytest.approx(math.log1p(math.exp(-20.0)), rel=1e-6)


def test_a_class_without_images_has_no_recall_and_is_left_out() -> None:
    labels, guess = [0, 0, 2], [0, 1, 2]
    recall = metrics.recall_per_class(labels, guess, 4)
    assert np.isnan(recall[[1, 3]]).all()
    assert metrics.balanced_accuracy(labels, guess, 4) == 0.75
    assert metrics.worst_class(labels, guess, 4) == (0, 0.5)
    assert metrics.g_mean(labels, guess, 4) == pytest.approx(math.sqrt(0.5))


def test_nothing_to_measure_is_nan_of_the_usual_shape() -> None:
    assert math.isnan(metrics.accuracy([], []))
    assert math.isnan(metrics.churn([], []))
    assert metrics.recall_per_class([], [], 3).shape == (3,)
    assert math.isnan(metrics.balanced_accuracy([], [], 3))
    assert metrics.worst_class([], [], 3)[0] == -1
    assert math.isnan(metrics.g_mean([], [], 3))


def test_g_mean_of_many_classes_does_not_underflow_and_zero_is_zero() -> None:
    assert metrics.g_mean_of_recalls(np.full(1000, 0.01)) == pytest.approx(0.01)
    assert metrics.g_mean_of_recalls([0.5, 0.0]) == 0.0


def test_normalised_recall_and_its_slope() -> None:
    dense = np.array([0.9, 0.7, 0.5])
    np.testing.assert_allclose(metrics.normalised_recall(dense), [2 / 7, 0.0, -2 / 7], atol=1e-12)
    assert metrics.recall_slope(dense, dense) == pytest.approx(1.0)
    # The same mean with the distances to it doubled.
    assert metrics.recall_slope(0.7 + 2 * (dense - 0.7), dense) == pytest.approx(2.0)
    # Scaling every recall changes no normalised recall.
    assert metrics.recall_slope(dense / 2, dense) == pytest.approx(1.0)
    noisy = np.array([0.8, 0.75, 0.2])
    x, y = metrics.normalised_recall(dense), metrics.normalised_recall(noisy)
    assert metrics.recall_slope(noisy, dense) == pytest.approx(np.polyfit(x, y, 1)[0])


def test_slope_without_spread_or_accuracy_is_nan() -> None:
    assert math.isnan(metrics.recall_slope([0.5, 0.4], [0.7, 0.7]))
    assert math.isnan(metrics.recall_slope([0.0, 0.0], [0.7, 0.6]))
    assert metrics.recall_slope([0.9, np.nan, 0.5], [0.9, 0.2, 0.5]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.accuracy([0, 1], [0]), "different lengths"),
        (lambda: metrics.confusion_counts([0, 3], [0, 1], 3), "from 0 to 2"),
        (lambda: metrics.confusion_counts([0, -1], [0, 1], 3), "from 0 to 2"),
        (lambda: metrics.accuracy([[0]], [[0]]), "1-D"),
        (lambda: metrics.accuracy([0.5], [1]), "integers"),
        (lambda: metrics.cross_entropy([0], [[np.nan, 0.0]]), "NaN"),
        (lambda: metrics.cross_entropy([0], [0.0, 1.0]), "shape"),
        (lambda: metrics.cross_entropy([0, 1], [[0.0, 1.0]]), "different lengths"),
        (lambda: metrics.recall_slope([0.5], [0.5, 0.4]), "different shapes"),
    ],
)
def test_what_does_not_fit_is_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_arguments_are_left_alone() -> None:
    labels, guess = np.array([0, 1, 1]), np.array([0, 1, 0])
    logits = np.array([[1.0, 2.0]] * 3, dtype=np.float32)
    before = labels.copy(), guess.copy(), logits.copy()
    metrics.paired_counts(labels, guess, guess, 2)
    metrics.cross_entropy(labels, logits)
    for now, then in zip((labels, guess, logits), before, strict=True):
        np.testing.assert_array_equal(now, then)

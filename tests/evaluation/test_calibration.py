from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy import special
from sklearn.metrics import log_loss

from tailkeep.evaluation import calibration, metrics


def by_loops(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    """Guo et al. 2017, equation 3, as it is written there."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = [i for i, p in enumerate(confidence) if (m - 1) / bins < p <= m / bins]
        if inside:
            total += len(inside) / len(confidence) * abs(correct[inside].mean() - confidence[inside].mean())
    return total


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, 700)
    return labels, (3 * rng.normal(size=(700, 5)) + 2 * np.eye(5)[labels]).astype(np.float32)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_error_is_the_definition(answers, bins: int) -> None:
    labels, logits = answers
    guess = metrics.predicted(logits)
    sure, right = calibration.probability_of(logits, guess), guess == labels
    ours = calibration.expected_calibration_error(sure, right, bins)
    assert ours == pytest.approx(by_loops(sure, right, bins), abs=1e-12)
    per_class = calibration.class_calibration_error(sure, right, labels, 6, bins)
    theirs = [by_loops(sure[labels == c], right[labels == c], bins) for c in range(5)]
    np.testing.assert_allclose(per_class[:5], theirs, rtol=0, atol=1e-12)
    assert math.isnan(per_class[5])


def test_a_bin_holds_its_upper_end() -> None:
    # 0.5 and 0.25 share a bin of two (0, 0.5]: |0.75 - 1| / 2; in the next bin they would stand alone.
    assert calibration.expected_calibration_error([0.5, 0.25], [True, False], 2) == pytest.approx(0.125)
    assert calibration.expected_calibration_error([0.0, 1.0], [False, True]) == 0
    assert math.isnan(calibration.expected_calibration_error([], []))


def test_probabilities_are_the_softmax_in_float64(answers) -> None:
    labels, logits = answers
    whole = special.softmax(logits.astype(np.float64), axis=1)
    expected = whole[np.arange(len(labels)), labels]
    np.testing.assert_allclose(calibration.probability_of(logits, labels), expected, rtol=1e-13)
    np.testing.assert_allclose(calibration.probability_of(whole, labels, "probabilities"), expected, rtol=0)
    np.testing.assert_allclose(calibration.log_loss_of(logits, labels), metrics.cross_entropy(labels, logits))
    mean = calibration.log_loss_of(whole, labels, "probabilities").mean()
    assert mean == pytest.approx(log_loss(labels, whole), abs=1e-12)


def test_large_logits_and_sure_mistakes_stay_finite() -> None:
    logits = np.array([[2000.0, 0.0], [0.0, 2000.0]])
    assert calibration.probability_of(logits, [0, 0]).tolist() == [1.0, 0.0]
    assert calibration.log_loss_of(logits, [0, 0]).tolist() == [0.0, 2000.0]
    assert calibration.log_loss_of([[0.0, 1.0]], [0], "probabilities")[0] == pytest.approx(708.4, abs=0.1)


def test_rows_are_worked_on_in_parts() -> None:
    logits = np.zeros((300_000, 8), dtype=np.float32)
    logits[:, 3] = 1
    tracemalloc.start()
    found = calibration.probability_of(logits, np.full(300_000, 3))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.unique(found).tolist() == pytest.approx([math.e / (math.e + 7)])
    # A softmax of the whole array in float64 takes 38 MB and more.
    assert peak < 30e6


def test_a_multi_label_class_is_a_question_of_its_own() -> None:
    rng = np.random.default_rng(0)
    given = rng.random((400, 3))
    labels = (rng.random((400, 3)) < given**2).astype(np.uint8)
    ours = calibration.binary_calibration_error(given, labels, 10)
    theirs = [by_loops(given[:, c], labels[:, c], 10) for c in range(3)]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: calibration.probability_of([[0.0, 1.0]], [2]), "expected 0 to 1"),
        (lambda: calibration.probability_of([[0.0, 1.0]], [0, 1]), "shapes"),
        (lambda: calibration.probability_of([[0.0, 1.0]], [0], "scores"), "expected logits or probabilities"),
        (lambda: calibration.expected_calibration_error([0.5], [True], 0), "bins"),
        (lambda: calibration.expected_calibration_error([1.5], [True]), "confidence"),
        (lambda: calibration.expected_calibration_error([math.nan], [True]), "confidence"),
        (lambda: calibration.class_calibration_error([0.5], [True], [3], 3), "labels"),
        (lambda: calibration.class_calibration_error([0.5], [True, False], [0], 3), "shapes"),
        (lambda: calibration.binary_calibration_error([[0.5]], [[1, 0]]), "shapes"),
    ],
)
def test_what_does_not_fit_is_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from tailkeep.evaluation import metrics, multilabel


@pytest.fixture(params=[0, 1, 2])
def example(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(request.param)
    labels = (rng.random((300, 6)) < [0.5, 0.2, 0.05, 0.9, 0.3, 0.1]).astype(np.uint8)
    labels[0] = 1
    ours, theirs = (rng.normal(size=labels.shape) + labels for _ in range(2))
    if request.param == 1:
        ours = ours.round(1)  # many equal scores
    return labels, ours, theirs


def test_average_precision_equals_scikit_learns(example) -> None:
    labels, scores, _ = example
    theirs = reference.average_precision_score(labels, scores, average=None)
    np.testing.assert_allclose(multilabel.average_precision(labels, scores), theirs, rtol=0, atol=1e-12)


def test_all_scores_equal_give_the_share_of_positives() -> None:
    assert multilabel.average_precision([[1], [0], [0], [1]], np.zeros((4, 1)))[0] == pytest.approx(0.5)


def test_a_class_without_positives_has_no_average_precision() -> None:
    found = multilabel.average_precision([[0, 1], [0, 0]], [[0.1, 0.2], [0.3, 0.1]])
    assert math.isnan(found[0])
    assert found[1] == 1


def test_recall_and_precision_at_a_threshold_equal_scikit_learns(example) -> None:
    labels, scores, _ = example
    for threshold in (0.5, np.array([0.0, 0.5, 1.0, 1.5, 2.0, 9.0])):
        guess = multilabel.at_threshold(scores, threshold)
        kwargs = {"average": None, "zero_division": np.nan}
        theirs = reference.recall_score(labels, guess, **kwargs), reference.precision_score(labels, guess, **kwargs)
        np.testing.assert_allclose(multilabel.recall(labels, guess), theirs[0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(multilabel.precision(labels, guess), theirs[1], rtol=0, atol=1e-12)
    assert multilabel.at_threshold([[0.5]], 0.5).tolist() == [[1]]


def test_paired_counts_are_those_of_the_positive_rows(example) -> None:
    labels, ours, theirs = (values if values.dtype == np.uint8 else values > 0.5 for values in example)
    paired = multilabel.paired_counts(labels, ours, theirs)
    for c in range(labels.shape[1]):
        rows = labels[:, c] == 1
        ones = np.ones(rows.sum(), dtype=np.int64)
        alone = metrics.paired_counts(ones, ours[rows, c].astype(int), theirs[rows, c].astype(int), 2)
        assert [values[c] for values in paired] == [values[1] for values in alone]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: multilabel.recall([[0, 2]], [[0, 1]]), "0 and 1"),
        (lambda: multilabel.recall([0, 1], [0, 1]), "shape"),
        (lambda: multilabel.paired_counts([[0, 1]], [[0, 1]], [[0]]), "shapes differ"),
        (lambda: multilabel.average_precision([[0, 1]], [[0.1, math.nan]]), "NaN"),
        (lambda: multilabel.average_precision([[0, 1]], [[0.1]]), "shapes differ"),
        (lambda: multilabel.at_threshold([0.1], 0.5), "shape"),
    ],
)
def test_what_does_not_fit_is_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()

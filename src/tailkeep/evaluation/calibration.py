"""How far a model's confidence is from its accuracy: pure functions of numpy arrays.

``scores`` is a float array (N, C) of logits or probabilities, as ``are`` says. Confidences and errors are shares in
0..1. Every function raises ``ValueError`` where shapes or words do not fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

BINS = 15
_ROWS = 65_536
"""Rows worked on at once: a softmax in float64 of a million rows and a thousand classes would take 8 GB."""
_TINY = float(np.finfo(np.float64).tiny)


def probability_of(scores: ArrayLike, classes: ArrayLike, are: str = "logits") -> Floats:
    """Return the probability that each row gives to its class in ``classes``, int (N,), as float64 (N,).

    From logits by softmax in float64, whatever comes in.
    """
    values, chosen = _rows_of(scores, classes, are)
    found: Floats = np.empty(len(values), dtype=np.float64)
    for part in _parts(len(values)):
        picked = np.take_along_axis(values[part], chosen[part, None], axis=1)[:, 0].astype(np.float64)
        if are == "logits":
            rows = values[part].astype(np.float64)
            top = rows.max(axis=1, keepdims=True)  # exp() of a large logit would overflow
            picked = np.exp(picked - top[:, 0]) / np.exp(rows - top).sum(axis=1)
        found[part] = picked
    return found


def log_loss_of(scores: ArrayLike, labels: ArrayLike, are: str = "logits") -> Floats:
    """Return minus the log of the probability of each row's label, in nats, float64 (N,).

    From logits without a detour by probabilities, so that a small one is not lost; a probability of 0 counts as the
    smallest normal number, 708 nats.
    """
    if are != "logits":
        loss: Floats = -np.log(np.maximum(probability_of(scores, labels, are), _TINY))
        return loss
    values, chosen = _rows_of(scores, labels, are)
    found: Floats = np.empty(len(values), dtype=np.float64)
    for part in _parts(len(values)):
        rows = values[part].astype(np.float64)
        rows -= rows.max(axis=1, keepdims=True)
        picked = np.take_along_axis(rows, chosen[part, None], axis=1)[:, 0]
        found[part] = np.log(np.exp(rows).sum(axis=1)) - picked
    return found


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> float:
    """Return the expected calibration error over ``bins`` equal-width bins of confidence (Guo et al. 2017).

    ``confidence`` is the probability of the predicted class, float (N,) in 0..1; ``correct`` says whether it was right,
    bool (N,). NaN for no rows.
    """
    sure = np.asarray(confidence)
    error = class_calibration_error(sure, correct, np.zeros(sure.shape, dtype=np.int64), 1, bins)
    return float(error[0])


def class_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, labels: ArrayLike, classes: int, bins: int = BINS
) -> Floats:
    """Return the expected calibration error over the rows of each true class, float64 (C,); NaN without rows.

    Bins and confidence as in ``expected_calibration_error``. A class's error is over its own rows alone (compare Nixon
    et al. 2019, whose classwise error bins a class's probability over the rows of all classes).
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    truth = np.asarray(labels)
    if sure.ndim != 1 or sure.shape != right.shape or sure.shape != truth.shape:
        raise ValueError(f"expected three arrays (N,), got shapes {sure.shape}, {right.shape}, {truth.shape}")
    cells = truth.astype(np.int64) * bins + _bin(sure, bins)
    size = classes * bins
    if len(cells) and (truth.min() < 0 or truth.max() >= classes):
        raise ValueError(f"labels: expected 0 to {classes - 1}, got {truth.min()} to {truth.max()}")
    gap = np.bincount(cells, weights=sure - right, minlength=size).reshape(classes, bins)
    n = np.bincount(truth, minlength=classes)
    return _over(np.abs(gap).sum(axis=1), n)


def binary_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = BINS) -> Floats:
    """Return each class's calibration error as a question of its own, float64 (C,): multi-label answers.

    ``probabilities`` (N, C) and ``labels`` (N, C) of 0 and 1. In a bin of probability, its mean is held against the
    share of rows that have the label (Naeini et al. 2015). NaN for no rows.
    """
    given, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if given.ndim != 2 or given.shape != truth.shape:
        raise ValueError(f"expected two arrays (N, C), got shapes {given.shape} and {truth.shape}")
    rows, classes = given.shape
    cells = _bin(given, bins) + bins * np.arange(classes)
    gap = np.bincount(cells.ravel(), weights=(given - truth).ravel(), minlength=classes * bins)
    return _over(np.abs(gap.reshape(classes, bins)).sum(axis=1), np.full(classes, rows))


def _bin(confidence: Floats, bins: int) -> NDArray[np.int64]:
    """Return the bin of each confidence; a bin holds its upper end, as Guo et al. define it."""
    if bins < 1:
        raise ValueError(f"bins: expected 1 or more, got {bins}")
    # A softmax in half precision may round to a hair above 1.
    if confidence.size and not (confidence.min() >= 0 and confidence.max() <= 1.001):
        raise ValueError(f"confidence: expected 0 to 1, got {confidence.min()} to {confidence.max()}")
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def _over(total: NDArray[Any], n: NDArray[Any]) -> Floats:
    shares: Floats = np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)
    return shares


def _rows_of(scores: ArrayLike, classes: ArrayLike, are: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    if are not in ("logits", "probabilities"):
        raise ValueError(f"scores are {are!r}, expected logits or probabilities")
    values, chosen = np.asarray(scores), np.asarray(classes)
    if values.ndim != 2 or chosen.shape != values.shape[:1]:
        raise ValueError(f"expected scores (N, C) and classes (N,), got shapes {values.shape} and {chosen.shape}")
    if len(chosen) and (chosen.min() < 0 or chosen.max() >= values.shape[1]):
        raise ValueError(f"classes: expected 0 to {values.shape[1] - 1}, got {chosen.min()} to {chosen.max()}")
    return values, chosen.astype(np.int64)


def _parts(rows: int) -> list[slice]:
    return [slice(start, start + _ROWS) for start in range(0, rows, _ROWS)]

"""Metrics of multi-label answers, a question a class: pure functions of numpy arrays.

``labels`` and ``predicted`` are arrays (N, C) of 0 and 1, ``scores`` a float array (N, C) that rises with the belief in
a class. Rates are shares in 0..1; NaN where a class has nothing to divide by. Every function raises ``ValueError``
where shapes or values do not fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tailkeep.evaluation.metrics import Confusion, Paired, rate_of_counts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def average_precision(labels: ArrayLike, scores: ArrayLike) -> Floats:
    """Return the average precision of every class, float64 (C,); NaN for a class without a positive row.

    The sum over the scores, from high to low, of the precision there times the recall it adds; equal scores are one
    step (scikit-learn's ``average_precision_score``, which has 0 where we have NaN).
    """
    truth, values = _bits("labels", labels), np.asarray(scores)
    if truth.shape != values.shape:
        raise ValueError(f"shapes differ: labels {truth.shape}, scores {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("scores: NaN or infinity among the values")
    found: Floats = np.full(truth.shape[1], np.nan)
    for index in range(truth.shape[1]):
        order = np.argsort(-values[:, index].astype(np.float64), kind="stable")
        ranked, positive = values[order, index], truth[order, index]
        last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of the rows with an equal score
        hits = np.cumsum(positive, dtype=np.int64)[last]
        if len(hits) and hits[-1]:
            recall = hits / hits[-1]
            found[index] = float((np.diff(recall, prepend=0.0) * hits / (last + 1)).sum())
    return found


def at_threshold(scores: ArrayLike, threshold: float | ArrayLike) -> NDArray[np.uint8]:
    """Return 1 where a score reaches its ``threshold`` (one for all, or (C,)), else 0, uint8 (N, C)."""
    values = np.asarray(scores)
    if values.ndim != 2:
        raise ValueError(f"scores: expected shape (rows, classes), got {values.shape}")
    return (values >= np.asarray(threshold)).astype(np.uint8)


def confusion_counts(labels: ArrayLike, predicted: ArrayLike) -> Confusion:
    """Return n, tp, fp and fn per class, int64 (C,) each; n counts the positive rows."""
    truth, guess = _same(labels=labels, predicted=predicted)
    n, tp = _total(truth), _total(truth & guess)
    return Confusion(n=n, tp=tp, fp=_total(guess) - tp, fn=n - tp)


def recall(labels: ArrayLike, predicted: ArrayLike) -> Floats:
    """Return the share of each class's positive rows that are found, float64 (C,)."""
    counts = confusion_counts(labels, predicted)
    return rate_of_counts(counts.tp, counts.n)


def precision(labels: ArrayLike, predicted: ArrayLike) -> Floats:
    """Return the share of the rows given a class that have it, float64 (C,)."""
    counts = confusion_counts(labels, predicted)
    return rate_of_counts(counts.tp, counts.tp + counts.fp)


def paired_counts(labels: ArrayLike, predicted: ArrayLike, reference: ArrayLike) -> Paired:
    """Return the joint counts of ``predicted`` and the ``reference`` model's answers over each class's positive rows.

    As ``metrics.paired_counts``, where an answer is right if it is 1; so ``changed`` is n10 + n01.
    """
    truth, guess, other = _same(labels=labels, predicted=predicted, reference=reference)
    n, right, other_right, n11 = (
        _total(truth),
        _total(truth & guess),
        _total(truth & other),
        _total(truth & guess & other),
    )
    n10, n01 = other_right - n11, right - n11
    return Paired(n11=n11, n10=n10, n01=n01, n00=n - n11 - n10 - n01, changed=n10 + n01)


def _total(bits: NDArray[np.bool_]) -> Ints:
    counted: Ints = bits.sum(axis=0, dtype=np.int64)
    return counted


def _bits(name: str, values: ArrayLike) -> NDArray[np.bool_]:
    array: NDArray[Any] = np.asarray(values)
    if array.ndim != 2:
        raise ValueError(f"{name}: expected shape (rows, classes), got {array.shape}")
    if not ((array == 0) | (array == 1)).all():
        raise ValueError(f"{name}: expected 0 and 1 alone")
    return array.astype(np.bool_)


def _same(**arrays: ArrayLike) -> list[NDArray[np.bool_]]:
    bits = [_bits(name, values) for name, values in arrays.items()]
    if len({array.shape for array in bits}) > 1:
        raise ValueError(f"shapes differ: {[array.shape for array in bits]}")
    return bits

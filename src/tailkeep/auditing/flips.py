"""The test images that a candidate answers otherwise than the baseline, the worst first.

With several seeds these are the images whose modal prediction differs: compression-identified exemplars (Hooker et al.
2019, "What do compressed deep neural networks forget?", there pruning-identified; 2020, "Characterising bias in
compressed models").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special

from tailkeep.auditing.predictions import Predictions
from tailkeep.evaluation import calibration

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

COLUMNS = ["row", "id", "label", "baseline", "candidate", "kind", "severity"]
KINDS = ("other", "won", "lost")


def flips(
    baseline: Predictions | Sequence[Predictions],
    candidate: Predictions | Sequence[Predictions],
    train_counts: ArrayLike | None = None,
    limit: int | None = None,
) -> pd.DataFrame:
    """Return a row per image whose answer differs, with ``COLUMNS``; at most the ``limit`` worst.

    Several predictions are the models of several seeds, and their answer is the modal one (of equals the class that
    comes first). ``row`` counts from 0, ``id`` is the row where there are none, answers are class names. ``kind``:
    "lost" (the baseline right, the candidate wrong), "won" (the reverse), "other" (both wrong). ``severity`` with
    scores is how far the probability of the true class fell, -1..1, mean over seeds. Without: lost 2 to 3, other 1 to
    2, won 0 to 1, the higher the fewer images the class has (``train_counts`` (C,), else the test set's): an order, no
    measure. Multi-label: a row per image and class, with answers "X" and "not X".

    Raises ValueError where the predictions are not of the same labels and classes.
    """
    before, after = (_as_list(given) for given in (baseline, candidate))
    first = before[0]
    for other in (*before, *after):
        if other.class_names != first.class_names or not np.array_equal(other.labels, first.labels):
            raise ValueError(f"{other.name}: other labels or classes than {first.name}")
    answers = [modal([one.predicted for one in models]) for models in (before, after)]
    places = np.nonzero(answers[0] != answers[1])
    label, old, new = (values[places] for values in (first.labels, *answers))
    kind = np.where(old == label, 2, np.where(new == label, 1, 0))
    classes = places[1] if first.task == "multilabel" else label
    severity = _severity(before, after, places)
    if severity is None:
        severity = np.array([1.0, 0.0, 2.0])[kind] + _rarity(first, train_counts)[classes]
    order = np.argsort(-severity, kind="stable")[:limit]
    rows = places[0][order]
    table = {
        "row": rows,
        "id": np.asarray(rows.astype(str) if first.ids is None else first.ids[rows], dtype=object),
        "kind": np.array(KINDS, dtype=object)[kind[order]],
        "severity": severity[order],
    }
    for name, values in (("label", label), ("baseline", old), ("candidate", new)):
        table[name] = _words(first, values[order], classes[order])
    return pd.DataFrame(table)[COLUMNS]


def modal(predictions: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the most frequent answer of several models per row (and class), of equals the lowest."""
    if len(predictions) == 1:
        return predictions[0]
    stacked = np.stack(predictions)
    best: NDArray[Any] = stacked[0].copy()
    votes = np.zeros(best.shape, dtype=np.int64)
    for answer in stacked:
        count = (stacked == answer).sum(axis=0)
        better = (count > votes) | ((count == votes) & (answer < best))
        best, votes = np.where(better, answer, best), np.maximum(votes, count)
    return best


def _as_list(given: Predictions | Sequence[Predictions]) -> list[Predictions]:
    return [given] if isinstance(given, Predictions) else list(given)


def _severity(
    before: Sequence[Predictions], after: Sequence[Predictions], places: tuple[NDArray[np.intp], ...]
) -> Floats | None:
    """Return how far the true answer's probability fell at each place; None where a model has no scores."""
    if any(one.scores is None for one in (*before, *after)):
        return None
    old, new = (np.mean([_true_probability(one, places) for one in models], axis=0) for models in (before, after))
    return np.asarray(old - new, dtype=np.float64)


def _true_probability(one: Predictions, places: tuple[NDArray[np.intp], ...]) -> Floats:
    assert one.scores is not None
    assert one.scores_are is not None
    if one.task == "multiclass":
        return calibration.probability_of(one.scores[places[0]], one.labels[places], one.scores_are)
    values = one.scores[places].astype(np.float64)
    given = special.expit(values) if one.scores_are == "logits" else values
    return np.asarray(np.where(one.labels[places] == 1, given, 1 - given), dtype=np.float64)


def _rarity(first: Predictions, train_counts: ArrayLike | None) -> Floats:
    """Return the share of the other classes that have more images, per class, below 1."""
    classes = len(first.class_names)
    if train_counts is not None:
        counts = np.asarray(train_counts)
    elif first.task == "multilabel":
        counts = first.labels.sum(axis=0, dtype=np.int64)
    else:
        counts = np.bincount(first.labels, minlength=classes)
    rank = len(counts) - np.searchsorted(np.sort(counts), counts, side="right")
    return np.asarray(rank / classes, dtype=np.float64)


def _words(first: Predictions, values: NDArray[Any], classes: NDArray[Any]) -> NDArray[Any]:
    names = np.array(first.class_names, dtype=object)
    if first.task == "multiclass":
        return np.asarray(names[values])
    return np.asarray(np.where(values == 1, names[classes], np.array("not ", dtype=object) + names[classes]))

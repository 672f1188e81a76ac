"""Metrics from saved predictions: pure functions of numpy arrays.

Throughout, ``labels`` and ``predictions`` are integer arrays (N,) of class indices in ``0..classes-1``, ``logits`` is a
float array (N, C). Rates are shares in 0..1, losses are in nats. A class without an image has no recall: NaN, and the
summaries over classes leave it out, as scikit-learn's ``balanced_accuracy_score`` does. Every function raises
``ValueError`` where shapes, types or ranges do not fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Confusion(NamedTuple):
    """Counts per class, each an int64 array (C,): images, true positives, false positives, false negatives."""

    n: Ints
    tp: Ints
    fp: Ints
    fn: Ints


class Paired(NamedTuple):
    """Joint counts per class of a model and its reference on the same images, each an int64 array (C,).

    ``n11`` both right, ``n10`` the reference right and the model wrong, ``n01`` the reverse, ``n00`` both wrong;
    ``changed`` another class predicted than by the reference, right or wrong.
    """

    n11: Ints
    n10: Ints
    n01: Ints
    n00: Ints
    changed: Ints


def _indices(name: str, values: ArrayLike, classes: int | None = None) -> Ints:
    """Return ``values`` as int64 (N,), checked."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected a 1-D array of class indices, got shape {array.shape}")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name}: expected integers, got {array.dtype}")
    if array.size and (array.min() < 0 or (classes is not None and array.max() >= classes)):
        limit = "" if classes is None else f" to {classes - 1}"
        raise ValueError(f"{name}: expected indices from 0{limit}, got {array.min()} to {array.max()}")
    return array.astype(np.int64)


def _together(classes: int | None, **arrays: ArrayLike) -> list[Ints]:
    """Return the named index arrays, checked to have one length."""
    checked = [_indices(name, values, classes) for name, values in arrays.items()]
    lengths = {name: len(values) for name, values in zip(arrays, checked, strict=True)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"arrays of different lengths: {lengths}")
    return checked


def _count(values: Ints, classes: int) -> Ints:
    return np.bincount(values, minlength=classes).astype(np.int64)


def confusion_counts(labels: ArrayLike, predictions: ArrayLike, classes: int) -> Confusion:
    """Return n, tp, fp and fn per class; fp counts the images of other classes that were given this one."""
    truth, guess = _together(classes, labels=labels, predictions=predictions)
    n = _count(truth, classes)
    tp = _count(truth[truth == guess], classes)
    return Confusion(n=n, tp=tp, fp=_count(guess, classes) - tp, fn=n - tp)


def paired_counts(labels: ArrayLike, predictions: ArrayLike, reference: ArrayLike, classes: int) -> Paired:
    """Return the joint counts of ``predictions`` and of the ``reference`` model's predictions, per true class."""
    truth, guess, other = _together(classes, labels=labels, predictions=predictions, reference=reference)
    right, other_right = guess == truth, other == truth
    return Paired(
        n11=_count(truth[right & other_right], classes),
        n10=_count(truth[~right & other_right], classes),
        n01=_count(truth[right & ~other_right], classes),
        n00=_count(truth[~right & ~other_right], classes),
        changed=_count(truth[guess != other], classes),
    )


def rate_of_counts(counts: ArrayLike, n: ArrayLike) -> Floats:
    """Return counts / n per class, float64 (C,): a recall for true positives; NaN where the class has no image."""
    counted, total = np.asarray(counts, dtype=np.float64), np.asarray(n, dtype=np.float64)
    rates: Floats = np.divide(counted, total, out=np.full(counted.shape, np.nan), where=total > 0)
    return rates


def recall_per_class(labels: ArrayLike, predictions: ArrayLike, classes: int) -> Floats:
    """Return the recall of every class, a float64 array (C,); NaN where the class has no image."""
    counts = confusion_counts(labels, predictions, classes)
    return rate_of_counts(counts.tp, counts.n)


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return the share of images that are right; NaN for no images."""
    truth, guess = _together(None, labels=labels, predictions=predictions)
    return float((truth == guess).mean()) if len(truth) else float("nan")


def mean_of_recalls(recall: ArrayLike) -> float:
    """Return the mean over the classes that have a recall; NaN where none has."""
    present = _present(recall)
    return float(present.mean()) if present.size else float("nan")


def g_mean_of_recalls(recall: ArrayLike) -> float:
    """Return the geometric mean over the classes that have a recall (0 where one of them is 0)."""
    present = _present(recall)
    if not present.size:
        return float("nan")
    # Through logarithms: the plain product underflows for hundreds of classes.
    return float(np.exp(np.log(present).mean())) if present.min() > 0 else 0.0


def worst_of_recalls(recall: ArrayLike) -> tuple[int, float]:
    """Return (class index, recall) of the lowest recall, the first of equals; (-1, NaN) where no class has one."""
    values = np.asarray(recall, dtype=np.float64)
    if not _present(values).size:
        return -1, float("nan")
    index = int(np.nanargmin(values))
    return index, float(values[index])


def f1_of_counts(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> Floats:
    """Return F1 = 2 tp / (2 tp + fp + fn) per class, a float64 array (C,); 0 for a class never seen and never given."""
    right = 2.0 * np.asarray(tp, dtype=np.float64)
    total = right + np.asarray(fp, dtype=np.float64) + np.asarray(fn, dtype=np.float64)
    scores: Floats = np.divide(right, total, out=np.zeros(right.shape), where=total > 0)
    return scores


def _present(recall: ArrayLike) -> Floats:
    values = np.asarray(recall, dtype=np.float64)
    return values[~np.isnan(values)]


def balanced_accuracy(labels: ArrayLike, predictions: ArrayLike, classes: int) -> float:
    """Return the mean recall over the classes that have images (Brodersen et al. 2010)."""
    return mean_of_recalls(recall_per_class(labels, predictions, classes))


def worst_class(labels: ArrayLike, predictions: ArrayLike, classes: int) -> tuple[int, float]:
    """Return (class index, recall) of the class with the lowest recall.

    The minimum of many noisy recalls lies below the lowest true recall: compare it between models of equal test sets
    only.
    """
    return worst_of_recalls(recall_per_class(labels, predictions, classes))


def g_mean(labels: ArrayLike, predictions: ArrayLike, classes: int) -> float:
    """Return the geometric mean of the recalls (Kubat and Matwin 1997; imbalanced-learn's ``geometric_mean_score``)."""
    return g_mean_of_recalls(recall_per_class(labels, predictions, classes))


def macro_f1(labels: ArrayLike, predictions: ArrayLike, classes: int) -> float:
    """Return the mean over all C classes of F1 (scikit-learn's ``f1_score(average="macro", zero_division=0)``)."""
    counts = confusion_counts(labels, predictions, classes)
    return float(f1_of_counts(counts.tp, counts.fp, counts.fn).mean())


def predicted(logits: ArrayLike) -> Ints:
    """Return the class of the highest logit per row, int64 (N,); the first of equals."""
    best: Ints = _scores("logits", logits).argmax(axis=1).astype(np.int64)
    return best


def _scores(name: str, logits: ArrayLike) -> NDArray[Any]:
    scores = np.asarray(logits)
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ValueError(f"{name}: expected shape (images, classes), got {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"{name}: NaN or infinity among the values")
    return scores


def cross_entropy(labels: ArrayLike, logits: ArrayLike) -> Floats:
    """Return -log softmax(logits)[label] per image in nats, float64 (N,), computed in float64 whatever comes in."""
    scores = _scores("logits", logits).astype(np.float64)
    truth = _indices("labels", labels, scores.shape[1])
    if len(truth) != len(scores):
        raise ValueError(f"arrays of different lengths: labels {len(truth)}, logits {len(scores)}")
    # Shifted by the maximum: exp() of a large logit would overflow.
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(truth)), truth], dtype=np.float64)


def churn(predictions: ArrayLike, reference: ArrayLike) -> float:
    """Return the share of images whose predicted class differs (Milani Fard et al. 2016); NaN for no images."""
    guess, other = _together(None, predictions=predictions, reference=reference)
    return float((guess != other).mean()) if len(guess) else float("nan")


def normalised_recall(recall: ArrayLike) -> Floats:
    """Return (R_c - A) / A per class, float64 (C,), with A the mean recall (Good et al. 2022); NaN where A is 0."""
    values = np.asarray(recall, dtype=np.float64)
    mean = mean_of_recalls(values)
    return (values - mean) / mean if mean > 0 else np.full(values.shape, np.nan)


def recall_slope(recall: ArrayLike, reference_recall: ArrayLike) -> float:
    """Return the least-squares slope of the normalised recalls on the reference's, over classes (Good et al. 2022).

    Above 1 the differences between classes grow. NaN where the reference's recalls do not differ, or A is 0.
    """
    ours, theirs = np.asarray(recall, dtype=np.float64), np.asarray(reference_recall, dtype=np.float64)
    if ours.shape != theirs.shape or ours.ndim != 1:
        raise ValueError(f"recalls of different shapes: {ours.shape} and {theirs.shape}")
    both = ~(np.isnan(ours) | np.isnan(theirs))
    y, x = normalised_recall(ours[both]), normalised_recall(theirs[both])
    spread = float((x**2).sum())  # x and y have mean 0 by construction
    # A spread of rounding size is no spread: 1e-12 is far below one image in a million.
    return float((x * y).sum() / spread) if spread > 1e-12 else float("nan")


@dataclass(frozen=True)
class Agreement:
    """Counts of images for which a runtime predicts the class that the simulation predicts, by true class.

    ``images_by_class`` and ``same_by_class`` are indexed by class; ``largest_difference`` is that of any logit.
    """

    images_by_class: tuple[int, ...]
    same_by_class: tuple[int, ...]
    largest_difference: float

    @property
    def share(self) -> float:
        """The share over all images, 0 to 1."""
        return sum(self.same_by_class) / sum(self.images_by_class)

    @property
    def share_by_class(self) -> tuple[float | None, ...]:
        """The share of each class, None where it has no image."""
        return tuple(
            same / images if images else None
            for same, images in zip(self.same_by_class, self.images_by_class, strict=True)
        )


def agreement(
    simulated_logits: NDArray[np.float32],
    runtime_logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
) -> Agreement:
    """Compare two predictions (N, classes) of the same images, whose true classes are ``labels`` (N,).

    Raises ``ValueError`` where the shapes do not fit, there are no images, or a label is no class.
    """
    shape = (len(labels), classes)
    if len(labels) == 0 or simulated_logits.shape != shape or runtime_logits.shape != shape:
        raise ValueError(f"expected two arrays {shape}, got {simulated_logits.shape} and {runtime_logits.shape}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, the classes from 0 to {classes - 1}")
    same = simulated_logits.argmax(1) == runtime_logits.argmax(1)
    difference = np.abs(simulated_logits.astype(np.float64) - runtime_logits).max()
    return Agreement(
        tuple(np.bincount(labels, minlength=classes).tolist()),
        tuple(np.bincount(labels[same], minlength=classes).tolist()),
        float(difference),
    )

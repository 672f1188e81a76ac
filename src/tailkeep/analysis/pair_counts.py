"""The counts of a pair: a candidate against its baseline on the same test images, in one pass over the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tailkeep.errors import BadInput
from tailkeep.evaluation import multilabel
from tailkeep.evaluation.metrics import Confusion

Ints = NDArray[np.int64]

MOST_VALUES = 10_000
"""Values of a group column, at most: beyond, it is an id and no group."""


class Answers(Protocol):
    """What is read of a model's predictions: ``auditing.predictions.Predictions`` has it."""

    @property
    def labels(self) -> NDArray[Any]: ...  # noqa: D102
    @property
    def predicted(self) -> NDArray[Any]: ...  # noqa: D102
    @property
    def scores(self) -> NDArray[Any] | None: ...  # noqa: D102
    @property
    def scores_are(self) -> str | None: ...  # noqa: D102
    @property
    def class_names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def task(self) -> str: ...  # noqa: D102
    @property
    def groups(self) -> Mapping[str, NDArray[Any]]: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class PairCounts:
    """The counts of a pair over C classes.

    ``joint`` int64 (C, 4): n11 both right, n10 the baseline alone, n01 the candidate alone, n00 neither; ``changed``
    (C,) images of the class that got another answer. ``baseline`` and ``candidate`` are each model's own counts (fp
    too). ``negatives`` int64 (C, 4) is ``joint`` of the rows that are not of the class, where what is not the class is
    right. ``rows`` is the number of test images, ``rows_changed`` of those with another answer, ``rows_right`` (4,) the
    joint counts of whole rows. Multi-label: a class's images are its positive rows, a row is right if all of it is.
    """

    joint: Ints
    changed: Ints
    baseline: Confusion
    candidate: Confusion
    rows: int
    rows_changed: int
    rows_right: Ints
    negatives: Ints

    @property
    def n(self) -> Ints:
        """Test images of each class (C,)."""
        return self.baseline.n


def count_pair(baseline: Answers, candidate: Answers) -> PairCounts:
    """Return the counts of two models' answers, whose rows are the same images in the same order.

    Raises ValueError where task, classes or labels differ, or an index is no class.
    """
    for what in ("task", "class_names"):
        if getattr(baseline, what) != getattr(candidate, what):
            raise ValueError(f"the two models have different {what}")
    if not np.array_equal(baseline.labels, candidate.labels):
        raise ValueError("the two models were tested on different labels")
    return (_count_labels if baseline.task == "multilabel" else _count_classes)(baseline, candidate)


def _count_classes(baseline: Answers, candidate: Answers) -> PairCounts:
    labels, classes = baseline.labels, len(baseline.class_names)
    code = labels.astype(np.int64) << 3
    code |= (baseline.predicted == labels).astype(np.int64) << 2
    code |= (candidate.predicted == labels).astype(np.int64) << 1
    code |= baseline.predicted != candidate.predicted
    table = _bincount(code, 8 * classes).reshape(classes, 8)
    joint = np.stack([table[:, 6], table[:, 5], table[:, 3], table[:, 0] + table[:, 1]], axis=1)
    changed = table[:, [1, 3, 5]].sum(axis=1)

    def own(predicted: NDArray[Any], tp: Ints) -> Confusion:
        n = joint.sum(axis=1)
        return Confusion(n=n, tp=tp, fp=_bincount(predicted, classes) - tp, fn=n - tp)

    return PairCounts(
        joint=joint,
        changed=changed,
        baseline=own(baseline.predicted, joint[:, 0] + joint[:, 1]),
        candidate=own(candidate.predicted, joint[:, 0] + joint[:, 2]),
        rows=len(labels),
        rows_changed=int(changed.sum()),
        rows_right=joint.sum(axis=0),
        negatives=_negatives(
            len(labels) - joint.sum(axis=1),
            _wrongly(baseline.predicted, labels, classes),
            _wrongly(candidate.predicted, labels, classes),
            _wrongly(np.where(baseline.predicted == candidate.predicted, baseline.predicted, labels), labels, classes),
        ),
    )


def _wrongly(predicted: NDArray[Any], labels: NDArray[Any], classes: int) -> Ints:
    """Count the rows that are given each class and have another."""
    return _bincount(predicted[predicted != labels], classes)


def _negatives(n: Ints, before: Ints, after: Ints, both: Ints) -> Ints:
    """Return joint counts (C, 4) of ``n`` negatives by the false positives of each model and of both."""
    return np.stack([n - before - after + both, after - both, before - both, both], axis=1)


def _count_labels(baseline: Answers, candidate: Answers) -> PairCounts:
    labels = baseline.labels
    paired = multilabel.paired_counts(labels, candidate.predicted, baseline.predicted)
    right = [(answers.predicted == labels).all(axis=1) for answers in (baseline, candidate)]
    rows = _bincount(3 - (2 * right[0].astype(np.int64) + right[1]), 4)
    own = [multilabel.confusion_counts(labels, answers.predicted) for answers in (baseline, candidate)]
    both = multilabel.confusion_counts(labels, baseline.predicted & candidate.predicted).fp
    return PairCounts(
        joint=np.stack([paired.n11, paired.n10, paired.n01, paired.n00], axis=1),
        changed=paired.changed,
        baseline=own[0],
        candidate=own[1],
        rows=len(labels),
        rows_changed=int((baseline.predicted != candidate.predicted).any(axis=1).sum()),
        rows_right=rows,
        negatives=_negatives(len(labels) - own[0].n, own[0].fp, own[1].fp, both),
    )


@dataclass(frozen=True, eq=False)
class Slices:
    """Joint counts of the values of one group column: ``names``, ``joint`` (G, 4) as in ``PairCounts``, ``classes``
    (G,) with an image among them."""

    names: tuple[str, ...]
    joint: Ints
    classes: Ints


def count_slices(baseline: Answers, candidate: Answers, column: str, values: NDArray[Any]) -> Slices:
    """Return the counts of the rows of each value of a group column, str (N,), values in their order.

    Raises BadInput for a column of more than ``MOST_VALUES`` values.
    """
    group, found = pd.factorize(np.asarray(values, dtype=object), sort=True)
    if len(found) > MOST_VALUES:
        raise BadInput(
            f"group column {column!r} has {len(found)} different values, at most {MOST_VALUES} make groups; "
            "choose a column of fewer, or leave it out"
        )
    names, classes = tuple(str(value) for value in found), len(baseline.class_names)
    group = group.astype(np.int64)
    if baseline.task == "multilabel":
        right = [answers.predicted.astype(bool) for answers in (baseline, candidate)]
        truth = baseline.labels.astype(bool)
        cells = (truth & right[0] & right[1], truth & right[0] & ~right[1], truth & ~right[0] & right[1])
        joint = [_weighted(group, cell.sum(axis=1), len(names)) for cell in cells]
        total = _weighted(group, truth.sum(axis=1), len(names))
        rows, columns = np.nonzero(truth)
        seen = np.unique(group[rows] * classes + columns) // classes
        return Slices(names, np.stack([*joint, total - sum(joint)], axis=1), _bincount(seen, len(names)))
    right = [answers.predicted == baseline.labels for answers in (baseline, candidate)]
    code = (group << 2) | (3 - (2 * right[0].astype(np.int64) + right[1]))
    seen = np.unique(group * classes + baseline.labels) // classes
    return Slices(names, _bincount(code, 4 * len(names)).reshape(-1, 4), _bincount(seen, len(names)))


def _bincount(values: NDArray[Any], size: int) -> Ints:
    counted = np.bincount(values, minlength=size).astype(np.int64)
    if len(counted) > size:
        raise ValueError("an index is beyond the last class")
    return counted


def _weighted(group: Ints, weights: NDArray[Any], size: int) -> Ints:
    return np.rint(np.bincount(group, weights=weights, minlength=size)).astype(np.int64)

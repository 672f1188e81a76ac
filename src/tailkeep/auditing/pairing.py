"""Two models' predictions brought row to row: the same examples, classes and labels, or a refusal that says where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tailkeep.auditing.cells import Options, Shown
from tailkeep.auditing.predictions import Predictions
from tailkeep.auditing.tables import read_all
from tailkeep.errors import BadInput


def read_pair(
    baseline: Path,
    candidate: Path,
    *,
    label_column: str = "label",
    prediction_column: str = "prediction",
    id_column: str = "id",
    group_columns: Sequence[str] = (),
    class_names: Sequence[str] | None = None,
    scores: Shown = "auto",
    threshold: float = 0.5,
) -> tuple[Predictions, Predictions]:
    """Read two files of predictions over the same classes and pair them, the baseline first.

    The options are those of ``read_predictions``; a group column need stand in one of the files only. Classes are those
    of both files together, so a candidate that never predicts a class still has it. Raises as ``read_predictions`` and
    ``pair`` do.
    """
    options = Options(
        label_column,
        prediction_column,
        id_column,
        tuple(group_columns),
        None if class_names is None else tuple(class_names),
        scores,
        threshold,
    )
    first, second = read_all([baseline, candidate], options)
    return pair(first, second)


def pair(baseline: Predictions, candidate: Predictions) -> tuple[Predictions, Predictions]:
    """Return both with the rows and the classes in the baseline's order, and the groups and ids of either.

    Rows go by ids where both have them, else by their order. Raises BadInput where the tasks, the classes, the ids or
    the lengths differ, and at the first row whose labels or groups differ; rows are counted from 1.
    """
    if baseline.task != candidate.task:
        raise BadInput(
            f"{candidate.name}: its predictions are {candidate.task}, those of {baseline.name} {baseline.task}; "
            "compare two models for one task"
        )
    candidate = _same_classes(baseline, candidate)
    if baseline.ids is not None and candidate.ids is not None:
        candidate = _same_rows(baseline, candidate)
    elif baseline.rows != candidate.rows:
        raise BadInput(
            f"{candidate.name} has {candidate.rows} rows, {baseline.name} has {baseline.rows}; give the predictions of "
            "both models on the same examples, in one order or with a column of ids in both files"
        )
    _check_labels(baseline, candidate)
    groups = {**candidate.groups, **baseline.groups}
    for name in set(candidate.groups) & set(baseline.groups):
        differs = np.asarray(candidate.groups[name] != baseline.groups[name])
        if differs.any():
            row = int(np.argmax(differs))
            raise BadInput(
                f"{_row(baseline, row)}: the group {name!r} is {str(baseline.groups[name][row])!r} in {baseline.name} "
                f"and {str(candidate.groups[name][row])!r} in {candidate.name}; an example has one group"
            )
    ids = baseline.ids if baseline.ids is not None else candidate.ids
    return replace(baseline, ids=ids, groups=groups), replace(candidate, ids=ids, groups=groups)


def _same_classes(baseline: Predictions, candidate: Predictions) -> Predictions:
    """Bring the candidate's classes into the baseline's order."""
    if baseline.class_names == candidate.class_names:
        return candidate
    for one, other in ((baseline, candidate), (candidate, baseline)):
        alone = [name for name in one.class_names if name not in set(other.class_names)]
        if alone:
            some = ", ".join(map(repr, alone[:5])) + (", ..." if len(alone) > 5 else "")
            raise BadInput(
                f"{candidate.name} and {baseline.name} have different classes: only {one.name} has {some}; "
                "give the names of all classes, or models of the same classes"
            )
    position = {name: index for index, name in enumerate(candidate.class_names)}
    order = np.array([position[name] for name in baseline.class_names])  # the candidate's index of each class
    scores = None if candidate.scores is None else candidate.scores[:, order]
    if candidate.task == "multilabel":
        labels, predicted = candidate.labels[:, order], candidate.predicted[:, order]
    else:
        renamed = np.argsort(order)  # and the other way round
        labels, predicted = renamed[candidate.labels], renamed[candidate.predicted]
    return replace(candidate, labels=labels, predicted=predicted, scores=scores, class_names=baseline.class_names)


def _same_rows(baseline: Predictions, candidate: Predictions) -> Predictions:
    """Bring the candidate's rows into the order of the baseline's ids."""
    assert baseline.ids is not None
    assert candidate.ids is not None
    if np.array_equal(baseline.ids, candidate.ids):
        return candidate
    first, second = pd.Index(baseline.ids.astype(object)), pd.Index(candidate.ids.astype(object))
    for model, index in ((baseline, first), (candidate, second)):
        if not index.is_unique:
            raise BadInput(f"{model.name}: the id {index[index.duplicated()][0]!r} stands twice; ids must be unique")
    for one, other, ids, others in (
        (baseline, candidate, first, second),
        (candidate, baseline, second, first),
    ):
        gone = others.get_indexer(ids) < 0
        if gone.any():
            row = int(np.argmax(gone))
            raise BadInput(
                f"{other.name} lacks the id {ids[row]!r} (row {row + 1} of {one.name}), {int(gone.sum())} of "
                f"{len(ids)} in all; give the predictions of both models on the same examples"
            )
    return _taken(candidate, second.get_indexer(first))


def _taken(model: Predictions, rows: NDArray[np.intp]) -> Predictions:
    def take(values: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if values is None else values[rows]

    groups: Mapping[str, NDArray[Any]] = {name: values[rows] for name, values in model.groups.items()}
    return replace(
        model,
        labels=model.labels[rows],
        predicted=model.predicted[rows],
        scores=take(model.scores),
        ids=take(model.ids),
        groups=groups,
    )


def _check_labels(baseline: Predictions, candidate: Predictions) -> None:
    differs = baseline.labels != candidate.labels
    rows = differs.any(axis=1) if differs.ndim == 2 else differs
    if not rows.any():
        return
    row, count = int(np.argmax(rows)), int(rows.sum())
    if differs.ndim == 2:
        index = int(np.argmax(differs[row]))
        what = f"the label of class {baseline.class_names[index]!r}"
        values = [str(model.labels[row, index]) for model in (baseline, candidate)]
    else:
        what = "the label"
        values = [repr(model.class_names[model.labels[row]]) for model in (baseline, candidate)]
    by_ids = baseline.ids is not None and candidate.ids is not None
    fix = "one of the files is wrong" if by_ids else "are they in another order? Give both files a column of ids"
    raise BadInput(
        f"{_row(baseline, row)}: {what} is {values[0]} in {baseline.name} and {values[1]} in {candidate.name} "
        f"({count} of {len(rows)} rows differ); {fix}"
    )


def _row(model: Predictions, row: int) -> str:
    return f"row {row + 1}" if model.ids is None else f"row {row + 1}, id {str(model.ids[row])!r}"

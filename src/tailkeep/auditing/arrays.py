"""Labels and answers that a Python caller holds as arrays, as the predictions that an audit compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailkeep.auditing.cells import check_text
from tailkeep.auditing.predictions import SCORES, Predictions
from tailkeep.auditing.scores import RANGE_SLACK, SUM_SLACK
from tailkeep.errors import BadInput


def from_arrays(
    y_true: Any,
    answers: Sequence[tuple[str, Any]],
    *,
    class_names: Sequence[Any] | None = None,
    scores: str = "auto",
    threshold: float = 0.5,
    ids: Any = None,
    groups: Mapping[str, Any] | None = None,
    classes: int = 0,
) -> list[Predictions]:
    """Return the predictions of several models over the same examples and classes.

    ``y_true`` (N,) holds class indices or names, or 0 and 1 (N, C) for multi-label. Each of ``answers`` is a name with
    classes as ``y_true`` holds them (N,), or float scores (N, C) with a column a class, in the order of
    ``class_names``; without names, classes are those that occur, sorted, as scikit-learn's ``classes_`` are (beside
    scores, whole numbers are the scores' columns from 0). ``classes`` is how many there are
    if the largest that occurs is the last of them. ``ids`` (N,) and each group (N,) are turned into text.

    Raises BadInput where shapes, classes or scores do not fit; the text names the model and the first row, from 0.
    """
    if scores not in ("auto", *SCORES):
        raise BadInput(f"scores {scores!r}: expected auto, logits or probabilities")
    if not 0 < threshold < 1:
        raise BadInput(f"threshold {threshold}: expected a probability between 0 and 1, such as 0.5")
    labels = _array("y_true", y_true)
    arrays = [(name, _array(name, values)) for name, values in answers]
    multilabel = labels.ndim == 2
    if labels.ndim == 2 and labels.shape[1] == 1:
        raise BadInput(f"y_true: shape {labels.shape}; give classes as ({len(labels)},), for example y_true.ravel()")
    if labels.ndim not in (1, 2) or not len(labels):
        raise BadInput(f"y_true: expected classes (N,) or 0 and 1 (N, C), got shape {labels.shape}")
    for name, values in arrays:
        if len(values) != len(labels):
            raise BadInput(f"{name}: {len(values)} rows for {len(labels)} labels in y_true")
    names, places = _classes(labels, [values for _, values in arrays], class_names, classes)
    own_ids = None if ids is None else _texts("ids", ids, len(labels))
    if own_ids is not None and len(np.unique(own_ids)) < len(labels):
        raise BadInput("ids: an id stands twice; ids must be unique")
    common: dict[str, Any] = {
        "labels": _marks("y_true", labels) if multilabel else _indices("y_true", labels, places),
        "class_names": names,
        "task": "multilabel" if multilabel else "multiclass",
        "ids": own_ids,
        "groups": {str(name): _texts(f"group {name}", values, len(labels)) for name, values in (groups or {}).items()},
    }
    return [_model(name, values, common, places, scores, threshold) for name, values in arrays]


def _model(
    name: str, values: NDArray[Any], common: dict[str, Any], places: dict[Any, int], scores: str, threshold: float
) -> Predictions:
    multilabel = common["task"] == "multilabel"
    if values.ndim == 1 and not multilabel:
        return Predictions(name=name, predicted=_indices(name, values, places), **common)
    if values.shape != (len(common["labels"]), len(common["class_names"])):
        wanted = f"({len(common['labels'])}, {len(common['class_names'])})"
        raise BadInput(
            f"{name}: shape {values.shape}; expected scores {wanted}"
            + ("" if multilabel else f" or classes ({len(values)},)")
            + ("; a column of classes becomes one by .ravel()" if values.shape[1:] == (1,) and not multilabel else "")
        )
    if multilabel and scores == "auto" and values.dtype.kind in "biu":
        return Predictions(name=name, predicted=_marks(name, values), **common)
    if values.dtype.kind not in "fiu":
        raise BadInput(f"{name}: scores must be numbers, got {values.dtype}")
    values = values.astype(np.float64, copy=False) if values.dtype != np.float32 else values
    are = _kind_of(name, values, multilabel, scores)
    if multilabel:
        cut = threshold if are == "probabilities" else float(np.log(threshold / (1 - threshold)))
        predicted = (values >= cut).astype(np.uint8)
    else:
        predicted = values.argmax(axis=1).astype(np.int64)
    return Predictions(name=name, predicted=predicted, scores=values, scores_are=are, **common)


def _array(name: str, values: Any) -> NDArray[Any]:
    """Return an array of numbers or texts; a torch tensor or a pandas column comes in by its ``__array__``."""
    if callable(getattr(values, "detach", None)):
        values = values.detach().cpu()
    array = np.asarray(values)
    if array.dtype == object:
        plain = [value for value in array.ravel() if not isinstance(value, (str, int, np.integer))]
        if plain:
            raise BadInput(f"{name}: holds {plain[0]!r}; expected classes as whole numbers or names, or scores")
        array = np.array([str(value) for value in array.ravel()]).reshape(array.shape)
    if array.dtype.kind == "f" and array.ndim == 1:
        whole = np.isfinite(array) & (array == np.floor(np.where(np.isfinite(array), array, 0)))
        if not whole.all():
            row = int(np.argmin(whole))
            inside = bool(((array >= 0) & (array <= 1)).all())
            raise BadInput(
                f"{name}: row {row} holds {array[row]}, which is no class; classes are whole numbers or names"
                + (", and probabilities of two classes are (N, 2): np.column_stack([1 - p, p])" if inside else "")
            )
        array = array.astype(np.int64)
    if array.dtype.kind not in "biufU":
        raise BadInput(f"{name}: expected numbers or texts, got {array.dtype}")
    return array


def _classes(
    labels: NDArray[Any], answers: Sequence[NDArray[Any]], given: Sequence[Any] | None, last: int
) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Return the classes' names, and the index of each value that stands for a class."""
    width = next((values.shape[1] for values in (labels, *answers) if values.ndim == 2), None)
    columns = [values for values in (labels, *answers) if values.ndim == 1]
    text = any(values.dtype.kind == "U" for values in columns)
    if text and not all(values.dtype.kind == "U" for values in columns):
        raise BadInput(
            "y_true and the predictions: one holds names, another whole numbers; give both as they are named"
        )
    if given is not None:
        names = tuple(str(name) for name in given)
    elif text:
        names = tuple(sorted({str(value) for values in columns for value in np.unique(values)}))
    else:
        occurring = sorted({int(value) for values in columns for value in np.unique(values)})
        if occurring and occurring[-1] + 1 == last:
            occurring = list(range(last))
        if width is not None:
            occurring = list(range(max([*(value + 1 for value in occurring), width])))
        elif len(occurring) == 1 and occurring[0] in (0, 1):
            occurring = [0, 1]
        elif len(occurring) == 1:
            raise BadInput(
                f"y_true and the predictions hold one class only ({occurring[0]}); give class_names with all classes"
            )
        occurring = [value for value in occurring if value >= 0]  # one below 0 is no class, and refused by its row
        names = tuple(map(str, occurring))
        return names, {value: index for index, value in enumerate(occurring)}
    if len(names) < 2 or len(set(names)) < len(names):
        raise BadInput(f"class names: expected two or more, all different, got {len(names)}")
    for name in names:
        check_text("class names", name)
    values = names if text else range(len(names))
    return names, {value: index for index, value in enumerate(values)}


def _indices(name: str, values: NDArray[Any], places: Mapping[Any, int]) -> NDArray[np.int64]:
    """Return class indices of names or whole numbers (N,)."""
    if values.ndim != 1:
        raise BadInput(f"{name}: expected classes (N,), got shape {values.shape}")
    found, inverse = np.unique(values, return_inverse=True)
    unknown = [value for value in found.tolist() if value not in places]
    if unknown:
        row = int(np.argmax(values == unknown[0]))
        raise BadInput(f"{name}: row {row} holds {unknown[0]!r}, which is none of the {len(places)} classes")
    return np.array([places[value] for value in found.tolist()], dtype=np.int64)[inverse]


def _marks(name: str, values: NDArray[Any]) -> NDArray[np.uint8]:
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise BadInput(f"{name}: row {row}, class {column}: holds {values[row, column]}; multi-label holds 0 and 1")
    return values.astype(np.uint8)


def _texts(name: str, values: Any, rows: int) -> NDArray[Any]:
    texts = np.array([str(value) for value in np.asarray(values).ravel().tolist()], dtype=np.str_)
    if np.shape(values) != (rows,):
        raise BadInput(f"{name}: shape {np.shape(values)}, expected ({rows},)")
    for text in np.unique(texts).tolist():
        check_text(name, text)
    return texts


def _kind_of(name: str, values: NDArray[Any], multilabel: bool, said: str) -> str:
    """Return "logits" or "probabilities", as the files' reader tells them apart."""
    if said == "logits" or not np.isfinite(values).all():
        return "logits"  # which are refused by row where they are not finite
    inside = (values >= -RANGE_SLACK).all() and (values <= 1 + RANGE_SLACK).all()
    off = np.abs(values.sum(axis=1, dtype=np.float64) - 1) > SUM_SLACK
    if inside and (multilabel or not off.any()):
        return "probabilities"
    if said == "probabilities" or inside:
        row = int(np.argmax(off)) if inside else int(np.argmax(((values < 0) | (values > 1)).any(axis=1)))
        why = f"row {row} sums to {values[row].sum():.6g}, not to 1" if inside else f"row {row} leaves the range 0 to 1"
        raise BadInput(f"{name}: {why}; say what the scores are: scores='logits' or 'probabilities'")
    return "logits"

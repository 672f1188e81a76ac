"""The one tidy table: its columns, how rows come from predictions, and its checks.

A row per (cell, seed, split, class, reference), holding *counts*. Every rate is derived from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from tailkeep.errors import BadInput
from tailkeep.evaluation import metrics

CELL_COLUMNS = {
    "dataset": "str",  # label of the data source
    "setting": "str",  # label of the imbalance setting, e.g. "exponential-100"
    "twin": "str",  # "imbalanced", "full" or "matched": which twin of the setting this cell is
    "model": "str",  # label of the model family, e.g. "resnet20": a family of tests
    "method": "str",  # label of the arm: "dense", a technique's name, or a control's name
    "role": "str",  # "dense", "technique" or "control"
    "seed": "int64",
    "split": "str",  # "test" or "validation"
}
CLASS_COLUMNS = {
    "class_index": "int64",
    "class_name": "str",
    "train_count": "int64",  # training images of the class in this cell
}
REFERENCE_COLUMNS = {
    # "self" (no comparison), "dense" (the parent), "teacher", "student_alone", "continued", "other_seed"
    "reference": "str",
}
COUNT_COLUMNS = {
    "n": "int64",  # images of the class in the split
    "tp": "int64",
    "fp": "int64",
    "fn": "int64",
    "n11": "int64",  # both right          } joint counts with the reference's model over this class's images:
    "n10": "int64",  # reference right, this model wrong
    "n01": "int64",  # reference wrong, this model right
    "n00": "int64",  # both wrong
    "changed": "int64",  # another class predicted than by the reference, right or wrong
    "loss_sum": "float64",  # sum over the class's images of the cross-entropy in nats; NaN where only labels are known
}
COLUMNS = {**CELL_COLUMNS, **CLASS_COLUMNS, **REFERENCE_COLUMNS, **COUNT_COLUMNS}

KEY = (*CELL_COLUMNS, "class_index", "reference")
"""The columns that together name a row."""
ALLOWED = {
    "twin": ("imbalanced", "full", "matched"),
    "role": ("dense", "technique", "control"),
    "split": ("test", "validation"),
    "reference": ("self", "dense", "teacher", "student_alone", "continued", "other_seed"),
}


def class_rows(
    cell: Mapping[str, Any],
    labels: ArrayLike,
    logits: ArrayLike,
    class_names: Sequence[str],
    train_counts: Sequence[int],
    reference: str = "self",
    reference_logits: ArrayLike | None = None,
) -> list[dict[str, Any]]:
    """Return the frame's rows of one cell against one reference, a dict per class.

    ``cell`` gives the values of ``CELL_COLUMNS``; ``labels`` are class indices (N,), ``logits`` floats (N, C);
    ``class_names`` and ``train_counts`` have C entries, in class order. ``reference_logits`` (N, C) are the reference's
    for the same images in the same order; ``reference="self"`` compares the cell with itself and takes none.

    Raises BadInput where they do not fit together, or a logit is not finite.
    """
    lacking = [name for name in CELL_COLUMNS if name not in cell]
    if lacking:
        raise BadInput(f"class_rows: the cell lacks {', '.join(lacking)}")
    if (reference == "self") != (reference_logits is None):
        raise BadInput(f'class_rows: reference "{reference}" with{"out" if reference_logits is None else ""} logits')
    classes = len(class_names)
    if len(train_counts) != classes or np.shape(logits)[1:] != (classes,):
        shapes = f"{classes} names, {len(train_counts)} train counts, logits of shape {np.shape(logits)}"
        raise BadInput(f"class_rows: the number of classes differs: {shapes}")
    if reference_logits is not None and np.shape(reference_logits) != np.shape(logits):
        shapes = f"{np.shape(logits)} and the reference's {np.shape(reference_logits)}"
        raise BadInput(f"class_rows: logits of different shapes: {shapes}")
    try:
        guesses = metrics.predicted(logits)
        other = None if reference_logits is None else metrics.predicted(reference_logits)
        loss = np.bincount(np.asarray(labels), weights=metrics.cross_entropy(labels, logits), minlength=classes)
        return label_rows(cell, labels, guesses, class_names, train_counts, loss, reference, other)
    except ValueError as error:
        raise BadInput(f"class_rows: {dict(cell)}: {error}") from error


def label_rows(
    cell: Mapping[str, Any],
    labels: ArrayLike,
    predictions: ArrayLike,
    class_names: Sequence[str],
    train_counts: Sequence[int],
    loss_sum: ArrayLike,
    reference: str = "self",
    reference_predictions: ArrayLike | None = None,
) -> list[dict[str, Any]]:
    """Return the rows that ``class_rows`` returns, from predicted labels (N,) and the classes' sums of losses (C,).

    Raises ValueError where a label is no index of a class, or the arrays have different lengths.
    """
    classes = len(class_names)
    other = predictions if reference_predictions is None else reference_predictions
    counts: dict[str, metrics.Ints | metrics.Floats] = {
        **metrics.confusion_counts(labels, predictions, classes)._asdict(),
        **metrics.paired_counts(labels, predictions, other, classes)._asdict(),
        "loss_sum": np.asarray(loss_sum, dtype=np.float64),
    }
    named = {name: cell[name] for name in CELL_COLUMNS}
    return [
        {
            **named,
            "class_index": index,
            "class_name": str(class_names[index]),
            "train_count": int(train_counts[index]),
            "reference": reference,
            **{name: values[index].item() for name, values in counts.items()},
        }
        for index in range(classes)
    ]


def build(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows as a checked frame with the declared columns and types, in the rows' order.

    Raises BadInput as ``check`` does. No rows give an empty frame with every column.
    """
    frame = pd.DataFrame(list(rows))
    return build_columns(pd.DataFrame({name: [] for name in COLUMNS}) if frame.empty else frame)


def build_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame that was put together by columns, as ``build`` returns one: checked, typed, in order.

    Raises BadInput as ``check`` does.
    """
    _need_columns(frame)
    try:
        frame = frame[list(COLUMNS)].astype(COLUMNS)
    except (TypeError, ValueError) as error:
        raise BadInput(f"frame: a value has the wrong type: {error}") from error
    check(frame)
    return frame


def check(frame: pd.DataFrame) -> None:
    """Raise BadInput unless the frame has every column, one row a key, known words, and counts that agree."""
    _need_columns(frame)
    empty = [name for name in COLUMNS if name != "loss_sum" and frame[name].isna().any()]
    if empty:
        raise BadInput(f"frame: missing values in {', '.join(empty)}")
    for column, words in ALLOWED.items():
        unknown = sorted(set(frame[column]) - set(words))
        if unknown:
            raise BadInput(f"frame: {column} {unknown[0]!r} is not one of {', '.join(words)}")
    twice = frame.duplicated(list(KEY))
    if twice.any():
        raise BadInput(f"frame: two rows of one key: {_where(frame, twice)}")
    for rule, broken in _broken_rules(frame).items():
        if broken.any():
            raise BadInput(f"frame: {rule} does not hold: {_where(frame, broken)}")


def _need_columns(frame: pd.DataFrame) -> None:
    lacking = [name for name in COLUMNS if name not in frame.columns]
    if lacking:
        raise BadInput(f"frame: columns are missing: {', '.join(lacking)}")


def _broken_rules(frame: pd.DataFrame) -> dict[str, pd.Series[bool]]:
    """Return, for every rule that the counts keep, which rows break it."""
    f = frame
    wholes = [name for name in (*COUNT_COLUMNS, "train_count") if name != "loss_sum"]
    self_rows = f["reference"] == "self"
    # A change is certain where one of the two is right alone, and possible where both are wrong.
    certain = f["n10"] + f["n01"]
    return {
        "counts >= 0": (f[wholes] < 0).any(axis=1),
        "tp + fn == n": f["tp"] + f["fn"] != f["n"],
        "n11 + n10 + n01 + n00 == n": f["n11"] + f["n10"] + f["n01"] + f["n00"] != f["n"],
        "n11 + n01 == tp": f["n11"] + f["n01"] != f["tp"],
        "n10 + n01 <= changed <= n10 + n01 + n00": (f["changed"] < certain) | (f["changed"] > certain + f["n00"]),
        "no change against itself": self_rows & (f["changed"] != 0),
        "loss_sum is finite and >= 0": np.isinf(f["loss_sum"]) | (f["loss_sum"] < 0),
    }


def _where(frame: pd.DataFrame, rows: pd.Series[bool]) -> str:
    """Return the first of the marked rows in words."""
    first = frame.loc[rows.to_numpy()].iloc[0]
    named = ", ".join(f"{name}={first[name]}" for name in KEY)
    return f"{int(rows.sum())} rows, the first is {named}"

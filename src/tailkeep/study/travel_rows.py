"""Rows of the frame from predicted labels alone: counts need no logits, and a sum of losses is carried along.

Counted here anew, from the definitions of the frame's columns: these rows check those that were made from logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailkeep.frame import CELL_COLUMNS

Ints = NDArray[Any]


def self_rows(
    cell: Mapping[str, Any],
    labels: Ints,
    guesses: Ints,
    class_names: Sequence[str],
    train_counts: Sequence[int],
    loss_sum: Sequence[float],
) -> list[dict[str, Any]]:
    """Return the rows of a cell against itself, one a class.

    ``labels`` and ``guesses`` are class indices (N,); the other sequences have an entry a class. ``loss_sum`` is the
    sum of the cross-entropy over the class's images in nats.
    """
    classes = len(class_names)
    right = labels == guesses
    n, tp = _count(labels, classes), _count(labels[right], classes)
    counts = {"n": n, "tp": tp, "fp": _count(guesses, classes) - tp, "fn": n - tp}
    named = {name: cell[name] for name in CELL_COLUMNS}
    rows = [
        {
            **named,
            "class_index": index,
            "class_name": str(class_names[index]),
            "train_count": int(train_counts[index]),
            "reference": "self",
            **{name: int(values[index]) for name, values in counts.items()},
            "loss_sum": float(loss_sum[index]),
        }
        for index in range(classes)
    ]
    return _joined(rows, labels, guesses, guesses)


def against(
    rows: Sequence[dict[str, Any]], labels: Ints, guesses: Ints, reference: str, other: Ints
) -> list[dict[str, Any]]:
    """Return the rows of a cell against a reference whose predicted labels (N,) are ``other``, from its own rows."""
    return _joined([{**row, "reference": reference} for row in rows], labels, guesses, other)


def _joined(rows: list[dict[str, Any]], labels: Ints, guesses: Ints, other: Ints) -> list[dict[str, Any]]:
    """Fill in the joint counts."""
    right, other_right, classes = labels == guesses, labels == other, len(rows)
    masks = {
        "n11": right & other_right,
        "n10": ~right & other_right,
        "n01": right & ~other_right,
        "n00": ~right & ~other_right,
        "changed": guesses != other,
    }
    counts = {name: _count(labels[mask], classes) for name, mask in masks.items()}
    return [{**row, **{name: int(values[i]) for name, values in counts.items()}} for i, row in enumerate(rows)]


def _count(values: Ints, classes: int) -> Ints:
    return np.bincount(values, minlength=classes)

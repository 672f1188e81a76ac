"""The frame of a results file: it must be the one that the predicted labels give, row for row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tailkeep.errors import BadInput
from tailkeep.frame import COLUMNS, KEY, build, label_rows
from tailkeep.study.travel_format import CellFacts, Content

Losses = dict[tuple[int, str], list[float]]
"""Sums of losses by (index of the cell, key of its prediction), in class order."""


def printable(text: str) -> str:
    """Return a text of a stranger's as a terminal may show it."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def named(cell: CellFacts) -> str:
    """Return a cell's labels in words."""
    own = cell.labels
    return printable(f"{own.method}, {own.setting}, {own.twin}, {own.model}, seed {own.seed}")


def expected_rows(content: Content, losses: Losses) -> list[dict[str, Any]]:
    """Return the frame's rows by the predicted labels, in the order of the frame's key."""
    rows: list[dict[str, Any]] = []
    for index, cell in enumerate(content.cells):
        for key in _keys(content, cell):
            facts = content.predictions[key]
            labels, guesses = content.labels[facts.group], content.guesses[facts.group]
            names = content.study.data[cell.labels.dataset].class_names
            own = (_who(content, cell, key), labels, guesses[facts.row], names, cell.counts, losses[index, key])
            rows += label_rows(*own)
            for name, other in cell.references.items() if key == cell.predict_key else ():
                row = content.predictions[other].row  # of the same group
                rows += label_rows(*own, name, guesses[row])
    return sorted(rows, key=lambda row: tuple(row[name] for name in KEY))


def losses_of(content: Content) -> Losses:
    """Return the sums of losses, from the frame's rows of cells against themselves.

    Raises ``BadInput`` where the frame's columns do not fit or a cell's rows are not there.
    """
    columns = content.frame
    if len({len(values) for values in columns.values()}) != 1:
        raise BadInput("frame.json: its columns have different lengths")
    found: dict[tuple[Any, ...], float] = {}
    for *who, loss in zip(*(columns[name] for name in (*KEY, "loss_sum")), strict=True):
        if not isinstance(loss, float) or not math.isfinite(loss) or loss < 0:
            raise BadInput(f"frame.json: {str(loss)[:40]!r} is no sum of losses")
        if any(isinstance(value, (list, dict)) for value in who):
            raise BadInput("frame.json: a value has the wrong type")
        found[tuple(who)] = loss
    result: Losses = {}
    for index, cell in enumerate(content.cells):
        for key in _keys(content, cell):
            place = tuple(_who(content, cell, key)[name] for name in KEY[:-2])
            try:
                result[index, key] = [found[(*place, c, "self")] for c in range(len(cell.counts))]
            except KeyError:
                raise BadInput(f"frame.json lacks rows of {named(cell)}") from None
    return result


def check_frame(content: Content) -> None:
    """Raise ``BadInput`` where a row is not what the predicted labels give, or a sum of losses is impossible."""
    losses = losses_of(content)
    by_prediction: dict[str, list[float]] = {}
    for (index, key), sums in losses.items():
        if by_prediction.setdefault(key, sums) != sums:
            raise BadInput(f"frame.json: one prediction has two sums of losses ({named(content.cells[index])})")
    expected = expected_rows(content, losses)
    columns = [content.frame[name] for name in COLUMNS]
    given = [dict(zip(COLUMNS, values, strict=True)) for values in zip(*columns, strict=True)]
    if len(given) != len(expected):
        raise BadInput(f"frame.json has {len(given)} rows; its predictions give {len(expected)}")
    for row, other in zip(given, expected, strict=True):
        wrong = [name for name in COLUMNS if row[name] != other[name] or type(row[name]) is not type(other[name])]
        if wrong:
            name = wrong[0]
            where = printable(", ".join(f"{column} {other[column]}" for column in KEY))
            raise BadInput(
                f"frame.json: {name} is {str(row[name])[:40]!r}, but the predictions give {other[name]!r} ({where})"
            )
    build(given)
    for key, sums in by_prediction.items():
        _check_losses(content, key, sums)


def _check_losses(content: Content, key: str, sums: list[float]) -> None:
    """A wrong image costs at least log 2, since another class scores no less; a right one at most log C."""
    facts, classes = content.predictions[key], len(sums)
    labels, guess = content.labels[facts.group], content.guesses[facts.group][facts.row]
    n, wrong = np.bincount(labels, minlength=classes), np.bincount(labels[labels != guess], minlength=classes)
    low = wrong * math.log(2) * (1 - 1e-6)
    high = np.where(wrong == 0, n * math.log(classes) * (1 + 1e-6) + 1e-6, np.inf)
    bad = np.flatnonzero((np.array(sums) < low) | (np.array(sums) > high))
    if len(bad):
        raise BadInput(f"frame.json: a loss_sum of {sums[bad[0]]} for class {bad[0]} cannot be ({key[:12]})")


def _keys(content: Content, cell: CellFacts) -> list[str]:
    """The keys of a cell's stored predictions that have rows in the frame."""
    both = (cell.predict_key, cell.validation_key)
    return [key for key in both if key is not None and key in content.predictions]


def _who(content: Content, cell: CellFacts, key: str) -> dict[str, Any]:
    return {**cell.labels.plain(), "split": content.steps[key].spec["split"]}

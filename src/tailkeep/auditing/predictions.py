"""One model's answers on one test set: what every input of an audit becomes, and what it must hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailkeep.auditing.cells import lone_surrogate
from tailkeep.errors import BadInput

TASKS = ("multiclass", "multilabel")
SCORES = ("logits", "probabilities")


@dataclass(frozen=True, eq=False)
class Predictions:
    """The answers of one model, a row an example. A binary classifier is a multiclass one with two classes.

    ``labels`` and ``predicted`` are class indices int64 (N,), or for ``task="multilabel"`` uint8 (N, C) of 0 and 1.
    ``scores`` are float (N, C), what ``scores_are`` says ("logits" or "probabilities"), or None. ``ids`` are str (N,)
    and unique, or None: then rows go by their order. ``groups`` maps a column that the user chose to its value for
    every row, str (N,). ``source`` says where it all came from (path, SHA-256, form).

    Raises BadInput where shapes, ranges or words do not fit; the text names the first offending row, counted from 0.
    """

    name: str
    labels: NDArray[Any]
    predicted: NDArray[Any]
    class_names: tuple[str, ...]
    task: str = "multiclass"
    scores: NDArray[Any] | None = None
    scores_are: str | None = None
    ids: NDArray[Any] | None = None
    groups: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what the fields say of each other."""
        if self.task not in TASKS:
            raise BadInput(f"{self.name}: task {self.task!r} is not one of {', '.join(TASKS)}")
        classes = len(self.class_names)
        if classes < 2 or len(set(self.class_names)) != classes:
            raise BadInput(f"{self.name}: expected two or more class names, all different")
        for name in self.class_names:
            if lone_surrogate(name):
                raise BadInput(f"{self.name}: the class name {name!r} holds a lone surrogate, half of a character")
        shape = (self.rows, classes) if self.task == "multilabel" else (self.rows,)
        if self.rows == 0:
            raise BadInput(f"{self.name}: there are no rows")
        for what, values in (("labels", self.labels), ("predictions", self.predicted)):
            if values.shape != shape:
                raise BadInput(f"{self.name}: {what} of shape {values.shape}, expected {shape}")
            self._check_range(what, values, 2 if self.task == "multilabel" else classes)
        self._check_scores((self.rows, classes))
        for what, column in [("ids", self.ids), *((f"group {name}", v) for name, v in self.groups.items())]:
            if column is not None and column.shape != (self.rows,):
                raise BadInput(f"{self.name}: {what} of shape {column.shape}, expected ({self.rows},)")

    @property
    def rows(self) -> int:
        """How many examples there are."""
        return int(self.labels.shape[0]) if self.labels.ndim else 0

    def _check_range(self, what: str, values: NDArray[Any], end: int) -> None:
        if not np.issubdtype(values.dtype, np.integer):
            raise BadInput(f"{self.name}: {what} must be whole numbers, got {values.dtype}")
        wrong = (values < 0) | (values >= end)
        if wrong.any():
            row = int(np.argwhere(wrong)[0][0])
            value = values[row][wrong[row]][0] if values.ndim == 2 else values[row]
            raise BadInput(f"{self.name}: {what}: row {row} holds {value}, expected 0 to {end - 1}")

    def _check_scores(self, shape: tuple[int, int]) -> None:
        if (self.scores is None) != (self.scores_are is None):
            raise BadInput(f"{self.name}: scores and scores_are go together")
        if self.scores is None:
            return
        if self.scores_are not in SCORES:
            raise BadInput(f"{self.name}: scores_are {self.scores_are!r} is not one of {', '.join(SCORES)}")
        if self.scores.shape != shape:
            raise BadInput(f"{self.name}: {self.scores_are} of shape {self.scores.shape}, expected {shape}")
        finite = np.isfinite(self.scores).all(axis=1)
        if not finite.all():
            raise BadInput(f"{self.name}: {self.scores_are}: row {int(finite.argmin())} has NaN or infinity")

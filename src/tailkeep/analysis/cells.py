"""The frame read into arrays: one block of counts per (cell, reference)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tailkeep.errors import BadInput
from tailkeep.evaluation import metrics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PRIMARY_REFERENCES = ("dense", "teacher")
"""Whose excess gap the verdict is about: the parent, or for a student its teacher."""
REFERENCES = (*PRIMARY_REFERENCES, "student_alone", "continued")
"""The references that compression is held against ("other_seed" gives the churn floor alone)."""


class Arm(NamedTuple):
    """One method in one setting of one model, over all twins and seeds."""

    dataset: str
    setting: str
    model: str
    method: str
    role: str


class Cell(NamedTuple):
    """One trained model of an arm."""

    arm: Arm
    twin: str
    seed: int


@dataclass(frozen=True)
class Block:
    """The counts of one cell against one reference; every array has shape (C,), in class order."""

    class_names: tuple[str, ...]
    train_count: Ints
    n: Ints
    tp: Ints
    fp: Ints
    fn: Ints
    n11: Ints
    n10: Ints
    n01: Ints
    changed: Ints
    loss_sum: Floats

    @property
    def recall(self) -> Floats:
        """Recall per class in 0..1 (C,); NaN where the class has no test image."""
        return metrics.rate_of_counts(self.tp, self.n)

    @property
    def reference_tp(self) -> Ints:
        """How many images of each class the reference has right (C,)."""
        return self.n11 + self.n10

    @property
    def recall_change(self) -> Floats:
        """Recall per class minus the reference's, in percentage points (C,)."""
        return 100 * metrics.rate_of_counts(self.n01 - self.n10, self.n)

    @property
    def mean_loss(self) -> Floats:
        """Mean cross-entropy per class in nats (C,); NaN where the class has no test image."""
        return metrics.rate_of_counts(self.loss_sum, self.n)


@dataclass(frozen=True)
class Cells:
    """All blocks of a frame's split. ``own`` holds each cell's counts, ``against`` its comparisons by reference.

    ``balanced_test`` says whether every class has as many test images as any other; where not, A is the mean recall.
    """

    own: dict[Cell, Block]
    against: dict[Cell, dict[str, Block]]
    balanced_test: bool
    arms: tuple[Arm, ...] = field(default=())

    def block(self, arm: Arm, twin: str, seed: int, reference: str) -> Block | None:
        """Return the block of one cell against one reference ("self": its own counts), None where it is not there."""
        cell = Cell(arm, twin, seed)
        if reference == "self":
            return self.own.get(cell)
        return self.against.get(cell, {}).get(reference)

    def seeds(self, arm: Arm | None = None, twin: str | None = None) -> tuple[int, ...]:
        """Return the seeds with a cell of this arm and twin (None: of any), ascending."""
        chosen = {c.seed for c in self.own if arm in (None, c.arm) and twin in (None, c.twin)}
        return tuple(sorted(chosen))

    def references(self, arm: Arm) -> tuple[str, ...]:
        """Return what the arm is compared with, primary first; ("self",) where it is compared with nothing."""
        have = {name for cell, blocks in self.against.items() if cell.arm == arm for name in blocks}
        return tuple(name for name in REFERENCES if name in have) or ("self",)

    def accuracy(self, block: Block) -> float:
        """Return A in percentage points: the accuracy, on a test set that is not balanced the mean recall."""
        return self._rate(block.tp, block.n)

    def reference_accuracy(self, block: Block) -> float:
        """Return the reference's A on the same images, in percentage points."""
        return self._rate(block.reference_tp, block.n)

    def _rate(self, tp: Ints, n: Ints) -> float:
        if self.balanced_test:
            return 100 * float(tp.sum()) / float(n.sum()) if n.sum() else float("nan")
        return 100 * metrics.mean_of_recalls(metrics.rate_of_counts(tp, n))


def read_cells(frame: pd.DataFrame, split: str) -> Cells:
    """Return the blocks of one split ("test" or "validation") of a checked frame, arms in the frame's order.

    Raises BadInput where the cells of one dataset have different classes.
    """
    chosen = frame[frame["split"] == split]
    own: dict[Cell, Block] = {}
    against: dict[Cell, dict[str, Block]] = {}
    keys = ["dataset", "setting", "model", "method", "role", "twin", "seed", "reference"]
    for key, rows in chosen.groupby(keys, sort=False):
        dataset, setting, model, method, role, twin, seed, reference = (str(value) for value in key)
        cell = Cell(Arm(dataset, setting, model, method, role), twin, int(seed))
        block = _read_block(rows)
        # A cell's own counts are the same in each of its blocks, so any of them will do.
        own.setdefault(cell, block)
        if reference != "self":
            against.setdefault(cell, {})[reference] = block
    _check_classes(own)
    balanced = all(len(set(block.n.tolist())) == 1 for block in own.values())
    arms = tuple(_first(cell.arm for cell in own))
    return Cells(own=own, against=against, balanced_test=balanced, arms=arms)


def _read_block(rows: pd.DataFrame) -> Block:
    rows = rows.sort_values("class_index")

    def ints(name: str) -> Ints:
        return rows[name].to_numpy(dtype=np.int64)

    return Block(
        class_names=tuple(str(name) for name in rows["class_name"]),
        loss_sum=rows["loss_sum"].to_numpy(dtype=np.float64),
        train_count=ints("train_count"),
        n=ints("n"),
        tp=ints("tp"),
        fp=ints("fp"),
        fn=ints("fn"),
        n11=ints("n11"),
        n10=ints("n10"),
        n01=ints("n01"),
        changed=ints("changed"),
    )


def _check_classes(own: dict[Cell, Block]) -> None:
    seen: dict[str, tuple[str, ...]] = {}
    for cell, block in own.items():
        names = seen.setdefault(cell.arm.dataset, block.class_names)
        if names != block.class_names:
            raise BadInput(f"frame: {cell.arm.dataset}: cells of different classes: {names} and {block.class_names}")


def _first(values: Iterable[Arm]) -> list[Arm]:
    return list(dict.fromkeys(values))

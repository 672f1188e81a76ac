"""The groups of a pair's classes by frequency, and its table over groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tailkeep.analysis import rates, statistics, tango
from tailkeep.analysis.cells import Arm, Block, Cell, Cells
from tailkeep.analysis.groups import make_groups
from tailkeep.analysis.pair_counts import Answers, PairCounts, count_slices
from tailkeep.errors import BadInput

Ints = NDArray[np.int64]

FREQUENCY = "frequency"
GROUP_COLUMNS = [
    *("kind", "name", "classes", "n", "recall_baseline", "recall", "change", "change_low", "change_high"),
    *("n11", "n10", "n01", "n00", "p_mcnemar", "p_adjusted"),
]


@dataclass(frozen=True)
class FrequencyGroups:
    """The classes by training images.

    ``members`` is the group of every class (C,), empty where there are no groups; ``names`` those in use, most frequent
    first; ``rule`` one sentence; ``tail`` the class indices of the most frequent and of the rarest group, or None.
    """

    names: tuple[str, ...]
    rule: str
    members: tuple[str, ...]
    tail: tuple[Ints, Ints] | None


def frequency_groups(
    train_counts: Sequence[int] | Ints | None, cuts: tuple[int, int] = (20, 100), place: str = "the training data"
) -> FrequencyGroups:
    """Return the groups of classes by their training images (C,), by the rule of a study of this one setting.

    Without training counts, or where all are equal, there are none. Raises BadInput for cut points without meaning.
    """
    if train_counts is None:
        return FrequencyGroups((), "no groups: the training images of each class are not known", (), None)
    counts = np.asarray(train_counts, dtype=np.int64)
    if counts.ndim != 1 or (counts < 0).any():
        raise BadInput(f"training counts: expected a number >= 0 a class, got {train_counts}")
    zeros = np.zeros(len(counts), dtype=np.int64)
    columns = dict.fromkeys(("n", "tp", "fp", "fn", "n11", "n10", "n01", "changed"), zeros)
    block = Block(class_names=(), train_count=counts, loss_sum=zeros.astype(np.float64), **columns)
    cell = Cell(Arm("", place, "", "", "dense"), "imbalanced", 0)
    groups = make_groups(Cells(own={cell: block}, against={}, balanced_test=False), cuts)
    at = ("", place, 0)
    slots = groups.positions(at)
    tail = (slots["many"], slots["few"]) if {"many", "few"} <= set(slots) else None
    return FrequencyGroups(groups.names, groups.rule, groups.members.get(at, ()), tail)


def group_table(
    counts: PairCounts, frequency: FrequencyGroups, baseline: Answers, candidate: Answers, level: float = 0.95
) -> pd.DataFrame:
    """Return a row per frequency group and per value of a group column, in percentage points.

    Counts are pooled over the images of a group, so a class weighs as its images do. ``classes`` is how many classes
    have an image there. Intervals are Tango's; Holm's correction is over the groups of one ``kind``.
    """
    tables = []
    if frequency.members:
        members = np.array(frequency.members)
        chosen = [members == name for name in frequency.names]
        joint = np.stack([counts.joint[of].sum(axis=0) for of in chosen])
        classes = np.array([int((counts.n[of] > 0).sum()) for of in chosen])
        tables.append(_rows(FREQUENCY, frequency.names, joint, classes, level))
    for column, values in _columns(baseline, candidate).items():
        found = count_slices(baseline, candidate, column, values)
        tables.append(_rows(column, found.names, found.joint, found.classes, level))
    if not tables:
        return pd.DataFrame({name: [] for name in GROUP_COLUMNS})
    return pd.concat(tables, ignore_index=True)


def _columns(baseline: Answers, candidate: Answers) -> Mapping[str, NDArray[np.str_]]:
    columns = {**candidate.groups, **baseline.groups}
    if FREQUENCY in columns:
        raise BadInput(f"group column {FREQUENCY!r}: the groups by training images are called so; rename the column")
    return columns


def _rows(kind: str, names: Sequence[str], joint: Ints, classes: Ints, level: float) -> pd.DataFrame:
    table = pd.DataFrame({"kind": kind, "name": list(names), "classes": classes, **joint_figures(joint, level)})
    return table[GROUP_COLUMNS]


def joint_figures(joint: Ints, level: float) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
    """Return what joint counts (units, 4) say of a pair, a column (units,) each: counts, recalls and their change in
    percentage points with Tango's interval, McNemar's p and Holm's over these units (those with images)."""
    n11, n10, n01, n00 = joint.T
    n = joint.sum(axis=1)
    some = np.where(n > 0, n, np.nan)
    low, high = tango.interval(n10, n01, n, level)
    p = rates.mcnemar_p(n10, n01)
    adjusted = np.ones(len(p))
    adjusted[n > 0] = statistics.holm(p[n > 0].tolist())
    return {
        "n": n,
        "recall_baseline": 100 * (n11 + n10) / some,
        "recall": 100 * (n11 + n01) / some,
        "change": 100 * (n01 - n10) / some,
        # The interval is the loss's, the table tells the change.
        "change_low": -100 * high,
        "change_high": -100 * low,
        "n11": n11,
        "n10": n10,
        "n01": n01,
        "n00": n00,
        "p_mcnemar": p,
        "p_adjusted": adjusted,
    }

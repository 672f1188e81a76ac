"""Drop, imbalance gap and excess gap: per seed, and their means with t intervals over the seeds.

D(m,s) = A(reference,s) - A(m,s), G(m,s) = A(m,balanced) - A(m,s), E(m,s) = D(m,s) - D(m,balanced), in percentage
points. D comes from the joint counts of one comparison, so a model and its reference always see the same images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from tailkeep.analysis import statistics
from tailkeep.analysis.cells import Arm, Cells

ARM_COLUMNS = ["dataset", "setting", "twin", "model", "method", "role", "reference"]
SEED_COLUMNS = [*ARM_COLUMNS, "seed", "accuracy", "drop", "gap", "excess"]
GAP_COLUMNS = [
    *ARM_COLUMNS,
    "seeds",
    *("drop", "drop_low", "drop_high", "gap", "gap_low", "gap_high"),
    *("relative_gap", "excess", "excess_low", "excess_high"),
]


def seed_gaps(cells: Cells, twins: Sequence[str]) -> pd.DataFrame:
    """Return one row per arm, reference, balanced twin and seed of an imbalanced cell.

    ``accuracy`` is A of the imbalanced cell. ``twins`` are the planned ones; none gives rows of twin "none" with D
    alone. What cannot be known (a twin or a reference that is missing; D and E of a cell that is compared with
    nothing, reference "self") is NaN.
    """
    rows = [
        _seed_row(cells, arm, reference, twin, seed)
        for arm in cells.arms
        for reference in cells.references(arm)
        for twin in (twins or ("none",))
        for seed in cells.seeds(arm, "imbalanced")
    ]
    return pd.DataFrame(rows, columns=SEED_COLUMNS)


def _seed_row(cells: Cells, arm: Arm, reference: str, twin: str, seed: int) -> dict[str, object]:
    accuracy = _accuracy(cells, arm, "imbalanced", seed)
    drop = _drop(cells, arm, "imbalanced", seed, reference)
    return {
        **arm._asdict(),
        "twin": twin,
        "reference": reference,
        "seed": seed,
        "accuracy": accuracy,
        "drop": drop,
        "gap": _accuracy(cells, arm, twin, seed) - accuracy,
        "excess": drop - _drop(cells, arm, twin, seed, reference),
    }


def _accuracy(cells: Cells, arm: Arm, twin: str, seed: int) -> float:
    block = cells.block(arm, twin, seed, "self")
    return math.nan if block is None else cells.accuracy(block)


def _drop(cells: Cells, arm: Arm, twin: str, seed: int, reference: str) -> float:
    block = None if reference == "self" else cells.block(arm, twin, seed, reference)
    return math.nan if block is None else cells.reference_accuracy(block) - cells.accuracy(block)


def mean_gaps(seed_table: pd.DataFrame) -> pd.DataFrame:
    """Return the means over seeds of ``seed_gaps``' rows with 95 % t intervals, one row per arm, reference and twin.

    A row uses the seeds for which all of D, G and E are there, so that its figures add up; where none has E, the
    seeds with what there is. ``relative_gap`` is the mean of G / A(balanced), a share. ``seeds`` counts the seeds used.
    """
    rows = [
        {**dict(zip(ARM_COLUMNS, key, strict=True)), **_means(_usable(group))}
        for key, group in seed_table.groupby(ARM_COLUMNS, sort=False)
    ]
    return pd.DataFrame(rows, columns=GAP_COLUMNS)


def _usable(group: pd.DataFrame) -> pd.DataFrame:
    for column in ("excess", "drop", "gap"):
        there = group[group[column].notna()]
        if len(there):
            return there
    return group


def _means(group: pd.DataFrame) -> dict[str, float | int]:
    row: dict[str, float | int] = {"seeds": len(group)}
    for column in ("drop", "gap", "excess"):
        values = group[column].dropna().to_numpy(dtype=np.float64)
        row[column] = statistics.mean_and_spread(values)[0]
        row[f"{column}_low"], row[f"{column}_high"] = statistics.t_interval(values)
    balanced = group["accuracy"] + group["gap"]
    share = (group["gap"] / balanced.where(balanced > 0)).dropna()
    row["relative_gap"] = float(share.mean()) if len(share) else math.nan
    return row

"""Which methods no other one beats: the recall of the worst class against each cost."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from tailkeep.analysis.cells import Arm, Cells
from tailkeep.analysis.deployment import CELL_COLUMNS
from tailkeep.evaluation import metrics

SIZE_AXES = ("packed_bytes", "file_bytes", "macs")
PARETO_COLUMNS = [
    *(*CELL_COLUMNS, "seeds", "worst_recall", "worst_class", "accuracy"),
    *("axis", "batch", "cost", "cost_low", "cost_high", "on_frontier"),
]
DIGITS = 9
"""Decimals to which recalls and costs are compared: a mean over seeds may differ in its last bit and be the same."""


def on_frontier(cost: ArrayLike, value: ArrayLike) -> NDArray[np.bool_]:
    """Tell which points no other one beats: none has at least the value at no more cost, with one of them better.

    Points that are equal in both stand or fall together. Neither array may hold NaN.
    """
    costs, values = (np.round(np.asarray(given, dtype=np.float64), DIGITS) for given in (cost, value))
    if costs.ndim != 1 or costs.shape != values.shape or np.isnan(costs).any() or np.isnan(values).any():
        raise ValueError("expected two 1-D arrays of one length without NaN")
    found = np.zeros(costs.shape, dtype=np.bool_)
    best = -np.inf
    # From the cheapest on: of equal costs the best counts, where it is better than all that cost less.
    for each in np.unique(costs):
        same = costs == each
        top = values[same].max()
        if top > best:
            found |= same & (values == top)
            best = top
    return found


def worst_classes(cells: Cells, arm: Arm, twin: str) -> str:
    """Name the class that an arm recognises least, most often first where it differs between seeds."""
    names: Counter[str] = Counter()
    for seed in cells.seeds(arm, twin):
        block = cells.block(arm, twin, seed, "self")
        index = metrics.worst_of_recalls(block.recall)[0] if block is not None else -1
        if block is not None and index >= 0:
            names[block.class_names[index]] += 1
    return " / ".join(name for name, _ in names.most_common()) if len(names) <= 3 else f"{len(names)} classes"


def pareto_table(cells: Cells, accuracy: pd.DataFrame, size: pd.DataFrame, latency: pd.DataFrame) -> pd.DataFrame:
    """Return one row an imbalanced arm and cost that is known of it, and whether it stands on that cost's frontier.

    A frontier is that of one dataset, setting and model. ``accuracy``, ``size`` and ``latency`` are the analysis' own.
    """
    arms = accuracy[(accuracy["twin"] == "imbalanced") & accuracy["worst_recall"].notna()]
    arms = arms[[*CELL_COLUMNS, "seeds", "worst_recall", "accuracy"]].copy()
    arms["worst_class"] = [
        worst_classes(cells, Arm(*(str(value) for value in row)), "imbalanced")
        for row in arms[["dataset", "setting", "model", "method", "role"]].itertuples(index=False)
    ]
    parts = [_with_cost(arms, costs) for costs in (*_size_costs(size), *_latency_costs(latency))]
    parts = [part for part in parts if len(part)]
    if not parts:
        return pd.DataFrame(columns=PARETO_COLUMNS)
    table = pd.concat(parts, ignore_index=True)
    table["on_frontier"] = False
    for _, rows in table.groupby(["dataset", "setting", "model", "axis", "batch"], sort=False):
        table.loc[rows.index, "on_frontier"] = on_frontier(rows["cost"], rows["worst_recall"])
    return table[PARETO_COLUMNS]


def _size_costs(size: pd.DataFrame) -> list[pd.DataFrame]:
    found = []
    for axis in SIZE_AXES:
        if axis in size.columns:
            costs = size[CELL_COLUMNS].assign(axis=axis, batch=0, cost=size[axis].astype("float64"))
            found.append(costs.assign(cost_low=np.nan, cost_high=np.nan))
    return found


def _latency_costs(latency: pd.DataFrame) -> list[pd.DataFrame]:
    found = []
    for batch in sorted(latency["batch"].unique()):
        rows = latency[latency["batch"] == batch]
        costs = rows[CELL_COLUMNS].assign(axis="latency", batch=int(batch), cost=rows["median_ms"])
        found.append(costs.assign(cost_low=rows["low_ms"], cost_high=rows["high_ms"]))
    return found


def _with_cost(arms: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """Join in the arms' order; an arm without the cost is left out."""
    return arms.merge(costs[costs["cost"].notna()], on=CELL_COLUMNS, how="inner")

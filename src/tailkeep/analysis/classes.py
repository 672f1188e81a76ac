"""Tables over classes and cells: recall by frequency rank, accuracy and its kin, size beside worst-class recall."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tailkeep.analysis import statistics
from tailkeep.analysis.cells import Arm, Block, Cells
from tailkeep.analysis.deployment import CELL_COLUMNS, FILE_COLUMNS, file_figures, with_files
from tailkeep.analysis.groups import Groups
from tailkeep.errors import BadInput
from tailkeep.evaluation import metrics

Floats = NDArray[np.float64]

ACCURACY_COLUMNS = [
    *CELL_COLUMNS,
    "seeds",
    *("accuracy", "accuracy_sd", "worst_recall", "worst_class", "g_mean", "macro_f1", "macro_recall"),
]
RECALL_COLUMNS = [
    *CELL_COLUMNS,
    *("reference", "seeds", "class_name", "rank", "train_count", "group"),
    *("recall", "recall_low", "recall_high", "change", "change_low", "change_high"),
]
SIZE_COLUMNS = [*CELL_COLUMNS, "weights", "macs", "packed_bytes", "worst_recall", "accuracy"]


def _arm_twins(cells: Cells) -> list[tuple[Arm, str]]:
    return [(arm, twin) for arm in cells.arms for twin in ("imbalanced", "full", "matched") if cells.seeds(arm, twin)]


def accuracy_table(cells: Cells) -> pd.DataFrame:
    """Return one row per arm and twin: means over the seeds, all in percentage points (G-mean and F1 times 100).

    ``worst_recall`` is the mean of each seed's lowest recall, ``worst_class`` the class that it most often is;
    ``accuracy_sd`` is the standard deviation over seeds (NaN for one).
    """
    rows = []
    for arm, twin in _arm_twins(cells):
        blocks = [b for s in cells.seeds(arm, twin) if (b := cells.block(arm, twin, s, "self")) is not None]
        recalls = [block.recall for block in blocks]
        known = [value for block in blocks if not math.isnan(value := cells.accuracy(block))]
        mean, spread = statistics.mean_and_spread(known)
        worst = [metrics.worst_of_recalls(recall) for recall in recalls]
        names = Counter(block.class_names[index] for block, (index, _) in zip(blocks, worst, strict=True) if index >= 0)
        f1 = [metrics.f1_of_counts(b.tp, b.fp, b.fn).mean() for b in blocks]
        rows.append(
            {
                **arm._asdict(),
                "twin": twin,
                "seeds": len(blocks),
                "accuracy": mean,
                "accuracy_sd": spread,
                "worst_recall": 100 * float(np.mean([recall for _, recall in worst])),
                "worst_class": names.most_common(1)[0][0] if names else "",
                "g_mean": 100 * float(np.mean([metrics.g_mean_of_recalls(r) for r in recalls])),
                "macro_f1": 100 * float(np.mean(f1)),
                "macro_recall": 100 * float(np.mean([metrics.mean_of_recalls(r) for r in recalls])),
            }
        )
    return pd.DataFrame(rows, columns=ACCURACY_COLUMNS)


def recall_table(cells: Cells, groups: Groups) -> pd.DataFrame:
    """Return one row per arm, twin, reference and frequency rank, means over the seeds in percentage points.

    Ranks are those of the imbalanced cell (0 = most frequent), so where the class order differs between seeds a row
    joins different classes, and ``class_name`` names them all. Intervals are t intervals over seeds; with one seed
    ``recall`` has Wilson's and ``change`` none.
    """
    rows: list[dict[str, object]] = []
    for arm, twin in _arm_twins(cells):
        for reference in cells.references(arm):
            rows.extend(_rank_rows(cells, groups, arm, twin, reference))
    return pd.DataFrame(rows, columns=RECALL_COLUMNS)


def _rank_rows(cells: Cells, groups: Groups, arm: Arm, twin: str, reference: str) -> list[dict[str, object]]:
    blocks: list[tuple[tuple[str, str, int], Block]] = []
    for seed in cells.seeds(arm, twin):
        place = (arm.dataset, arm.setting, seed)
        block = cells.block(arm, twin, seed, reference)
        # Without an imbalanced cell of the seed its ranks are not known.
        if block is not None and place in groups.rank:
            blocks.append((place, block))
    if not blocks:
        return []
    rows = []
    for rank in range(len(blocks[0][1].class_names)):
        at = [(place, block, int(np.flatnonzero(groups.rank[place] == rank)[0])) for place, block in blocks]
        place, _, index = at[0]
        members = groups.members.get(place, ())
        row: dict[str, object] = {
            **arm._asdict(),
            "twin": twin,
            "reference": reference,
            "seeds": len(at),
            "class_name": _joined([block.class_names[i] for _, block, i in at]),
            "rank": rank,
            "train_count": round(float(np.mean([block.train_count[i] for _, block, i in at]))),
            "group": members[index] if members else "",
        }
        row.update(_recall_figures([(block, i) for _, block, i in at]))
        change = np.array([block.recall_change[i] for _, block, i in at]) if reference != "self" else np.array([])
        row.update(_change_figures(change))
        rows.append(row)
    return rows


def _joined(names: list[str]) -> str:
    different = list(dict.fromkeys(names))
    return " / ".join(different) if len(different) <= 3 else f"{len(different)} classes"


def _recall_figures(at: list[tuple[Block, int]]) -> dict[str, float]:
    recalls = np.array([100 * block.recall[i] for block, i in at])
    known = recalls[~np.isnan(recalls)]
    if len(at) == 1:
        block, i = at[0]
        low, high = (100 * bound for bound in statistics.wilson(int(block.tp[i]), int(block.n[i])))
    else:
        low, high = statistics.t_interval(known)
        # A t interval over few seeds knows no ends; a recall does.
        low, high = (bound if math.isnan(bound) else min(100.0, max(0.0, bound)) for bound in (low, high))
    return {"recall": statistics.mean_and_spread(known)[0], "recall_low": low, "recall_high": high}


def _change_figures(change: Floats) -> dict[str, float]:
    known = change[~np.isnan(change)]
    low, high = statistics.t_interval(known)
    return {"change": statistics.mean_and_spread(known)[0], "change_low": low, "change_high": high}


def size_table(sizes: pd.DataFrame, accuracy: pd.DataFrame) -> pd.DataFrame:
    """Return weights, MACs and packed bytes per arm and twin (means over seeds), beside its accuracy table's figures.

    Where ``sizes`` tells of exported files, their figures (``deployment.FILE_COLUMNS``) stand between.
    Raises BadInput where ``sizes`` has rows but lacks a column.
    """
    figures = ["weights", "macs", "packed_bytes"]
    if sizes.empty:
        return pd.DataFrame(columns=SIZE_COLUMNS)
    lacking = [name for name in (*CELL_COLUMNS, *figures) if name not in sizes.columns]
    if lacking:
        raise BadInput(f"sizes: columns are missing: {', '.join(lacking)}")
    means = sizes.groupby(CELL_COLUMNS, sort=False)[figures].mean().reset_index()
    for name in figures:
        # Seeds of one arm have one shape, as a rule: keep whole numbers whole.
        if (means[name] % 1 == 0).all():
            means[name] = means[name].astype("int64")
    beside = accuracy[[*CELL_COLUMNS, "worst_recall", "accuracy"]]
    table = means.merge(beside, on=CELL_COLUMNS, how="left")[SIZE_COLUMNS]
    files = with_files(sizes)
    if files is None:
        return table
    table = table.merge(file_figures(files), on=CELL_COLUMNS, how="left")
    return table[[*CELL_COLUMNS, *figures, *FILE_COLUMNS, "worst_recall", "accuracy"]]

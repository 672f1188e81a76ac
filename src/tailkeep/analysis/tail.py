"""What compression does to the tail and to single classes, against its reference."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tailkeep.analysis import statistics
from tailkeep.analysis.cells import Arm, Block, Cell, Cells
from tailkeep.analysis.groups import Groups
from tailkeep.evaluation import metrics

Floats = NDArray[np.float64]

GROUP_COLUMNS = ["recall_change_many", "recall_change_medium", "recall_change_few"]
TAIL_COLUMNS = [
    *("dataset", "setting", "twin", "model", "method", "role", "reference", "seeds"),
    *("tail_share", "tail_share_low", "tail_share_high", "slope", "excess_risk_gap", "churn", "churn_floor"),
    *GROUP_COLUMNS,
]


def tail_table(cells: Cells, groups: Groups) -> pd.DataFrame:
    """Return one row per arm, twin of the cell and reference, means over the seeds.

    ``tail_share`` (pp): mean recall loss of the rarest group minus that of the most frequent; ``slope`` of the
    normalised recalls (Good et al. 2022); ``excess_risk_gap`` (nats; Tran et al. 2022); ``churn`` and its floor
    between dense models of two seeds (shares); mean recall change by group (pp). Rows compared with nothing are left
    out.
    """
    rows = []
    for arm in cells.arms:
        for twin in _twins(cells, arm):
            for reference in cells.references(arm):
                row = _row(cells, groups, arm, twin, reference)
                if row is not None:
                    rows.append(row)
    return pd.DataFrame(rows, columns=TAIL_COLUMNS)


def _twins(cells: Cells, arm: Arm) -> list[str]:
    return [twin for twin in ("imbalanced", "full", "matched") if cells.seeds(arm, twin)]


def _row(cells: Cells, groups: Groups, arm: Arm, twin: str, reference: str) -> dict[str, object] | None:
    per_seed: list[dict[str, float]] = []
    for seed in cells.seeds(arm, twin):
        block = None if reference == "self" else cells.block(arm, twin, seed, reference)
        if block is None:
            continue
        changes = group_changes(block, groups, (arm.dataset, arm.setting, seed))
        baseline = _reference_block(cells, Cell(arm, twin, seed), reference, block)
        per_seed.append(
            {
                **changes,
                "tail_share": changes["recall_change_many"] - changes["recall_change_few"],
                "slope": metrics.recall_slope(block.recall, metrics.rate_of_counts(block.reference_tp, block.n)),
                "excess_risk_gap": math.nan if baseline is None else excess_risk_gap(block, baseline),
                "churn": _churn(block),
            }
        )
    if not per_seed:
        return None
    row: dict[str, object] = {**arm._asdict(), "twin": twin, "reference": reference, "seeds": len(per_seed)}
    for name in per_seed[0]:
        row[name] = _mean([values[name] for values in per_seed])
    shares = [values["tail_share"] for values in per_seed]
    known = np.array([share for share in shares if not math.isnan(share)])
    row["tail_share_low"], row["tail_share_high"] = statistics.t_interval(known)
    row["churn_floor"] = _churn_floor(cells, arm, twin)
    return row


def group_changes(block: Block, groups: Groups, place: tuple[str, str, int]) -> dict[str, float]:
    """Return the mean recall change of each group in pp, under ``GROUP_COLUMNS``; NaN for a group that is not there."""
    positions = groups.positions(place)
    change = block.recall_change
    return {
        column: _mean(change[positions[slot]].tolist()) if slot in positions else math.nan
        for column, slot in zip(GROUP_COLUMNS, ("many", "medium", "few"), strict=True)
    }


def excess_risk_gap(block: Block, reference: Block) -> float:
    """Return the largest difference between two classes in the change of mean loss, in nats (Tran et al. 2022).

    Both blocks hold the same test images. NaN where no class has images.
    """
    change = block.mean_loss - reference.mean_loss
    known = change[~np.isnan(change)]
    return float(known.max() - known.min()) if known.size else math.nan


def _reference_block(cells: Cells, cell: Cell, reference: str, block: Block) -> Block | None:
    """Return the reference's own counts, which hold its losses; None where its cell is not in the frame.

    The frame does not name the reference's cell, so it is looked for by its role, first under the same model, and
    taken only if it has the same images right per class.
    """
    place = (cell.arm.dataset, cell.arm.setting, cell.twin, cell.seed)
    nearby = [(c.arm, own) for c, own in cells.own.items() if (c.arm.dataset, c.arm.setting, c.twin, c.seed) == place]
    if reference == "student_alone":
        nearby = [(arm, own) for arm, own in nearby if arm.role in ("control", "dense")]
        # A student alone may be another family's dense model, shared.
        nearby.sort(key=lambda item: (item[0].model != cell.arm.model, f"({cell.arm.method})" not in item[0].method))
    elif reference == "continued":
        nearby = [(arm, own) for arm, own in nearby if arm.role == "control" and arm.model == cell.arm.model]
    else:
        nearby = [(arm, own) for arm, own in nearby if arm.role == "dense"]
        nearby.sort(key=lambda item: item[0].model != cell.arm.model)
    matching = [own for _, own in nearby if np.array_equal(own.tp, block.reference_tp)]
    return matching[0] if matching else None


def _churn(block: Block) -> float:
    total = int(block.n.sum())
    return float(block.changed.sum()) / total if total else math.nan


def _churn_floor(cells: Cells, arm: Arm, twin: str) -> float:
    """Return the mean churn between the dense model and one of another seed; NaN where it was not measured."""
    dense = [a for a in cells.arms if a.role == "dense" and a[:3] == arm[:3]]
    blocks = [cells.block(a, twin, seed, "other_seed") for a in dense for seed in cells.seeds(a, twin)]
    return _mean([_churn(block) for block in blocks if block is not None])


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are known; NaN for none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(np.nanmean(values)) if len(values) else math.nan

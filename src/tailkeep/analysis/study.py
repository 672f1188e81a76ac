"""From the frame of a study to everything that its report draws."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from tailkeep import frame as frames
from tailkeep.analysis.cells import read_cells
from tailkeep.analysis.classes import accuracy_table, recall_table, size_table
from tailkeep.analysis.deployment import agreement_notes, latency_table
from tailkeep.analysis.gaps import mean_gaps, seed_gaps
from tailkeep.analysis.groups import make_groups
from tailkeep.analysis.notes import make_notes
from tailkeep.analysis.pareto import pareto_table
from tailkeep.analysis.repairs import repair_tables
from tailkeep.analysis.result import StudyAnalysis
from tailkeep.analysis.tail import tail_table
from tailkeep.analysis.verdict import contrasts, judge
from tailkeep.errors import BadInput

FAILURE_COLUMNS = ["dataset", "setting", "twin", "model", "method", "seed", "reason", "detail"]


def analyse(
    frame: pd.DataFrame,
    sizes: pd.DataFrame,
    failures: pd.DataFrame,
    *,
    latency: pd.DataFrame | None = None,
    name: str,
    margin: float = 1.0,
    cuts: tuple[int, int] = (20, 100),
    planned_twins: tuple[str, ...],
    provenance: Mapping[str, Any],
    notes: Sequence[str] = (),
    split: str = "test",
    stages: pd.DataFrame | None = None,
    untwinned: Collection[tuple[str, str, str]] = (),
) -> StudyAnalysis:
    """Return the tables and verdicts of a study.

    ``frame`` has ``tailkeep.frame.COLUMNS``; ``sizes`` has dataset, setting, twin, model, method, role, seed, weights,
    macs, packed_bytes; ``failures`` dataset, setting, twin, model, method, seed, reason, detail (both may be empty).
    ``sizes`` may also have ``deployment.FILE_COLUMNS``, NaN where a cell was not exported. ``latency`` has a row a cell
    and batch size, without seeds: dataset, setting, twin, model, method, role, batch, median_ms, low_ms, high_ms,
    ratio, ratio_low, ratio_high (time over the dense model's), threads, bits_note (why there is no time).
    ``stages`` has ``repairs.STAGE_COLUMNS``: where each model answers imbalance (None: no analysis of repairs).
    ``margin`` is in pp, ``cuts`` in training images, ``planned_twins`` among "full" and "matched"; ``untwinned`` are
    the (dataset, model, method) for which none is planned all the same.

    Missing cells are never an error: figures come from the seeds for which both sides are there, and the notes say so.
    Raises BadInput where a frame's columns or counts do not hold, or an option has no meaning.
    """
    _check_options(margin, planned_twins, split)
    frame = _checked(frame)
    failed, cells = _failures(failures), read_cells(frame, split)
    groups, primary = make_groups(cells, cuts), _primary(planned_twins)
    per_seed, accuracy = seed_gaps(cells, planned_twins), accuracy_table(cells)
    made = contrasts(cells, groups, per_seed, failed, primary, untwinned, _repairs(stages))
    size, times, gaps = size_table(sizes, accuracy), latency_table(latency), mean_gaps(per_seed)
    notes = [*agreement_notes(sizes, cells), *notes, *make_notes(cells, groups, per_seed, made, failed, planned_twins)]
    return StudyAnalysis(
        name=name,
        margin=margin,
        primary_twin=primary,
        group_names=groups.names,
        group_rule=groups.rule,
        accuracy_is="accuracy" if cells.balanced_test else "mean recall",
        seeds=cells.seeds(),
        verdicts=judge(made, primary, margin, name_dataset=len({arm.dataset for arm in cells.arms}) > 1),
        accuracy=accuracy,
        gaps=gaps,
        recall=recall_table(cells, groups),
        tail=tail_table(cells, groups),
        size=size,
        failures=failed,
        seed_gaps=per_seed,
        notes=tuple(dict.fromkeys(notes)),
        provenance=dict(provenance),
        latency=times,
        pareto=pareto_table(cells, accuracy, size, times),
        repairs=repair_tables(frame, stages, sizes, gaps, split=split, groups=groups),
    )


def _check_options(margin: float, planned_twins: Sequence[str], split: str) -> None:
    if not 0 < margin < 100:
        raise BadInput(f"margin: expected percentage points above 0 and below 100, got {margin}")
    unknown = [twin for twin in planned_twins if twin not in ("full", "matched")]
    if unknown or len(set(planned_twins)) != len(planned_twins):
        raise BadInput(f"planned twins: expected each of full, matched at most once, got {', '.join(planned_twins)}")
    if split not in frames.ALLOWED["split"]:
        raise BadInput(f"split: expected one of {', '.join(frames.ALLOWED['split'])}, got {split!r}")


def _repairs(stages: pd.DataFrame | None) -> set[tuple[str, str, str]]:
    """The (dataset, model, method) that make nothing smaller in any setting."""
    if stages is None or stages.empty:
        return set()
    smaller = stages.groupby(["dataset", "model", "method"])["compressed"].any()
    return {(str(a), str(b), str(c)) for a, b, c in smaller.index[~smaller.to_numpy(dtype=bool)]}


def _primary(planned_twins: Sequence[str]) -> str:
    return "full" if "full" in planned_twins else "matched" if planned_twins else "none"


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frames.build([]) if frame.empty else frame
    frames.check(frame)
    return frame


def _failures(failures: pd.DataFrame) -> pd.DataFrame:
    if failures.empty:
        return pd.DataFrame(columns=FAILURE_COLUMNS)
    lacking = [column for column in FAILURE_COLUMNS if column not in failures.columns]
    if lacking:
        raise BadInput(f"failures: columns are missing: {', '.join(lacking)}")
    return failures[FAILURE_COLUMNS].reset_index(drop=True)

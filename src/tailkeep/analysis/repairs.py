"""Where to repair: models that answer imbalance before, during or after compression, beside the plain dense model.

What is picked out (the best repaired model of full size, the best of a stage) is picked on validation images, never on
the images that the figures come from. Every difference is paired by seed, with a 95 % t interval over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from tailkeep.analysis.cells import PRIMARY_REFERENCES
from tailkeep.analysis.groups import Groups, make_groups
from tailkeep.analysis.repair_choice import Group, best_on_validation, size_groups, smaller
from tailkeep.analysis.repair_rows import (
    UNKNOWN,
    Difference,
    Pair,
    Row,
    mean,
    paired,
    read_imbalanced,
    read_rows,
)
from tailkeep.analysis.repair_words import Namer, make_sentences
from tailkeep.analysis.result import RepairAnalysis as RepairAnalysis
from tailkeep.analysis.verdict import MIN_SEEDS
from tailkeep.errors import BadInput

STAGE_COLUMNS = ["dataset", "setting", "twin", "model", "method", "before", "during", "after", "compressed"]
REPAIR_COLUMNS = [
    *("dataset", "setting", "model", "method", "role", "stage", "compressed", "seeds", "packed_bytes", "times_smaller"),
    *("balanced_accuracy", "worst_class_recall", "tail_recall", "gain", "gain_low", "gain_high"),
    *("gain_worst", "gain_worst_low", "gain_worst_high", "below_best", "below_best_low", "below_best_high"),
    *("below_best_worst", "below_best_worst_low", "below_best_worst_high", "excess", "excess_low", "excess_high"),
    "validation_accuracy",
]
WHERE_COLUMNS = [
    *("dataset", "setting", "smaller_from", "smaller_to", "stage", "rows", "chosen_on", "model", "method"),
    *("times_smaller", "balanced_accuracy", "worst_class_recall", "gain", "gain_low", "gain_high"),
    *("below_best", "below_best_low", "below_best_high", "validation_accuracy"),
]
SUMMARY_COLUMNS = [
    *("dataset", "setting", "method", "stage", "rows", "smaller_from", "smaller_to"),
    *("gain_least", "gain_most", "worst_least", "worst_most"),
]


def repair_tables(
    frame: pd.DataFrame,
    stages: pd.DataFrame | None,
    sizes: pd.DataFrame,
    gaps: pd.DataFrame,
    baseline_model: str | None = None,
    *,
    split: str = "test",
    groups: Groups | None = None,
) -> tuple[RepairAnalysis, ...]:
    """Return one analysis an imbalanced (dataset, setting) with a baseline and a repaired model, in the frame's order.

    ``frame`` has ``tailkeep.frame.COLUMNS``, all splits; ``stages`` has ``STAGE_COLUMNS`` (None: no analysis);
    ``sizes`` has dataset, setting, twin, model, method, seed, packed_bytes (or no row); ``gaps`` is the analysis' own
    table. Figures come from ``split``, choices from its "validation" rows. ``baseline_model`` is the model whose dense
    cell is the baseline (None: the first dense cell without any repair); ``groups`` are the study's (None: made from
    this frame).
    Raises BadInput where ``stages`` or ``sizes`` lacks a column.
    """
    if stages is None:
        return ()
    _need("stages", stages, STAGE_COLUMNS)
    if len(sizes):
        _need("sizes", sizes, ["dataset", "setting", "twin", "model", "method", "seed", "packed_bytes"])
    cells = read_imbalanced(frame, split)
    held_out = read_imbalanced(frame, "validation")
    groups = make_groups(cells) if groups is None else groups
    found = []
    for place in dict.fromkeys((arm.dataset, arm.setting) for arm in cells.arms):
        if not groups.is_imbalanced(*place):
            continue
        rows = read_rows(place, cells, held_out if held_out.own else None, groups, stages, sizes)
        made = _analysis(place, rows, gaps, baseline_model, split)
        found += [] if made is None else [made]
    return tuple(found)


def repair_table(
    frame: pd.DataFrame,
    stages: pd.DataFrame,
    sizes: pd.DataFrame,
    gaps: pd.DataFrame,
    baseline_model: str | None = None,
    *,
    split: str = "test",
    groups: Groups | None = None,
) -> RepairAnalysis | None:
    """Return the analysis of a frame of one (dataset, setting); None without a baseline or without any repair.

    As ``repair_tables``; raises ValueError where the frame holds several datasets or settings.
    """
    if len(frame[["dataset", "setting"]].drop_duplicates()) > 1:
        raise ValueError("repair_table: the frame holds several datasets or settings; use repair_tables")
    found = repair_tables(frame, stages, sizes, gaps, baseline_model, split=split, groups=groups)
    return found[0] if found else None


def _need(what: str, table: pd.DataFrame, columns: Sequence[str]) -> None:
    lacking = [name for name in columns if name not in table.columns]
    if lacking:
        raise BadInput(f"{what}: columns are missing: {', '.join(lacking)}")


def _analysis(
    place: tuple[str, str], every: list[Row], gaps: pd.DataFrame, baseline_model: str | None, split: str
) -> RepairAnalysis | None:
    plain = [row for row in every if row.role == "dense" and not row.repaired and not row.compressed and row.seeds]
    baseline = next((row for row in plain if baseline_model in (None, row.model)), None)
    if baseline is None:
        return None
    rows = [row.only(baseline.seeds) for row in every]
    rows = [row for row in rows if row.seeds]
    if not any(row.repaired for row in rows):
        return None
    whole = [row for row in rows if row.repaired and not row.compressed]
    best = best_on_validation(whole)
    excess = _excess(gaps, place)
    names = Namer(tuple(dict.fromkeys(row.model for row in rows)))
    where = size_groups(rows, baseline)
    ranked = sorted(whole, key=lambda row: -mean(row.held_out)) if best and all(r.held_out for r in whole) else []
    compared = [_table_row(place, row, baseline, best, excess.get(row.pair, UNKNOWN)) for row in rows]
    return RepairAnalysis(
        *place,
        baseline=baseline.pair,
        best=None if best is None else best.pair,
        best_chosen_on="validation" if best else "",
        table=pd.DataFrame(compared, columns=REPAIR_COLUMNS),
        where=pd.DataFrame(_where_rows(place, where, baseline, best), columns=WHERE_COLUMNS),
        summary=pd.DataFrame(_summary(place, rows, baseline), columns=SUMMARY_COLUMNS),
        order=tuple(row.pair for row in ranked),
        sentences=tuple(make_sentences(where, baseline, best, ranked, names)),
        notes=tuple(_notes(every, rows, plain, baseline, whole, names, split)),
    )


def _excess(gaps: pd.DataFrame, place: tuple[str, str]) -> dict[Pair, Difference]:
    """Return E by row: against its own dense model, a student's against its teacher, by the primary twin."""
    found: dict[Pair, Difference] = {}
    if gaps.empty:
        return found
    primary = "full" if (gaps["twin"] == "full").any() else "matched"
    mine = gaps[(gaps["dataset"] == place[0]) & (gaps["setting"] == place[1]) & (gaps["twin"] == primary)]
    for reference in PRIMARY_REFERENCES:
        columns = ["model", "method", "excess", "excess_low", "excess_high", "seeds"]
        for model, method, *figures in mine.loc[mine["reference"] == reference, columns].itertuples(index=False):
            found.setdefault((str(model), str(method)), Difference(*figures))
    return found


def _spread(name: str, found: Difference) -> dict[str, float]:
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _table_row(
    place: tuple[str, str], row: Row, baseline: Row, best: Row | None, excess: Difference
) -> dict[str, object]:
    return {
        **dict(zip(("dataset", "setting"), place, strict=True)),
        **{name: getattr(row, name) for name in ("model", "method", "role", "stage", "compressed")},
        "seeds": len(row.seeds),
        "packed_bytes": mean(row.packed),
        "times_smaller": smaller(row, baseline),
        "balanced_accuracy": mean(row.balanced),
        "worst_class_recall": mean(row.worst),
        "tail_recall": mean(row.tail),
        **_spread("gain", _against(row, baseline, "balanced")),
        **_spread("gain_worst", _against(row, baseline, "worst")),
        **_spread("below_best", _below(row, best, "balanced")),
        **_spread("below_best_worst", _below(row, best, "worst")),
        **_spread("excess", excess),
        "validation_accuracy": mean(row.held_out),
    }


def _against(row: Row, other: Row, what: str) -> Difference:
    found = paired(getattr(row, what), getattr(other, what))
    # Against itself the difference is 0 by definition, and an interval would claim a measurement.
    return found._replace(low=math.nan, high=math.nan) if row.pair == other.pair else found


def _below(row: Row, best: Row | None, what: str) -> Difference:
    return UNKNOWN if best is None else _turned(_against(row, best, what))


def _turned(found: Difference) -> Difference:
    return Difference(0.0 - found.mean, 0.0 - found.high, 0.0 - found.low, found.seeds)


def _where_rows(
    place: tuple[str, str], groups: Sequence[Group], baseline: Row, best: Row | None
) -> list[dict[str, object]]:
    """Return a row a size and stage; where none could be picked, its names are empty and its figures NaN."""
    found = []
    copied = [name for name in WHERE_COLUMNS if name in REPAIR_COLUMNS]
    for group in groups:
        for stage, row in group.picked.items():
            many = sum(each.stage == stage for each in group.rows)
            sizes = {"smaller_from": group.smaller[0], "smaller_to": group.smaller[1]}
            chosen = "" if row is None else "the only one" if many == 1 else "validation"
            told: dict[str, object] = {"dataset": place[0], "setting": place[1], "model": "", "method": ""}
            if row is not None:
                figures = _table_row(place, row, baseline, best, UNKNOWN)
                told = {name: figures[name] for name in copied}
            found.append({**told, **sizes, "stage": stage, "rows": many, "chosen_on": chosen})
    return found


def _summary(place: tuple[str, str], rows: Sequence[Row], baseline: Row) -> list[dict[str, object]]:
    """Return a row a compressed method and stage, with the least and the most over its models: nothing is picked."""
    families: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.compressed:
            families.setdefault((row.method, row.stage), []).append(row)
    found: list[dict[str, object]] = []
    for (method, stage), mine in families.items():
        gains = [paired(row.balanced, baseline.balanced).mean for row in mine]
        sizes = [smaller(row, baseline) for row in mine]
        worst = [mean(row.worst) for row in mine]
        who = {"dataset": place[0], "setting": place[1], "method": method, "stage": stage}
        ends = {"smaller_from": min(sizes), "smaller_to": max(sizes), "gain_least": min(gains), "gain_most": max(gains)}
        found.append({**who, "rows": len(mine), **ends, "worst_least": min(worst), "worst_most": max(worst)})
    return found


def _notes(
    every: Sequence[Row],
    rows: Sequence[Row],
    plain: Sequence[Row],
    baseline: Row,
    whole: Sequence[Row],
    names: Namer,
    split: str,
) -> list[str]:
    """Say what is missing, and what a choice rests on."""
    notes = []
    others = [names.of(row) for row in plain if row.pair != baseline.pair]
    if others:
        text = "also trained without a repair"
        notes.append(f"The baseline is {names.of(baseline)}; {text}: {', '.join(others)}.")
    if whole and not any(row.held_out for row in whole):
        notes.append(
            "No validation images were predicted, and nothing is picked on the images that the figures come from: no "
            "best repaired model of full size, so no distance to it."
        )
    elif any(row.held_out for row in rows):
        lost = [names.of(row) for row in rows if not row.held_out]
        notes += [f"Without validation images, so never picked: {', '.join(lost)}."] if lost else []
        if split == "validation":
            notes.append(
                "The figures come from the very validation images that the best were picked on, and flatter them."
            )
    if not whole:
        notes.append("No repaired model of full size is there, so no distance to the best one.")
    few = [row for row in rows if len(row.seeds) < len(baseline.seeds)]
    if few:
        which = ", ".join(f"{names.of(row)} ({len(row.seeds)})" for row in few)
        notes.append(f"Fewer seeds than the baseline's {len(baseline.seeds)}: {which}.")
    kept = {row.pair for row in rows}
    gone = [names.of(row) for row in every if row.pair not in kept]
    notes += [f"No seed in common with the baseline, so left out: {', '.join(gone)}."] if gone else []
    if len(baseline.seeds) >= MIN_SEEDS:
        notes.append("Intervals hold one by one; they are not widened for the number of models beside each other.")
    return notes

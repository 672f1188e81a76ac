"""The section "Where to repair": sentences, a figure and a table for each (dataset, setting) that was analysed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from tailkeep.analysis.result import RepairAnalysis
from tailkeep.report import words
from tailkeep.report.canvas import Figure
from tailkeep.report.repair_chart import named, repair_figure
from tailkeep.report.repair_panel import stage_name
from tailkeep.report.select import View, clean_frame
from tailkeep.report.tables import Cell, Column, Row, Table, figure, made, order, records, text

FILES = {"repairs": "table", "repairs_where": "where", "repairs_summary": "summary"}
"""The CSV files of the section, and the frame of each (dataset, setting) that they join."""


def analyses(view: View) -> list[tuple[str, RepairAnalysis]]:
    """Return each analysis, all its texts printable, with the name of its figure and table."""
    found = [_cleaned(repairs) for repairs in view.analysis.repairs]
    return [("repairs" if len(found) == 1 else f"repairs-{i + 1}", repairs) for i, repairs in enumerate(found)]


def _cleaned(repairs: RepairAnalysis) -> RepairAnalysis:
    def pair(given: tuple[str, str]) -> tuple[str, str]:
        return words.printable(given[0]), words.printable(given[1])

    return replace(
        repairs,
        dataset=words.printable(repairs.dataset),
        setting=words.printable(repairs.setting),
        baseline=pair(repairs.baseline),
        best=None if repairs.best is None else pair(repairs.best),
        table=clean_frame(repairs.table),
        where=clean_frame(repairs.where),
        summary=clean_frame(repairs.summary),
        order=tuple(pair(each) for each in repairs.order),
        sentences=tuple(words.printable(each) for each in repairs.sentences),
        notes=tuple(words.printable(each) for each in repairs.notes),
    )


def repair_figures(view: View) -> list[Figure | None]:
    """Draw one figure a (dataset, setting)."""
    return [repair_figure(view, repairs, name) for name, repairs in analyses(view)]


def repair_sheets(view: View) -> list[Table]:
    """Return two tables a (dataset, setting): what stands for each place at each size, and a row a model."""
    return [sheet(name, repairs) for name, repairs in analyses(view) for sheet in (_where, _sheet)]


def repair_frames(view: View) -> dict[str, pd.DataFrame]:
    """Return the section's tables with every digit, all settings below each other; {} without the section."""
    found = [repairs for _, repairs in analyses(view)]
    if not found:
        return {}
    return {
        name: pd.concat([getattr(repairs, each) for repairs in found], ignore_index=True)
        for name, each in FILES.items()
    }


def sections(view: View) -> list[dict[str, Any]]:
    """Return what the page says of each (dataset, setting): its head (empty for a lone one), sentences and notes."""
    found = analyses(view)
    datasets = {repairs.dataset for _, repairs in found}
    sections = []
    for name, repairs in found:
        head = " · ".join([*([repairs.dataset] if len(datasets) > 1 else []), repairs.setting])
        said: Sequence[str] = repairs.sentences or ("No repaired model was compressed: see the table.",)
        sections.append({"name": name, "head": head if len(found) > 1 else "", "said": said, "notes": repairs.notes})
    return sections


def _where(name: str, repairs: RepairAnalysis) -> Table:
    """Return the places side by side; where no row stands for one, its figures are dashes."""
    columns = [
        Column("Smaller", _sizes),
        Column("Repaired", lambda row: Cell(stage_name(str(row["stage"]))), number=False),
        Column("Method", lambda row: Cell(str(row["method"]) or words.NOTHING), number=False),
        *(
            [Column("Model", lambda row: Cell(str(row["model"]) or words.NOTHING), number=False)]
            if _several(repairs)
            else []
        ),
        figure("Balanced accuracy (%)", "balanced_accuracy"),
        figure("Gain (pp)", "gain", sign=True, spread=True),
        *([Column("Below the best (pp)", _spread("below_best"))] if repairs.best is not None else []),
        figure("Worst class (%)", "worst_class_recall"),
        Column("Of", lambda row: Cell(words.number(row["rows"], 0), order=order(row["rows"]))),
    ]
    said = "What stands for each place at each size: of several models the first on validation. Of: among how many."
    return made(f"{name}-where", said, columns, records(repairs.where))


def _several(repairs: RepairAnalysis) -> bool:
    return bool(repairs.table["model"].nunique() > 1)


def _sizes(row: Row) -> Cell:
    ends = [f"{words.number(row[name])}x" for name in ("smaller_from", "smaller_to") if words.known(row[name])]
    return Cell(" to ".join(dict.fromkeys(ends)) or words.NOTHING, order=order(row["smaller_from"]))


def _sheet(name: str, repairs: RepairAnalysis) -> Table:
    table = repairs.table
    several = _several(repairs)
    columns = [
        text("Method", "method"),
        *([text("Model", "model")] if several else []),
        Column("Repaired", lambda row: Cell(stage_name(str(row["stage"]))), number=False),
        Column("Smaller", _smaller),
        figure("Balanced accuracy (%)", "balanced_accuracy"),
        figure("Gain (pp)", "gain", sign=True, spread=True),
        figure("Worst class (%)", "worst_class_recall"),
        figure("Its gain (pp)", "gain_worst", sign=True, spread=True),
        *([figure("Rarest group (%)", "tail_recall")] if table["tail_recall"].notna().any() else []),
    ]
    if repairs.best is not None:
        columns += [
            Column("Below the best (pp)", _spread("below_best")),
            Column("Worst class below (pp)", _spread("below_best_worst")),
        ]
    if table["excess"].notna().any():
        columns.append(figure("Excess gap E (pp)", "excess", sign=True, spread=True))
    if table["validation_accuracy"].notna().any():
        columns.append(figure("On validation (%)", "validation_accuracy"))
    columns.append(figure("Seeds", "seeds", 0))
    return made(name, _caption(repairs), columns, records(table))


def _smaller(row: Row) -> Cell:
    value = row["times_smaller"]
    return Cell(f"{words.number(value)}x" if words.known(value) else words.NOTHING, order=order(value))


def _spread(key: str) -> Callable[[Row], Cell]:
    """Write a distance to the best; a model that is above it has a minus."""

    def cell(row: Row) -> Cell:
        small = words.interval(row[f"{key}_low"], row[f"{key}_high"])
        return Cell(words.number(row[key]), small, order(row[key]))

    return cell


def _caption(repairs: RepairAnalysis) -> str:
    said = [f"Gains are over the baseline, {named(repairs, repairs.baseline)}, paired by seed, with 95 % t intervals."]
    if repairs.best is not None:
        said.append(
            f"The best is {named(repairs, repairs.best)}, of the repaired models that were not compressed the first on "
            "validation; a minus stands above it."
        )
    said.append("Worst class: the mean of each seed's lowest recall.")
    said += ["E is against the row's own uncompressed model."] if repairs.table["excess"].notna().any() else []
    said.append("Smaller: packed bytes of the baseline over the model's.")
    return " ".join(said)

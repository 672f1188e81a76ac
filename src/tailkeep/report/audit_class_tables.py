"""The tables of an audit class by class: counts and tests, groups, calibration, seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from tailkeep.report import words
from tailkeep.report.audit_charts import calibration_words
from tailkeep.report.audit_tables import MOST_ROWS, decision_cell, rows_of, who
from tailkeep.report.audit_view import AuditView, judged
from tailkeep.report.tables import Cell, Column, Row, Table, figure, made, order, records, text

if TYPE_CHECKING:
    from tailkeep.analysis.audit import CandidateAudit

SHOWN_ROWS = 100
"""Classes that the page's tables then show: those that lost most."""


def class_sheet(view: AuditView) -> Table:
    """Return a row a class: counts, change, McNemar's test, and the gate's decision."""
    rows, left = class_rows(view)
    columns = [
        *who(view),
        Column("Class", lambda row: Cell(row["class_name"], str(row["group"])), number=False),
        *([figure("Trained on", "train_count", 0)] if view.has_training else []),
        figure(f"Test {view.images}", "n", 0),
        figure("Before (%)", "recall_baseline"),
        figure("Recall (%)", "recall", spread=True),
        figure("At least (%)", "worst_bound"),
        figure("Change (pp)", "change", sign=True, spread=True),
        *([_precision()] if view.multilabel and rows and "average_precision" in rows[0] else []),
        Column("Decision", lambda row: decision_cell(row) if row["decision"] else Cell(words.NOTHING), number=False),
        Column("McNemar p", lambda row: Cell(words.p_value(row["p_mcnemar"]), order=order(row["p_mcnemar"]))),
        Column("p (Holm)", lambda row: Cell(words.p_value(row["p_adjusted"]), order=order(row["p_adjusted"]))),
        *(
            figure(head, key, 0)
            for head, key in (("Both right", "n11"), ("Lost", "n10"), ("Won", "n01"), ("Both wrong", "n00"))
        ),
    ]
    more = f" The {SHOWN_ROWS} classes of each candidate that lost most; all are in classes.csv." if left else ""
    caption = (
        f"Lost: {view.images} that only the baseline has right. Won: that only the candidate has. Recall with "
        "Wilson's, change with Tango's interval. At least: a lower bound of the recall that holds for all classes at "
        "once. McNemar's exact test asks whether the recall changed at all, Holm's "
        f"correction is over the classes.{more}"
    )
    return made("classes", caption, columns, rows)


def _precision() -> Column:
    def cell(row: Row) -> Cell:
        before = f"before {words.number(row['average_precision_baseline'])}"
        value = row["average_precision"]
        return Cell(words.number(value), before, order(value))

    return Column("Average precision (%)", cell)


def class_rows(view: AuditView) -> tuple[list[Row], int]:
    """Return the rows that the page shows, each with its decision, and how many classes are left out."""
    rows, left = [], 0
    for each in view.candidates:
        frame = each.classes
        if len(frame) > MOST_ROWS:
            left = len(frame) - SHOWN_ROWS
            frame = frame.sort_values(["change", "class_index"], kind="stable").head(SHOWN_ROWS)
        else:
            frame = view.ordered(frame)
        checks = judged(each.gate, "class")
        for row in records(frame):
            result = checks.get(row["class_name"])
            decision = result.decision if result is not None else ""
            rows.append({**row, "candidate_name": each.name, "method": each.name, "decision": decision})
    return rows, left


def group_sheet(view: AuditView) -> Table:
    """Return a row a group of classes or of images."""
    columns = [
        *who(view),
        Column("Group", lambda row: Cell(row["name"], "" if row["kind"] == "frequency" else row["kind"]), number=False),
        figure("Classes", "classes", 0),
        figure(f"Test {view.images}", "n", 0),
        figure("Recall before (%)", "recall_baseline"),
        figure("Recall (%)", "recall"),
        figure("Change (pp)", "change", sign=True, spread=True),
        Column("McNemar p", lambda row: Cell(words.p_value(row["p_mcnemar"]), order=order(row["p_mcnemar"]))),
        Column("p (Holm)", lambda row: Cell(words.p_value(row["p_adjusted"]), order=order(row["p_adjusted"]))),
    ]
    caption = f"By group. {words.sentence(view.analysis.group_rule)}".strip()
    return made("groups", caption, columns, rows_of(view, lambda each: each.groups))


def calibration_sheet(view: AuditView) -> Table | None:
    """Return each class's calibration error; None without scores."""
    if not view.has_scores:
        return None
    many = any(len(each.classes) > MOST_ROWS for each in view.candidates)

    def frames(each: CandidateAudit) -> pd.DataFrame:
        frame: pd.DataFrame = each.classes[each.classes["ece_change"].notna()]
        if many:
            frame = frame.sort_values("ece_change", ascending=False, kind="stable").head(SHOWN_ROWS)
        return frame if many else view.ordered(frame)

    columns = [
        *who(view),
        text("Class", "class_name"),
        figure(f"Test {view.images}", "n", 0),
        figure("ECE before (pp)", "ece_baseline", 2),
        figure("ECE (pp)", "ece", 2),
        figure("Change (pp)", "ece_change", 2, sign=True),
    ]
    more = f" The {SHOWN_ROWS} classes of each candidate that worsened most; all are in classes.csv." if many else ""
    caption = (
        f"Expected calibration error: {calibration_words(view)}. Above zero, the candidate is the worse "
        f"calibrated.{more}"
    )
    return made("calibration", caption, columns, rows_of(view, frames))


def seed_sheet(view: AuditView) -> Table | None:
    """Return each class's change over pairs of seeds; None where there is one pair."""
    if not view.has_seeds:
        return None

    def frames(each: CandidateAudit) -> pd.DataFrame | None:
        frame: pd.DataFrame | None = each.seeds
        if frame is None or len(frame) <= MOST_ROWS:
            return frame
        return frame.sort_values("change", kind="stable").head(SHOWN_ROWS)

    columns = [
        *who(view),
        text("Class", "class_name"),
        figure("Change (pp)", "change", sign=True, spread=True),
        figure("Pairs of seeds", "seeds", 0),
    ]
    return made("seeds", "Mean change over pairs of seeds, with its t interval.", columns, rows_of(view, frames))

"""The tables of an audit for people: what the gate decided, the summary, classes, groups, calibration and seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd

from tailkeep.report import words
from tailkeep.report.audit_gate import VERDICTS, percent, told, verdict
from tailkeep.report.audit_view import DECISIONS, AuditView
from tailkeep.report.audit_words import p_value
from tailkeep.report.tables import Cell, Column, Row, Table, figure, made, order, records, text

if TYPE_CHECKING:
    from tailkeep.analysis.audit import CandidateAudit

MOST_ROWS = 200
"""Rows above which the page's tables of classes and checks leave some out; the files have all."""

UNSIGNED = ("churn", "recall_slope", "excess_risk_gap")
"""Metrics that compare the two models by themselves and are no difference."""
METRICS = {
    # metric: (name, unit, digits)
    "accuracy": ("Accuracy", "%", 1),
    "balanced_accuracy": ("Balanced accuracy", "%", 1),
    "worst_class_recall": ("Recall of the worst class", "%", 1),
    "g_mean": ("G-mean", "%", 1),
    "macro_f1": ("Macro-F1", "%", 1),
    "average_precision": ("Mean average precision", "%", 1),
    "tail_share": ("Tail share", "pp", 1),
    "recall_slope": ("Slope of the recalls", "", 2),
    "excess_risk_gap": ("Excess risk gap", "nats", 3),
    "ece": ("Calibration error (ECE)", "pp", 1),
    "churn": ("Churn", "%", 1),
}


def with_name(view: AuditView, frames: Callable[[CandidateAudit], pd.DataFrame | None]) -> pd.DataFrame:
    """Return one table of all candidates, each row with its candidate's name in front."""
    parts = []
    for each in view.candidates:
        frame = frames(each)
        if frame is not None and len(frame):
            kept = frame.drop(columns=[name for name in ("candidate_name",) if name in frame])
            parts.append(kept.assign(candidate_name=each.name)[["candidate_name", *kept.columns]])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"candidate_name": []})


def rows_of(view: AuditView, frames: Callable[[CandidateAudit], pd.DataFrame | None]) -> list[Row]:
    """Return the rows of all candidates; ``method`` names each row's, by which the page singles it out."""
    return [{**row, "method": row["candidate_name"]} for row in records(with_name(view, frames))]


def who(view: AuditView) -> list[Column]:
    """Return the column that names the candidate, where there are several."""
    return [text("Candidate", "candidate_name")] if view.several else []


def comparison_sheet(view: AuditView) -> Table | None:
    """Return one row a candidate: the verdict and what changed; None where there is one candidate."""
    if not view.several:
        return None
    rows: list[Row] = []
    for each in view.candidates:
        found = {row["metric"]: row for row in records(each.summary)}
        rows.append({"candidate_name": each.name, "method": each.name, "gate": each.gate, "metrics": found})
    known = [name for name in METRICS if any(name in row["metrics"] for row in rows)]
    wanted = [name for name in known if name not in ("g_mean", "recall_slope", "excess_risk_gap", "macro_f1")]
    columns = [
        text("Candidate", "candidate_name"),
        Column("Verdict", lambda row: _verdict(row["gate"]), number=False),
        *(Column(decision.capitalize(), _count(decision)) for decision in DECISIONS),
        *(Column(_head(name), _change(name)) for name in wanted),
    ]
    caption = (
        "What each candidate changed against the baseline, with bootstrap intervals; broken, cannot tell and kept "
        "count the gate's checks."
    )
    return made("comparison", caption, columns, rows)


def _verdict(gate: Any) -> Cell:
    style, sign = VERDICTS[verdict(gate)]
    return Cell(f"{sign} {verdict(gate)}", tone=style)


def _count(decision: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        many = len(told(row["gate"], decision))
        return Cell(words.number(many, 0), order=float(many))

    return cell


def _head(name: str) -> str:
    label, unit, _ = METRICS[name]
    unit = "pp" if unit == "%" and name != "churn" else unit
    return f"{label} ({unit})" if unit else label


def _change(name: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        found = row["metrics"].get(name)
        if found is None:
            return Cell(words.NOTHING)
        digits = METRICS[name][2]
        small = words.interval(found["low"], found["high"], digits)
        return Cell(words.number(found["change"], digits, sign=name not in UNSIGNED), small, order(found["change"]))

    return cell


def gate_sheet(view: AuditView) -> Table | None:
    """Return every check of the gate; None where none was asked."""
    rows: list[Row] = []
    for each in view.candidates:
        for result in each.gate.results:
            drop, sign = result.check.kind != "recall", -100 if result.check.kind == "drop" else 100
            much = f"{100 * result.check.limit:g}"
            asks = {"drop": f"loses at most {much} pp", "rise": f"false positives rise by at most {much} pp"}
            open_ = result.outlook in (None, "near the limit", "more images")
            ends = sorted((sign * result.low, sign * result.high)) if words.known(result.low) else [None, None]
            rows.append(
                {
                    **{"candidate_name": each.name, "method": each.name, "what": result.check.unit},
                    **{"name": result.check.name, "n": result.check.n, "decision": result.decision},
                    "asked": asks.get(result.check.kind, f"recall of at least {much} %"),
                    "found": sign * result.estimate,
                    **{"found_low": ends[0], "found_high": ends[1], "drop": drop},
                    "p_broken": result.p_broken_adjusted,
                    **{"p_kept": result.p_kept, "needed": result.images_needed if open_ else None},
                }
            )
    if not rows:
        return None
    alpha = 1 - view.candidates[0].gate.confidence
    wanted = [row for row in rows if row["decision"] != "kept"] if len(rows) > MOST_ROWS else rows
    columns = [
        *who(view),
        Column(
            "Class or group", lambda row: Cell(row["name"], "" if row["what"] == "class" else "group"), number=False
        ),
        text("Asked", "asked"),
        Column("Decision", decision_cell, number=False),
        Column("Found (pp)", _found),
        figure(f"Test {view.images}", "n", 0),
        Column("p, broken (Holm)", lambda row: Cell(p_value(row["p_broken"], alpha), order=order(row["p_broken"]))),
        Column("p, kept", lambda row: Cell(p_value(row["p_kept"], alpha), order=order(row["p_kept"]))),
        figure("Images to tell", "needed", 0),
    ]
    level = percent(view.candidates[0].gate.confidence)
    left = len(rows) - len(wanted)
    more = f" {words.number(left, 0)} checks that are kept are in gate.csv alone." if left else ""
    caption = (
        "Change of recall or of false positives, or the recall where that was asked, with its two-sided "
        f"{level} interval. Broken: shown at {level} confidence, Holm's correction over all checks. Kept: shown at the "
        "same confidence, each by itself, since a pass needs all of them. Images to tell: about how many test images "
        "of the class would settle it, with a power of 80 %, if the candidate loses nothing (of a floor: if the recall "
        "is what was seen); none where what "
        f"was seen already speaks against that.{more}"
    )
    return made("gate", caption, columns, wanted)


def decision_cell(row: Row) -> Cell:
    """Return the cell of a row's decision on one check."""
    style, sign = DECISIONS[row["decision"]]
    return Cell(f"{sign} {row['decision']}", tone=style)


def _found(row: Row) -> Cell:
    small = words.interval(row["found_low"], row["found_high"])
    return Cell(words.number(row["found"], sign=row["drop"]), small, order(row["found"]))


def gate_frame(view: AuditView) -> pd.DataFrame:
    """Return every check with its unrounded numbers, shares in 0..1."""
    rows = [
        {
            **{"candidate_name": each.name, "kind": r.check.kind, "unit": r.check.unit, "name": r.check.name},
            **{"n": r.check.n, "n10": r.check.n10, "n01": r.check.n01, "limit": r.check.limit},
            **{"estimate": r.estimate, "low": r.low, "high": r.high, "p_broken": r.p_broken},
            **{"p_broken_adjusted": r.p_broken_adjusted, "p_kept": r.p_kept, "decision": r.decision},
            **{"exact": r.exact, "images_needed": r.images_needed, "outlook": r.outlook},
        }
        for each in view.candidates
        for r in each.gate.results
    ]
    return pd.DataFrame(rows)


def summary_sheet(view: AuditView) -> Table:
    """Return the metrics over all classes, baseline against candidate."""
    rows = rows_of(view, lambda each: each.summary)
    columns = [
        *who(view),
        Column("Metric", _metric, number=False),
        Column("Baseline", _value("baseline")),
        Column("Candidate's" if view.several else "Candidate", _value("candidate")),
        Column("Change", _summary_change),
        Column("Warning", lambda row: Cell(_said(row["warning"])), number=False),
    ]
    level = percent(view.candidates[0].gate.confidence) if view.candidates else ""
    caption = (
        f"Over all classes, with {level} bootstrap intervals where there are any. Tail share: what the rare classes "
        "lose beyond the frequent ones. Slope above 1: the differences between classes grow. Excess risk gap: the "
        "largest difference between two classes in the change of loss. Churn: test images whose answer changes."
    )
    return made("summary", caption, columns, rows)


def worst_words(view: AuditView, candidate: CandidateAudit) -> str:
    """Say which class a candidate recognises least, and how low that may be; empty without test images."""
    bounds = candidate.classes[candidate.classes["worst_bound"].notna()]
    if bounds.empty:
        return ""
    row = records(bounds.iloc[[int(bounds["worst_bound"].argmin())]])[0]
    level = percent(candidate.gate.confidence)
    return (
        f"Worst class of {candidate.name}: {row['class_name']}, recall {words.number(row['recall'])} % (before "
        f"{words.number(row['recall_baseline'])} %), at least {words.number(row['worst_bound'])} % by a bound that "
        f"holds for all classes at once with {level} confidence."
    )


def _said(value: Any) -> str:
    return str(value) if isinstance(value, str) else ""


def _metric(row: Row) -> Cell:
    name = row["metric"]
    label, unit, _ = METRICS.get(name, (str(name).replace("_", " ").capitalize(), "", 2))
    return Cell(label, unit)


def _value(key: str) -> Callable[[Row], Cell]:
    return lambda row: Cell(words.number(row[key], METRICS.get(row["metric"], ("", "", 2))[2]), order=order(row[key]))


def _summary_change(row: Row) -> Cell:
    digits = METRICS.get(row["metric"], ("", "", 2))[2]
    small = words.interval(row["low"], row["high"], digits)
    return Cell(words.number(row["change"], digits, sign=row["metric"] not in UNSIGNED), small, order(row["change"]))

"""The tables of a recommendation: everything that was tried, and the classes of what the held-out images judged."""

from __future__ import annotations

import pandas as pd

from tailkeep.report import words
from tailkeep.report.recommend_view import STATUSES, RecommendView
from tailkeep.report.tables import Cell, Column, Row, Table, figure, made, order, text, written

FRONTIER = [
    *("place", "name", "model", "method", "status", "detail", "trained", "times_smaller", "packed_bytes", "macs"),
    *("latency_ms", "power", "worst_class", "worst_loss", "worst_low", "worst_high", "mean_loss"),
]


def frontier_frame(view: RecommendView) -> pd.DataFrame:
    """Return every candidate with all its numbers."""
    return pd.DataFrame(view.frontier, columns=FRONTIER)


def class_frame(view: RecommendView) -> pd.DataFrame:
    """Return every class of every candidate that was held against the held-out images."""
    rows = [{"candidate": each["name"], **c} for each in view.facts["evidence"] for c in each["classes"]]
    columns = ["candidate", "name", "n", "n10", "n01", "loss", "low", "high", "p_kept", "p_broken", "decision"]
    return pd.DataFrame(rows, columns=[*columns, "images_needed"])


def frontier_sheet(view: RecommendView) -> Table:
    """Return the candidates for people."""
    timed = any(row["latency_ms"] is not None for row in view.frontier)
    columns = [
        Column("Order", lambda row: Cell(words.number(row["place"], 0), order=order(row["place"]))),
        text("Candidate", "name"),
        Column("Status", _status, number=False),
        figure("Times smaller", "times_smaller"),
        written("Packed", "packed_bytes", words.size),
        written("MACs", "macs", words.count),
        *([figure("Latency (ms)", "latency_ms", 2)] if timed else []),
        Column("Worst class, validation (pp)", _worst),
        Column("Predicted power", lambda row: Cell(words.share(row["power"]), order=order(row["power"]))),
    ]
    caption = (
        "Every candidate. Order: that of the gate, by the predicted power to pass it, fixed before a held-out image "
        "was predicted. Not reached: the sequence had ended. Validation figures are those that the search chose by."
    )
    return made("frontier", caption, columns, [{**row, "method": row["name"]} for row in view.frontier])


def _status(row: Row) -> Cell:
    style, sign = STATUSES[row["status"]]
    return Cell(f"{sign} {row['status']}", row["detail"], tone=style)


def _worst(row: Row) -> Cell:
    if row["worst_loss"] is None:
        return Cell(words.NOTHING)
    value, low, high = (-100 * row[key] for key in ("worst_loss", "worst_high", "worst_low"))
    said = f"{words.number(value, sign=True)} ({row['worst_class']})"
    return Cell(said, words.interval(low, high), order(value))


def class_sheet(view: RecommendView) -> Table | None:
    """Return the classes of the candidates that the page draws; None where none was looked at."""
    rows = [{"candidate": each["name"], "method": each["name"], **c} for each in view.evidence for c in each["classes"]]
    if not rows:
        return None
    columns = [
        text("Candidate", "candidate"),
        text("Class", "name"),
        Column("Change (pp)", _change),
        Column("Lost / won / of", lambda row: Cell(f"{row['n10']:,} / {row['n01']:,} / {row['n']:,}")),
        Column(
            "p, loses the limit or more", lambda row: Cell(words.p_value(row["p_kept"]), order=order(row["p_kept"]))
        ),
        Column("Decision", _decision, number=False),
        figure("Images needed", "images_needed", 0),
    ]
    caption = (
        "Held-out images. A class is kept where p is at most 1 - confidence. Images needed: of this class, for an 80 % "
        "chance that the whole gate passes, if nothing is truly lost."
    )
    return made("classes", caption, columns, rows)


def _change(row: Row) -> Cell:
    if row["loss"] is None:
        return Cell(words.NOTHING)
    value, low, high = (-100 * row[key] for key in ("loss", "high", "low"))
    return Cell(words.number(value, sign=True), words.interval(low, high), order(value))


def _decision(row: Row) -> Cell:
    tone = {"kept": "kept", "broken": "lost", "cannot tell": "unsure"}[row["decision"]]
    return Cell(row["decision"], tone=tone)

"""The tables for people: texts with units and sensible digits, each cell beside the value that it sorts by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tailkeep.report import words
from tailkeep.report.charts import group_slots
from tailkeep.report.select import View
from tailkeep.report.verdicts import HEADS, verdict_rows

Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One text; ``small`` is said less loudly, ``order`` is what it sorts by where that is not its text.

    ``tone`` is the style of a verdict ("lost", "kept"...), where the text is one.
    """

    text: str
    small: str = ""
    order: float | None = None
    tone: str = ""


@dataclass(frozen=True)
class Column:
    """A head and how a row becomes a cell. ``number`` columns are set to the right."""

    head: str
    cell: Callable[[Row], Cell]
    number: bool = True


@dataclass(frozen=True)
class Table:
    """A finished table. ``methods`` names each row's method, so that the page can single one out."""

    name: str
    caption: str
    heads: tuple[str, ...]
    numbers: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]
    methods: tuple[str, ...]


def made(name: str, caption: str, columns: Sequence[Column], rows: Iterable[Row]) -> Table:
    """Fill a table."""
    kept = list(rows)
    return Table(
        name,
        caption,
        tuple(column.head for column in columns),
        tuple(column.number for column in columns),
        tuple(tuple(column.cell(row) for column in columns) for row in kept),
        tuple(str(row.get("method", "")) for row in kept),
    )


def text(head: str, key: str) -> Column:
    """Return a column of names."""
    return Column(head, lambda row: Cell(str(row[key])), number=False)


def figure(
    head: str, key: str, digits: int = 1, *, sign: bool = False, spread: bool = False, scale: float = 1
) -> Column:
    """Return a column of numbers; with ``spread`` the interval of ``key_low`` and ``key_high`` stands beside."""

    def cell(row: Row) -> Cell:
        small = words.interval(row[f"{key}_low"], row[f"{key}_high"], digits) if spread else ""
        value = row[key] * scale if words.known(row[key]) else row[key]
        return Cell(words.number(value, digits, sign=sign), small, order(row[key]))

    return Column(head, cell)


def written(head: str, key: str, write: Callable[[Any], str]) -> Column:
    """Return a column of numbers that ``write`` puts into words."""
    return Column(head, lambda row: Cell(write(row[key]), order=order(row[key])))


def order(value: Any) -> float | None:
    """Return the value to sort by; None (last) where it is not known."""
    return float(value) if words.known(value) else None


def records(frame: pd.DataFrame) -> list[Row]:
    """Return a frame's rows."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def place(view: View) -> list[Column]:
    """Return the columns that name what differs within the study: dataset, model, both or neither."""
    return [text(name.capitalize(), name) for name in view.shown]


def verdict_sheet(view: View) -> Table:
    """Return the verdicts with their numbers."""
    keys = [key for key in HEADS if key not in ("dataset", "model") or key in view.shown]
    rows: list[Row] = []
    for row, verdict in zip(verdict_rows(view.analysis), view.analysis.verdicts, strict=True):
        upper = words.number(verdict.upper_simultaneous, sign=True)
        flip = words.p_value(verdict.sign_flip_p)
        floor = words.p_value(verdict.sign_flip_floor)
        more = {"method": verdict.method, "reference": verdict.reference, "twin": verdict.twin}
        rows.append({**row, **more, "upper": upper, "flip": f"{flip} (floor {floor})" if flip != "–" else flip})
    texts = {"technique", "verdict", "dataset", "model"}
    columns = [Column(HEADS[key], _plain(key), number=key not in texts) for key in keys]
    columns.insert(-1, Column("Upper bound (pp)", _plain("upper")))
    columns.insert(-1, Column("Sign-flip p", _plain("flip")))
    columns.append(text("Against", "reference"))
    columns.append(text("Twin", "twin"))
    caption = (
        f"Excess gap E averaged over the imbalance settings of each seed. Upper bound: the simultaneous 95 % bound "
        f"that is compared with the margin of {view.analysis.margin:g} pp."
    )
    return made("verdicts", caption, columns, rows)


def _plain(key: str) -> Callable[[Row], Cell]:
    return lambda row: Cell(str(row[key]))


def gap_pivot(view: View, what: str, name: str, caption: str) -> Table | None:
    """Return one of D, G and E: methods down, settings across; None where no value is known."""
    frame = view.ordered(view.analysis.gaps)
    wanted = frame[frame[what].notna()]
    if what != "gap":
        wanted = wanted[(wanted["role"] != "dense") & (wanted["reference"] != "self")]
    else:
        wanted = wanted.drop_duplicates(["dataset", "model", "method", "setting", "twin"]).assign(reference="")
    if wanted.empty:
        return None
    settings = [s for s in view.settings if (wanted["setting"] == s).any()]
    keys = ["dataset", "model", "method", "reference", "twin"]
    rows: dict[tuple[Any, ...], Row] = {}
    for row in records(wanted):
        key = tuple(row[k] for k in keys)
        rows.setdefault(key, {k: row[k] for k in keys})[f"at {row['setting']}"] = row
    columns = [*place(view), text("Method", "method")]
    if what != "gap":
        columns.append(Column("Against", lambda row: Cell(reference_name(row["reference"])), number=False))
    if what != "drop" and wanted["twin"].nunique() > 1:
        columns.append(text("Twin", "twin"))
    elif what == "drop":
        rows = {key: row for key, row in rows.items() if key[-1] == next(k[-1] for k in rows if k[:-1] == key[:-1])}
    columns.extend(Column(setting, _at(f"at {setting}", what)) for setting in settings)
    return made(name, caption, columns, rows.values())


def _at(key: str, what: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        if key not in row:
            return Cell(words.NOTHING)
        found = row[key]
        small = words.interval(found[f"{what}_low"], found[f"{what}_high"])
        return Cell(words.number(found[what], sign=True), small, order(found[what]))

    return cell


def reference_name(reference: str) -> str:
    """Name a reference for people; a dash where a cell is compared with nothing."""
    names = {
        "self": words.NOTHING,
        "student_alone": "student alone",
        "other_seed": "other seed",
        "continued": "continued training",
    }
    return names.get(reference, reference)


def accuracy_sheet(view: View) -> Table:
    """Return accuracy and its kin, the imbalanced cells and their twins."""
    columns = [
        *place(view),
        text("Setting", "setting"),
        text("Trained on", "twin"),
        text("Method", "method"),
        Column(f"{view.analysis.accuracy_is.capitalize()} (%)", _mean_sd),
        figure("Worst class (%)", "worst_recall"),
        Column("Which", lambda row: Cell(str(row["worst_class"]) or words.NOTHING), number=False),
        figure("G-mean (%)", "g_mean"),
        figure("Macro-F1 (%)", "macro_f1"),
        figure("Mean recall (%)", "macro_recall"),
        figure("Seeds", "seeds", 0),
    ]
    caption = "Means over seeds; ± is the standard deviation over seeds. Worst class: the mean of each seed's lowest."
    return made("accuracy", caption, columns, records(view.ordered(view.analysis.accuracy)))


def _mean_sd(row: Row) -> Cell:
    small = f"± {words.number(row['accuracy_sd'])}" if words.known(row["accuracy_sd"]) else ""
    return Cell(words.number(row["accuracy"]), small, order(row["accuracy"]))


def tail_sheet(view: View) -> Table:
    """Return who pays within the model: groups, tail share, slope, risk, churn."""
    frame = view.ordered(view.one_twin(view.analysis.tail))
    frame = frame[(frame["reference"] != "self")] if len(frame) else frame
    columns = [
        *place(view),
        text("Setting", "setting"),
        text("Method", "method"),
        Column("Against", lambda row: Cell(reference_name(row["reference"])), number=False),
        *(
            figure(f"{name[:1].upper()}{name[1:]} (pp)", f"recall_change_{slot}", sign=True)
            for slot, name in group_slots(view)
            if len(frame) and frame[f"recall_change_{slot}"].notna().any()
        ),
        figure("Tail share (pp)", "tail_share", sign=True, spread=True),
        figure("Slope", "slope", 2),
        figure("Excess risk gap (nats)", "excess_risk_gap", 2),
        figure("Churn (%)", "churn", scale=100),
        figure("Churn floor (%)", "churn_floor", scale=100),
    ]
    caption = (
        "Recall change by group; tail share: what the rare classes lose beyond the frequent ones; slope above 1: the "
        "differences between classes grow; excess risk gap: the largest difference between two classes in the change "
        "of loss; churn: test images whose predicted class changes; its floor: churn between two dense seeds."
    )
    return made("tail", caption, columns, records(frame))


def size_sheet(view: View) -> Table:
    """Return what each model weighs."""
    columns = [
        *place(view),
        text("Setting", "setting"),
        text("Method", "method"),
        written("Packed", "packed_bytes", words.size),
        written("Weights", "weights", words.count),
        written("MACs", "macs", words.count),
        figure("Worst class (%)", "worst_recall"),
        figure(f"{view.analysis.accuracy_is.capitalize()} (%)", "accuracy"),
    ]
    frame = view.analysis.size
    rows = records(view.ordered(view.one_twin(frame))) if len(frame) else []
    return made("size", "Size of each model, on the imbalanced data, beside what it still recognises.", columns, rows)


def control_sheet(view: View) -> Table | None:
    """Return the controls below the techniques of each setting; None where the study has no control."""
    gaps = view.ordered(view.one_twin(view.analysis.gaps))
    gaps = gaps[(gaps["role"] != "dense") & (gaps["reference"] != "self")] if len(gaps) else gaps
    if not (len(gaps) and (gaps["role"] == "control").any()):
        return None
    key = ["dataset", "setting", "model", "method", "reference"]
    beside = view.one_twin(view.analysis.tail)
    both = gaps.merge(beside[[*key, "tail_share", "churn", "churn_floor"]], on=key, how="left")
    columns = [
        *place(view),
        text("Setting", "setting"),
        text("Method", "method"),
        text("Role", "role"),
        Column("Against", lambda row: Cell(reference_name(row["reference"])), number=False),
        figure("Drop D (pp)", "drop", sign=True, spread=True),
        *([figure("Excess gap E (pp)", "excess", sign=True, spread=True)] if view.has_excess else []),
        figure("Tail share (pp)", "tail_share", sign=True),
        figure("Churn (%)", "churn", scale=100),
        figure("Churn floor (%)", "churn_floor", scale=100),
    ]
    caption = (
        "What a technique must be read beside: more training of the dense model, the student without a teacher, and "
        "the churn between two dense models of different seeds."
    )
    return made("controls", caption, columns, records(both))


def failure_sheet(view: View) -> Table | None:
    """Return the cells that failed; None where none did."""
    if view.analysis.failures.empty:
        return None
    columns = [
        text("Dataset", "dataset"),
        text("Setting", "setting"),
        text("Twin", "twin"),
        text("Model", "model"),
        text("Method", "method"),
        Column("Seed", lambda row: Cell(str(row["seed"]), order=order(row["seed"]))),
        text("Reason", "reason"),
        text("Detail", "detail"),
    ]
    return made("failures", "Cells that failed. None of them is ranked.", columns, records(view.analysis.failures))


def recall_sheet(view: View) -> Table:
    """Return recall by class: long, so the page leaves it to the files."""
    columns = [
        *place(view),
        text("Setting", "setting"),
        text("Trained on", "twin"),
        text("Method", "method"),
        Column("Against", lambda row: Cell(reference_name(row["reference"])), number=False),
        text("Class", "class_name"),
        Column("Rank", lambda row: Cell(words.number(row["rank"] + 1, 0), order=order(row["rank"]))),
        figure("Training images", "train_count", 0),
        text("Group", "group"),
        figure("Recall (%)", "recall", spread=True),
        figure("Change (pp)", "change", sign=True, spread=True),
    ]
    frame = view.ordered(view.analysis.recall, "rank")
    return made("recall", "Recall by class, most frequent first.", columns, records(frame))

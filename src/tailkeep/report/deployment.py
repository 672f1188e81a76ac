"""The tables of what compression buys on a device: size, agreement and speed of the files, and who is on a frontier."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from tailkeep.report import words
from tailkeep.report.pareto import costs
from tailkeep.report.select import View
from tailkeep.report.tables import Cell, Column, Row, Table, figure, made, order, place, records, text, written

KEY = ["dataset", "setting", "model", "method"]
NOT_MEASURED = "not measured"


def deployment_sheet(view: View) -> Table | None:
    """Return each method's cost on a device; None where nothing was exported or timed."""
    if not view.has_deployment:
        return None
    size = view.analysis.size
    latency = view.analysis.latency
    rows = _rows(view)
    batches = _batches(latency)
    columns = [
        *place(view),
        text("Setting", "setting"),
        text("Method", "method"),
        written("Weights", "weights", words.count),
        written("MACs", "macs", words.count),
        written("Packed", "packed_bytes", words.size),
    ]
    if "file_bytes" in size.columns:
        columns += [
            Column("File (gzip)", _file),
            Column("Agreement (worst class)", _agreement),
        ]
    columns += [Column(f"Latency, batch {batch} (ms)", _latency(batch)) for batch in batches]
    columns += [Column(f"Speedup, batch {batch}", _speedup(batch)) for batch in batches]
    return made("deployment", _caption(view), columns, rows)


def frontier_sheet(view: View) -> Table | None:
    """Return on which frontiers each method stands; None where none was drawn."""
    axes = costs(view)
    if not axes:
        return None
    table = view.ordered(view.analysis.pareto)
    rows: dict[tuple[Any, ...], Row] = {}
    for row in records(table):
        found = rows.setdefault(tuple(row[name] for name in KEY), {**row, "standing": {}})
        found["standing"][row["axis"], row["batch"]] = row["on_frontier"]
    columns = [
        *place(view),
        text("Setting", "setting"),
        text("Method", "method"),
        figure("Worst class (%)", "worst_recall"),
        Column("Which", lambda row: Cell(str(row["worst_class"]) or words.NOTHING), number=False),
        figure(f"{view.analysis.accuracy_is.capitalize()} (%)", "accuracy"),
        *(Column(f"By {cost.title}", _standing(cost.axis, cost.batch), number=False) for cost in axes),
    ]
    caption = (
        "On the frontier: no other method recognises its worst class at least as well at no more cost. Worst class: "
        "the mean over seeds of each seed's lowest recall, with the classes that were lowest, most often first."
    )
    return made("frontier", caption, columns, rows.values())


def _rows(view: View) -> list[Row]:
    """Return the sizes with each method's latencies by batch size."""
    times: dict[tuple[Any, ...], dict[int, Row]] = {}
    if len(view.analysis.latency):
        for row in records(view.one_twin(view.analysis.latency)):
            times.setdefault(tuple(row[name] for name in KEY), {})[int(row["batch"])] = row
    size = view.analysis.size
    rows = records(view.ordered(view.one_twin(size))) if len(size) else []
    return [{**row, "times": times.get(tuple(row[name] for name in KEY), {})} for row in rows]


def _batches(latency: pd.DataFrame) -> list[int]:
    return (
        sorted(int(batch) for batch in latency.loc[latency["median_ms"].notna(), "batch"].unique())
        if len(latency)
        else []
    )


def _file(row: Row) -> Cell:
    small = f"gzip {words.size(row['gzip_bytes'])}" if words.known(row["gzip_bytes"]) else ""
    return Cell(words.size(row["file_bytes"]), small, order(row["file_bytes"]))


def _agreement(row: Row) -> Cell:
    worst = f"{_percent(row['worst_agreement'])} {row['worst_agreement_class'] or ''}".strip()
    small = worst if words.known(row["worst_agreement"]) else ""
    return Cell(_percent(row["agreement"]), small, order(row["agreement"]))


def _percent(share: Any) -> str:
    """Write a share with two decimals, rounded down: one image in ten thousand must not read as none."""
    return f"{words.number(math.floor(round(share * 1e4, 6)) / 100, 2)} %" if words.known(share) else words.NOTHING


def _latency(batch: int) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        found = row["times"].get(batch, {})
        if not words.known(found.get("median_ms")):
            return Cell(NOT_MEASURED)
        digits = max(0, 2 - math.floor(math.log10(max(found["median_ms"], 1e-3))))
        small = words.interval(found["low_ms"], found["high_ms"], digits)
        return Cell(words.number(found["median_ms"], digits), small, order(found["median_ms"]))

    return cell


def _speedup(batch: int) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        found = row["times"].get(batch, {})
        if not words.known(found.get("speedup")):
            return Cell(words.NOTHING)
        small = words.interval(found["speedup_low"], found["speedup_high"], 2)
        return Cell(words.number(found["speedup"], 2), small, order(found["speedup"]))

    return cell


def _standing(axis: str, batch: int) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        stands = row["standing"].get((axis, batch))
        return Cell(words.NOTHING if stands is None else "on it" if stands else "beaten")

    return cell


def _caption(view: View) -> str:
    """Say what the figures mean, and for which methods speed was not measured."""
    said = ["Sizes are means over seeds, on the imbalanced data."]
    if "file_bytes" in view.analysis.size.columns:
        said.append(
            "Agreement: the share of test images for which the exported file predicts the class that the simulated "
            "model predicts, rounded down; beside it the class where it is lowest, on any seed."
        )
    latency = view.analysis.latency
    if not _batches(latency):
        said.append(f"Latency: {NOT_MEASURED}.")
    else:
        threads = sorted({int(value) for value in latency["threads"].dropna()})
        many = " and ".join(map(str, threads))
        of = f" with {many} {'thread' if threads == [1] else 'threads'}" if threads else ""
        said.append(
            f"Latency: one batch on the CPU of one machine{of}, the median over rounds with quartiles. Speedup: how "
            "many times as fast as the dense model in the same rounds, below 1 slower."
        )
    said += [f"{methods}: {note}." for note, methods in _reasons(latency).items()]
    return " ".join(said)


def _reasons(latency: pd.DataFrame) -> dict[str, str]:
    """Return why methods were not timed: the note, and the methods it holds for."""
    found: dict[str, dict[str, None]] = {}
    for row in records(latency):
        if row["bits_note"]:
            found.setdefault(str(row["bits_note"]).rstrip("."), {})[str(row["method"])] = None
    return {note: ", ".join(methods) for note, methods in found.items()}

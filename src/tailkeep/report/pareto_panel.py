"""One frame of a Pareto figure: dots, their names, the frontier and the dense model's lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas as pd

from tailkeep.report import labels, words
from tailkeep.report.canvas import Spec, extent, marks, rows_of
from tailkeep.report.placement import Box, Segment, leader, place
from tailkeep.report.select import Panel, View
from tailkeep.report.theme import colour

AXIS = 46
"""Room for the numbers on the left of a panel."""
FONT, LINE = 11.5, 13.5
"""Size of a name beside its dot, and the height of one of its lines."""

FAR_CORNER: Spec = {"x2": {"field": "cost2"}, "y2": {"field": "recall2"}}


@dataclass(frozen=True)
class Frame:
    """One panel's plot in pixels, and what its axes run over."""

    width: int
    height: int
    x: tuple[float, float]
    y: tuple[float, float]
    log: bool

    def at(self, cost: float, recall: float) -> tuple[float, float]:
        """Return the pixel of a point."""
        low, high, value = (math.log(v) if self.log else v for v in (*self.x, cost))
        across = (value - low) / (high - low)
        return self.width * across, self.height * (self.y[1] - recall) / (self.y[1] - self.y[0])

    def value(self, x: float, y: float) -> tuple[float, float]:
        """Return the cost and recall of a pixel."""
        low, high = (math.log(v) if self.log else v for v in self.x)
        cost = low + (high - low) * x / self.width
        return math.exp(cost) if self.log else cost, self.y[1] - (self.y[1] - self.y[0]) * y / self.height


@dataclass(frozen=True)
class Named:
    """One panel with the places of its names."""

    panel: Panel
    rows: list[dict[str, Any]]
    frame: Frame
    lines: list[list[str]]
    boxes: list[Box | None]

    @property
    def whole(self) -> bool:
        """Whether every name stands there, and uncut."""
        cut = [lines[-1].endswith("…") and not row["method"].endswith("…") for lines, row in self._pairs()]
        return None not in self.boxes and not any(cut)

    def _pairs(self) -> list[tuple[list[str], dict[str, Any]]]:
        return list(zip(self.lines, self.rows, strict=True))


def named_dots(rows: pd.DataFrame, panel: Panel, width: int, domain: tuple[tuple[float, float], bool]) -> Named:
    """Return one panel's rows with the places of their names; ``domain`` is the costs' ends, and whether it is log."""
    recalls = [float(value) for value in rows["worst_recall"]]
    middle = (min(recalls) + max(recalls)) / 2
    low, high = extent(recalls, pad=0.13, keep=(middle - 2.5, middle + 2.5))  # a zoom into half a point would shout
    height = 250 + 9 * max(0, len(rows) - 5)
    frame = Frame(width, height, domain[0], (max(low, -6.0), min(high, 106.0)), domain[1])
    records = rows_of(rows)
    lines = [labels.wrapped(row["method"], 0.48 * width, FONT, most=3) for row in records]
    sizes = [(max(labels.wide_of(line, FONT) for line in each) + 3, LINE * len(each)) for each in lines]
    dots = [frame.at(row["cost"], row["worst_recall"]) for row in records]
    return Named(panel, records, frame, lines, place(dots, sizes, (width, height), _lines(records, frame)))


def _steps(rows: Sequence[dict[str, Any]], frame: Frame) -> list[tuple[float, float]]:
    """Return the frontier's points by rising cost, the last one carried on to the frame's end."""
    points = sorted({(row["cost"], row["worst_recall"]) for row in rows if row["on_frontier"]})
    return [*points, (frame.x[1], points[-1][1])] if points else []


def _lines(rows: Sequence[dict[str, Any]], frame: Frame) -> list[Segment]:
    """Return the lines of a panel in pixels, which names keep clear of."""
    found: list[Segment] = []
    steps = _steps(rows, frame)
    for (cost, recall), (then, after) in pairwise(steps):
        found.append((frame.at(cost, recall), frame.at(then, recall)))
        found.append((frame.at(then, recall), frame.at(then, after)))
    for row in rows:
        if row["role"] == "dense":
            x, y = frame.at(row["cost"], row["worst_recall"])
            found += [((0.0, y), (frame.width, y)), ((x, 0.0), (x, frame.height))]
        if words.known(row["cost_low"]) and words.known(row["cost_high"]):
            ends = (frame.at(row[name], row["worst_recall"]) for name in ("cost_low", "cost_high"))
            found.append((next(ends), next(ends)))
    return [segment for segment in found if segment[0] != segment[1]]


def panel_spec(view: View, named: Named, title: str, same: pd.DataFrame, legend: bool, first: bool) -> Spec:
    """Return a panel as a part of a specification. ``same`` are the rows of all panels, ``title`` names the costs."""
    frame, rows = named.frame, named.rows
    kind: Spec = {"type": "log"} if frame.log else {"zero": False}
    x_axis: Spec = {"title": title, "tickCount": 5, "format": ",.3~r", "labelOverlap": True}
    if frame.log:
        x_axis["values"] = _ticks(frame.x)
    x: Spec = {"field": "cost", "type": "quantitative", "axis": x_axis}
    x["scale"] = {**kind, "domain": list(frame.x), "nice": False}
    y_axis = {"title": "worst-class recall (%)" if first else None, "grid": True, "tickCount": 5}
    y: Spec = {"field": "recall", "type": "quantitative", "axis": {**y_axis, "minExtent": AXIS, "maxExtent": AXIS}}
    y["scale"] = {"domain": list(frame.y), "nice": False, "zero": False}
    both = {"x": x, "y": y}
    # Where dots meet, techniques lie over controls, and the frontier over what it beats.
    turns = sorted(range(len(rows)), key=lambda i: (bool(rows[i]["on_frontier"]), -i))
    dots = [_dot(rows[i]) for i in turns]
    layers = [
        *_references(rows, frame, both),
        _step_line(rows, frame, both),
        *_clearings(named, both),
        *_bars(dots, both, view, same),
        *_leader_lines(named, both),
        {
            "data": {"values": dots},
            "mark": {"type": "point", "size": 105, "strokeWidth": 2, "opacity": 1},
            "encoding": {**both, **_tones(view, same, legend), "description": {"field": "tip"}},
        },
        *_names(named, both),
    ]
    return {"layer": layers, "width": frame.width, "height": frame.height, "title": view.panel_name(named.panel)}


def _ticks(ends: tuple[float, float]) -> list[float]:
    """Return round numbers within a logarithmic axis' ends, at most eight."""
    powers = range(math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[1])) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [float(f"{digit}e{power}") for power in powers for digit in digits]
        found = [value for value in found if ends[0] <= value <= ends[1]]
        if len(found) <= 8:
            break
    return found


def _dot(row: dict[str, Any]) -> dict[str, Any]:
    """Return what the drawing needs of a row."""
    kept = {name: row[name] for name in ("method", "cost", "tip")}
    if words.known(row["cost_low"]) and words.known(row["cost_high"]):
        kept |= {"low": row["cost_low"], "high": row["cost_high"]}
    return {**kept, "recall": row["worst_recall"], "front": bool(row["on_frontier"])}


def _tones(view: View, same: pd.DataFrame, legend: bool) -> Spec:
    """Return the encoding of the methods: colour and shape, filled where they stand on the frontier."""
    present = [i for i, method in enumerate(view.methods) if (same["method"] == method).any()]
    scales = {
        channel: {name: [values[i] for i in present] for name, values in scale.items()}
        for channel, scale in marks(view).items()
    }
    field: Spec = {"field": "method", "type": "nominal"}
    shown = {"title": None} if legend else None
    tone: Spec = {**field, "scale": scales["color"]}
    return {
        "fill": {"condition": {"test": "datum.front", **tone, "legend": shown}, "value": colour("paper")},
        "stroke": {**tone, "legend": None},
        "shape": {**field, "scale": scales["shape"], "legend": shown},
    }


def _references(rows: Sequence[dict[str, Any]], frame: Frame, both: Spec) -> list[Spec]:
    """Draw the dense model's recall and cost as dashed lines."""
    dense = [row for row in rows if row["role"] == "dense"][:1]
    mark: Spec = {"type": "rule", "strokeDash": [3, 4], "strokeWidth": 1.2, "color": colour("soft"), "aria": False}
    values = [{"cost": row["cost"], "recall": row["worst_recall"]} for row in dense]
    return [{"data": {"values": values}, "mark": mark, "encoding": {name: both[name]}} for name in ("x", "y") if values]


def _step_line(rows: Sequence[dict[str, Any]], frame: Frame, both: Spec) -> Spec:
    """Draw the best worst-class recall that a cost buys."""
    values = [{"cost": cost, "recall": recall, "turn": i} for i, (cost, recall) in enumerate(_steps(rows, frame))]
    mark = {"type": "line", "interpolate": "step-after", "strokeWidth": 2, "color": colour("axis"), "aria": False}
    order = {"field": "turn", "type": "quantitative"}
    return {"data": {"values": values}, "mark": mark, "encoding": {**both, "order": order}}


def _bars(dots: Sequence[dict[str, Any]], both: Spec, view: View, same: pd.DataFrame) -> list[Spec]:
    """Draw the quartiles of what was timed."""
    values = [dot for dot in dots if "low" in dot]
    if not values:
        return []
    x = {**both["x"], "field": "low"}
    tone = {**_tones(view, same, False)["stroke"]}
    encoding = {"x": x, "x2": {"field": "high"}, "y": both["y"], "stroke": tone, "description": {"field": "tip"}}
    mark = {"type": "rule", "strokeWidth": 2, "opacity": 0.6, "clip": True}
    return [{"data": {"values": values}, "mark": mark, "encoding": encoding}]


def _clearings(named: Named, both: Spec) -> list[Spec]:
    """Break the lines where a name stands across them: a patch of paper below it."""
    lines = _lines(named.rows, named.frame)
    values = []
    for box in named.boxes:
        if box is not None and any(box.crossed(line) for line in lines):
            (cost, recall), (cost2, recall2) = (
                named.frame.value(*corner) for corner in ((box.left, box.top), (box.right, box.bottom))
            )
            values.append({"cost": cost, "recall": recall, "cost2": cost2, "recall2": recall2})
    if not values:
        return []
    mark = {"type": "rect", "color": colour("paper"), "opacity": 1, "aria": False}
    return [{"data": {"values": values}, "mark": mark, "encoding": {**both, **FAR_CORNER}}]


def _leader_lines(named: Named, both: Spec) -> list[Spec]:
    """Join a name that had to move away to its dot."""
    values = []
    for row, box in zip(named.rows, named.boxes, strict=True):
        dot = named.frame.at(row["cost"], row["worst_recall"])
        line = None if box is None else leader(dot, box)
        if line is not None:
            (cost, recall), (cost2, recall2) = (named.frame.value(*point) for point in line)
            values.append({"cost": cost, "recall": recall, "cost2": cost2, "recall2": recall2, "tip": row["tip"]})
    if not values:
        return []
    mark = {"type": "rule", "strokeWidth": 1, "color": colour("soft"), "opacity": 0.7}
    encoding = {**both, **FAR_CORNER, "description": {"field": "tip"}}
    return [{"data": {"values": values}, "mark": mark, "encoding": encoding}]


def _names(named: Named, both: Spec) -> list[Spec]:
    """Write each name in its box, a row a line: set towards its dot, so that a wider font does no harm."""
    sides: dict[str, list[dict[str, Any]]] = {}
    for row, lines, box in zip(named.rows, named.lines, named.boxes, strict=True):
        if box is None:
            continue
        dot = named.frame.at(row["cost"], row["worst_recall"])
        align = "left" if box.left >= dot[0] else "right" if box.right <= dot[0] else "center"
        across = {"left": box.left, "right": box.right, "center": (box.left + box.right) / 2}[align]
        for i, line in enumerate(lines):
            cost, recall = named.frame.value(across, box.top + (i + 0.5) * LINE)
            front = bool(row["on_frontier"])
            sides.setdefault(align, []).append(
                {"cost": cost, "recall": recall, "text": line, "front": front, "tip": row["tip"]}
            )
    tone = {"condition": {"test": "datum.front", "value": colour("ink")}, "value": colour("soft")}
    return [
        {
            "data": {"values": values},
            "mark": {"type": "text", "align": align, "baseline": "middle", "fontSize": FONT, "limit": 0},
            "encoding": {**both, "text": {"field": "text"}, "color": tone, "description": {"field": "tip"}},
        }
        for align, values in sides.items()
    ]

"""One frame of the figure "where to repair": marks by size, their bars, and the two models they are held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from tailkeep.analysis.result import RepairAnalysis
from tailkeep.report import words
from tailkeep.report.canvas import Spec, extent, rows_of
from tailkeep.report.theme import SHAPES, colour

Row = dict[str, Any]
Panel = tuple[str, str, str, str]
"""The column of a figure, that of its gain, its axis' title, its head."""

STAGES = {
    "none": "dense",
    "before": "tech-0",
    "during": "tech-1",
    "after": "tech-3",
    "before + during": "tech-2",
    "before + after": "tech-4",
    "during + after": "tech-5",
    "before + during + after": "tech-6",
}
"""Every place of a repair, and its colour; each has a shape of its own too."""
NAMES = {"none": "no repair"}
AXIS, LINE_NAMES = 46, 58
"""Room for the numbers on the left of a panel, and for the names of its lines on the right."""
OTHER, ALIKE, NEAR = 9.0, 4.0, 9.0
"""Pixels between marks of one size that were repaired at other places, and at the same; below which sizes are one."""
LABEL = 34.0
"""Pixels that the numbers of the axis keep between them."""
NAME_HEIGHT = 13.0


class Places(NamedTuple):
    """The ends of the axis of times smaller, where each row stands on it, and the sizes that it names."""

    ends: tuple[float, float]
    at: list[float]
    sizes: list[float]


def stage_name(stage: str) -> str:
    """Return what the place of a repair is called beside a mark or in a row."""
    return NAMES.get(stage, stage)


def present(rows: Sequence[Row]) -> list[str]:
    """Return the places of a repair that a figure has rows of."""
    return [stage for stage in STAGES if any(row["stage"] == stage for row in rows)]


def spread(rows: Sequence[Row], width: int) -> Places:
    """Return where on the axis of times smaller each row stands, for a plot of ``width`` pixels.

    Rows of about one size would cover each other, and are set side by side about it, by the place of their repair.
    """
    logs = [math.log(row["times_smaller"]) for row in rows]
    low, high = min(logs), max(logs)
    margin = min(0.25 * width, 40.0)
    pixel = max(high - low, math.log(2)) / (width - 2 * margin)
    start = (low + high - width * pixel) / 2
    at = [(value - start) / pixel for value in logs]
    clusters: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: at[i]):
        if clusters and at[i] - at[clusters[-1][-1]] < NEAR:
            clusters[-1].append(i)
        else:
            clusters.append([i])
    middles = [sum(at[i] for i in cluster) / len(cluster) for cluster in clusters]
    for k, cluster in enumerate(clusters):
        cluster.sort(key=lambda i: (list(STAGES).index(rows[i]["stage"]), at[i], i))
        steps = [OTHER if rows[i]["stage"] != rows[j]["stage"] else ALIKE for i, j in pairwise(cluster)]
        gaps = [abs(middles[k] - other) for j, other in enumerate(middles) if j != k]
        room = min([2 * middles[k] - 14, 2 * (width - middles[k]) - 14, *(0.8 * gap for gap in gaps)])
        shrink = min(1.0, room / sum(steps)) if steps else 1.0
        offset = -shrink * sum(steps) / 2
        for i, step in zip(cluster, [*steps, 0.0], strict=True):
            at[i], offset = middles[k] + offset, offset + shrink * step

    def value(pixels: float) -> float:
        return math.exp(start + pixel * pixels)

    shown: list[float] = []
    for middle in [middles[0], middles[-1], *middles]:  # the smallest model is always named
        if all(abs(middle - other) >= LABEL for other in shown):
            shown.append(middle)
    shown.sort()
    return Places((value(0), value(width)), [value(each) for each in at], [value(each) for each in shown])


def _bar(row: Row, value: str, gain: str) -> tuple[float, float] | None:
    """Return the interval of the gain, set about the figure itself."""
    low, high = row[f"{gain}_low"], row[f"{gain}_high"]
    if not (words.known(low) and words.known(high)):
        return None
    return row[value] - row[gain] + low, row[value] - row[gain] + high


def _reach(rows: Sequence[Row], value: str, gain: str) -> tuple[float, float]:
    """Return what the axis runs over: all figures, and their bars as far as they are not longer than all of it."""
    figures = [row[value] for row in rows]
    middle = (min(figures) + max(figures)) / 2
    low, high = min([*figures, middle - 2.5]), max([*figures, middle + 2.5])
    more = 0.5 * (high - low)
    bars = [bar for row in rows if (bar := _bar(row, value, gain)) is not None]
    ends = [
        max(low - more, min([low, *(bar[0] for bar in bars)])),
        min(high + more, max([high, *(b[1] for b in bars)])),
    ]
    found = extent(ends)
    return max(found[0], -4.0), min(found[1], 104.0)


def is_cut(rows: Sequence[Row], value: str, gain: str) -> bool:
    """Tell whether a bar is longer than the frame shows."""
    low, high = _reach(rows, value, gain)
    bars = [bar for row in rows if (bar := _bar(row, value, gain)) is not None]
    return any(bar[0] < low or bar[1] > high for bar in bars)


def panel_spec(
    repairs: RepairAnalysis,
    rows: list[Row],
    panel: Panel,
    width: int,
    places: Places,
) -> Spec:
    """Return one frame; ``rows`` also say what was picked ("picked") and the words of their marks ("tip")."""
    value, gain, said, title = panel
    height = 300
    reach = _reach(rows, value, gain)
    x: Spec = {
        "field": "x",
        "type": "quantitative",
        "scale": {"type": "log", "domain": list(places.ends), "nice": False},
    }
    x["axis"] = {"title": "times smaller", "values": places.sizes, "labelExpr": "format(datum.value, '.1f') + 'x'"}
    y: Spec = {"field": "y", "type": "quantitative", "scale": {"domain": list(reach), "nice": False, "zero": False}}
    y["axis"] = {"title": said, "grid": True, "tickCount": 6, "minExtent": AXIS, "maxExtent": AXIS}
    both = {"x": x, "y": y}
    marks = []
    # Where marks meet, what was picked lies on top.
    for row, at in sorted(zip(rows, places.at, strict=True), key=lambda pair: bool(pair[0]["picked"])):
        mark = {"x": at, "y": row[value], "stage": stage_name(row["stage"]), "tip": row["tip"]}
        mark |= {"full": not row["compressed"], "area": 170 if row["picked"] else 75}
        bar = _bar(row, value, gain)
        marks.append(mark | ({"low": bar[0], "high": bar[1]} if bar else {}))
    return {
        "title": title,
        "width": width,
        "height": height,
        "layer": [
            *_lines(repairs, value, both, reach, width, height),
            *_bars(marks, both, rows),
            _dots(marks, both, rows),
        ],
    }


def shape(stage: str) -> str:
    """Return the shape of a place's marks."""
    return SHAPES[list(STAGES).index(stage)]


def _channel(rows: Sequence[Row], values: Callable[[str], str]) -> Spec:
    """Return the encoding of the place of the repair; the legend is drawn apart."""
    found = present(rows)
    scale = {"domain": [stage_name(stage) for stage in found], "range": [values(stage) for stage in found]}
    return {"field": "stage", "type": "nominal", "scale": scale, "legend": None}


def _tone(rows: Sequence[Row]) -> Spec:
    return _channel(rows, lambda stage: colour(STAGES[stage]))


def _dots(marks: list[Row], both: Spec, rows: Sequence[Row]) -> Spec:
    return {
        "data": {"values": marks},
        "mark": {"type": "point", "strokeWidth": 2, "opacity": 1, "clip": True},
        "encoding": {
            **both,
            "fill": {"condition": {"test": "datum.full", "value": colour("paper")}, **_tone(rows)},
            "stroke": _tone(rows),
            "shape": _channel(rows, shape),
            "size": {"field": "area", "type": "quantitative", "scale": None, "legend": None},
            "description": {"field": "tip"},
        },
    }


def _bars(marks: list[Row], both: Spec, rows: Sequence[Row]) -> list[Spec]:
    values = [mark for mark in marks if "low" in mark]
    if not values:
        return []
    ends = {"x": both["x"], "y": {**both["y"], "field": "low"}, "y2": {"field": "high"}}
    mark = {"type": "rule", "strokeWidth": 2, "opacity": 0.55, "clip": True}
    encoding = {**ends, "stroke": _tone(rows), "description": {"field": "tip"}}
    return [{"data": {"values": values}, "mark": mark, "encoding": encoding}]


def _lines(
    repairs: RepairAnalysis, value: str, both: Spec, reach: tuple[float, float], width: int, height: int
) -> list[Spec]:
    """Draw the baseline and the best repaired model of full size as lines, named on the right."""
    found = []
    for pair, name in ((repairs.baseline, ["baseline"]), (repairs.best, ["best", "repaired"])):
        mine = [row for row in rows_of(repairs.table) if (row["model"], row["method"]) == pair]
        found += [(float(row[value]), name) for row in mine[:1]]
    pixels = [height * (reach[1] - at) / (reach[1] - reach[0]) for at, _ in found]
    if len(pixels) == 2:
        # Names that would cover each other move apart.
        need = NAME_HEIGHT * 1.5 + 1 - abs(pixels[0] - pixels[1])
        if need > 0:
            side = 1 if pixels[0] >= pixels[1] else -1
            pixels = [pixels[0] + side * need / 2, pixels[1] - side * need / 2]
    layers: list[Spec] = []
    for (at, name), pixel, dash in zip(found, pixels, ([3, 4], [7, 3]), strict=False):
        mark: Spec = {"type": "rule", "strokeDash": dash, "strokeWidth": 1.3, "color": colour("soft"), "aria": False}
        layers.append({"data": {"values": [{"y": at}]}, "mark": mark, "encoding": {"y": both["y"]}})
        text: Spec = {
            "type": "text",
            "align": "left",
            "baseline": "middle",
            "fontSize": 11.5,
            "lineHeight": NAME_HEIGHT,
        }
        text |= {"color": colour("soft"), "x": width + 7, "y": pixel - NAME_HEIGHT * (len(name) - 1) / 2, "aria": False}
        layers.append({"data": {"values": [{}]}, "mark": {**text, "text": name}})
    return layers

"""Recall by class, classes ordered by frequency: the change against the reference, and the recall itself."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tailkeep.report import labels, words
from tailkeep.report.canvas import (
    NARROW,
    WIDE,
    Figure,
    Layout,
    Spec,
    fitted,
    leaf,
    name_axis,
    rows_of,
    stack,
    styled,
    tip,
)
from tailkeep.report.select import Panel, View, of_panel
from tailkeep.report.theme import (
    LOSS_TO_GAIN,
    LOW_TO_HIGH,
    STRONG_LOSS_TO_GAIN,
    STRONG_LOW_TO_HIGH,
    colour,
)

MOST_CLASSES = 120
"""Above this many classes neighbours in frequency share a cell."""

NICE = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


def heat_figures(view: View, what: str) -> list[Figure]:
    """Draw one figure a dataset and model; ``what`` is "change" or "recall"."""
    frame = view.headline_recall
    if what == "change":
        frame = frame[frame["role"] != "dense"]
    frame = view.ordered(frame[frame[what].notna()], "rank")
    step = change_step(frame["change"]) if what == "change" else 10.0
    figures = []
    for dataset, model in view.families:
        mine = frame[(frame["dataset"] == dataset) & (frame["model"] == model)]
        if mine.empty:
            continue
        where = view.family_name(dataset, model)
        panels = [(panel, cells(view, of_panel(mine, panel), what, step)) for panel in view.panels(mine)]
        charts = [_draw(view, panels, layout, what, step) for layout in (WIDE, NARROW)]
        title = "Recall change by class" if what == "change" else "Recall by class"
        name = "recall-change" if what == "change" else "recall"
        figures.append(
            Figure(
                f"{name}-{slug(where)}" if where else name,
                f"{title} · {where}" if where else title,
                f"Heat map of {'recall change in percentage points' if what == 'change' else 'recall in percent'}, "
                "methods by classes, the most frequent class first.",
                _caption(view, mine, what),
                *charts,
                data=("recall",),
            )
        )
    return figures


def slug(text: str) -> str:
    """Turn a name into letters, digits and dashes for a file's name."""
    plain = "".join(c.lower() if c.isascii() and c.isalnum() else "-" for c in text)
    return "-".join(part for part in plain.split("-") if part)[:60] or "other"


def change_step(values: pd.Series[float]) -> float:
    """Choose the width of a colour step (pp) such that few cells lie beyond the last one."""
    known = np.abs(values.dropna().to_numpy(dtype=np.float64))
    far = float(np.quantile(known, 0.95)) if known.size else 1.0
    return next((step for step in NICE if 4.5 * step >= far), NICE[-1])


def _caption(view: View, frame: pd.DataFrame, what: str) -> str:
    order = "Classes from most to least frequent in training; where there is room, with their training images."
    if what == "change":
        text = (
            f"Percentage points against the method's reference: red lost, blue gained. {order} "
            "A class that the reference hardly recognises has little left to lose: see the recall itself below."
        )
    else:
        text = f"Percent of a class's test images that are recognised. {order}"
    most = int(frame["rank"].max()) + 1
    if most > MOST_CLASSES:
        text += f" {most} classes: a cell is the mean of {math.ceil(most / MOST_CLASSES)} neighbours in frequency."
    return text


def _draw(view: View, panels: list[tuple[Panel, pd.DataFrame]], layout: Layout, what: str, step: float) -> Spec:
    column = "name" if layout.narrow else "method"
    names = [str(name) for _, frame in panels for name in frame[column].unique()]
    layout = fitted(layout, names, (210, 118))
    parts = [
        leaf(_panel(view, frame, layout, what, panel, i == len(panels) - 1, step))
        for i, (panel, frame) in enumerate(panels)
    ]
    return styled(stack(parts, 22), layout)


def cells(view: View, rows: pd.DataFrame, what: str, step: float) -> pd.DataFrame:
    """Return one row a cell: its method, place, label, colour bin, text and tip."""
    called = view.class_labels(rows)
    per = math.ceil((int(rows["rank"].max()) + 1) / MOST_CLASSES)
    parts: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows_of(rows):
        parts.setdefault((row["method"], int(row["rank"]) // per), []).append(row)
    found = []
    for (method, place), part in parts.items():
        value = float(np.average([row[what] for row in part], weights=[max(row["seeds"], 1) for row in part]))
        ranks = sorted({int(row["rank"]) for row in part})
        name = called[ranks[0]] if len(ranks) == 1 else f"ranks {ranks[0] + 1} to {ranks[-1] + 1}"
        images = sum(row["train_count"] for row in part) / len(part)
        bin_ = change_bin(value, step) if what == "change" else min(9, max(0, int(value // 10)))
        found.append(
            {
                "method": method,
                "place": place,
                "name": name,
                "images": words.number(images, 0),
                "bin": bin_,
                "strong": (STRONG_LOSS_TO_GAIN if what == "change" else STRONG_LOW_TO_HIGH)[bin_],
                "words": words.number(value, 1 if what == "change" else 0, sign=what == "change"),
                "tip": tip(view, method, _said(part, name, images, value, what)),
            }
        )
    return pd.DataFrame(found)


def _said(part: list[dict[str, Any]], name: str, images: float, value: float, what: str) -> list[str]:
    first = part[0]
    low, high = (first[f"{what}_low"], first[f"{what}_high"]) if len(part) == 1 else (None, None)
    number = words.with_interval(value, low, high, sign=what == "change")
    unit = "pp recall" if what == "change" else "% recall"
    return [first["setting"], name, f"{words.number(images, 0)} training images", f"{number} {unit}"]


def change_bin(value: float, step: float) -> int:
    """Return the colour step of a change: 5 is "no change to speak of", 0 the largest loss, 10 the largest gain."""
    return int(min(10, max(0, 5 + round(value / step))))


def _panel(view: View, frame: pd.DataFrame, layout: Layout, what: str, panel: Panel, last: bool, step: float) -> Any:
    """Wide: methods down, classes across. Narrow: the other way round, since classes are the longer list."""
    import altair as alt

    classes = frame.drop_duplicates("place").sort_values("place")
    many = len(classes)
    methods = [m for m in view.methods if (frame["method"] == m).any()]
    colours = LOSS_TO_GAIN if what == "change" else LOW_TO_HIGH
    tone = alt.Color(
        "bin:O",
        scale=alt.Scale(domain=list(range(len(colours))), range=[light for light, _ in colours]),
        legend=_legend(what, step, layout) if last else None,
    )
    frame = frame.assign(column=[methods.index(m) for m in frame["method"]])
    x, y, shape, legible = (_narrow if layout.narrow else _wide)(classes, methods, layout)
    base = alt.Chart(frame).encode(x=x, y=y)
    layers = [
        base.mark_rect(stroke=colour("paper"), strokeWidth=1 if many > 40 else 2).encode(
            color=tone, description="tip:N"
        )
    ]
    if legible:
        ink = alt.Color(
            "strong:N",
            scale=alt.Scale(domain=[False, True], range=[colour("on-weak"), colour("on-strong")]),
            legend=None,
        )
        layers.append(base.mark_text(fontSize=11.5, aria=False).encode(text="words:N", color=ink))
    chart = alt.layer(*layers).resolve_scale(color="independent").properties(**shape)
    return chart.properties(title=view.panel_name(panel))


PLAIN: Spec = {"title": None, "ticks": False, "domain": False, "grid": False}
Axes = tuple[Any, Any, Spec, bool]
"""x, y, the size, and whether a cell has room for its number."""


def _wide(classes: pd.DataFrame, methods: list[str], layout: Layout) -> Axes:
    import altair as alt

    many, room = len(classes), layout.width - layout.label - 24
    names = [str(name) for name in classes["name"]]
    if many <= 14:
        lines = labels.padded([labels.wrapped(name, room / many - 4, layout.font, most=3) for name in names])
        both = [[*each, str(count)] for each, count in zip(lines, classes["images"], strict=True)]
        axis: Spec = {"labelExpr": _by_place(both), "labelAngle": 0, "labelLimit": 0}
    else:
        axis = {"labelExpr": _by_place(_thinned(names)), "labelAngle": -90, "labelLimit": 140}
    x = alt.X("place:O", axis=alt.Axis(**PLAIN, **axis, labelColor=colour("ink")))
    rows, more = name_axis(methods, layout)
    y = alt.Y("method:N", sort=methods, axis=alt.Axis(**rows))
    return x, y, {"width": room, "height": {"step": 26 + more}}, room / many >= 34


def _narrow(classes: pd.DataFrame, methods: list[str], layout: Layout) -> Axes:
    import altair as alt

    many, room = len(classes), layout.width - layout.label - 12
    names = [str(name) for name in classes["name"]]
    lines = [labels.wrapped(name, layout.label - 10, layout.font, most=2 if many <= 30 else 1) for name in names]
    step = (24 if max(len(each) for each in lines) == 1 else 28) if many <= 30 else 13
    extent: Spec = {"minExtent": layout.label, "maxExtent": layout.label, "labelLimit": 0}
    extent["labelExpr"] = _by_place(lines if many <= 60 else _thinned([each[0] for each in lines]))
    extent["labelOffset"] = labels.centred([int(place) for place in classes["place"]], lines, layout.font)
    y = alt.Y("place:O", axis=alt.Axis(**PLAIN, **extent, labelLineHeight=layout.font))
    x = alt.X("column:O", axis=alt.Axis(**PLAIN, **_heads(methods, room / len(methods), layout), orient="top"))
    return x, y, {"width": room, "height": {"step": step}}, many <= 30 and room / len(methods) >= 30


def _heads(methods: list[str], room: float, layout: Layout) -> Spec:
    """Return how methods are named above narrow columns: across where every word fits, else upwards."""
    across = [labels.wrapped(name, room - 2, layout.font, most=3) for name in methods]
    words_fit = all(labels.wide_of(word, layout.font) <= room - 2 for name in methods for word in name.split(" "))
    if words_fit and not any(lines[-1].endswith("…") for lines in across):
        level: Spec = {"labelAngle": 0, "labelLimit": 0, "labelBaseline": "bottom", "labelLineHeight": layout.font + 1}
        level["labelPadding"] = labels.by_lines(list(range(len(methods))), across, 4.0, layout.font + 1.0)
        return {"labelExpr": _by_place(across), **level}
    font = layout.font if room >= 2 * layout.font + 4 else 10
    lines = [labels.wrapped(name, 150, font, most=max(1, min(3, int(room // (font + 0.5))))) for name in methods]
    upwards: Spec = {
        **{"labelAngle": -90, "labelAlign": "left", "labelBaseline": "middle", "labelFontSize": font},
        **{"labelLineHeight": font + 0.5, "labelOffset": labels.centred(list(range(len(methods))), lines, font + 0.5)},
    }
    return {"labelExpr": _by_place(lines), "labelLimit": 0, **upwards}


def _legend(what: str, step: float, layout: Layout) -> Any:
    import altair as alt

    if what == "change":
        texts = [words.number((i - 5) * step, 0 if step >= 1 else 1, sign=True) for i in range(len(LOSS_TO_GAIN))]
    else:
        texts = [f"{10 * i}" for i in range(len(LOW_TO_HIGH))]
    unit = "pp" if what == "change" else "% and above"
    return alt.Legend(
        orient="bottom",
        direction="horizontal",
        columns=6 if layout.narrow else len(texts),
        columnPadding=5,
        symbolType="square",
        symbolSize=130,
        labelFontSize=11,
        labelOffset=2,
        title=unit,
        labelExpr=f"{json.dumps(texts)}[datum.value]",
    )


def _by_place(texts: Sequence[str | Sequence[str]]) -> str:
    """Return the expression that labels a place with its text or its lines."""
    return f"{json.dumps(list(texts))}[datum.value]"


def _thinned(names: list[str]) -> list[str]:
    """Leave out names where more than 60 would stand side by side."""
    every = 1 if len(names) <= 60 else math.ceil(len(names) / 40)
    return [name if i % every == 0 else "" for i, name in enumerate(names)]

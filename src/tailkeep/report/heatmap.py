"""Recall by class, classes ordered by frequency: the change against the reference, and the recall itself."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd

from tailkeep.report import words
from tailkeep.report.canvas import NARROW, WIDE, Figure, Layout, Spec, leaf, rows_of, stack, styled, tip
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
    frame = view.headline(view.analysis.recall)
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
        text = f"Percentage points against the method's reference: red lost, blue gained. {order}"
    else:
        text = f"Percent of a class's test images that are recognised. {order}"
    most = int(frame["rank"].max()) + 1
    if most > MOST_CLASSES:
        text += f" {most} classes: a cell is the mean of {math.ceil(most / MOST_CLASSES)} neighbours in frequency."
    return text


def _draw(view: View, panels: list[tuple[Panel, pd.DataFrame]], layout: Layout, what: str, step: float) -> Spec:
    parts = [
        leaf(_panel(view, frame, layout, what, panel, i == len(panels) - 1, step))
        for i, (panel, frame) in enumerate(panels)
    ]
    return styled(stack(parts, 22), layout)


def cells(view: View, rows: pd.DataFrame, what: str, step: float) -> pd.DataFrame:
    """Return one row a cell: its method, place, label, colour bin, text and tip."""
    labels = view.class_labels(rows)
    per = math.ceil((int(rows["rank"].max()) + 1) / MOST_CLASSES)
    parts: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows_of(rows):
        parts.setdefault((row["method"], int(row["rank"]) // per), []).append(row)
    found = []
    for (method, place), part in parts.items():
        value = float(np.average([row[what] for row in part], weights=[max(row["seeds"], 1) for row in part]))
        ranks = sorted({int(row["rank"]) for row in part})
        name = labels[ranks[0]] if len(ranks) == 1 else f"ranks {ranks[0] + 1} to {ranks[-1] + 1}"
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
    names = _names(classes, layout, many)
    class_axis: Spec = {"labelExpr": names, "title": None, "ticks": False, "domain": False, "grid": False}
    if layout.narrow:
        room = layout.width - 116
        x = alt.X("column:O", axis=alt.Axis(**_method_axis(methods), title=None, orient="top"))
        y = alt.Y("place:O", axis=alt.Axis(**class_axis, labelLimit=100, minExtent=100, maxExtent=100))
        shape: Spec = {"width": room, "height": {"step": 24 if many <= 30 else 13}}
        legible = many <= 30 and room / len(methods) >= 30
    else:
        room = layout.width - layout.label - 24
        y = alt.Y(
            "method:N",
            sort=methods,
            axis=alt.Axis(title=None, minExtent=layout.label, maxExtent=layout.label),
        )
        narrow_names: Spec = {"labelLimit": room // many - 4 if many <= 14 else 100}
        turn: Spec = {"labelAngle": 0 if many <= 14 else -90, "labelColor": colour("ink")}
        x = alt.X("place:O", axis=alt.Axis(**class_axis, **turn, **narrow_names))
        shape = {"width": room, "height": {"step": 26}}
        legible = room / many >= 34
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
        layers.append(base.mark_text(fontSize=11, aria=False).encode(text="words:N", color=ink))
    chart = alt.layer(*layers).resolve_scale(color="independent").properties(**shape)
    return chart.properties(title=view.panel_name(panel))


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
        labelFontSize=10,
        labelOffset=2,
        title=unit,
        labelExpr=f"{json.dumps(texts)}[datum.value]",
    )


def _names(classes: pd.DataFrame, layout: Layout, many: int) -> str:
    """Return the expression that labels a place with its class (and its images where there is room)."""
    texts = [str(name) for name in classes["name"]]
    counts = [str(count) for count in classes["images"]]
    if not layout.narrow and many <= 14:
        both = [[text, count] for text, count in zip(texts, counts, strict=True)]
        return f"{json.dumps(both)}[datum.value]"
    shown = texts if many <= 60 else [t if i % math.ceil(many / 40) == 0 else "" for i, t in enumerate(texts)]
    return f"{json.dumps(shown)}[datum.value]"


def _method_axis(methods: list[str]) -> Spec:
    angle: Spec = {"labelAngle": -40, "labelAlign": "left"} if len(methods) > 2 else {"labelAngle": 0}
    label = f"{json.dumps(methods)}[datum.value]"
    return {"labelExpr": label, "ticks": False, "domain": False, "grid": False, "labelLimit": 110, **angle}

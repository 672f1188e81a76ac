"""The figures with one small frame a setting: accuracy and its twin, change by group, size and the worst class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tailkeep.report import words
from tailkeep.report.canvas import (
    NARROW,
    WIDE,
    Figure,
    Layout,
    Spec,
    columns,
    extent,
    fitted,
    grid,
    leaf,
    marks,
    name_axis,
    rows_of,
    stack,
    styled,
    tip,
)
from tailkeep.report.select import View, of_panel
from tailkeep.report.theme import colour

AXIS = 46
"""Room for the numbers on the left of a panel."""


def accuracy_figure(view: View) -> Figure | None:
    """Draw each method's accuracy on the imbalanced data and on its balanced twin, joined: the line is G."""
    frame = view.analysis.accuracy
    twin = view.analysis.primary_twin
    imbalanced = view.one_twin(frame)
    if not imbalanced["accuracy"].notna().any():
        return None
    join = ["dataset", "setting", "model", "method"]
    other = frame[frame["twin"] == twin][[*join, "accuracy"]] if (frame["twin"] == twin).any() else frame.head(0)
    other = other[[*join, "accuracy"]].rename(columns={"accuracy": "balanced"})
    both = view.ordered(imbalanced).merge(other, on=join, how="left")
    both["balanced"] = both["balanced"].fillna(both["accuracy"])
    both["tip"] = [_accuracy_tip(view, row, twin) for row in rows_of(both)]
    what = view.analysis.accuracy_is
    seen = twin in ("full", "matched")
    caption = f"Filled: {what} of the model trained on the imbalanced data, a mean over seeds."
    if seen:
        caption += f" Open: trained on its {twin} balanced twin. The line between them is the imbalance gap G."
    title = "What imbalance costs each model" if seen else "Accuracy of each model"
    charts = [_panels(view, both, layout, _dumbbell, "accuracy", what) for layout in (WIDE, NARROW)]
    alt = f"{what.capitalize()} in percent by method and setting."
    return Figure("accuracy", title, alt, caption, *charts, data=("accuracy",))


def _accuracy_tip(view: View, row: dict[str, Any], twin: str) -> str:
    parts = [row["setting"], f"{words.number(row['accuracy'])} % imbalanced"]
    if row["balanced"] != row["accuracy"]:
        parts.append(f"{words.number(row['balanced'])} % {twin} twin")
    return tip(view, row["method"], parts)


def group_figure(view: View) -> Figure | None:
    """Draw the recall change of frequent, middle and rare classes, one line a method."""
    tail = view.ordered(view.headline(view.analysis.tail))
    if tail.empty:
        return None
    rows = []
    for row in rows_of(tail):
        for slot, name in group_slots(view):
            value = row[f"recall_change_{slot}"]
            if words.known(value) and row["role"] != "dense":
                said = [row["setting"], name, f"{words.number(value, sign=True)} pp recall"]
                line = tip(view, row["method"], [row["setting"]])
                rows.append({**row, "group": name, "value": value, "tip": tip(view, row["method"], said), "line": line})
    if not rows:
        return None
    frame = pd.DataFrame(rows)
    charts = [_panels(view, frame, layout, _slopes, "value", "") for layout in (WIDE, NARROW)]
    return Figure(
        "groups",
        "Who pays, by group",
        "Mean recall change in percentage points of the class groups, one line a method.",
        f"Mean recall change against the method's reference. {words.sentence(view.analysis.group_rule)}",
        *charts,
        data=("tail",),
    )


def group_slots(view: View) -> list[tuple[str, str]]:
    """Name the columns many, medium and few as the study does: (column, name)."""
    names = view.analysis.group_names
    slots = ("many", "medium", "few")
    if len(names) == 3:
        return list(zip(slots, names, strict=True))
    if len(names) == 2:
        return [("many", names[0]), ("few", names[1])]
    if len(names) == 5:  # thirds for some settings, majority and minority for others
        return [("many", f"{names[0]} / {names[3]}"), ("medium", names[1]), ("few", f"{names[2]} / {names[4]}")]
    return [(slot, slot) for slot in slots]


def size_figure(view: View) -> Figure | None:
    """Draw packed bytes against worst-class recall."""
    size = view.analysis.size
    if size.empty:
        return None
    size = view.ordered(view.one_twin(size))
    size = size[size["packed_bytes"].notna() & size["worst_recall"].notna() & (size["packed_bytes"] > 0)]
    if size.empty:
        return None
    size = size.assign(
        tip=[
            tip(
                view, r["method"], [r["setting"], words.size(r["packed_bytes"]), f"worst {_percent(r['worst_recall'])}"]
            )
            for r in rows_of(size)
        ]
    )
    charts = [_panels(view, size, layout, _scatter, "worst_recall", "packed_bytes") for layout in (WIDE, NARROW)]
    return Figure(
        "size",
        "Size against the worst class",
        "Scatter of packed bytes against the recall of the worst class in percent.",
        "Up and to the left is better. Packed bytes: bits times weights, plus scales and biases, batch norm folded. "
        "Worst-class recall is the mean over seeds of each seed's lowest.",
        *charts,
        data=("size",),
    )


def _percent(value: float) -> str:
    return f"{words.number(value)} %"


def _panels(view: View, frame: pd.DataFrame, layout: Layout, draw: Any, value: str, what: str) -> Spec:
    """Draw one frame a panel, all of one dataset on the same scale."""
    panels = view.panels(frame)
    layout = fitted(layout, [method for method in view.methods if (frame["method"] == method).any()])
    most = max(sum((p.dataset, p.model) == family for p in panels) for family in view.families)
    across, width = columns(layout, most, layout.label) if draw is _dumbbell else columns(layout, most, 20, AXIS)
    rows = []
    for family in view.families:
        mine = [panel for panel in panels if (panel.dataset, panel.model) == family]
        parts = []
        for i, panel in enumerate(mine):
            same = frame[frame["dataset"] == panel.dataset]
            chart = draw(view, of_panel(frame, panel), same, layout, width, what, (i % across == 0))
            parts.append(leaf(chart.properties(width=width, title=view.panel_name(panel))))
        rows.extend([grid(parts, across)] if parts else [])
    return styled(stack(rows, 26), layout)


def _dumbbell(
    view: View, rows: pd.DataFrame, same: pd.DataFrame, layout: Layout, width: int, what: str, first: bool
) -> Any:
    import altair as alt

    order = [m for m in view.methods if (same["method"] == m).any()]
    ends = [*same["accuracy"], *same["balanced"]]
    middle = float(np.nanmean(ends))
    domain = extent(ends, keep=(middle - 2.5, middle + 2.5))  # a zoom into half a point would shout
    scale = alt.Scale(domain=list(domain), zero=False, nice=False)
    names, more = name_axis(order, layout)
    room: Spec = names if first else {"title": None, "labels": False, "minExtent": 0}
    y = alt.Y("method:N", sort=order, scale=alt.Scale(domain=order), axis=alt.Axis(**room))
    tone = alt.Color("method:N", scale=alt.Scale(**marks(view)["color"]), legend=None)
    base = alt.Chart(rows).encode(y=y, color=tone, description="tip:N")
    axis = alt.Axis(title=f"{what} (%)", tickCount=5)
    x = alt.X("accuracy:Q", scale=scale, axis=axis)
    rings = base.mark_point(size=70, strokeWidth=2, fill=colour("paper"), opacity=1).encode(
        x=alt.X("balanced:Q", scale=scale, axis=axis)
    )
    return alt.layer(
        base.mark_rule(strokeWidth=3, opacity=0.45).encode(x=x, x2="balanced:Q"),
        rings,
        base.mark_point(filled=True, size=95, opacity=1).encode(x=x),
    ).properties(height={"step": 24 + more})


def _slopes(
    view: View, rows: pd.DataFrame, same: pd.DataFrame, layout: Layout, width: int, what: str, first: bool
) -> Any:
    import altair as alt

    order = [name for _, name in group_slots(view) if (rows["group"] == name).any()]
    scale = alt.Scale(domain=list(extent(same["value"], keep=(-1.0, 1.0))), zero=False, nice=False)
    title = "recall change (pp)" if first else None
    room: Spec = {"minExtent": AXIS, "maxExtent": AXIS}
    y = alt.Y("value:Q", scale=scale, axis=alt.Axis(title=title, grid=True, tickCount=5, **room))
    x = alt.X("group:N", sort=order, axis=alt.Axis(title=None, labelAngle=0), scale=alt.Scale(padding=0.5))
    used = marks(view)
    base = alt.Chart(rows).encode(x=x, y=y, color=_method(view, used, same))
    zero = alt.Chart(pd.DataFrame({"value": [0.0]})).mark_rule(color=colour("soft"), strokeWidth=1.2, aria=False)
    return alt.layer(
        zero.encode(y=alt.Y("value:Q", scale=scale)),
        base.mark_line(strokeWidth=2, opacity=0.7).encode(description="line:N"),
        base.mark_point(filled=True, size=70, opacity=1).encode(shape=_shape(view, used, same), description="tip:N"),
    ).properties(height=210)


def _scatter(
    view: View, rows: pd.DataFrame, same: pd.DataFrame, layout: Layout, width: int, what: str, first: bool
) -> Any:
    import altair as alt

    low, high = float(same["packed_bytes"].min()), float(same["packed_bytes"].max())
    wide = high > 1.05 * low
    kind: Spec = {"type": "log"} if wide else {}
    scale = alt.Scale(domain=[low / 1.25, high * 1.25], nice=False, zero=False, **kind)
    # Ticks are where models are: a log axis of its own shows few round numbers over less than a decade.
    ticks = _spread(sorted(set(same["packed_bytes"])), 1.35 if width > 280 else 1.8)
    label = "datum.value >= 1e6 ? format(datum.value / 1e6, '.3~g') + ' MB' : format(datum.value / 1e3, '.3~g') + ' kB'"
    x = alt.X("packed_bytes:Q", scale=scale, axis=alt.Axis(title="packed size", values=ticks, labelExpr=label))
    ends = extent(same["worst_recall"], pad=0.1)
    vertical = alt.Scale(domain=[max(ends[0], -4.0), min(ends[1], 104.0)], zero=False, nice=False)
    title = "worst-class recall (%)" if first else None
    axis = alt.Axis(title=title, grid=True, tickCount=5, minExtent=AXIS, maxExtent=AXIS)
    y = alt.Y("worst_recall:Q", scale=vertical, axis=axis)
    used = marks(view)
    return (
        alt.Chart(rows.iloc[::-1])  # where marks meet, techniques lie over controls
        .mark_point(filled=True, size=120, opacity=0.95)
        .encode(x=x, y=y, color=_method(view, used, same), shape=_shape(view, used, same), description="tip:N")
        .properties(height=230)
    )


def _spread(values: list[float], least: float) -> list[float]:
    """Keep the values that are at least a factor ``least`` apart."""
    kept: list[float] = []
    for value in values:
        if not kept or value / kept[-1] >= least:
            kept.append(float(value))
    return kept


def _method(view: View, used: dict[str, dict[str, Any]], same: pd.DataFrame) -> Any:
    import altair as alt

    return alt.Color("method:N", scale=alt.Scale(**_present(view, used["color"], same)), legend=alt.Legend(title=None))


def _shape(view: View, used: dict[str, dict[str, Any]], same: pd.DataFrame) -> Any:
    import altair as alt

    return alt.Shape("method:N", scale=alt.Scale(**_present(view, used["shape"], same)), legend=alt.Legend(title=None))


def _present(view: View, scale: dict[str, Any], same: pd.DataFrame) -> dict[str, Any]:
    """Keep the methods that a figure shows, so that its legend names no other."""
    keep = [i for i, method in enumerate(view.methods) if (same["method"] == method).any()]
    return {name: [values[i] for i in keep] for name, values in scale.items()}

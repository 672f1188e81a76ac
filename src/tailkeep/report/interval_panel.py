"""A frame of intervals: names down, values across, zero and a limit, and columns of text beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from tailkeep.report import words
from tailkeep.report.audit_view import WORST
from tailkeep.report.canvas import Layout, Spec, extent, name_axis
from tailkeep.report.theme import colour

STYLES = {"lost": "verdict-lost", "unsure": "verdict-unsure", "kept": "verdict-kept", "plain": "dense"}
SHAPES = {"lost": "triangle-down", "unsure": "circle", "kept": "circle", "plain": "diamond"}
TEXT = (150, 120, 70)
"""Pixels of the columns of text beside the plot: the change, what it comes from, training images."""
HEADS = ("change (pp)", "lost / won / of", "trained on")


def reach_of(rows: pd.DataFrame) -> float:
    """Return how far from zero the frame may go: an interval without end must not hide the rest."""
    limit = float(rows["limit"].abs().max()) if rows["limit"].notna().any() else 1.0
    return max(3 * limit, 1.8 * float(rows["value"].abs().max()), 1.0)


def is_cut(rows: pd.DataFrame, same: pd.DataFrame) -> bool:
    """Tell whether an interval of ``rows`` leaves the frame, whose scale is that of ``same``."""
    reach = reach_of(same)
    return bool((rows["low"] < -reach).any() or (rows["high"] > reach).any())


def with_gap(rows: pd.DataFrame, left: int) -> pd.DataFrame:
    """Put an empty row where classes are left out."""
    texts = {name: "" for name in ("words", "counts", "images") if name in rows}
    empty = pd.DataFrame([{"label": f"… {words.number(left, 0)} more", "style": "plain", **texts}])
    return pd.concat([rows.head(WORST), empty, rows.iloc[WORST:]], ignore_index=True)


def panel(
    rows: pd.DataFrame,
    width: int,
    layout: Layout,
    texts: tuple[str, ...] = (),
    same: pd.DataFrame | None = None,
    first: bool = True,
) -> Any:
    """Return one frame: names down, the change across. ``same`` are the rows that share its scale."""
    import altair as alt

    wide = rows if same is None else same
    reach = reach_of(wide)
    rows = rows.assign(low=rows["low"].clip(-reach, reach), high=rows["high"].clip(-reach, reach))
    ends = [*wide["low"].clip(-reach, reach), *wide["high"].clip(-reach, reach), *wide["value"], *wide["limit"]]
    scale = alt.Scale(domain=list(extent(ends, keep=(-1.0, 1.0))), nice=False, zero=False)
    axis = alt.Axis(title="change of recall (pp)", tickCount=6, grid=True)
    order = list(dict.fromkeys(rows["label"]))
    names, more = name_axis(order, layout)
    room: Spec = names if first else {"title": None, "labels": False, "minExtent": 0}
    y = alt.Y("label:N", sort=order, scale=alt.Scale(domain=order), axis=alt.Axis(**room))
    step = 24 + more
    points = alt.Chart(rows).encode(y=y, description="tip:N")
    x = alt.X("value:Q", scale=scale, axis=axis)
    layers = [
        rule(0.0, "soft", [], scale),
        *limit_marks(rows, scale, axis, y, step),
        points.mark_rule(strokeWidth=2.5, clip=True).encode(
            x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q", color=tone(alt.Color)
        ),
        points.mark_point(size=85, strokeWidth=2, opacity=1, clip=True).encode(
            x=x,
            stroke=tone(alt.Stroke),
            fill=tone(alt.Fill, {"unsure": "paper"}),
            shape=alt.Shape("style:N", scale=alt.Scale(domain=list(SHAPES), range=list(SHAPES.values())), legend=None),
        ),
        *text_columns(rows, texts, width, y),
    ]
    return alt.layer(*layers).properties(width=width, height={"step": step})


def tone(channel: Callable[..., Any], other: dict[str, str] | None = None) -> Any:
    """Return the scale from a row's style to its colour, for one channel."""
    import altair as alt

    names = {**STYLES, **(other or {})}
    return channel(
        "style:N", scale=alt.Scale(domain=list(names), range=[colour(name) for name in names.values()]), legend=None
    )


def limit_marks(rows: pd.DataFrame, scale: Any, axis: Any, y: Any, step: int) -> list[Any]:
    """Draw one line where all rows share a limit, else a tick a row."""
    import altair as alt

    known = rows[rows["limit"].notna()] if "limit" in rows else rows.head(0)
    if known.empty:
        return []
    if known["limit"].nunique() == 1:
        return [rule(float(known["limit"].iloc[0]), "limit", [4, 3], scale)]
    base = alt.Chart(known).encode(x=alt.X("limit:Q", scale=scale, axis=axis), y=y)
    return [base.mark_tick(size=step - 4, thickness=2, color=colour("limit"), aria=False)]


def text_columns(rows: pd.DataFrame, texts: tuple[str, ...], width: int, y: Any) -> list[Any]:
    """Write columns of text to the right of a frame, each under its head."""
    import altair as alt

    layers, at = [], width + 12
    for name, head, room in zip(("words", "counts", "images"), HEADS, TEXT, strict=True):
        if name not in texts:
            continue
        base = alt.Chart(rows).mark_text(align="left", fontSize=11.5, aria=False)
        layers.append(base.encode(x=alt.value(at), y=y, text=f"{name}:N", color=alt.value(colour("soft"))))
        top = alt.Chart(pd.DataFrame({"head": [head]})).mark_text(align="left", fontSize=11.5, aria=False)
        if "images" in rows or name == "words":
            layers.append(top.encode(x=alt.value(at), y=alt.value(-9), text="head:N", color=alt.value(colour("soft"))))
        at += room
    return layers


def rule(at: float, stroke: str, dash: list[int], scale: Any) -> Any:
    """Draw a vertical line."""
    import altair as alt

    data = pd.DataFrame({"value": [at]})
    mark = alt.Chart(data).mark_rule(color=colour(stroke), strokeDash=dash, strokeWidth=1.2, aria=False)
    return mark.encode(x=alt.X("value:Q", scale=scale))

"""The figures of a recommendation: what size costs the worst class, and who pays on the held-out images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from tailkeep.report import words
from tailkeep.report.canvas import NARROW, WIDE, Figure, Layout, Spec, extent, fitted, leaf, stack, styled
from tailkeep.report.interval_panel import TEXT, panel
from tailkeep.report.recommend_view import STATUSES, RecommendView
from tailkeep.report.theme import colour

AXIS = 46
"""Room for the numbers on the left of the frontier."""
SHAPES = {"passed": "circle", "not passed": "triangle-down", "not reached": "diamond", "pruned early": "cross"}
DECISIONS = {"kept": "kept", "broken": "lost", "cannot tell": "unsure"}


def frontier_figure(view: RecommendView) -> Figure | None:
    """Draw how many times smaller each candidate is against the change of its worst class; None without any."""
    rows = [row for row in view.frontier if row["worst_loss"] is not None and row["times_smaller"]]
    if not rows:
        return None
    level = view.confidence
    return Figure(
        "frontier",
        "Size against the worst class, on validation images",
        f"Scatter of times smaller against the change of recall of the worst class, with {level} intervals. "
        + " ".join(f"{row['name']}: {_words(row)}, {row['status']}." for row in rows[:12]),
        "Change of recall of the class that loses most, on the validation images that the search chose by, with "
        f"Tango's {level} interval of that class. Dashed: the limit. The worst of many classes looks worse than it is, "
        "and what was chosen by it looks better: only the held-out images below decide. Candidates given up early are "
        "shown as they stood then.",
        _frontier(view, rows, WIDE),
        _frontier(view, rows, NARROW),
        data=("frontier",),
    )


def _words(row: dict[str, Any]) -> str:
    change = words.number(-100 * row["worst_loss"], sign=True)
    return f"{words.number(row['times_smaller'])} times smaller, {change} pp ({row['worst_class']})"


def _values(view: RecommendView, rows: Sequence[dict[str, Any]], limit: float) -> list[dict[str, Any]]:
    """Return what the frontier draws of each candidate, its interval cut where it would hide the rest."""
    values = [
        {
            **{"times": row["times_smaller"], "change": -100 * row["worst_loss"]},
            **{"low": -100 * row["worst_high"], "high": -100 * row["worst_low"], "status": row["status"]},
            "name": row["name"] if row["name"] == view.chosen else "",
            "tip": f"{i}|{row['name']} · {_words(row)} · {row['status']}",
        }
        for i, row in enumerate(rows)
    ]
    reach = max(3 * abs(limit), 1.3 * max(abs(value["change"]) for value in values))
    for value in values:
        value |= {end: max(-reach, min(reach, value[end])) for end in ("low", "high")}
    return values


def _frontier(view: RecommendView, rows: Sequence[dict[str, Any]], layout: Layout) -> Spec:
    limit = -float(view.facts["question"]["max_class_drop"])
    values = _values(view, rows, limit)
    ends = [value[end] for value in values for end in ("low", "high", "change")]
    times = [value["times"] for value in values]
    present = [status for status in SHAPES if any(value["status"] == status for value in values)]
    legend = {"title": None, "columns": 2 if layout.narrow else 4}
    domain = [min([*times, 1.0]) / 1.15, max(times) * 1.25]
    scale = {"domain": domain, "type": "log", "nice": False}
    x = {"field": "times", "type": "quantitative", "scale": scale}
    x["axis"] = {"title": "times smaller than the baseline (packed bytes)", "tickCount": 6, "format": "~r"}
    y_scale = {"domain": list(extent(ends, keep=(0.0, limit))), "nice": False, "zero": False}
    y = {"field": "change", "type": "quantitative", "scale": y_scale}
    y["axis"] = {"title": "change, worst class (pp)", "grid": True, "tickCount": 6, "minExtent": AXIS}
    tones = {"domain": present, "range": [colour(f"verdict-{STATUSES[status][0]}") for status in present]}
    tone = {"field": "status", "type": "nominal", "scale": tones, "legend": legend}
    shapes = {"domain": present, "range": [SHAPES[status] for status in present]}
    shape = {"field": "status", "type": "nominal", "scale": shapes, "legend": legend}
    tip = {"field": "tip"}
    rule = {"type": "rule", "strokeWidth": 1.4, "aria": False}
    layers = [
        _line(0.0, {**rule, "color": colour("soft")}, y),
        _line(limit, {**rule, "color": colour("limit"), "strokeDash": [4, 3]}, y),
        {
            "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.55, "clip": True},
            "encoding": {
                "x": x,
                "y": {**y, "field": "low"},
                "y2": {"field": "high"},
                "color": tone,
                "description": tip,
            },
        },
        {
            "mark": {"type": "point", "filled": True, "size": 105, "opacity": 1},
            "encoding": {"x": x, "y": y, "color": tone, "shape": shape, "description": tip},
        },
        {
            "mark": {
                "type": "text",
                **_beside(values, domain),
                "dy": -9,
                "fontSize": 11.5,
                "fontWeight": "bold",
                "color": colour("ink"),
            },
            "encoding": {"x": x, "y": y, "text": {"field": "name"}},
        },
    ]
    height = 260 if layout.narrow else 320
    chart = {"data": {"values": values}, "layer": layers, "width": layout.width - AXIS - 40, "height": height}
    return styled(chart, layout)


def _beside(values: Sequence[dict[str, Any]], domain: Sequence[float]) -> Spec:
    """On which side of its point the chosen one's name goes: that with more room, on the log scale of ``domain``."""
    right = any(value["name"] and value["times"] > math.sqrt(domain[0] * domain[1]) for value in values)
    return {"align": "right", "dx": -10} if right else {"align": "left", "dx": 10}


def _line(at: float, mark: Spec, y: Spec) -> Spec:
    """A line across the whole frame."""
    return {"data": {"values": [{"change": at}]}, "mark": mark, "encoding": {"y": y}}


def evidence_figure(view: RecommendView, index: int) -> Figure | None:
    """Draw the change of recall by class of a candidate that was held against the held-out images."""
    evidence = view.evidence[index]
    rows = pd.DataFrame([_row(index, each, view) for each in evidence["classes"]])
    if rows.empty:
        return None
    together = pd.DataFrame([_row(i, c, view) for i, each in enumerate(view.evidence) for c in each["classes"]])
    charts = []
    for layout in (WIDE, NARROW):
        fit = fitted(layout, rows["label"], (210, 118))
        room = 0 if layout.narrow else sum(TEXT[:2])
        texts = () if layout.narrow else ("words", "counts")
        chart = panel(rows, fit.width - fit.label - 16 - room, fit, texts, together)
        charts.append(styled(stack([leaf(chart)], 10), fit))
    worst = min(evidence["classes"], key=lambda each: -(each["loss"] or 0))
    return Figure(
        f"change-{index + 1}" if len(view.evidence) > 1 else "change",
        f"Held-out images, {evidence['place']}: {evidence['name']}",
        f"Dot plot of the change of recall in percentage points by class, with {view.confidence} intervals. Lowest: "
        f"{worst['name']} {words.number(-100 * (worst['loss'] or 0), sign=True)}.",
        f"Recall of {evidence['name']} minus the baseline's on the same held-out images, with Tango's "
        f"{view.confidence} score interval, a class at a time. Dashed: the limit. ▼ shown to lose more than the limit, "
        "● shown to lose less, ○ cannot tell.",
        *charts,
        data=("classes",),
    )


def _row(index: int, each: dict[str, Any], view: RecommendView) -> dict[str, Any]:
    value, low, high = (-100 * (each[key] or 0.0) for key in ("loss", "high", "low"))
    found = words.with_interval(value, low, high, sign=True)
    counts = f"{each['n10']:,} / {each['n01']:,} / {each['n']:,}"
    said = f"lost {each['n10']:,}, won {each['n01']:,} of {each['n']:,} images"
    return {
        **{"label": each["name"], "value": value, "low": low, "high": high},
        **{"limit": -float(view.facts["question"]["max_class_drop"]), "style": DECISIONS[each["decision"]]},
        **{
            "words": found,
            "counts": counts,
            "tip": f"{index}|{each['name']} · {found} pp · {each['decision']} · {said}",
        },
    }

"""Before and after: recall and calibration error of each class under the baseline and under the candidate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from tailkeep.report import words
from tailkeep.report.audit_forest import style_of
from tailkeep.report.audit_view import MOST_CLASSES, AuditView, drop_limits, judged, unique_labels
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
    name_axis,
    rows_of,
    styled,
)
from tailkeep.report.heatmap import heat_figures
from tailkeep.report.interval_panel import tone, with_gap
from tailkeep.report.select import View
from tailkeep.report.theme import colour

if TYPE_CHECKING:
    from tailkeep.analysis.audit import CandidateAudit

Found = list[tuple["CandidateAudit", pd.DataFrame, int]]


def recall_figures(view: AuditView) -> list[Figure]:
    """Draw recall before and after: a dumbbell a class, or for many classes a scatter and a heat map."""
    if not view.candidates or not any(each.classes["change"].notna().any() for each in view.candidates):
        return []
    if len(view.candidates[0].classes) > MOST_CLASSES:
        return [_scatter_figure(view), *_maps(view)]
    found = [(each, *_pairs(view, each, "recall_baseline", "recall", "change")) for each in view.candidates]
    charts = [dumbbells(found, layout, "recall (%)", (0.0, 100.0)) for layout in (WIDE, NARROW)]
    return [
        Figure(
            "recall",
            "Recall by class, before and after",
            "Dumbbell plot of each class's recall in percent under the baseline and under the candidate.",
            f"Open: {view.analysis.baseline}. Filled: the candidate. The colour is the gate's decision on the class. "
            f"{view.order_words}",
            *charts,
            data=("classes",),
        )
    ]


def calibration_figure(view: AuditView) -> Figure | None:
    """Draw each class's calibration error before and after; None without scores."""
    if not view.has_scores:
        return None
    found = [(each, *_pairs(view, each, "ece_baseline", "ece", "ece_change", up=False)) for each in view.candidates]
    found = [each for each in found if len(each[1])]
    charts = [dumbbells(found, layout, "calibration error (pp)") for layout in (WIDE, NARROW)]
    left = max(left for _, _, left in found)
    return Figure(
        "calibration",
        "Calibration error by class, before and after",
        "Dumbbell plot of each class's expected calibration error under the baseline and under the candidate.",
        f"Expected calibration error (ECE): {calibration_words(view)}. Open: {view.analysis.baseline}. "
        f"Filled: the candidate. {view.chosen_words(left)}",
        *charts,
        data=("classes",),
    )


def calibration_words(view: AuditView) -> str:
    """Say what a class's calibration error is."""
    if view.multilabel:
        return "the mean distance between the probability of a class and how often it is there, over all images"
    return "the mean distance between how sure the model is and how often it is right, over the images of a class"


def _pairs(
    view: AuditView, candidate: CandidateAudit, before: str, after: str, change: str, up: bool = True
) -> tuple[pd.DataFrame, int]:
    """Return a row a class with its two values, and how many classes are left out."""
    frame, left = view.chosen(candidate.classes, change, up)
    checks = judged(candidate.gate, "class")
    number = view.candidates.index(candidate)
    unit = "%" if change == "change" else "pp"
    rows = []
    for r in rows_of(frame):
        one, other = r[before], r[after]
        said = f"{words.number(one)} → {words.number(other)} {unit}"
        style = style_of(checks.get(r["class_name"])) if change == "change" else "plain"
        tip = f"{number}|{r['label']} · {said} · {r['n']:,.0f} {view.images}"
        rows.append({"label": r["label"], "before": one, "after": other, "style": style, "tip": tip})
    return pd.DataFrame(rows), left


def dumbbells(found: Found, layout: Layout, title: str, within: tuple[float, float] | None = None) -> Spec:
    """Draw a frame a candidate, all on one scale; ``within`` are the ends that a value cannot pass."""
    layout = fitted(layout, [label for _, rows, _ in found for label in rows["label"]], (210, 118))
    ends = [value for _, rows, _ in found for value in (*rows["before"], *rows["after"])]
    low, high = extent(ends)
    if within:
        low, high = max(low, within[0] - 1), min(high, within[1] + 1)
    across, width = columns(layout, len(found), layout.label)
    if len(found) == 1 and not layout.narrow:
        width = layout.width - layout.label - 40
    parts = []
    for i, (candidate, rows, left) in enumerate(found):
        rows = with_gap(rows, left) if left else rows
        chart = _dumbbell(rows, layout, (low, high), title, i % across == 0).properties(width=width)
        parts.append(leaf(chart if len(found) == 1 else chart.properties(title=candidate.name)))
    return styled(grid(parts, across), layout)


def _dumbbell(rows: pd.DataFrame, layout: Layout, domain: tuple[float, float], title: str, first: bool) -> Any:
    import altair as alt

    order = list(dict.fromkeys(rows["label"]))
    names, more = name_axis(order, layout)
    room: Spec = names if first else {"title": None, "labels": False, "minExtent": 0}
    scale = alt.Scale(domain=list(domain), nice=False, zero=False)
    axis = alt.Axis(title=title, tickCount=6, grid=True)
    y = alt.Y("label:N", sort=order, scale=alt.Scale(domain=order), axis=alt.Axis(**room))
    x = alt.X("after:Q", scale=scale, axis=axis)
    base = alt.Chart(rows).encode(y=y, color=tone(alt.Color), description="tip:N")
    rings = base.mark_point(size=70, strokeWidth=2, fill=colour("paper"), opacity=1)
    return alt.layer(
        base.mark_rule(strokeWidth=3, opacity=0.45).encode(x=x, x2="before:Q"),
        rings.encode(x=alt.X("before:Q", scale=scale, axis=axis)),
        base.mark_point(filled=True, size=95, opacity=1).encode(x=x),
    ).properties(height={"step": 24 + more})


def _scatter_figure(view: AuditView) -> Figure:
    charts = [_scatters(view, layout) for layout in (WIDE, NARROW)]
    return Figure(
        "recall",
        "Recall of every class, before and after",
        "Scatter of each class's recall in percent under the baseline and under the candidate.",
        f"A dot is a class: below the line it lost, above it gained. Across: {view.analysis.baseline}. The dashed line "
        "is the limit where all classes share one; the colour is the gate's decision on the class.",
        *charts,
        data=("classes",),
    )


def _scatters(view: AuditView, layout: Layout) -> Spec:
    import altair as alt

    across, width = columns(layout, len(view.candidates), 20, 46)
    width = min(width, 420)
    known = pd.concat([each.classes[["recall_baseline", "recall"]] for each in view.candidates])
    low, high = extent(known.to_numpy().ravel().tolist(), pad=0.03)
    ends = (max(-2.0, low), min(102.0, high))
    scale = alt.Scale(domain=list(ends), nice=False, zero=False)
    parts = []
    for number, candidate in enumerate(view.candidates):
        frame = candidate.classes.assign(label=unique_labels(candidate.classes))
        frame = frame[frame["change"].notna()]
        checks, limits = judged(candidate.gate, "class"), set(drop_limits(candidate.gate, "class").values())
        rows = pd.DataFrame(
            {
                "before": frame["recall_baseline"],
                "after": frame["recall"],
                "style": [style_of(checks.get(name)) for name in frame["class_name"]],
                "tip": [
                    f"{number}|{r['label']} · {words.number(r['recall_baseline'])} → {words.number(r['recall'])} % · "
                    f"{r['n']:,.0f} {view.images}"
                    for r in rows_of(frame)
                ],
            }
        )
        lines = [_diagonal(0.0, "soft", [], scale, ends)]
        lines += [_diagonal(limits.pop(), "limit", [4, 3], scale, ends)] if len(limits) == 1 else []
        dots = alt.Chart(rows).mark_point(filled=True, size=34, opacity=0.75)
        dots = dots.encode(
            x=alt.X("before:Q", scale=scale, axis=alt.Axis(title="baseline, recall (%)", tickCount=5)),
            y=alt.Y("after:Q", scale=scale, axis=alt.Axis(title="candidate, recall (%)", grid=True, tickCount=5)),
            color=tone(alt.Color),
            description="tip:N",
        )
        chart = alt.layer(*lines, dots).properties(width=width, height=width)
        parts.append(leaf(chart.properties(title=candidate.name) if view.several else chart))
    return styled(grid(parts, across), layout)


def _diagonal(below: float, stroke: str, dash: list[int], scale: Any, ends: tuple[float, float]) -> Any:
    import altair as alt

    low, high = ends
    data = pd.DataFrame({"before": [low + below, high], "after": [low, high - below]})
    mark = alt.Chart(data).mark_line(color=colour(stroke), strokeDash=dash, strokeWidth=1.2, aria=False)
    return mark.encode(x=alt.X("before:Q", scale=scale), y=alt.Y("after:Q", scale=scale))


def _maps(view: AuditView) -> list[Figure]:
    """Draw the study's heat map of recall, in which neighbours in frequency share a cell."""
    study = View(view.analysis.study)
    if study.analysis.recall.empty:
        return []
    found = heat_figures(study, "recall")
    return [replace(each, name=f"recall-map{i or ''}", data=("classes",)) for i, each in enumerate(found)]

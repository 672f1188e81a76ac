"""The headline figure: the excess gap of every technique and setting, with intervals, zero and the margin."""

from __future__ import annotations

from typing import Any

import pandas as pd

from tailkeep.report import labels
from tailkeep.report.canvas import (
    NARROW,
    WIDE,
    Figure,
    Layout,
    Spec,
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
from tailkeep.report.select import View
from tailkeep.report.theme import VERDICTS, colour
from tailkeep.report.words import known, with_interval

ALL = "all settings"


def excess_figure(view: View) -> Figure | None:
    """Draw E by technique and setting; None where no twin makes E known."""
    if not view.has_excess:
        return None
    frame, cut = forest_frame(view)
    margin = f"{view.analysis.margin:g} pp"
    caption = (
        f"Each mark is a mean over seeds with its 95 % t interval, small ticks are single seeds, the diamond averages "
        f"all settings. Right of zero: the technique loses more to imbalance than its reference does. Dashed: the "
        f"margin of {margin}. Twin: {view.analysis.primary_twin}."
    )
    if cut:
        caption += " Intervals that leave the frame are cut; the table has their ends."
    return Figure(
        "excess-gap",
        "Excess gap by technique and setting",
        f"Dot plot of the excess gap in percentage points with 95 % intervals, a zero line and a margin at {margin}.",
        caption,
        _draw(view, frame, WIDE),
        _draw(view, frame, NARROW),
        data=("verdicts", "gaps", "seed_gaps"),
    )


def forest_frame(view: View) -> tuple[pd.DataFrame, bool]:
    """Return the rows to draw, and whether an interval is longer than the frame shows."""
    gaps = view.ordered(view.headline(view.analysis.gaps))
    gaps = gaps[gaps["excess"].notna() & (gaps["role"] != "dense")]
    rows = [_row(view, r, r["setting"], r["excess"], r["excess_low"], r["excess_high"], "mean") for r in rows_of(gaps)]
    for verdict in view.analysis.verdicts:
        if known(verdict.excess_gap) and len({r["setting"] for r in rows if r["method"] == verdict.method}) > 1:
            base = {"dataset": verdict.dataset, "model": verdict.model, "method": verdict.method}
            rows.append(_row(view, base, ALL, verdict.excess_gap, verdict.low, verdict.high, "average"))
            rows[-1]["tip"] += f" · {VERDICTS.get(verdict.label, ('', '', '', ''))[1]} {verdict.label}"
    frame = pd.DataFrame(rows)
    reach = max(4 * view.analysis.margin, 3 * float(frame["value"].abs().max()))
    cut = bool((frame["low"] < -reach).any() or (frame["high"] > reach).any())
    frame["low"], frame["high"] = frame["low"].clip(-reach, reach), frame["high"].clip(-reach, reach)
    seeds = view.ordered(view.headline(view.analysis.seed_gaps))
    seeds = seeds[seeds["excess"].notna() & (seeds["role"] != "dense") & (seeds["excess"].abs() <= reach)]
    dots = [
        {**_row(view, r, r["setting"], r["excess"], None, None, "seed"), "tip": tip(view, r["method"], _seed_words(r))}
        for r in rows_of(seeds)
    ]
    return pd.DataFrame([*frame.to_dict("records"), *dots]), cut


def _seed_words(row: dict[str, Any]) -> list[str]:
    return [row["setting"], f"seed {row['seed']}", f"E {with_interval(row['excess'], None, None, sign=True)} pp"]


def _row(view: View, base: dict[str, Any], setting: str, value: Any, low: Any, high: Any, kind: str) -> dict[str, Any]:
    words = with_interval(value, low, high, sign=True)
    return {
        "dataset": base["dataset"],
        "model": base["model"],
        "method": base["method"],
        "setting": setting,
        "value": value,
        "low": low if known(low) else value,
        "high": high if known(high) else value,
        "kind": kind,
        "words": words,
        "tip": tip(view, base["method"], [setting, f"E {words} pp"]),
    }


def _draw(view: View, frame: pd.DataFrame, layout: Layout) -> Spec:
    domain = extent([*frame["low"], *frame["high"]], keep=(0.0, view.analysis.margin))
    drawn = len(set(zip(frame["dataset"], frame["model"], strict=True)))
    across = 1 if layout.narrow or drawn == 1 else 2
    layout = fitted(layout, [*frame["setting"].unique()], (150 if across == 1 else 130, 110))
    columns = []
    for dataset, model in view.families:
        mine = frame[(frame["dataset"] == dataset) & (frame["model"] == model)]
        present = [method for method in view.methods if (mine["method"] == method).any()]
        if not present:
            continue
        width = layout.width - layout.label - 16 if layout.narrow else layout.width // across - layout.label - 124
        blocks = [
            _block(view, mine[mine["method"] == method], width, layout, domain, method == present[-1])
            for method in present
        ]
        columns.append(stack(blocks, 4 if layout.narrow else 6, view.family_name(dataset, model)))
    return styled(grid(columns, across), layout)


def _block(view: View, rows: pd.DataFrame, width: int, layout: Layout, domain: tuple[float, float], last: bool) -> Spec:
    """One technique: a line a setting, the diamond last."""
    import altair as alt

    present = set(rows["setting"])
    order = [s for s in [*view.settings, ALL] if s in present]
    scale = alt.Scale(domain=list(domain), nice=False, zero=False)
    axis = alt.Axis(labels=last, ticks=last, domain=last, title="excess gap E (pp)" if last else None, tickCount=6)
    x = alt.X("value:Q", scale=scale, axis=axis)
    names, more = name_axis(order, layout)
    y = alt.Y("setting:N", sort=order, axis=alt.Axis(**names))
    tone = alt.Color("method:N", scale=alt.Scale(**marks(view)["color"]), legend=None)
    points = alt.Chart(rows[rows["kind"] != "seed"]).encode(y=y, color=tone, description="tip:N")
    kind = alt.Scale(domain=["mean", "average"], range=["circle", "diamond"])
    area = alt.Scale(domain=["mean", "average"], range=[75, 190])
    layers = [
        _line(0.0, colour("soft"), [], scale),
        _line(view.analysis.margin, colour("limit"), [4, 3], scale),
        alt.Chart(rows[rows["kind"] == "seed"])
        .mark_tick(size=9, thickness=1.5, opacity=0.45, clip=True)
        .encode(x=x, y=y, color=tone, description="tip:N"),
        points.mark_rule(strokeWidth=2.5, clip=True).encode(x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q"),
        points.mark_point(filled=True, opacity=1, clip=True).encode(
            x=x,
            shape=alt.Shape("kind:N", scale=kind, legend=None),
            size=alt.Size("kind:N", scale=area, legend=None),
        ),
    ]
    if width > 280:
        layers.append(
            points.mark_text(align="left", fontSize=11.5, color=colour("soft")).encode(
                x=alt.value(width + 10), text="words:N", color=alt.value(colour("soft"))
            )
        )
    # Bold letters are a tenth wider.
    lines = labels.wrapped(str(rows["method"].iloc[0]), (layout.label + width) / 1.1, 12.5)
    title = alt.Title(lines if len(lines) > 1 else lines[0], offset=2, fontSize=12.5)
    return leaf(alt.layer(*layers).properties(width=width, height={"step": 21 + more}, title=title))


def _line(at: float, stroke: str, dash: list[int], scale: Any) -> Any:
    import altair as alt

    data = pd.DataFrame({"value": [at]})
    return (
        alt.Chart(data)
        .mark_rule(color=stroke, strokeDash=dash, strokeWidth=1.2, aria=False)
        .encode(x=alt.X("value:Q", scale=scale))
    )

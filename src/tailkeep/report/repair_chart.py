"""Size against balanced accuracy and the worst class, a mark a model, by the place of its repair."""

from __future__ import annotations

from collections.abc import Sequence

from tailkeep.analysis.result import RepairAnalysis
from tailkeep.report import words
from tailkeep.report.canvas import NARROW, WIDE, Figure, Layout, Spec, grid, rows_of, stack, styled, tip
from tailkeep.report.labels import wide_of
from tailkeep.report.repair_panel import (
    AXIS,
    LINE_NAMES,
    STAGES,
    Row,
    is_cut,
    panel_spec,
    present,
    shape,
    spread,
    stage_name,
)
from tailkeep.report.select import View
from tailkeep.report.theme import colour

PANELS = (
    ("balanced_accuracy", "gain", "balanced accuracy (%)", "Balanced accuracy"),
    ("worst_class_recall", "gain_worst", "worst-class recall (%)", "Worst class"),
)


def repair_figure(view: View, repairs: RepairAnalysis, name: str) -> Figure | None:
    """Draw one (dataset, setting); None where no size is known."""
    rows = [row for row in rows_of(repairs.table) if words.known(row["times_smaller"]) and row["times_smaller"] > 0]
    if not rows:
        return None
    picked = {(row["model"], row["method"]) for row in rows_of(repairs.where)} | {repairs.best}
    for row in rows:
        row["picked"] = (row["model"], row["method"]) in picked
        row["tip"] = _tip(view, row)
    lost = [row["method"] for row in rows_of(repairs.table) if not words.known(row["times_smaller"])]
    cut = any(is_cut(rows, value, gain) for value, gain, _, _ in PANELS)
    return Figure(
        name,
        "Size against what is recognised, by the place of the repair",
        "Scatter of how many times smaller each model is against balanced accuracy and worst-class recall in percent, "
        f"marked by where it was repaired: {', '.join(stage_name(stage) for stage in present(rows))}.",
        _caption(repairs, lost, cut),
        *(_draw(view, repairs, rows, layout) for layout in (WIDE, NARROW)),
        data=("repairs", "repairs_where"),
    )


def named(repairs: RepairAnalysis, pair: tuple[str, str]) -> str:
    """Name a row: its method, and its model where there are several."""
    return f"{pair[1]} ({pair[0]})" if repairs.table["model"].nunique() > 1 else pair[1]


def _caption(repairs: RepairAnalysis, lost: Sequence[str], cut: bool) -> str:
    said = [
        "Up and to the right is better. Open: not compressed. Large: what stands for its place at its size"
        + (", or the best repaired model of full size." if repairs.best else "."),
        "Marks of one size stand side by side about it.",
        "Bars: 95 % t intervals over seeds of the gain over the baseline.",
    ]
    line = f"the baseline, {named(repairs, repairs.baseline)}"
    if repairs.best:
        said.append(f"Lines: {line}, and the best repaired model of full size, {named(repairs, repairs.best)}.")
    else:
        said.append(f"Line: {line}.")
    said += ["Bars that leave the frame are cut; the table has their ends."] if cut else []
    said += [f"Not shown, for want of a size: {', '.join(dict.fromkeys(lost))}."] if lost else []
    return " ".join(said)


def _tip(view: View, row: Row) -> str:
    gain = words.with_interval(row["gain"], row["gain_low"], row["gain_high"], sign=True)
    said = [
        row["model"],
        "no repair" if row["stage"] == "none" else f"repaired {row['stage']}",
        f"{words.number(row['times_smaller'])}x smaller",
        f"balanced accuracy {words.number(row['balanced_accuracy'])} %",
        f"gain {gain} pp",
        f"worst class {words.number(row['worst_class_recall'])} %",
    ]
    return tip(view, row["method"], said)


def _draw(view: View, repairs: RepairAnalysis, rows: list[Row], layout: Layout) -> Spec:
    across = 1 if layout.narrow else 2
    width = (layout.width - across * (AXIS + LINE_NAMES + 12)) // across - (0 if layout.narrow else 26)
    places = spread(rows, width)
    parts = [panel_spec(repairs, rows, panel, width, places) for panel in PANELS]
    return styled(stack([_legend(present(rows), layout), grid(parts, across)], 14), layout)


def _legend(stages: Sequence[str], layout: Layout) -> Spec:
    """Name the places of the repair once for both panels."""
    values, x, line = [], 8.0, 0
    for stage in stages:
        wide = wide_of(stage_name(stage), layout.font) + 30
        if x > 8 and x + wide > layout.width - 60:
            x, line = 8.0, line + 1
        values.append((stage, x, 9.0 + 20 * line))
        x += wide
    layers: list[Spec] = []
    for stage, x, y in values:
        mark = {"type": "point", "size": 95, "filled": True, "opacity": 1, "aria": False, "x": x, "y": y}
        layers.append({"mark": {**mark, "shape": shape(stage), "color": colour(STAGES[stage])}})
        text = {"type": "text", "align": "left", "baseline": "middle", "fontSize": layout.font, "aria": False}
        layers.append({"mark": {**text, "x": x + 11, "y": y, "text": stage_name(stage), "color": colour("ink")}})
    return {"data": {"values": [{}]}, "width": layout.width - 60, "height": 18 + 20 * line, "layer": layers}

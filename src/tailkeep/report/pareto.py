"""The worst class against each cost: every method a labelled dot, the frontier a step line, dense as the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    rows_of,
    stack,
    styled,
    tip,
)
from tailkeep.report.pareto_panel import AXIS, Named, named_dots, panel_spec
from tailkeep.report.select import Panel, View, of_panel

LOG_FROM = 10
"""How many times the least cost the greatest is before the axis is logarithmic."""
MOST_SAID = 6
"""Frames whose frontiers a figure's description names."""


@dataclass(frozen=True)
class Cost:
    """One cost axis: the pareto table's ``axis`` and ``batch``, and its words."""

    axis: str
    batch: int
    name: str  # of the figure's files
    title: str
    said: str  # what the cost axis is called
    about: str

    @property
    def units(self) -> tuple[tuple[float, str], ...]:
        """The units that its numbers may have, largest first."""
        if self.axis == "latency":
            return ((1.0, "ms"),)
        if self.axis == "macs":
            return ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
        return ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def costs(view: View) -> list[Cost]:
    """Return the cost axes that the study has numbers for: bytes, MACs, latency by batch size."""
    table = view.analysis.pareto
    if table.empty or not view.has_deployment:
        return []
    have = set(table["axis"])
    found = []
    if "file_bytes" in have:
        about = "Bytes of the exported file."
        found.append(Cost("file_bytes", 0, "pareto-bytes", "file size", "file size", about))
    elif "packed_bytes" in have:
        about = "Packed bytes: bits times weights, plus scales and biases, batch norm folded."
        found.append(Cost("packed_bytes", 0, "pareto-bytes", "packed size", "packed size", about))
    if "macs" in have:
        about = "Multiplications of one image, whatever the number of bits."
        found.append(Cost("macs", 0, "pareto-macs", "MACs", "MACs", about))
    for batch in sorted(int(b) for b in table.loc[table["axis"] == "latency", "batch"].unique()):
        about = (
            "Median time of one batch with quartiles over the rounds. A lead that is shorter than these bars is noise."
        )
        said = f"time for a batch of {batch}"
        found.append(Cost("latency", batch, f"pareto-latency-{batch}", f"latency at batch {batch}", said, about))
    return found


def pareto_figures(view: View) -> list[Figure]:
    """Draw one figure a cost."""
    return [figure for cost in costs(view) if (figure := _figure(view, cost)) is not None]


def _figure(view: View, cost: Cost) -> Figure | None:
    table = view.analysis.pareto
    rows = view.ordered(table[(table["axis"] == cost.axis) & (table["batch"] == cost.batch)])
    rows = rows[rows["cost"] > 0]
    if rows.empty:
        return None
    scale, unit = next(((s, u) for s, u in cost.units if rows["cost"].max() >= s), cost.units[-1])
    rows = rows.assign(**{name: rows[name] / scale for name in ("cost", "cost_low", "cost_high")})
    rows["tip"] = [_tip(view, row, cost, unit) for row in rows_of(rows)]
    title = cost.said + (f" ({unit})" if unit else "")
    alt = f"Scatter of {cost.title} against the recall of the worst class in percent. {_leaders(view, rows)}"
    latency = ("latency",) if cost.axis == "latency" else ("size",)
    return Figure(
        cost.name,
        f"Worst class against {cost.title}",
        alt.strip(),
        f"{cost.about}{_missing(rows, table)}",
        *[_draw(view, rows, layout, title) for layout in (WIDE, NARROW)],
        data=("pareto", *latency),
    )


def _tip(view: View, row: dict[str, Any], cost: Cost, unit: str) -> str:
    small = words.interval(row["cost_low"], row["cost_high"], 3) if cost.axis == "latency" else ""
    price = f"{row['cost']:,.3g} {unit} {small}".strip()
    worst = f"worst class {words.number(row['worst_recall'])} %" + (
        f" ({row['worst_class']})" * bool(row["worst_class"])
    )
    where = "on the frontier" if row["on_frontier"] else ""
    return tip(view, row["method"], [row["setting"], price if unit else f"{price} MACs", worst, where])


def _leaders(view: View, rows: pd.DataFrame) -> str:
    """Say which methods stand on the frontiers, for who cannot see the figure."""
    panels = view.panels(rows)
    if len(panels) > MOST_SAID:
        return ""
    said = []
    for panel in panels:
        mine = of_panel(rows, panel)
        said.append(f"{view.panel_name(panel)}: {', '.join(mine.loc[mine['on_frontier'], 'method'])}")
    return f"On the frontier: {'; '.join(said)}."


def _missing(rows: pd.DataFrame, table: pd.DataFrame) -> str:
    """Say which methods of the study the figure has no number for."""
    lost = [method for method in table["method"].unique() if not (rows["method"] == method).any()]
    return f" Not shown, for want of a number: {', '.join(lost)}." if lost else ""


def _draw(view: View, rows: pd.DataFrame, layout: Layout, title: str) -> Spec:
    panels = view.panels(rows)
    layout = fitted(layout, [method for method in view.methods if (rows["method"] == method).any()])
    most = max(sum((p.dataset, p.model) == family for p in panels) for family in view.families)
    # Three side by side where the names have room, else two.
    named: list[Named] = []
    across = 1
    for many in (1,) if layout.narrow else (3, 2):
        across, width = columns(layout, min(many, most), 20, AXIS)
        named = [named_dots(of_panel(rows, panel), panel, width, _domain(rows, panel)) for panel in panels]
        if all(each.whole for each in named):
            break
    legend = not all(each.whole for each in named)
    charts = []
    for family in view.families:
        mine = [each for each in named if (each.panel.dataset, each.panel.model) == family]
        parts = [panel_spec(view, each, title, rows, legend, i % across == 0) for i, each in enumerate(mine)]
        charts.extend([grid(parts, across)] if parts else [])
    return styled(stack(charts, 26), layout)


def _domain(rows: pd.DataFrame, panel: Panel) -> tuple[tuple[float, float], bool]:
    """Return the ends of a panel's cost axis, the same in every setting of a model, and whether it is logarithmic."""
    mine = rows[(rows["dataset"] == panel.dataset) & (rows["model"] == panel.model)]
    known = [*mine["cost"], *mine["cost_low"].dropna(), *mine["cost_high"].dropna()]
    low, high = min(value for value in known if value > 0), max(known)
    if high > LOG_FROM * low:
        room = (high / low) ** 0.09
        return (low / room, high * room), True
    low, high = extent(known, pad=0.1) if high > 1.02 * low else (0.9 * low, 1.1 * high)
    return (max(0.0, low), high), False

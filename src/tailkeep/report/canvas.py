"""What all figures share: their layouts, their fonts and lines, and how one becomes SVG or PNG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from tailkeep.report import labels
from tailkeep.report.select import View
from tailkeep.report.theme import SHAPES, colour, method_colours

Spec = dict[str, Any]
"""A Vega-Lite specification, or a part of one."""

FONT = "Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Layout:
    """How wide a figure may be, and so how many panels stand side by side."""

    name: str
    width: int
    font: int
    label: int  # room for the names on the left
    legend: int = 7  # how many names stand in a row of the legend

    @property
    def narrow(self) -> bool:
        """Whether panels stand below each other."""
        return self.width < 600


WIDE = Layout("wide", 1086, 13, 150)
NARROW = Layout("narrow", 350, 12, 104)
LEGEND_NAME = 330
"""Pixels after which a legend cuts a name."""


def fitted(layout: Layout, names: Iterable[str], most: tuple[int, int] = (210, 124)) -> Layout:
    """Return the layout with room for these names on the left and in the legend; ``most`` is (wide, narrow)."""
    known = list(names)
    room = labels.room_for(known, layout.font, 60, most[layout.narrow])
    widths = [min(LEGEND_NAME, labels.wide_of(name, layout.font)) + 36 for name in known]
    # In several rows every column is as wide as its longest name.
    across = len(known) if sum(widths) <= layout.width - 40 else (layout.width - 40) // max(widths)
    return replace(layout, label=room, legend=int(max(1, across)))


def name_axis(names: Sequence[str], layout: Layout) -> tuple[Spec, int]:
    """Return the axis of names on the left, long ones in several lines, and how many more pixels a row then needs."""
    lines = [labels.wrapped(name, layout.label - 10, layout.font, most=3) for name in names]
    most = max((len(each) for each in lines), default=1)
    axis: Spec = {
        **{"title": None, "minExtent": layout.label, "maxExtent": layout.label, "labelLimit": 0},
        **{"labelExpr": labels.lines_expr(names, lines), "labelLineHeight": layout.font + 1},
        "labelOffset": labels.centred(names, lines, layout.font + 1),
    }
    return axis, (8, 20)[most - 2] if most > 1 else 0


@dataclass(frozen=True)
class Figure:
    """A figure in both layouts. The wide one is also what the files hold."""

    name: str
    title: str
    alt: str
    caption: str
    wide: Spec
    narrow: Spec
    data: tuple[str, ...] = field(default=(), kw_only=True)  # the tables that hold its numbers


def columns(layout: Layout, panels: int, first: int, each: int = 0) -> tuple[int, int]:
    """Return how many panels stand side by side, and the width of each one's plot.

    ``first`` is the room that the first panel of a row needs on its left, ``each`` what every panel does.
    """
    if layout.narrow:
        return 1, layout.width - first - each - 16
    many = 2 if panels == 4 else max(1, min(3, panels))
    return many, min(620, (layout.width - first - (each + 28) * many) // many)


def leaf(chart: Any) -> Spec:
    """Return one chart's part of a specification.

    Altair copies everything below a chart each time it is placed in another, so charts are joined as plain values.
    """
    import altair as alt

    with alt.data_transformers.enable("default", max_rows=None), alt.data_transformers.disable_max_rows():
        plain: Spec = chart.to_dict(validate=False)
    datasets = plain.pop("datasets", {})
    return {key: _with_data(value, datasets) for key, value in plain.items() if key not in ("$schema", "config")}


def _with_data(value: Any, datasets: Spec) -> Any:
    """Put the rows back where a chart names them."""
    if isinstance(value, dict):
        if set(value) == {"name"} and value["name"] in datasets:
            return {"values": datasets[value["name"]]}
        return {key: _with_data(item, datasets) for key, item in value.items()}
    return [_with_data(item, datasets) for item in value] if isinstance(value, list) else value


def stack(parts: Sequence[Spec], spacing: int, title: str = "") -> Spec:
    """Place charts below each other."""
    return {"vconcat": list(parts), "spacing": spacing, **({"title": title} if title else {})}


def grid(parts: Sequence[Spec], across: int, spacing: int = 26) -> Spec:
    """Place charts in rows of ``across``."""
    rows: list[Spec] = [
        {"hconcat": list(parts[i : i + across]), "spacing": spacing} for i in range(0, len(parts), across)
    ]
    return stack(rows, spacing)


def styled(spec: Spec, layout: Layout) -> Spec:
    """Finish a figure's specification with the report's fonts and colours."""
    import altair as alt

    text = {"labelFont": FONT, "titleFont": FONT, "labelFontSize": layout.font, "titleFontSize": layout.font}
    soft = {"labelColor": colour("soft"), "titleColor": colour("soft")}
    ink = {"labelColor": colour("ink"), "titleColor": colour("soft")}
    lines = {"gridColor": colour("grid"), "domainColor": colour("axis"), "tickColor": colour("axis")}
    config = {
        "background": colour("paper"),
        "font": FONT,
        "padding": 6,
        "view": {"stroke": None},
        "axis": {**text, **soft, **lines, "titleFontWeight": "normal", "labelLimit": layout.label},
        "axisY": {"labelColor": colour("ink"), "ticks": False, "domain": False, "grid": False, "labelPadding": 8},
        "title": {
            **{"font": FONT, "fontSize": layout.font + 1, "fontWeight": "bold", "color": colour("ink")},
            **{"anchor": "start", "frame": "bounds", "offset": 8, "limit": layout.width},
        },
        "legend": {
            **text,
            **ink,
            **{"orient": "top", "columns": layout.legend, "labelLimit": LEGEND_NAME},
            **{"symbolStrokeWidth": 0, "symbolSize": 90},
        },
    }
    return {"$schema": alt.SCHEMA_URL, **spec, "config": config}


def marks(view: View) -> dict[str, dict[str, Any]]:
    """Return the scales that give each method one colour and one shape in every figure."""
    names = method_colours(view.methods, view.roles)
    domain = view.methods
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(domain))]
    return {
        "color": {"domain": domain, "range": [colour(names[method]) for method in domain]},
        "shape": {"domain": domain, "range": shapes},
    }


def tip(view: View, method: str, words: Iterable[str]) -> str:
    """Return a mark's description: the method's number, by which the page finds it, and what the mark says."""
    return f"{view.methods.index(method)}|{method} · " + " · ".join(word for word in words if word)


def extent(values: Iterable[Any], *, pad: float = 0.06, keep: Iterable[float] = ()) -> tuple[float, float]:
    """Return an axis' ends around the known values and ``keep``."""
    known = [float(v) for v in (*values, *keep) if isinstance(v, (int, float)) and math.isfinite(v)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    room = pad * ((high - low) or 1.0)
    return low - room, high + room


def to_svg(spec: Spec) -> str:
    """Draw a finished specification as SVG text."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(spec))


def to_png(drawing: str, scale: float = 2.0) -> bytes:
    """Turn SVG text into a PNG image."""
    import vl_convert

    return bytes(vl_convert.svg_to_png(drawing, scale=scale))


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a frame's rows as dicts with text keys."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tailkeep.report import canvas, deployment, pareto, pareto_panel, svg
from tailkeep.report.pareto_panel import Frame
from tailkeep.report.select import View, of_panel

FIGURES = ["pareto-bytes", "pareto-macs", "pareto-latency-1", "pareto-latency-64"]


@pytest.fixture(scope="module")
def view(deployed) -> View:
    return View(deployed)


def layers(spec: dict) -> list[dict]:
    """The layers of a figure's first panel."""
    return spec["vconcat"][0]["vconcat"][0]["hconcat"][0]["layer"]


def test_a_figure_of_each_cost(view: View) -> None:
    assert [figure.name for figure in pareto.pareto_figures(view)] == FIGURES


def test_nothing_is_drawn_where_nothing_was_exported(analysis, deployed) -> None:
    assert pareto.pareto_figures(View(analysis)) == []
    assert pareto.pareto_figures(View(replace(analysis, pareto=deployed.pareto))) == []
    assert deployment.deployment_sheet(View(analysis)) is None
    assert deployment.frontier_sheet(View(analysis)) is None


def test_bytes_are_the_files_or_else_the_packed_ones(deployed) -> None:
    table = deployed.pareto
    assert pareto.costs(View(deployed))[0].axis == "file_bytes"
    packed = replace(deployed, pareto=table[table["axis"] != "file_bytes"])
    assert pareto.costs(View(packed))[0].axis == "packed_bytes"


def test_every_dot_is_labelled_and_the_frontier_filled(view: View) -> None:
    figure = pareto.pareto_figures(view)[0]
    for spec in (figure.wide, figure.narrow):
        points = next(layer for layer in layers(spec) if layer["mark"]["type"] == "point")
        names = [layer for layer in layers(spec) if layer["mark"]["type"] == "text"]
        written = " ".join(row["text"] for layer in names for row in layer["data"]["values"])
        assert {row["method"] for row in points["data"]["values"]} == set(view.methods)
        for method in view.methods:
            assert method.split()[0] in written
        table = view.analysis.pareto
        panel = of_panel(table[table["axis"] == "file_bytes"], view.panels(table)[0])
        on = {row["method"] for row in points["data"]["values"] if row["front"]}
        assert on == set(panel.loc[panel["on_frontier"], "method"])
        assert points["encoding"]["fill"]["condition"]["legend"] is None, "every name stands at its dot"


def test_the_frontier_is_a_rising_step_line_to_the_edge(view: View) -> None:
    line = next(layer for layer in layers(pareto.pareto_figures(view)[0].wide) if layer["mark"].get("interpolate"))
    values = line["data"]["values"]
    assert line["mark"]["interpolate"] == "step-after"
    assert [row["cost"] for row in values] == sorted(row["cost"] for row in values)
    assert [row["recall"] for row in values] == sorted(row["recall"] for row in values)
    assert values[-1]["cost"] == line["encoding"]["x"]["scale"]["domain"][1]


def test_a_wide_span_is_logarithmic(deployed) -> None:
    def kind(factor: float) -> str:
        table = deployed.pareto.copy()
        mine = (table["axis"] == "file_bytes") & (table["method"] == "QAT W8A4")
        table.loc[mine, "cost"] /= factor
        figure = pareto.pareto_figures(View(replace(deployed, pareto=table)))[0]
        return layers(figure.wide)[0]["encoding"]["x"]["scale"].get("type", "linear")

    assert (kind(1.0), kind(10.0)) == ("linear", "log")


@pytest.mark.parametrize("log", [False, True])
def test_pixels_and_values_are_each_others_inverse(log: bool) -> None:
    frame = Frame(300, 200, (2.0, 70.0), (10.0, 60.0), log)
    assert frame.at(2.0, 60.0) == (0, 0)
    assert frame.at(70.0, 10.0) == (300, 200)
    assert frame.value(*frame.at(13.0, 41.0)) == pytest.approx((13.0, 41.0))


@pytest.mark.parametrize("ends", [(0.9, 12.0), (3.0, 4000.0), (1e-3, 1e6)])
def test_ticks_are_round_and_few(ends: tuple[float, float]) -> None:
    ticks = pareto_panel._ticks(ends)
    assert 2 <= len(ticks) <= 10
    assert all(ends[0] <= tick <= ends[1] for tick in ticks)


def test_names_without_room_are_in_a_legend(deployed, make_analysis, deploy) -> None:
    long = "a technique whose name is so long that no dot of a small frame has the room to bear it beside it"
    arms = {f"{long} {i}" if i else "dense": ("technique" if i else "dense", "dense", i / 9, 1e5, 1e6, 1e5 + i)
            for i in range(9)}  # fmt: skip
    figure = pareto.pareto_figures(View(deploy(make_analysis(arms=arms, settings=("exponential-10",)))))[0]
    points = next(layer for layer in layers(figure.narrow) if layer["mark"]["type"] == "point")
    assert points["encoding"]["fill"]["condition"]["legend"] == {"title": None}


def test_marks_carry_the_numbers_and_their_method(view: View) -> None:
    drawing = svg.inline(canvas.to_svg(pareto.pareto_figures(view)[2].narrow), "n0")
    number = view.methods.index("QAT W8A8")
    tips = re.findall(rf'data-m="{number}"[^>]*><title>([^<]*)', drawing)
    assert any(tip.startswith("QAT W8A8 · exponential-10 · 0.5 ms [0.490, 0.520] · worst class ") for tip in tips)
    assert any("(truck / ship)" in tip for tip in tips)


def test_hostile_names_stay_names(make_analysis, deploy) -> None:
    arms = {
        "dense": ("dense", "self", 0.0, 1e5, 1e6, 1e5),
        "<script>alert(1)</script>": ("technique", "dense", 2.0, 1e5, 1e6, 1e5),
        '"]}[datum.x': ("control", "dense", 1.0, 1e5, 1e6, 1e5),
    }
    study = deploy(make_analysis(arms=arms, settings=("<b>-10",)))
    drawing = svg.inline(canvas.to_svg(pareto.pareto_figures(View(study))[0].narrow), "n0")
    assert "&lt;script" in drawing
    assert "<script" not in drawing
    assert "<b>" not in drawing


def test_a_figure_says_its_frontier_and_who_is_missing(view: View) -> None:
    bytes_, _, latency, _ = pareto.pareto_figures(view)
    assert "On the frontier: exponential-10: QAT W8A8, distilled x0.5, continued training; " in bytes_.alt
    assert "Not shown" not in bytes_.caption
    assert "Not shown, for want of a number: QAT W8A4." in latency.caption


def test_the_table_has_a_row_a_model(view: View) -> None:
    table = deployment.deployment_sheet(view)
    assert table is not None
    row = dict(zip(table.heads, table.rows[table.methods.index("QAT W8A8")], strict=True))
    assert (row["File (gzip)"].text, row["File (gzip)"].small) == ("290 kB", "gzip 261 kB")
    agreement = row["Agreement (worst class)"]
    assert (agreement.text, agreement.small) == ("99.96 %", "98.00 % truck")
    assert (row["Latency, batch 1 (ms)"].text, row["Latency, batch 1 (ms)"].small) == ("0.500", "[0.490, 0.520]")
    assert (row["Speedup, batch 64"].text, row["Speedup, batch 64"].small) == ("1.00", "[0.95, 1.05]")
    not_timed = dict(zip(table.heads, table.rows[table.methods.index("QAT W8A4")], strict=True))
    assert not_timed["Latency, batch 1 (ms)"].text == "not measured"
    assert not_timed["Speedup, batch 1"].text == "–"
    assert "QAT W8A4: no kernel for 4-bit activations" in table.caption
    assert "with 1 thread" in table.caption


def test_without_latency_it_says_not_measured(analysis, deploy) -> None:
    view = View(deploy(analysis, batches=()))
    table = deployment.deployment_sheet(view)
    assert table is not None
    assert "Latency: not measured." in table.caption
    assert not [head for head in table.heads if "atch" in head]
    assert [figure.name for figure in pareto.pareto_figures(view)] == FIGURES[:2]


def test_the_frontiers_as_a_table(view: View) -> None:
    table = deployment.frontier_sheet(view)
    assert table is not None
    assert table.heads[-4:] == ("By file size", "By MACs", "By latency at batch 1", "By latency at batch 64")
    rows = dict(zip(table.methods, table.rows, strict=True))
    assert rows["dense"][3].text == "truck / ship"
    assert [cell.text for cell in rows["QAT W8A4"][-4:]] == ["beaten", "beaten", "–", "–"]


@pytest.mark.parametrize(("share", "text"), [(0.99999, "99.99 %"), (1.0, "100.00 %"), (None, "–")])
def test_agreement_is_rounded_down(share: float | None, text: str) -> None:
    assert deployment._percent(share) == text

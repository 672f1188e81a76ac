from __future__ import annotations

from dataclasses import replace

import pytest

from tailkeep.report import canvas, charts, heatmap, labels
from tailkeep.report.canvas import NARROW, WIDE, fitted
from tailkeep.report.select import View

LONG = "filter-rank pruning, L1 norm, ratio 0.5"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("dense", ["dense"]),
        ("student alone (distilled)", ["student alone", "(distilled)"]),
        ("", [""]),
        ("a" * 100, ["aaaaaaaaaaaaaa", "aaaaaaaaaaaaa…"]),
    ],
)
def test_a_long_name_is_broken_at_its_spaces(text: str, lines: list[str]) -> None:
    assert labels.wrapped(text, 100, 13) == lines


def test_no_line_is_longer_than_its_room() -> None:
    for text in (LONG, "Staffordshire bullterrier", "知識蒸留の学生モデルと教師モデル", "WWWWWWWWWWWWWWWWWWWWWWWW"):
        for line in labels.wrapped(text, 90, 12, most=3):
            assert labels.wide_of(line, 12) <= 90


def test_labels_of_several_lines_stand_beside_the_middle_of_their_row() -> None:
    assert labels.centred(["a", "b"], [["a"], ["b"]], 14) == 0.0
    offset = labels.centred(["a", "b"], [["a"], ["b", "c", "d"]], 14)
    assert isinstance(offset, dict)
    assert offset["condition"] == [{"test": 'indexof(["b"], datum.value) >= 0', "value": -14.0}]


def test_class_names_leave_their_counts_on_one_height() -> None:
    assert labels.padded([["a"], ["b", "c"]]) == [["a", ""], ["b", "c"]]


def test_a_layout_makes_room_for_its_names() -> None:
    assert fitted(WIDE, ["a"]).label < fitted(WIDE, ["dense continued (pruned recipe)"]).label <= 210
    assert fitted(NARROW, [LONG] * 8).legend == 1
    assert fitted(WIDE, ["dense", "pruned", "QAT A8"]).legend == 3
    assert fitted(WIDE, []).legend == 1


def test_names_that_differ_at_their_end_are_told_apart_in_every_figure(analysis) -> None:
    first, second = "dense continued (pruned recipe)", "dense continued (quantized recipe)"
    names = {"filter-rank 0.5": first, "QAT W8A8": second}
    frames = {
        name: getattr(analysis, name).assign(method=getattr(analysis, name)["method"].replace(names))
        for name in ("accuracy", "gaps", "recall", "tail", "size", "seed_gaps")
    }
    view = View(replace(analysis, verdicts=(), **frames))
    for figure in (charts.accuracy_figure(view), charts.size_figure(view), *heatmap.heat_figures(view, "change")):
        assert figure is not None
        for spec in (figure.wide, figure.narrow):
            words = canvas.to_svg(spec).replace("</tspan><tspan", " </tspan><tspan")
            assert "recipe…" not in words
            assert "pruned" in words
            assert "quantized" in words
            assert "(prune…" not in words


def test_heads_of_several_lines_stand_above_their_columns() -> None:
    heads = heatmap._heads(["pruned", "dense continued (pruned recipe)"], 92, NARROW)
    assert heads["labelAngle"] == 0
    test = {"test": "indexof([1], datum.value) >= 0", "value": 4.0 + 13}
    assert heads["labelPadding"] == {"condition": [test], "value": 4.0}
    assert heatmap._heads(["pruned", "distilled"] * 6, 20, NARROW)["labelAngle"] == -90

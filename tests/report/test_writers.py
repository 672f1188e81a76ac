from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tailkeep.report import writers
from tailkeep.report.tables import Cell, Table

TABLE = Table(
    name="t",
    caption="50 % of <b> & [x](http://e)",
    heads=("Class", "E (pp)"),
    numbers=(False, True),
    rows=((Cell("a|b_c"), Cell("−1.2", "[−2.0, 0.1]")), (Cell("\\input{x}"), Cell("–"))),
    methods=("", ""),
)


@pytest.mark.parametrize("text", ["=cmd()", "+1", "-x", "@SUM(A1)", "\tx", "\rx", " =1+1", "\n=1"])
def test_a_text_is_never_a_formula(text: str) -> None:
    assert writers.csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", [-1.5, np.float64(-0.1), -3, np.int64(-3), 1e-300, 0.1 + 0.2])
def test_numbers_are_left_alone_and_read_back_exactly(value) -> None:
    assert float(writers.csv_cell(value)) == value
    assert not writers.csv_cell(value).startswith("'")


def test_what_is_not_known_is_empty() -> None:
    assert [writers.csv_cell(x) for x in (None, math.nan, pd.NA, np.nan)] == ["", "", "", ""]


def test_csv_quotes_and_reads_back() -> None:
    frame = pd.DataFrame({"name": ['a,"b"\nc', "=x"], "v": [1.0, np.nan]})
    rows = list(csv.reader(io.StringIO(writers.csv_text(frame))))
    assert rows == [["name", "v"], ['a,"b"\nc', "1.0"], ["'=x", ""]]


def test_markdown_keeps_its_columns_and_says_no_html() -> None:
    text = writers.markdown(TABLE)
    lines = text.splitlines()
    assert lines[1] == "| --- | ---: |"
    assert lines[2] == "| a\\|b\\_c | −1.2 \\[−2.0, 0.1\\] |"
    assert "<b>" not in text
    assert "](http" not in text.replace("\\]", "").replace("\\(", "")


def test_latex_is_text_only() -> None:
    text = writers.latex(TABLE)
    assert "\\input{x}" not in text
    assert "\\textbackslash{}input\\{x\\} & -- \\\\" in text
    assert "a\\textbar{}b\\_c & $-$1.2 {[}$-$2.0, 0.1{]} \\\\" in text
    assert "50 \\% of \\textless{}b\\textgreater{} \\& " in text
    assert text.count("\\begin{") == text.count("\\end{") == 2


def test_markdown_opens_no_formula_and_makes_no_link() -> None:
    text = writers.markdown_escape("E (pp): see http://e.org, www.e.org, me@e.org")
    assert "\\(" not in text
    assert text == "E (pp): see http\\://e.org, www\\.e.org, me\\@e.org"


def test_a_long_latex_table_may_break_over_pages() -> None:
    long = replace(TABLE, rows=TABLE.rows * (writers.LONG // 2 + 1))
    text = writers.latex(long, "study x; result 1")
    assert "longtable}" in text.splitlines()[0]
    assert text.splitlines()[1] == "% study x; result 1"
    assert text.count("\\begin{") == text.count("\\end{") == 1
    assert text.count(" & ") == len(long.rows) + 2
    assert writers.latex(replace(TABLE, rows=TABLE.rows[:1])).count("longtable") == 0


def test_a_quotation_mark_needs_no_font_encoding() -> None:
    assert writers.latex_escape('a "b"') == r"a {\char34}b{\char34}"

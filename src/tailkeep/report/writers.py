"""Tables as files: CSV with every digit of the analysis, Markdown and LaTeX as people read them."""

from __future__ import annotations

import csv
import io
import numbers
from collections.abc import Iterable
from typing import Any

import pandas as pd

from tailkeep.report import words
from tailkeep.report.tables import Cell, Table

FORMULA = ("=", "+", "-", "@", "\t", "\r")
LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    words.MINUS: "$-$",
    words.NOTHING: "--",
    "±": r"$\pm$",
    "[": "{[}",
    "]": "{]}",
}
# Characters that start a link, an image, emphasis, code, HTML or a cell in Markdown.
MARKDOWN = "\\`*_{}[]<>()#!|~&:"


def csv_text(frame: pd.DataFrame) -> str:
    """Write a frame with the shortest text that reads back as the same number; what is not known stays empty.

    A text that a spreadsheet would take for a formula gets a leading apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([csv_cell(str(column)) for column in frame.columns])
    for row in frame.itertuples(index=False, name=None):
        writer.writerow([csv_cell(value) for value in row])
    return out.getvalue()


def csv_cell(value: Any) -> str:
    """Write one value of a CSV file."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, (bool, numbers.Number)):
        if isinstance(value, numbers.Integral):
            return str(int(value))
        return repr(float(value)) if isinstance(value, numbers.Real) else str(value)
    text = str(value)
    return f"'{text}" if text.lstrip(" \n").startswith(FORMULA) or text.startswith(FORMULA) else text


def markdown(table: Table) -> str:
    """Write a table in the pipe form of Markdown, its caption below."""
    lines = [_piped(markdown_escape(head) for head in table.heads)]
    lines.append(_piped("---:" if number else "---" for number in table.numbers))
    lines.extend(_piped(markdown_escape(_both(cell)) for cell in row) for row in table.rows)
    return "\n".join(lines) + f"\n\n{markdown_escape(table.caption)}\n"


def markdown_escape(text: str) -> str:
    """Escape what Markdown or HTML would read as more than text."""
    escaped = "".join(f"\\{c}" if c in MARKDOWN else c for c in " ".join(text.split()))
    return escaped.replace("\\&", "&amp;").replace("\\<", "&lt;").replace("\\>", "&gt;")


def _piped(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _both(cell: Cell) -> str:
    return f"{cell.text} {cell.small}".strip()


def latex(table: Table) -> str:
    """Write a table with booktabs rules; longtable is for the reader to choose."""
    layout = "".join("r" if number else "l" for number in table.numbers)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{latex_escape(table.caption)}}}",
        f"\\begin{{tabular}}{{{layout}}}",
        "\\toprule",
        " & ".join(latex_escape(head) for head in table.heads) + r" \\",
        "\\midrule",
        *(" & ".join(latex_escape(_both(cell)) for cell in row) + r" \\" for row in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex_escape(text: str) -> str:
    """Escape every character that LaTeX would read as more than text."""
    return "".join(LATEX.get(c, c) for c in " ".join(text.split()))

"""Tables as files: CSV with every digit of the analysis, Markdown and LaTeX as people read them."""

from __future__ import annotations

import csv
import io
import numbers
import re
from collections.abc import Iterable, Mapping
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
    '"': r"{\char34}",
    words.MINUS: "$-$",
    words.NOTHING: "--",
    "±": r"$\pm$",
    "[": "{[}",
    "]": "{]}",
}
# Characters that start a link, an image, emphasis, code, HTML or a cell in Markdown.
MARKDOWN = "\\`*_{}[]<>#!|~&"
LINK = re.compile(r":(?=\S)|(?<=www)\.|@", re.IGNORECASE)
"""What makes a bare address a link. Parentheses stay: ``\\(`` opens a formula in some readers."""
LONG = 40
"""Rows above which a LaTeX table may break over pages."""


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


def markdown(table: Table, stamp: str = "") -> str:
    """Write a table in the pipe form of Markdown, its caption below; ``stamp`` says where it comes from."""
    lines = [_piped(markdown_escape(head) for head in table.heads)]
    lines.append(_piped("---:" if number else "---" for number in table.numbers))
    lines.extend(_piped(markdown_escape(_both(cell)) for cell in row) for row in table.rows)
    below = [markdown_escape(text) for text in (table.caption, stamp) if text]
    return "\n\n".join(["\n".join(lines), *below]) + "\n"


def sheet_files(sheets: Mapping[str, Table], stamp: str) -> dict[str, str]:
    """Return the files of tables for people, by path: Markdown and LaTeX, each with the line that traces it back."""
    files = {}
    for name, table in sheets.items():
        files[f"tables/{name}.md"] = markdown(table, stamp)
        files[f"tables/{name}.tex"] = latex(table, stamp)
    return files


def markdown_escape(text: str) -> str:
    """Escape what Markdown or HTML would read as more than text."""
    escaped = "".join(f"\\{c}" if c in MARKDOWN else c for c in " ".join(text.split()))
    escaped = LINK.sub(lambda found: f"\\{found.group()}", escaped)
    return escaped.replace("\\&", "&amp;").replace("\\<", "&lt;").replace("\\>", "&gt;")


def _piped(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _both(cell: Cell) -> str:
    return f"{cell.text} {cell.small}".strip()


def latex(table: Table, stamp: str = "") -> str:
    """Write a table with booktabs rules, a long one as a longtable; ``stamp`` says where it comes from."""
    layout = "".join("r" if number else "l" for number in table.numbers)
    head = " & ".join(latex_escape(head) for head in table.heads) + r" \\"
    rows = [" & ".join(latex_escape(_both(cell)) for cell in row) + r" \\" for row in table.rows]
    caption = f"\\caption{{{latex_escape(table.caption)}}}"
    source = [f"% {' '.join(stamp.split())}"] if stamp else []
    if len(rows) > LONG:
        top = ["% needs \\usepackage{booktabs,longtable}", *source, f"\\begin{{longtable}}{{{layout}}}"]
        heads = [f"{caption} \\\\", "\\toprule", head, "\\midrule", "\\endfirsthead"]
        heads += ["\\toprule", head, "\\midrule", "\\endhead", "\\bottomrule", "\\endfoot"]
        return "\n".join([*top, *heads, *rows, "\\end{longtable}"]) + "\n"
    top = ["% needs \\usepackage{booktabs}", *source, "\\begin{table}", "\\centering", caption]
    body = [f"\\begin{{tabular}}{{{layout}}}", "\\toprule", head, "\\midrule", *rows, "\\bottomrule"]
    return "\n".join([*top, *body, "\\end{tabular}", "\\end{table}"]) + "\n"


def latex_escape(text: str) -> str:
    """Escape every character that LaTeX would read as more than text."""
    return "".join(LATEX.get(c, c) for c in " ".join(text.split()))

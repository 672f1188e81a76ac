"""Predictions in a CSV file: pandas reads the values, but only after every line was seen to have every field."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tailkeep.auditing.cells import Cells, Matrix, Options, Raw, cells_of, check_bytes, shown
from tailkeep.auditing.columns import layout
from tailkeep.errors import BadInput

_BLOCK = 1 << 24
_FLOAT = re.compile(r"\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*")


def read_csv(path: Path, options: Options, separator: str = ",") -> Raw:
    """Read a table with a header, UTF-8 with or without a byte order mark.

    pandas fills lines that are too short and may pass over fields that are too many, so both are refused before it
    reads. Raises BadInput that names the line where a line has other fields than the header, a quote stays open, bytes
    are no UTF-8, or a column of numbers holds something else.
    """
    try:
        header, rows = _shape(path, separator)
        plan = layout(path, header, options)
        numbers = [*plan.scores.values(), *plan.labels.values(), *plan.predictions.values()]
        texts = [name for name in (plan.label, plan.prediction, plan.ids, *plan.groups.values()) if name]
        if rows == 0:
            raise BadInput(f"{path}: there are no rows under the header")
        check_bytes(path, 8 * rows * (len(numbers) + 2 * len(texts)), f"{rows} rows of {len(numbers)} scores")
        table = _table(path, separator, header, numbers, texts)
    except BadInput:
        raise
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    # csv and pandas end in many kinds of exceptions on damaged files; none of them is our own fault.
    except Exception as error:
        raise BadInput(f"{path}: not readable as CSV ({error}); write it again") from error
    if len(table) != rows:
        raise BadInput(f"{path}: {rows} lines of data were read as {len(table)} rows; write the file again")

    position = {name: index for index, name in enumerate(header)}

    def cells(column: str, called: str | None = None) -> Cells:
        return cells_of(called or column, table[position[column]].to_numpy())

    def matrix(columns: dict[str, str]) -> Matrix | None:
        values = table[[position[column] for column in columns.values()]] if columns else None
        return None if values is None else Matrix(values.to_numpy(), tuple(columns.values()), tuple(columns))

    label, several = matrix(plan.labels), matrix(plan.predictions)
    return Raw(
        path,
        "csv",
        label if plan.label is None and label is not None else cells(str(plan.label)),
        cells(plan.prediction) if plan.prediction else several,
        matrix(plan.scores),
        plan.said,
        ids=cells(plan.ids) if plan.ids else None,
        groups=tuple(cells(column, group) for group, column in plan.groups.items()),
        place=lambda row: f"row {row + 1} (line {_line(path, separator, row)})",
    )


def _shape(path: Path, separator: str) -> tuple[list[str], int]:
    """Return the header and how many rows follow, all of them as wide as the header."""
    records = _records(path, separator)
    _, first = next(records, (0, []))
    header = [name.strip() for name in first]
    if len(header) < 2:
        other = next((mark for mark in ";\t|" if header and mark in header[0]), None)
        hint = f"; its fields seem to be separated by {other!r}" if other else ""
        raise BadInput(
            f"{path}: the first line must name the columns, separated by {separator!r} "
            f"(label and prediction, or scores){hint}; it holds {shown(','.join(first))}"
        )
    rows = _plain_rows(path, separator, len(header))
    if rows is not None:
        return header, rows
    rows = 0
    for line, record in records:
        rows += 1
        if len(record) != len(header):
            raise BadInput(
                f"{path}: row {rows} (line {line}) has {len(record)} fields and the header has {len(header)}; "
                "is a line cut off, or a text with a separator not quoted?"
            )
    return header, rows


def _plain_rows(path: Path, separator: str, fields: int) -> int | None:
    """Count the rows of a file without quotes or blank lines, at the speed of memory; None where it is not so plain."""
    rows, mark = -1, ord(separator)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            block += file.readline()
            if b'"' in block or b"\0" in block or block.count(b"\r") != block.count(b"\r\n"):
                return None
            data = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", np.uint8)
            marks = data[(data == mark) | (data == 10)]
            if len(marks) % fields:
                return None
            table = marks.reshape(-1, fields)
            if (table[:, :-1] == 10).any() or (table[:, -1] != 10).any():
                return None
            rows += len(table)
    return rows


def _records(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line of the file, fields) of every record that is not blank, the header first."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        line = 1
        while True:
            try:
                record = next(reader, None)
            except csv.Error as error:
                raise BadInput(f"{path}: line {line}: {error}; are the quotes of a text closed and doubled?") from error
            if record is None:
                return
            if any("\0" in value for value in record):
                raise BadInput(f"{path}: line {line} holds NUL bytes; is it damaged, or UTF-16? Save it as UTF-8")
            if record:
                yield line, record
            line = reader.line_num + 1


def _table(
    path: Path, separator: str, header: Sequence[str], numbers: Sequence[str], texts: Sequence[str]
) -> pd.DataFrame:
    """Read the columns that matter: numbers as float64, the others as the very text that stands there."""
    position = {name: index for index, name in enumerate(header)}
    types: dict[int, type] = {position[name]: np.float64 for name in numbers}
    types |= {position[name]: object for name in texts}
    try:
        return pd.read_csv(
            path,
            sep=separator,
            engine="c",
            encoding="utf-8-sig",
            header=0,
            names=list(range(len(header))),
            usecols=sorted(types),
            dtype=types,
            na_filter=False,
            index_col=False,
        )
    except UnicodeDecodeError:
        raise
    except ValueError:
        records = _records(path, separator)
        next(records)
        for row, (line, record) in enumerate(records, 1):
            for name in numbers:
                text = record[position[name]]
                if not _FLOAT.fullmatch(text):
                    cause = "the value is missing" if not text.strip() else f"{shown(text)} is not a number"
                    raise BadInput(f"{path}: row {row} (line {line}), column {name!r}: {cause}; correct it") from None
        raise


def _line(path: Path, separator: str, row: int) -> int:
    """Return the line of the file on which a row (from 0) starts."""
    return next((line for number, (line, _) in enumerate(_records(path, separator)) if number == row + 1), 0)


def _not_utf8(path: Path) -> BadInput:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                return BadInput(f"{path}: line {number} is not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8")
    return BadInput(f"{path}: is not UTF-8; save the file as UTF-8")

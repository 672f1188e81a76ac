"""From what a label column holds (whole numbers or names) to class names and class indices."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tailkeep.auditing.cells import CLASS_LIMIT, Cells, Matrix, Options, Raw, plain_texts, refuse_missing, shown
from tailkeep.errors import BadInput

NAME_LIMIT = 1_000
"""Characters of a class name."""
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.0*)?")
_DIGITS = re.compile(r"-?[0-9]+")
_PADDED = re.compile(r"0[0-9]+")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


def names_for(raws: Sequence[Raw], options: Options) -> tuple[str, ...]:
    """Return the class names that all the files share: what is given, what a file says, or the union of what occurs.

    A file says them by the names of its score columns or by ``class_names``; scores without names give "0", "1", ... as
    many as they are wide. Whole numbers without names give those that occur in any of the files, in their order. Raises
    BadInput where whole numbers and names are mixed, or where there are fewer than 2 or over ``CLASS_LIMIT`` classes.
    """
    if options.class_names is not None:
        return options.class_names
    for in_words in (True, False):
        for raw in raws:
            names = said_names(raw, in_words)
            if names is not None:
                return names
    columns = [(raw, cells) for raw in raws for cells in (raw.label, raw.prediction) if isinstance(cells, Cells)]
    values = [_classes(raw, cells) for raw, cells in columns]
    for (raw, cells), found in zip(columns, values, strict=True):
        _refuse_mixed(raw, cells, found)
    first_raw, first = columns[0]
    kind = type(values[0][0])
    for (raw, cells), found in zip(columns, values, strict=True):
        if type(found[0]) is not kind:
            raise raw.wrong(
                cells.first(0),
                cells.column,
                f"holds {'names' if kind is int else 'whole numbers'} ({shown(found[0])}), column {first.column!r} of "
                f"{first_raw.path} holds {'whole numbers' if kind is int else 'names'} ({shown(values[0][0])}); "
                "give the class names in the order of the numbers",
            )
    every: set[int | str] = set()
    every.update(*values)
    largest = max(every, key=_order)
    count = largest + 1 if isinstance(largest, int) else len(every)
    start = f"{first_raw.path}: column {first.column!r} holds"
    if count > CLASS_LIMIT:
        many = f"so there would be {count} classes (limit {CLASS_LIMIT}); is it the label column?"
        raise BadInput(f"{start} up to {shown(largest)}, {many}")
    if every == {1}:
        every = {0, 1}  # the one of two classes
    classes = [value for value in every if isinstance(value, str) or value >= 0]  # one below 0 is refused by its row
    if len(every) < 2:
        raise BadInput(f"{start} one class only ({shown(largest)}); give the names of all classes with --class-names")
    return tuple(sorted(map(str, classes), key=_order))


def said_names(raw: Raw, in_words: bool = False) -> tuple[str, ...] | None:
    """Return the class names that a file itself says, by names or (unless ``in_words``) by the width of its arrays."""
    matrices = [matrix for matrix in (raw.scores, raw.label, raw.prediction) if isinstance(matrix, Matrix)]
    for matrix in matrices:
        if matrix.names is not None:
            return matrix.names
    if raw.class_names is not None or in_words or not matrices:
        return raw.class_names
    if isinstance(raw.label, Cells):
        for code, value in enumerate(_classes(raw, raw.label)):
            if isinstance(value, str):
                raise raw.wrong(
                    raw.label.first(code),
                    raw.label.column,
                    f"the label is a name ({shown(value)}), but nothing says which column of {matrices[0].columns!r} "
                    "is which class; give the class names in the order of those columns",
                )
    return tuple(map(str, range(matrices[0].values.shape[1])))


def class_indices(raw: Raw, cells: Cells, names: tuple[str, ...]) -> NDArray[np.int64]:
    """Return a column as class indices (N,).

    Names are looked up; whole numbers are looked up too where some class is named by a number, else they are indices.
    Raises BadInput at the first row that holds no class.
    """
    positions = {name: index for index, name in enumerate(names)}
    numbered = any(_DIGITS.fullmatch(name) for name in names)
    values: Sequence[int | str] = _classes(raw, cells)
    table = np.full(len(values), -1, dtype=np.int64)
    for code, value in enumerate(values):
        if isinstance(value, str) or numbered:
            table[code] = positions.get(str(value), -1)
        elif 0 <= value < len(names):
            table[code] = value
    found = table[cells.codes]
    if (found < 0).any():
        row = int(np.argmax(found < 0))
        raise raw.wrong(row, cells.column, _unknown(values[int(cells.codes[row])], names, numbered))
    return found


def marks(raw: Raw, matrix: Matrix) -> NDArray[np.uint8]:
    """Return a multi-label matrix (N, C) as uint8 of 0 and 1. Raises BadInput at the first other value."""
    wrong = (matrix.values != 0) & (matrix.values != 1)
    if wrong.any():
        row, column = (int(index) for index in np.argwhere(wrong)[0])
        value = matrix.values[row, column].item()
        cause = "the value is missing" if value != value else f"{value:g} is neither 0 nor 1"
        raise raw.wrong(row, matrix.column(column), f"{cause}; a column of one class holds 0 or 1")
    return matrix.values.astype(np.uint8)


def _classes(raw: Raw, cells: Cells) -> list[int] | list[str]:
    """Return the values of a column, all as whole numbers or all as names.

    Raises BadInput at a missing value, a fraction or an endless text. Digits with leading zeros are names ("007").
    """
    texts = plain_texts(cells)
    refuse_missing(raw, cells, texts)
    if all(_WHOLE.fullmatch(text) for text in texts):
        return [int(text.partition(".")[0]) for text in texts]
    if all(_NUMBER.fullmatch(text) for text in texts):
        for code, text in enumerate(texts):
            if not _WHOLE.fullmatch(text) and not _PADDED.fullmatch(text):
                raise raw.wrong(
                    cells.first(code), cells.column, f"{shown(text)} is no class: expected a whole number or a name"
                )
    for code, text in enumerate(texts):
        if len(text) > NAME_LIMIT:
            raise raw.wrong(cells.first(code), cells.column, f"{shown(text)} is too long for the name of a class")
    return texts


def _refuse_mixed(raw: Raw, cells: Cells, values: Sequence[int | str]) -> None:
    """Refuse a column with numbers among names or names among numbers, since without given names one is a slip."""
    number = [isinstance(value, int) or _NUMBER.fullmatch(value) is not None for value in values]
    if any(number) and not all(number):
        counts = np.bincount(cells.codes, minlength=len(values))
        rows = int(counts[np.array(number)].sum())
        odd = rows * 2 < len(cells.codes)
        code = number.index(odd)
        raise raw.wrong(
            cells.first(code),
            cells.column,
            f"{shown(values[code])} stands among {'names' if odd else 'numbers'}; correct it, or give the class names",
        )


def _unknown(value: int | str, names: tuple[str, ...], numbered: bool) -> str:
    """Say that a value is no class, and which one may be meant."""
    if isinstance(value, int) and (not numbered or names == tuple(map(str, range(len(names))))):
        return f"{value} is no class, expected 0 to {len(names) - 1}"
    close = difflib.get_close_matches(value[:100], names[:1000], 1) if isinstance(value, str) else []
    hint = f"; did you mean {shown(close[0])}?" if close else ""
    some = ", ".join(shown(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{shown(value)} is none of the {len(names)} classes ({some}){hint}"


def _order(value: int | str) -> tuple[int, float, str]:
    """Sort numbers as numbers and before names."""
    text = str(value)
    return (0, float(text), text) if _NUMBER.fullmatch(text) else (1, 0.0, text)

"""What a file of predictions holds before its classes have names: between the readers of files and the checks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tailkeep.errors import BadInput

FILE_LIMIT = 4 << 30
"""Bytes of a file of predictions."""
TOTAL_LIMIT = 4 << 30
"""Bytes that the columns read may take in memory."""
SMALL = 256 << 20
"""Bytes that any file may unfold to, however small it is."""
CLASS_LIMIT = 100_000
"""Classes that a file may have; more are a wrong column, not a classifier."""
RATIO_LIMIT = 100
"""Times its own size that a file may unfold to, beyond ``SMALL``."""
Shown = Literal["auto", "logits", "probabilities"]
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Options:
    """How the user says that a file is to be read. Raises BadInput where the options do not fit each other."""

    label_column: str = "label"
    prediction_column: str = "prediction"
    id_column: str = "id"
    group_columns: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    scores: Shown = "auto"
    threshold: float = 0.5
    groups_optional: bool = False

    def __post_init__(self) -> None:
        """Check them."""
        roles = (self.label_column, self.prediction_column, self.id_column, *self.group_columns)
        twice = [name for name in roles if roles.count(name) > 1]
        if twice:
            raise BadInput(f"column {twice[0]!r} cannot be two things at once (label, prediction, id, group)")
        if self.scores not in ("auto", "logits", "probabilities"):
            raise BadInput(f"scores {self.scores!r}: expected auto, logits or probabilities")
        if not 0 < self.threshold < 1:
            raise BadInput(f"threshold {self.threshold}: expected a probability between 0 and 1, such as 0.5")
        names = self.class_names
        if names is not None and (len(names) < 2 or len(set(names)) < len(names)):
            raise BadInput("class names: expected two or more, all different")
        for name in names or ():
            check_text("class names", name)


@dataclass(frozen=True, eq=False)
class Cells:
    """A column as it stands in the file: row i holds ``values[codes[i]]``; code -1 where there is nothing.

    ``codes`` is int64 (N,); ``values`` are plain numbers or texts, each held by some row.
    """

    column: str
    codes: NDArray[np.int64]
    values: Sequence[Any]

    def first(self, code: int) -> int:
        """Return the first row that holds a value."""
        return int(np.argmax(self.codes == code))


@dataclass(frozen=True, eq=False)
class Matrix:
    """One number a row and class: ``values`` (N, C), with the class of every column where the file says it."""

    values: NDArray[Any]
    columns: tuple[str, ...] | str
    names: tuple[str, ...] | None = None

    def column(self, index: int) -> str:
        """What the file calls one column, for a message."""
        return f"{self.columns}[{index}]" if isinstance(self.columns, str) else self.columns[index]


@dataclass(frozen=True, eq=False)
class Raw:
    """What a reader found in a file. ``said`` is what the file calls its scores, None where it does not say.

    ``place`` tells where a row (counted from 0) stands in the file, in words.
    """

    path: Path
    form: str
    label: Cells | Matrix
    prediction: Cells | Matrix | None = None
    scores: Matrix | None = None
    said: str | None = None
    class_names: tuple[str, ...] | None = None
    ids: Cells | None = None
    groups: tuple[Cells, ...] = ()
    place: Callable[[int], str] = field(default=lambda row: f"row {row + 1}")

    @property
    def task(self) -> str:
        """``multilabel`` where every class has a label of its own."""
        return "multilabel" if isinstance(self.label, Matrix) else "multiclass"

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.label.values) if isinstance(self.label, Matrix) else len(self.label.codes)

    def wrong(self, row: int, column: str, cause: str) -> BadInput:
        """Return the refusal of one cell."""
        return BadInput(f"{self.path}: {self.place(int(row))}, column {column!r}: {cause}")


def allowed_bytes(path: Path) -> int:
    """Return how much memory the columns of a file may take, so that a small file never takes gigabytes."""
    return min(TOTAL_LIMIT, max(SMALL, RATIO_LIMIT * path.stat().st_size))


def check_bytes(path: Path, wanted: int, what: str) -> None:
    """Raise BadInput where ``what`` would take more memory than the file may."""
    limit = allowed_bytes(path)
    if wanted > limit:
        raise BadInput(
            f"{path}: refused, {what} would take {wanted >> 20} MB of memory (limit for a file of this size: "
            f"{limit >> 20} MB); keep the columns label and prediction alone, or give fewer rows"
        )


def check_text(where: str, text: str) -> None:
    """Raise BadInput where a name or an id holds what steers a terminal, or the direction of text."""
    if _CONTROL.search(text):
        raise BadInput(f"{where}: {shown(text)} holds {_what(text)}; remove it")


def _what(text: str) -> str:
    return "a lone surrogate, half of a character" if lone_surrogate(text) else "a control character"


def lone_surrogate(text: str) -> bool:
    """Tell whether a text holds half of a character, which no file or page can be written with."""
    return any("\ud800" <= char <= "\udfff" for char in text)


def shown(value: Any) -> str:
    """Return a value as a message shows it: quoted where it is text, never long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def plain_texts(cells: Cells) -> list[str]:
    """Return the values of a column as text; a whole number has one form, however the file holds it."""
    return [value.strip() if isinstance(value, str) else _number_text(value) for value in cells.values]


def _number_text(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)


def text_column(raw: Raw, cells: Cells) -> NDArray[np.str_]:
    """Return a column as text (N,). Raises BadInput where a value is missing or holds a control character."""
    texts = plain_texts(cells)
    if _CONTROL.search("".join(texts)):
        code = next(code for code, text in enumerate(texts) if _CONTROL.search(text))
        raise raw.wrong(cells.first(code), cells.column, f"{shown(texts[code])} holds {_what(texts[code])}; remove it")
    refuse_missing(raw, cells, texts)
    width = max(map(len, texts), default=1)
    check_bytes(raw.path, 4 * width * len(cells.codes), f"column {cells.column!r} with texts of {width} characters")
    return np.array(texts, dtype=f"<U{max(width, 1)}")[cells.codes]


def refuse_missing(raw: Raw, cells: Cells, texts: Sequence[str]) -> None:
    """Raise BadInput at the first row without a value: nothing at all, an empty text, or a NaN written as text."""
    empty = [code for code, text in enumerate(texts) if text in ("", "nan", "NaN")]
    gone = np.isin(cells.codes, [-1, *empty]) if empty else cells.codes < 0
    if gone.any():
        row, count = int(np.argmax(gone)), int(gone.sum())
        more = f" (and in {count - 1} more rows)" if count > 1 else ""
        raise raw.wrong(row, cells.column, f"the value is missing{more}; fill it in or leave the row out")


def ids_column(raw: Raw) -> NDArray[np.str_] | None:
    """Return the ids as text (N,). Raises BadInput where one is missing or stands twice."""
    if raw.ids is None:
        return None
    ids = text_column(raw, raw.ids)
    if len(set(plain_texts(raw.ids))) < len(ids):
        seen: dict[str, int] = {}
        for row, text in enumerate(ids.tolist()):
            if text in seen:
                cause = f"the id {shown(text)} stands in {raw.place(seen[text])} too; ids must be unique"
                raise raw.wrong(row, raw.ids.column, cause)
            seen[text] = row
    return ids


def cells_of(column: str, values: NDArray[Any]) -> Cells:
    """Return a column (N,) of numbers or texts as cells; NaN and None are missing."""
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    elif values.dtype.kind == "f":
        values = values.astype(np.float64, copy=False)
    elif values.dtype.kind == "U":
        values = values.astype(object)
    codes, found = pd.factorize(values)
    return Cells(column, codes.astype(np.int64, copy=False), np.asarray(found).tolist())


def stacked(columns: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> Matrix:
    """Put columns (N,) of numbers, one a class, beside each other; float32 where all of them are."""
    parts = [arrays[column] for column in columns.values()]
    dtype = np.float32 if all(part.dtype in (np.float16, np.float32) for part in parts) else np.float64
    values = np.empty((len(parts[0]), len(parts)), dtype)
    for index, part in enumerate(parts):
        values[:, index] = part
    return Matrix(values, tuple(columns.values()), tuple(columns))

"""Predictions in a Parquet file, through pyarrow, after its pages were seen to hold what the file can answer for."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailkeep.auditing.cells import Cells, Matrix, Options, Raw, cells_of, check_bytes, stacked
from tailkeep.auditing.columns import Layout, layout
from tailkeep.auditing.parquet_pages import FOOTER_LIMIT, count_pages, read_footer
from tailkeep.auditing.thrift import LIST_LIMIT
from tailkeep.errors import BadInput, MissingExtra

_ENTRY = 16
"""Bytes that a value takes at most while it is read, texts aside: an index and a number, or a pointer and a length."""


def read_parquet(path: Path, options: Options) -> Raw:
    """Read the columns that matter; ``logits`` and ``probabilities`` may be columns of lists of one length.

    Page checksums are compared where the file has them. Raises MissingExtra without pyarrow, and BadInput where the
    file is damaged or encrypted, a column has a type that cannot be what its name says, or the file would unfold to
    more than one of its size may.
    """
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtra(
            f"{path}: pyarrow is needed for Parquet files and cannot be imported ({error}); "
            "pip install 'tailkeep[parquet]', or write CSV or .npz"
        ) from error
    limits = {"thrift_string_size_limit": FOOTER_LIMIT, "thrift_container_size_limit": LIST_LIMIT}
    try:
        footer = read_footer(path)
        with parquet.ParquetFile(path, **limits) as file:
            schema = file.schema_arrow
        plan = layout(path, schema.names, options, arrays=True)
        if footer.get(3) == 0:
            raise BadInput(f"{path}: there are no rows")
        cells = [name for name in (plan.label, plan.prediction, plan.ids, *plan.groups.values()) if name]
        numbers = [*plan.labels.values(), *plan.predictions.values(), *plan.scores.values()]
        wanted = list(dict.fromkeys([*cells, *numbers, *([plan.score_array] if plan.score_array else [])]))
        totals = count_pages(path, footer, wanted)
        check_bytes(path, totals.unpacked + _ENTRY * totals.entries, f"{footer[3]} rows of its columns")
        texts = [name for name in cells if _is_text(arrow, schema.field(name).type)]
        with parquet.ParquetFile(path, page_checksum_verification=True, read_dictionary=texts, **limits) as file:
            table = file.read(columns=wanted, use_threads=False).select(wanted)
        table.validate(full=True)
        return _raw(path, arrow, table, plan)
    except BadInput:
        raise
    # Damage shows as exceptions of many kinds inside pyarrow; none of them is our own fault.
    except Exception as error:
        raise BadInput(f"{path}: not readable as Parquet ({error}); write it again") from error


def _is_text(arrow: Any, kind: Any) -> bool:
    types = arrow.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind))


def _raw(path: Path, arrow: Any, table: Any, plan: Layout) -> Raw:
    def cells(column: str, called: str | None = None) -> Cells:
        return _cells(path, arrow, called or column, table.column(column))

    def one(column: str) -> Cells | Matrix:
        return _lists(path, arrow, column, table.column(column)) or cells(column)

    def several(columns: dict[str, str]) -> Matrix:
        return stacked(columns, {name: _numbers(path, arrow, name, table.column(name)) for name in columns.values()})

    scores = several(plan.scores) if plan.scores else None
    if plan.score_array:
        scores = _lists(path, arrow, plan.score_array, table.column(plan.score_array))
        if scores is None:
            kind = table.column(plan.score_array).type
            raise BadInput(f"{path}: column {plan.score_array!r} is {kind}, expected a list of numbers, one a class")
    prediction: Cells | Matrix | None = one(plan.prediction) if plan.prediction else None
    if plan.predictions:
        prediction = several(plan.predictions)
    return Raw(
        path,
        "parquet",
        one(plan.label) if plan.label else several(plan.labels),
        prediction,
        scores,
        plan.said,
        ids=cells(plan.ids) if plan.ids else None,
        groups=tuple(cells(column, group) for group, column in plan.groups.items()),
    )


def _cells(path: Path, arrow: Any, name: str, column: Any) -> Cells:
    """Return a column of whole numbers, floats, truth values or texts."""
    types, kind = arrow.types, column.type
    if types.is_dictionary(kind):
        array = _whole(arrow, column.unify_dictionaries())
        texts = array.dictionary.to_pylist()
        codes = array.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        empty = [code for code, text in enumerate(texts) if text is None]
        codes[np.isin(codes, empty)] = -1
        used = np.bincount(codes[codes >= 0], minlength=len(texts)) > 0
        renamed = np.append(np.cumsum(used) - 1, -1)  # code -1 takes the last entry
        return Cells(name, renamed[codes], [text for text, keep in zip(texts, used.tolist(), strict=True) if keep])
    if types.is_string(kind) or types.is_large_string(kind):
        return cells_of(name, column.to_numpy())
    if types.is_boolean(kind):
        column = column.cast(arrow.int8())
    elif not (types.is_integer(kind) or types.is_floating(kind)):
        raise BadInput(f"{path}: column {name!r} is {kind}, expected whole numbers or texts")
    if column.null_count and types.is_integer(column.type):
        gone = column.is_null().to_numpy()
        cells = cells_of(name, column.fill_null(0).to_numpy())
        return Cells(name, np.where(gone, -1, cells.codes), cells.values)
    return cells_of(name, column.to_numpy())


def _numbers(path: Path, arrow: Any, name: str, column: Any) -> NDArray[Any]:
    """Return a column of numbers (N,), NaN where there is none."""
    types, kind = arrow.types, column.type
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        raise BadInput(f"{path}: column {name!r} is {kind}, expected numbers")
    if types.is_boolean(kind):
        column = column.cast(arrow.int8())
    values: NDArray[Any] = column.to_numpy()
    return values if values.dtype in (np.float16, np.float32, np.float64) else values.astype(np.float64)


def _lists(path: Path, arrow: Any, name: str, column: Any) -> Matrix | None:
    """Return a column of lists of numbers as a matrix (N, C); None where it is not one of lists."""
    types, kind = arrow.types, column.type
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return None
    array = _whole(arrow, column)
    if array.null_count:
        row = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
        raise BadInput(f"{path}: row {row + 1}, column {name!r}: the value is missing; fill it in or leave the row out")
    lengths = array.value_lengths().to_numpy(zero_copy_only=False)
    if (lengths != lengths[0]).any() or lengths[0] == 0:
        row = int(np.argmax((lengths != lengths[0]) | (lengths == 0)))
        raise BadInput(
            f"{path}: row {row + 1}, column {name!r}: a list of {lengths[row]} numbers, "
            f"row 1 has {lengths[0]}; every row needs one number a class"
        )
    values = _numbers(path, arrow, name, arrow.chunked_array([array.flatten()]))
    return Matrix(values.reshape(len(lengths), int(lengths[0])), name)


def _whole(arrow: Any, column: Any) -> Any:
    """Return a chunked column as one array."""
    array = column.combine_chunks()
    return arrow.concat_arrays(array.chunks) if hasattr(array, "chunks") else array

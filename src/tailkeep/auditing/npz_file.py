"""Predictions in an ``.npz`` file, read without pickles and without unfolding more than its headers say."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib.format import read_magic
from numpy.typing import NDArray

from tailkeep.auditing.cells import (
    CLASS_LIMIT,
    Cells,
    Matrix,
    Options,
    Raw,
    cells_of,
    check_bytes,
    check_text,
    shown,
    stacked,
)
from tailkeep.auditing.columns import layout
from tailkeep.errors import BadInput

MEMBER_LIMIT = 10_000
"""Arrays of a file."""
_PIECE = 1 << 20
_PAIR = r"'(descr|fortran_order|shape)'[ ]*:[ ]*('[^']{1,20}'|True|False|\([0-9, ]{0,200}\))"
_HEADER = re.compile(rf"\{{[ ]*{_PAIR}[ ]*,[ ]*{_PAIR}[ ]*,[ ]*{_PAIR}[ ]*,?[ ]*\}}[ \n]*")
_SHAPE = re.compile(r"\((|[0-9]{1,18},|[0-9]{1,18}(, ?[0-9]{1,18})+,?)\)")
_PLAIN = re.compile(r"'[<>|=]?[biufUS][0-9]{1,9}'")


def read_npz(path: Path, options: Options) -> Raw:
    """Read the arrays ``labels``, ``predictions``, ``logits`` or ``probabilities``, ``ids``, ``group_<column>``.

    ``labels`` are (N,), or (N, C) of 0 and 1 for multi-label; ``class_names`` (C,) say the order of the classes. Raises
    BadInput where the file is damaged, holds objects or arrays of other kinds or shapes, or would unfold to more than a
    file of its size may.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
            plan = layout(path, list(members), options, arrays=True)
            names = [plan.label, plan.prediction, plan.score_array, plan.ids, *plan.groups.values()]
            names += [*plan.labels.values(), *plan.predictions.values(), *plan.scores.values()]
            names += ["class_names" if "class_names" in members else None]
            wanted = dict.fromkeys(name for name in names if name is not None)
            check_bytes(path, sum(members[name].file_size for name in wanted), "its arrays")
            arrays = {name: _array(archive, members[name]) for name in wanted}
    except BadInput:
        raise
    # A damaged file can end in nearly any exception inside zipfile and numpy; none of them is our own fault.
    except Exception as error:
        raise BadInput(f"{path}: not readable as an .npz of plain arrays ({error}); write it again") from error
    class_names = _class_names(path, arrays.pop("class_names", None))
    _check_lengths(path, arrays)
    label = _cells(path, plan.label, arrays) if plan.label else _matrix(path, plan.labels, arrays)
    prediction: Cells | Matrix | None = _matrix(path, plan.predictions, arrays) if plan.predictions else None
    if plan.prediction:
        prediction = _cells(path, plan.prediction, arrays)
    scores = _matrix(path, plan.scores, arrays) if plan.scores else None
    if plan.score_array:
        scores = Matrix(_floats(path, plan.score_array, arrays[plan.score_array], 2), plan.score_array)
    ids = _one(path, plan.ids, arrays) if plan.ids else None
    groups = tuple(_one(path, column, arrays, group) for group, column in plan.groups.items())
    return Raw(path, "npz", label, prediction, scores, plan.said, class_names, ids, groups)


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the arrays of the file by name."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if "[Content_Types].xml" in names:
        raise BadInput(f"{path}: this is an office document, not predictions; save the sheet as CSV")
    if len(entries) > MEMBER_LIMIT:
        raise BadInput(f"{path}: refused, it holds {len(entries)} arrays (limit {MEMBER_LIMIT})")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"{path}: refused, it holds {shown(twice)} twice; write it again")
    for entry in entries:
        if entry.flag_bits & 1:
            raise BadInput(f"{path}: {shown(entry.filename)} is encrypted; write it without a password")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadInput(f"{path}: {shown(entry.filename)} is packed in a way that numpy does not write")
        with archive.open(entry):  # compares the directory with what stands before the array, wanted or not
            pass
    return {entry.filename.removesuffix(".npy"): entry for entry in entries if entry.filename.endswith(".npy")}


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    """Read one array piece by piece into memory whose size its header and its directory entry agree upon."""
    with archive.open(entry) as file:
        dtype, fortran, shape, start = _header(file, entry.filename)
        count = math.prod(shape)
        if start + count * dtype.itemsize != entry.file_size:
            size = entry.file_size
            raise BadInput(
                f"{archive.filename}: {shown(entry.filename)} of shape {shape} and type {dtype} should have "
                f"{start + count * dtype.itemsize} bytes and has {size}; the file is damaged, write it again"
            )
        buffer = bytearray(count * dtype.itemsize)
        end = 0
        while piece := file.read(_PIECE):  # to the end of the member, where zipfile compares the checksum
            if end + len(piece) > len(buffer):
                raise ValueError(f"{entry.filename} holds more than it should")
            buffer[end : end + len(piece)] = piece
            end += len(piece)
    if end != len(buffer):
        raise ValueError(f"{entry.filename} is cut short")
    array = np.frombuffer(buffer, dtype=dtype, count=count) if count else np.empty(0, dtype)
    array = array.reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _header(file: IO[bytes], name: str) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    """Return type, order, shape and length of an array's header, told by patterns: nothing of it is evaluated."""
    version = read_magic(file)
    if version != (1, 0):
        raise ValueError(f"{name} has a header of version {version}, expected (1, 0)")
    length = int.from_bytes(file.read(2), "little")
    header = file.read(length).decode("latin-1")
    matched = _HEADER.fullmatch(header)
    found = matched.groups() if matched else ()
    pairs = dict(zip(found[::2], found[1::2], strict=True))
    kind, order, shape = (pairs.get(key, "") for key in ("descr", "fortran_order", "shape"))
    if "'|O'" in header or "'O'" in header:
        raise ValueError(f"{name} holds Python objects, which are pickled and could run any code")
    if not _PLAIN.fullmatch(kind) or order not in ("True", "False") or not _SHAPE.fullmatch(shape):
        raise ValueError(f"{name} is no plain array of numbers or texts: {shown(header.strip())}")
    sizes = tuple(int(size) for size in shape.strip("()").split(",") if size.strip())
    return np.dtype(kind.strip("'")), order == "True", sizes, 10 + length


def _check_lengths(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    first, *others = ((name, array.shape[0] if array.ndim else 0) for name, array in arrays.items())
    if first[1] == 0:
        raise BadInput(f"{path}: there are no rows; {first[0]} is empty")
    for name, length in others:
        if length != first[1]:
            raise BadInput(f"{path}: {first[0]} has {first[1]} rows and {name} has {length}; give one row an example")
    sizes = [array.size * max(8, 4 * array.itemsize * (array.dtype.kind == "S")) for array in arrays.values()]
    check_bytes(path, sum(sizes), "its arrays as numbers and texts")


def _class_names(path: Path, array: NDArray[Any] | None) -> tuple[str, ...] | None:
    if array is None:
        return None
    if array.size > CLASS_LIMIT:
        raise BadInput(f"{path}: class_names holds {array.size} names (limit {CLASS_LIMIT})")
    names = tuple(str(value) for value in _text(path, "class_names", array).ravel().tolist())
    for name in names:
        check_text(f"{path}: class_names", name)
    if len(names) < 2 or len(set(names)) < len(names):
        raise BadInput(f"{path}: class_names must hold two or more names, all different")
    return names


def _text(path: Path, name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return an array with bytes as text; refuse what is no Unicode, which numpy itself does not check."""
    if array.dtype.kind == "S":
        try:
            return np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise BadInput(
                f"{path}: {name} holds bytes that are not UTF-8 ({error.reason}); write it as text"
            ) from error
    if array.dtype.kind == "U" and array.size:
        points = np.ascontiguousarray(array).view(np.uint32)
        if points.max() > 0x10FFFF:
            raise BadInput(f"{path}: {name} holds what is no text; the file is damaged, write it again")
    return array


def _one(path: Path, name: str, arrays: Mapping[str, NDArray[Any]], called: str | None = None) -> Cells:
    """Return an array (N,) or (N, 1) as a column."""
    array = arrays[name]
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise BadInput(f"{path}: {name} has shape {array.shape}, expected ({len(array)},)")
    return cells_of(called or name, _text(path, name, array))


def _cells(path: Path, name: str, arrays: Mapping[str, NDArray[Any]]) -> Cells | Matrix:
    """Return labels or predictions: a column, or (N, C) a number a class."""
    array = arrays[name]
    if array.ndim == 2 and array.shape[1] > 1:
        return Matrix(_floats(path, name, array, 2), name)
    return _one(path, name, arrays)


def _floats(path: Path, name: str, array: NDArray[Any], dimensions: int) -> NDArray[Any]:
    """Return numbers of ``dimensions`` dimensions as float32 or float64."""
    if array.dtype.kind not in "biuf" or array.ndim != dimensions or 0 in array.shape:
        wanted = "(N, C)" if dimensions == 2 else "(N,)"
        raise BadInput(f"{path}: {name} is {array.dtype} of shape {array.shape}, expected numbers of shape {wanted}")
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def _matrix(path: Path, columns: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> Matrix:
    """Put one array a class beside each other."""
    return stacked(columns, {name: _floats(path, name, arrays[name], 1) for name in columns.values()})

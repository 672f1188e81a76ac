"""Predictions from files: CSV, Parquet or ``.npz`` in, checked ``Predictions`` out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailkeep.auditing.cells import FILE_LIMIT, Cells, Matrix, Options, Raw, Shown, check_text, ids_column, text_column
from tailkeep.auditing.classes import class_indices, marks, names_for, said_names
from tailkeep.auditing.csv_file import read_csv
from tailkeep.auditing.npz_file import read_npz
from tailkeep.auditing.parquet_file import read_parquet
from tailkeep.auditing.predictions import Predictions
from tailkeep.auditing.scores import check_agreement, predict, tell_scores
from tailkeep.errors import BadInput
from tailkeep.files import sha256_file


def read_predictions(
    path: Path,
    *,
    name: str | None = None,
    label_column: str = "label",
    prediction_column: str = "prediction",
    id_column: str = "id",
    group_columns: Sequence[str] = (),
    class_names: Sequence[str] | None = None,
    scores: Shown = "auto",
    threshold: float = 0.5,
) -> Predictions:
    """Read one model's predictions from a CSV, Parquet or ``.npz`` file; its content tells the form.

    Columns: the true class; the predicted class, or scores in one column a class (``logit_<class>`` or
    ``prob_<class>``; in Parquet and ``.npz`` also one column or array ``logits`` or ``probabilities`` (N, C)), or
    both; ids and groups if there are any. Classes are whole numbers from 0 or names. Multi-label: ``label_<class>`` of
    0 and 1 and ``prediction_<class>`` or scores, which predict a class where its probability is at least
    ``threshold``. Without ``class_names`` the score columns name the classes, else what occurs in the file. ``scores``
    says what scores are where their name and values do not. ``name`` is the file's name without its ending by default.

    Raises BadInput with file, row (and line of a CSV file), column, value, cause and fix where something does not fit;
    MissingExtra for Parquet without pyarrow.
    """
    options = Options(
        label_column,
        prediction_column,
        id_column,
        tuple(group_columns),
        None if class_names is None else tuple(class_names),
        scores,
        threshold,
    )
    return read_all([path], options, None if name is None else [name])[0]


def read_all(
    paths: Sequence[Path], options: Options | None = None, names: Sequence[str] | None = None
) -> list[Predictions]:
    """Read several models' predictions over the same classes, so that one that never predicts a class keeps it.

    ``names`` are the models' names; without them the files' names, with as many folders as tell them apart. A file
    that says its classes itself, and others than the rest, keeps them: ``pair`` refuses it. A group column need stand
    in one of the files only. Raises as ``read_predictions`` does.
    """
    options = replace(options or Options(), groups_optional=len(paths) > 1)
    paths = [Path(path) for path in paths]
    raws = [_read(path, options) for path in paths]
    for group in options.group_columns:
        if not any(cells.column == group for raw in raws for cells in raw.groups):
            raise BadInput(f"{', '.join(map(str, paths))}: none has the group column {group!r}")
    shared = names_for(raws, options)
    titles = _titles(paths) if names is None else list(names)
    return [_predictions(raw, title, shared, options) for raw, title in zip(raws, titles, strict=True)]


def _read(path: Path, options: Options) -> Raw:
    """Read a file by what it begins with."""
    try:
        if path.is_dir():
            raise BadInput(f"{path}: is a folder; name a file of predictions (.csv, .parquet or .npz)")
        if not path.is_file():
            why = "is a pipe or a device, not a file" if path.exists() else "there is no such file"
            raise BadInput(f"{path}: {why}; name a file of predictions (.csv, .parquet or .npz)")
        if path.stat().st_size > FILE_LIMIT:
            raise BadInput(
                f"{path}: refused, it has {path.stat().st_size >> 20} MB (limit {FILE_LIMIT >> 20} MB); "
                "keep the columns label and prediction alone"
            )
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from error
    _refuse_impostors(path, head)
    if head.startswith(b"PAR1"):
        return read_parquet(path, options)
    if head.startswith(b"PK"):
        return read_npz(path, options)
    if path.suffix.lower() in (".npz", ".parquet", ".pq"):
        raise BadInput(f"{path}: is no {path.suffix} file, by its first bytes; is it damaged, or another kind of file?")
    first = head.splitlines()[0] if head.splitlines() else b""
    tabs = path.suffix.lower() == ".tsv" or (path.suffix.lower() != ".csv" and b"\t" in first and b"," not in first)
    return read_csv(path, options, "\t" if tabs else ",")


def _refuse_impostors(path: Path, head: bytes) -> None:
    """Say what a file is that holds no table, by its first bytes."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    known = {
        b"version https://git-lfs": "is a Git LFS pointer, not the predictions; run `git lfs pull` in its repository",
        b"PARE": "is an encrypted Parquet file; write it without encryption",
        b"\x1f\x8b": "is packed with gzip; unpack it first (gunzip)",
        b"\x93NUMPY": "is a single array (.npy); write labels and predictions together with numpy.savez",
        b"\xff\xfe": "is UTF-16 text; save it as UTF-8",
        b"\xfe\xff": "is UTF-16 text; save it as UTF-8",
        b"\x89HDF": "is an HDF5 file; write CSV, Parquet or .npz",
        b"ARROW1": "is an Arrow IPC (Feather) file; write Parquet",
        b"\x80": "is a pickle, which could run any code; it is not opened. Write CSV, Parquet or .npz",
    }
    if not text:
        raise BadInput(f"{path}: the file is empty; write it again")
    for start, cause in known.items():
        if head.startswith(start):
            raise BadInput(f"{path}: {cause}")
    if text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        raise BadInput(f"{path}: is a web page (HTML), not predictions; the link led to a login or a preview page")
    if text.startswith((b"{", b"[")):
        raise BadInput(f"{path}: is JSON; write CSV, Parquet or .npz")


def _predictions(raw: Raw, title: str, shared: tuple[str, ...], options: Options) -> Predictions:
    """Bring what a file holds to class indices, and check its columns against each other."""
    own = said_names(raw, in_words=True)
    if options.class_names is not None and own is not None and set(own) != set(shared):
        odd = min(set(own) ^ set(shared))
        where = "only the file" if odd in own else "only the names that were given"
        raise BadInput(f"{raw.path}: its classes are not the class names that were given: {where} has {odd!r}")
    names = shared if own is None or set(own) == set(shared) else own
    for text in names:
        check_text(f"{raw.path}: the class name", text)
    label = _aligned(raw, raw.label, names)
    labels = marks(raw, label) if isinstance(label, Matrix) else class_indices(raw, label, names)
    scores, are = None, None
    if raw.scores is not None:
        scores, are = tell_scores(raw, _matrix(raw, raw.scores, names), options)
    if raw.prediction is None:
        assert scores is not None
        assert are is not None  # the layout demands predictions or scores
        predicted: NDArray[Any] = predict(scores, are, raw.task, options.threshold)
    else:
        given = _aligned(raw, raw.prediction, names)
        if isinstance(given, Matrix) is not (raw.task == "multilabel"):
            raise BadInput(
                f"{raw.path}: the labels are {raw.task} and the predictions are not; "
                "both must be one class a row, or both 0 and 1 for every class"
            )
        predicted = marks(raw, given) if isinstance(given, Matrix) else class_indices(raw, given, names)
        if scores is not None and are is not None:
            check_agreement(raw, given, predicted, scores, are, options)
    groups = {cells.column: text_column(raw, cells) for cells in raw.groups}
    source = {"path": str(raw.path), "sha256": sha256_file(raw.path), "form": raw.form}
    return Predictions(title, labels, predicted, names, raw.task, scores, are, ids_column(raw), groups, source)


def _aligned(raw: Raw, values: Cells | Matrix, names: tuple[str, ...]) -> Cells | Matrix:
    return _matrix(raw, values, names) if isinstance(values, Matrix) else values


def _matrix(raw: Raw, matrix: Matrix, names: tuple[str, ...]) -> Matrix:
    """Bring the columns of a matrix into the order of the classes."""
    width = matrix.values.shape[1]
    own = matrix.names or raw.class_names or names
    if width != len(own):
        raise BadInput(f"{raw.path}: {matrix.columns} has {width} columns, and there are {len(own)} classes")
    if set(own) != set(names):
        odd = min(set(own) ^ set(names))
        has = "no column" if odd in names else "a column"
        beside = f"class {odd!r} has {has} beside {matrix.column(0)!r}"
        raise BadInput(f"{raw.path}: {beside}; labels, predictions and scores need the same classes")
    if own == names:
        return matrix
    position = {name: index for index, name in enumerate(own)}
    order = np.array([position[name] for name in names])
    columns = matrix.columns if isinstance(matrix.columns, str) else tuple(matrix.columns[index] for index in order)
    return Matrix(matrix.values[:, order], columns, names)


def _titles(paths: Sequence[Path]) -> list[str]:
    """Name models by their files, with folders in front where two files have one name."""
    for folders in range(4):
        titles = ["/".join([*path.parts[-1 - folders : -1], path.stem]) for path in paths]
        if len(set(titles)) == len(titles):
            return titles
    return [str(path) for path in paths]

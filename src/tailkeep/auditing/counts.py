"""Class names and training images by class, as a user gives them: who is rare."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailkeep.auditing.cells import check_text
from tailkeep.errors import BadInput

TEXT_LIMIT = 16 << 20
"""Bytes of a file of names or counts."""
IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def as_counts(given: Any, names: Sequence[str], where: str = "train_counts") -> NDArray[np.int64] | None:
    """Return training images by class (C,), from a sequence in the order of ``names`` or a mapping by name.

    None stays None. Raises BadInput where a class has none, or a number is no count.
    """
    if given is None:
        return None
    if isinstance(given, Mapping):
        by_name = {str(key): value for key, value in given.items()}
        lacking = [name for name in names if name not in by_name]
        if lacking:
            raise BadInput(f"{where}: there is no count for class {lacking[0]!r}")
        given = [by_name[name] for name in names]
    counts = np.asarray(given)
    if counts.shape != (len(names),):
        raise BadInput(f"{where}: shape {counts.shape}, expected one number for each of {len(names)} classes")
    if counts.dtype.kind not in "iu" or (counts < 0).any():
        raise BadInput(f"{where}: expected whole numbers of images, 0 or more")
    return counts.astype(np.int64)


def read_class_names(path: Path) -> tuple[str, ...]:
    """Return the class names of a text file, one a line, in the order of the class indices. Raises BadInput."""
    names = tuple(line.strip() for line in _text(path).splitlines() if line.strip())
    if len(names) < 2 or len(set(names)) < len(names):
        raise BadInput(f"{path}: expected two or more class names, all different, one a line; found {len(names)}")
    for name in names:
        check_text(str(path), name)
    return names


def read_train_counts(path: Path, names: Sequence[str]) -> NDArray[np.int64]:
    """Return training images by class (C,) from JSON ({"class": count}), CSV (class,count) or folders of classes.

    A folder with ``train/`` is counted there. Raises BadInput with the line where a count is none.
    """
    if path.is_dir():
        found: dict[str, Any] = _of_folder(path)
    elif path.suffix.lower() == ".json":
        try:
            found = json.loads(_text(path))
        except json.JSONDecodeError as error:
            raise BadInput(f"{path}:{error.lineno}: not JSON ({error.msg})") from error
        if not isinstance(found, dict):
            raise BadInput(f'{path}: expected {{"class": count, ...}}')
    else:
        found = _of_csv(path)
    counts = as_counts(found, names, str(path))
    assert counts is not None
    return counts


def _of_csv(path: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for number, row in enumerate(csv.reader(_text(path).splitlines()), start=1):
        if not row or (number == 1 and len(row) == 2 and not row[1].strip().isdigit()):
            continue  # the header
        if len(row) != 2 or not row[1].strip().isdigit():
            raise BadInput(f"{path}:{number}: expected class,count with a whole number, found {','.join(row)!r}")
        name = row[0].strip()
        if name in found:
            raise BadInput(f"{path}:{number}: class {name!r} stands twice")
        found[name] = int(row[1])
    return found


def _of_folder(path: Path) -> dict[str, int]:
    root = path / "train" if (path / "train").is_dir() else path
    return {
        folder.name: sum(file.suffix.lower() in IMAGES for file in folder.iterdir())
        for folder in sorted(root.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > TEXT_LIMIT:
            raise BadInput(
                f"{path}: {path.stat().st_size >> 20} MB are no list of classes (limit {TEXT_LIMIT >> 20} MB)"
            )
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as text ({error})") from error

"""A Hugging Face dataset on disk, read with pyarrow alone: a ``save_to_disk`` folder, or Parquet or Arrow files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailkeep.auditing.arrow_files import arrow, column_values, find_files, read_schema
from tailkeep.auditing.image_pixels import Progress, Size, read_pixels
from tailkeep.auditing.labelled import Labelled, in_order
from tailkeep.data.scan import COUNT_LIMIT
from tailkeep.errors import BadInput
from tailkeep.files import safe_join

EMBED = "write it anew with the images inside (datasets: ds.save_to_disk(...) does so)"


@dataclass(frozen=True)
class Columns:
    """Where image and label stand, and the class names that the file itself gives."""

    image: str
    label: str
    class_names: tuple[str, ...] | None


def read_dataset(
    path: Path,
    split: str,
    size: Size | None,
    channels: int | None,
    allow_bad: int,
    class_names: Sequence[str] | None,
    image_column: str | None = None,
    label_column: str | None = None,
    progress: Progress | None = None,
) -> Labelled:
    """Return the images of a split; class names come from the column's ClassLabel feature, or are the sorted texts.

    An image is stored as its file's bytes, or by a path to a file below ``path``. Raises ``BadInput`` where the split,
    the columns or labels are missing, and for a path that leads outside; ``MissingExtra`` where pyarrow is.
    """
    arrow()
    files = find_files(path, split)
    columns = find_columns(files[0], read_schema(files[0]), image_column, label_column)
    root = path if path.is_dir() else path.parent
    labels = _labels(path, files, columns)

    def chunks() -> Iterator[list[tuple[str, Path]]]:
        row = 0
        for values in column_values(files, columns.image):
            with tempfile.TemporaryDirectory(prefix="tailkeep-") as folder:
                yield [
                    (f"row {row + index}", _as_file(value, root, Path(folder) / str(index), row + index))
                    for index, value in enumerate(values)
                ]
            row += len(values)

    pixels = read_pixels(chunks(), len(labels), size, channels, allow_bad, str(path), progress)
    if labels.dtype.kind == "U":
        own: tuple[str, ...] | None = tuple(str(name) for name in np.unique(labels))
        indices = np.searchsorted(np.array(own), labels).astype(np.int64)
    else:
        own, indices = columns.class_names, labels.astype(np.int64)
    indices, names = in_order(str(path), indices, own, class_names)
    ids = np.array([f"{split}/{row}" for row in range(len(labels))])
    return Labelled("huggingface", pixels.images, indices[pixels.kept], names, ids[pixels.kept], pixels.notes)


def find_columns(path: Path, schema: Any, image: str | None, label: str | None) -> Columns:
    """Return which columns hold image and label, by the features that are stored in the schema, else by their form.

    Raises ``BadInput`` where none fits, or several do and none is named.
    """
    features = _features(schema)
    structs = [field.name for field in schema if _is_image(field, features)]
    marked = [name for name, kind in features.items() if kind.get("_type") == "ClassLabel" and name in schema.names]
    usual = [name for name in ("label", "labels", "target", "class") if name in schema.names]
    chosen = []
    for what, given, found in (("image", image, structs), ("label", label, marked or usual[:1])):
        if given is not None and given not in schema.names:
            raise BadInput(f"{path}: there is no column {given!r}; it has {', '.join(schema.names)}")
        if given is None and len(found) != 1:
            which = f"several columns could be the {what}: {', '.join(found)}" if found else f"no column is the {what}"
            raise BadInput(f"{path}: {which}; name it ({what} column). It has {', '.join(schema.names)}")
        chosen.append(given or found[0])
    names = features.get(chosen[1], {}).get("names")
    valid = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return Columns(chosen[0], chosen[1], tuple(names) if isinstance(names, list) and valid else None)


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return what the datasets library wrote about the columns, or nothing."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: kind for name, kind in found.items() if isinstance(kind, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _is_image(field: Any, features: dict[str, dict[str, Any]]) -> bool:
    if features.get(field.name, {}).get("_type") == "Image":
        return True
    types = arrow().types
    return types.is_struct(field.type) and {field.type.field(n).name for n in range(field.type.num_fields)} >= {
        "bytes",
        "path",
    }


def _labels(path: Path, files: list[Path], columns: Columns) -> NDArray[Any]:
    """Return the labels of all rows: int64 or str (N,)."""
    values: list[Any] = []
    for some in column_values(files, columns.label):
        values += some
        if len(values) > COUNT_LIMIT:
            raise BadInput(f"{path}: more than {COUNT_LIMIT:,} images")
    if not values:
        raise BadInput(f"{path}: there are no rows")
    kind: type = str if isinstance(values[0], str) else int
    for row, value in enumerate(values):
        if type(value) is not kind or (isinstance(value, int) and abs(value) >= 2**31):
            shown = "missing" if value is None else f"a {type(value).__name__}"
            raise BadInput(
                f"{path}: column {columns.label!r}: row {row} is {shown}; labels are whole numbers or class names"
            )
    return np.array(values, dtype=np.str_ if kind is str else np.int64)


def _as_file(value: Any, root: Path, spare: Path, row: int) -> Path:
    """Return a file with one stored image: ``spare``, filled with its bytes, or the file that its path means."""
    stored = value.get("bytes") if isinstance(value, dict) else value
    name = value.get("path") if isinstance(value, dict) else None
    if isinstance(stored, bytes):
        spare.write_bytes(stored)
        return spare
    if isinstance(name, str) and name:
        try:
            return safe_join(root, name)
        except (BadInput, ValueError, OSError) as error:
            raise BadInput(
                f"row {row}: the image is stored as a path alone, {name[:200]!r}, which leads outside {root}; {EMBED}"
            ) from error
    if stored is None:
        spare.touch()  # named by the decoder as an empty file, and counted
        return spare
    raise BadInput(f"row {row}: the image is a {type(stored).__name__}, not an image file's bytes or path; {EMBED}")

"""The files of a Hugging Face dataset on disk, and their columns, read with pyarrow alone."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tailkeep.auditing.image_pixels import CHUNK
from tailkeep.errors import BadInput, MissingExtra
from tailkeep.files import read_json, safe_join

SUFFIXES = (".parquet", ".arrow")
SPLITS = ("train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval")
"""Words in a file's name that tell its split."""


def arrow() -> Any:
    """Import pyarrow. Raises ``MissingExtra`` with the command that installs it."""
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise MissingExtra(
            f"pyarrow is needed for datasets on disk and cannot be imported ({error}); pip install 'tailkeep[parquet]'"
        ) from error


def find_files(path: Path, split: str) -> list[Path]:
    """Return the files that hold ``split``, in their order. Raises ``BadInput`` that lists the splits there are."""
    if path.is_file():
        return [path]
    if (path / "dataset_dict.json").is_file():
        content = read_json(path / "dataset_dict.json")
        splits = content.get("splits") if isinstance(content, dict) else None
        names = [str(name) for name in splits] if isinstance(splits, list) else []
        if split not in names:
            raise BadInput(f"{path}: there is no split {split!r}; it has {', '.join(names) or 'none'}: choose one")
        path = safe_join(path, split)
    if (path / "state.json").is_file():
        return _saved_files(path)
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if not files:
        raise BadInput(f"{path}: holds neither state.json nor dataset_dict.json nor {' or '.join(SUFFIXES)} files")
    words = {file: set(re.split(r"[^a-z]+", file.relative_to(path).as_posix().lower())) for file in files}
    named = sorted({word for found in words.values() for word in found if word in SPLITS or word == split})
    if named and split not in named:
        raise BadInput(f"{path}: no file is of the split {split!r}; there are files of {', '.join(named)}: choose one")
    chosen = [file for file in files if not named or split in words[file]]
    for file in chosen:
        if path.resolve() not in file.resolve().parents:
            raise BadInput(f"{file}: refused, it is a link that leads outside {path}")
    return chosen


def _saved_files(folder: Path) -> list[Path]:
    state = read_json(folder / "state.json")
    entries = state.get("_data_files") if isinstance(state, dict) else None
    if not isinstance(entries, list) or not all(isinstance(e, dict) and "filename" in e for e in entries):
        raise BadInput(f"{folder / 'state.json'}: does not list the data files; save the dataset again")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise BadInput(f"{folder}: keeps its rows' order apart; call flatten_indices() and save the dataset again")
    files = [safe_join(folder, str(entry["filename"])) for entry in entries]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise BadInput(f"{folder}: not complete, these files are missing: {', '.join(missing) or 'all'}")
    return files


def _open(path: Path) -> tuple[Any, Iterator[Any]]:
    """Return (schema, record batches) of a Parquet or Arrow file; nothing else of it is read yet."""
    library = arrow()
    if path.suffix == ".parquet":
        file = importlib.import_module("pyarrow.parquet").ParquetFile(path)
        return file.schema_arrow, file.iter_batches(batch_size=CHUNK)
    source = library.memory_map(str(path))
    try:
        stream = library.ipc.open_stream(source)
        return stream.schema, iter(stream)
    except library.ArrowInvalid:
        opened = library.ipc.open_file(source)
        return opened.schema, (opened.get_batch(index) for index in range(opened.num_record_batches))


def read_schema(path: Path) -> Any:
    """Return the Arrow schema of a file. Raises ``BadInput`` where it is damaged."""
    try:
        return _open(path)[0]
    except Exception as error:  # pyarrow has a dozen error classes for damaged files
        raise BadInput(f"{path}: not readable as {path.suffix[1:]} ({_short(error)})") from error


def column_values(files: list[Path], column: str) -> Iterator[list[Any]]:
    """Yield the values of one column, at most ``CHUNK`` rows at a time, over all files."""
    for path in files:
        try:
            _, batches = _open(path)
            for batch in batches:
                values = batch.column(batch.schema.get_field_index(column))
                # Offsets of an untrusted file may point outside of it; validation looks at every one.
                values.validate(full=True)
                for start in range(0, len(values), CHUNK):
                    yield values.slice(start, CHUNK).to_pylist()
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(f"{path}: column {column!r} cannot be read ({_short(error)})") from error


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

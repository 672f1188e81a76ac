"""The data that an ONNX model keeps in other files: taken in where they lie in its own folder, refused elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tailkeep.errors import BadInput
from tailkeep.files import safe_join

LARGEST = 2**31 - 1
"""Bytes that a protobuf message can hold."""


def tensors_outside(model: Any) -> list[Any]:
    """Return every tensor of an ONNX ModelProto whose data lies in another file, those of subgraphs included."""
    graphs = [model.graph, *model.functions]
    return [
        tensor for graph in graphs for tensor in _tensors(graph) if tensor.data_location == tensor.EXTERNAL
    ]  # fmt: skip


def take_in(model: Any, path: Path) -> tuple[Path, ...]:
    """Put the data that the model at ``path`` keeps in other files into ``model``; return these files, each once.

    Raises ``BadInput`` where a file lies outside the model's folder (by "..", an absolute name or a link), is missing
    or shorter than the model says, or where all data together exceed the 2 GB of one ONNX model.
    """
    files: dict[Path, None] = {}
    total = model.ByteSize()
    for tensor in tensors_outside(model):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = _inside(path, tensor.name, entries.get("location", ""))
        offset, length = _span(path, tensor.name, entries, file.stat().st_size)
        total += length
        if total > LARGEST:
            raise BadInput(
                f"{path}: more than 2 GB with its external data; audit its predictions instead (run it yourself)"
            )
        with open(file, "rb") as stream:
            stream.seek(offset)
            data = stream.read(length)
        tensor.ClearField("external_data")
        tensor.data_location = tensor.DEFAULT
        tensor.raw_data = data
        files[file] = None
    return tuple(files)


def _inside(path: Path, tensor: str, location: str) -> Path:
    """Return the file that a tensor's location means: below the model's folder and nowhere else."""
    folder = path.resolve().parent
    try:
        file = safe_join(folder, location)
    except (BadInput, ValueError, OSError) as error:  # a name with a zero byte, or one too long
        raise BadInput(
            f"{path}: the data of {tensor[:100]} lies in {location[:200]!r}, outside the model's folder; refused. Put "
            "model and data into one folder and export it again"
        ) from error
    if not location or not file.is_file():
        raise BadInput(
            f"{path}: the data of {tensor[:100]} should lie in {location[:200]!r} beside it, which is no file here; "
            "copy it along, or export the model with its weights inside"
        )
    return file


def _span(path: Path, tensor: str, entries: dict[str, str], size: int) -> tuple[int, int]:
    """Return (offset, length) in bytes of a tensor's data in a file of ``size`` bytes."""
    numbers = {}
    for key, default in (("offset", "0"), ("length", "")):
        text = entries.get(key, default)
        if text and not (text.isascii() and text.isdigit() and len(text) < 20):
            raise BadInput(f"{path}: the data of {tensor[:100]} has the {key} {text[:50]!r}, which is no number")
        numbers[key] = int(text) if text else None
    offset = numbers["offset"] or 0
    length = max(size - offset, 0) if numbers["length"] is None else numbers["length"]
    if offset + length > size:
        raise BadInput(
            f"{path}: the data of {tensor[:100]} ends at byte {offset + length} of a file of {size}; it is cut short "
            "or belongs to another model"
        )
    return offset, length


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield every tensor of a graph or function, with those of its subgraphs."""
    yield from getattr(graph, "initializer", ())
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    owners = [node.attribute for node in graph.node]
    for attribute in (entry for owner in (*owners, getattr(graph, "attribute_proto", ())) for entry in owner):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)

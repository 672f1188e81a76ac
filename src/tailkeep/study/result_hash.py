"""The result hash: SHA-256 over the sorted (key, model hash, prediction-array hash) of a study, without any timing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

NO_MODEL = "no model here"


class CellHashes(NamedTuple):
    """What a cell puts into the result hash.

    ``model`` is the hash of the model's file, ``arrays`` of the prediction's labels and logits; ``beside`` are those of
    the logits of its other predictions by their keys. None for what is not there.
    """

    predict_key: str
    model: str | None = None
    arrays: str | None = None
    beside: Mapping[str, str | None] = {}


def hash_of(cells: Iterable[CellHashes]) -> str:
    """Return the result hash of the cells of a study, in whatever order they come."""
    lines = set()
    for cell in cells:
        if cell.arrays is None:
            lines.add(f"{cell.predict_key} missing")
            continue
        lines.add(f"{cell.predict_key} {cell.model or NO_MODEL} {cell.arrays}")
        lines |= {f"{key} {logits or 'missing'}" for key, logits in cell.beside.items()}
    return hashlib.sha256("\n".join(sorted(lines)).encode("ascii")).hexdigest()


def arrays_hash(labels: NDArray[Any], logits: NDArray[Any]) -> str:
    """Return the hash of a prediction's labels (N,), as int64, and logits (N, C), as float32."""
    return hashlib.sha256(labels.astype("<i8").tobytes() + logits.astype("<f4").tobytes()).hexdigest()


def logits_hash(logits: NDArray[Any]) -> str:
    """Return the hash of logits (N, C), as float32."""
    return hashlib.sha256(logits.astype("<f4").tobytes()).hexdigest()

"""What every form of test images is read into, and how its labels get the class order of the models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tailkeep.data.checks import listed
from tailkeep.errors import BadInput


@dataclass(frozen=True)
class Labelled:
    """``images`` uint8 (N, C, H, W), ``labels`` int64 (N,), ``ids`` str (N,); ``form`` names the reader."""

    form: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    ids: NDArray[np.str_]
    notes: tuple[str, ...] = ()


def check_labels(place: str, labels: NDArray[np.int64], classes: int | None) -> None:
    """Raise ``BadInput`` that names the first label below 0, or not below ``classes``."""
    if classes is not None and (labels >= classes).any():
        row = int((labels >= classes).argmax())
        raise BadInput(f"{place}: label {row} is {labels[row]}, and there are {classes} classes, counted from 0")
    if (labels < 0).any():
        row = int((labels < 0).argmax())
        hint = "; labels of -1 mean a hidden test set: take a split that has labels" if labels[row] == -1 else ""
        raise BadInput(f"{place}: label {row} is {labels[row]}, and classes count from 0{hint}")


def in_order(
    place: str, labels: NDArray[np.int64], own: Sequence[str] | None, wanted: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return labels and class names in the order ``wanted``, matched by name where the source has its ``own``.

    Without names of its own the source's labels are taken as indices into ``wanted``, or named by their numbers.
    Raises ``BadInput`` for a label without a class, and for a class of the source that ``wanted`` lacks.
    """
    check_labels(place, labels, len(own) if own is not None else None if wanted is None else len(wanted))
    if own is None and wanted is not None:
        return labels, tuple(wanted)
    if own is None:
        if labels.max() >= len(labels):
            highest = f"label {int(labels.argmax())} is {labels.max()}, more classes than images"
            raise BadInput(f"{place}: {highest}; labels count from 0 without gaps")
        return labels, tuple(str(index) for index in range(int(labels.max()) + 1))
    if len(set(own)) != len(own):
        twice = next(name for row, name in enumerate(own) if name in own[:row])
        raise BadInput(f"{place}: the class name {twice!r} occurs twice")
    if wanted is None or tuple(wanted) == tuple(own):
        return labels, tuple(own)
    unknown = [repr(name) for name in own if name not in set(wanted)]
    if unknown:
        its_own = listed([repr(name) for name in own])
        raise BadInput(f"{place}: the class names that you gave lack {listed(unknown)}; its own are {its_own}")
    places = np.array([list(wanted).index(name) for name in own], dtype=np.int64)
    return places[labels], tuple(wanted)

"""Checks that every source of the user's own images shares: empty classes, and images in both splits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tailkeep.data.subset import class_counts, overlap
from tailkeep.errors import BadInput

_SHOWN = 5


def listed(items: Sequence[str]) -> str:
    """Return the first items and how many more there are."""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


def check_classes(source: str, split: str, labels: NDArray[np.int64], names: Sequence[str], needed: int = 1) -> None:
    """Raise ``BadInput`` that lists the classes with fewer than ``needed`` images in a split."""
    short = [
        f"{name!r} has {count}"
        for name, count in zip(names, class_counts(labels, len(names)), strict=True)
        if count < needed
    ]
    if short:
        raise BadInput(f"{source}: every class needs at least {needed} {split} images; {listed(short)}")


def check_overlap(
    source: str,
    train: tuple[NDArray[np.uint8], NDArray[np.str_]],
    test: tuple[NDArray[np.uint8], NDArray[np.str_]],
    allow: bool,
) -> tuple[str, ...]:
    """Return the notes on test images whose pixels are a training image's too: none, or one where ``allow`` is set.

    Each split is (images, ids). Raises ``BadInput`` that lists the pairs where ``allow`` is not set.
    """
    pairs = overlap(train[0], test[0])
    if not pairs:
        return ()
    count = len({b for _, b in pairs})
    named = listed([f"{train[1][a]} = {test[1][b]}" for a, b in pairs])
    if not allow:
        raise BadInput(
            f"{source}: {count} test images have the same pixels as a training image: {named}. Remove them, or set "
            "allow_overlap: true (every report will then say so)"
        )
    return (f"overlap: {count} test images have the same pixels as a training image ({named})",)

"""Classes by how frequent they are: the groups and weights that imbalance-aware compression goes by."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tailkeep.errors import StepFailed


def frequency_thirds(class_counts: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return the class indices of head, medium and tail, each ascending; a group without a class is left out.

    Classes are ranked by their training images, of equal ones the lower index first: a third (rounded down, of two or
    more classes at least one) is the head, as many are the tail, and the rest is between them (33, 34 and 33 of 100).
    """
    ranked = sorted(range(len(class_counts)), key=lambda index: -class_counts[index])
    third = max(len(ranked) // 3, min(len(ranked) // 2, 1))
    parts = ranked[:third], ranked[third : len(ranked) - third], ranked[len(ranked) - third :]
    return tuple(tuple(sorted(part)) for part in parts if part)


def log_prior(class_counts: Sequence[int]) -> tuple[float, ...]:
    """Return log(n_c / n) of each class.

    Raises ``StepFailed`` with reason ``class_counts`` where a class has no training image.
    """
    _none_empty(class_counts)
    total = sum(class_counts)
    return tuple(math.log(count / total) for count in class_counts)


def class_balanced_weights(class_counts: Sequence[int], beta: float) -> tuple[float, ...]:
    """Return (1 - beta) / (1 - beta^n_c) of each class, scaled so that they sum to C (Cui et al. 2019).

    ``beta`` lies from 0 (all weights 1) to below 1. Raises ``StepFailed`` as ``log_prior`` does.
    """
    _none_empty(class_counts)
    raw = [1.0 if beta == 0 else (1 - beta) / -math.expm1(count * math.log(beta)) for count in class_counts]
    return tuple(weight * len(raw) / math.fsum(raw) for weight in raw)


def _none_empty(class_counts: Sequence[int]) -> None:
    empty = [index for index, count in enumerate(class_counts) if count < 1]
    if empty:
        raise StepFailed("class_counts", f"every class needs a training image; class {empty[0]} has none")

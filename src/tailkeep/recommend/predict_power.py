"""The order in which candidates go to the gate: by the predicted power to pass it on the held-out split.

A fixed sequence ends at its first failure, so what comes first must be what passes, not what is smallest. Of each class
the shares of images that the baseline, or the candidate, alone has right are estimated on validation images with half
an image added to each of the three outcomes (Jeffreys' prior of a trinomial). The power of a class's check at the
held-out split's size follows exactly (``analysis.power``); that of the gate is the product, since classes have images
of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tailkeep.analysis import power, tails

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ADDED = 0.5
"""Images added to each of the three outcomes of a class: lost, won, neither."""
FLOOR = 1e-12
"""Least power of a class in a score: one hopeless class must not hide the others."""


def smoothed(n: ArrayLike, n10: ArrayLike, n01: ArrayLike) -> tuple[Floats, Floats]:
    """Return (p10, p01), the shares of images that the baseline alone, or the candidate alone, has right."""
    total = np.asarray(n, dtype=np.float64) + 3 * ADDED
    b, c = ((np.asarray(count, dtype=np.float64) + ADDED) / total for count in (n10, n01))
    return b, c


class ClassPower:
    """The exact power of every class's check at fixed sizes: what repeats over candidates is worked out once.

    ``sizes`` (C,) are images, each at least 1, ``limit`` the loss that is allowed (a share), ``alpha`` the chance of a
    wrong "kept".
    """

    def __init__(self, sizes: ArrayLike, limit: float, alpha: float) -> None:
        images, back = np.unique(np.atleast_1d(np.asarray(sizes, dtype=np.int64)), return_inverse=True)
        self.back: Ints = np.asarray(back.ravel(), dtype=np.int64)
        self.critical = power.critical_values(images, limit, alpha)
        self.splits = tails.split(images, np.full(images.shape, limit), self.critical)

    def of(self, p10: ArrayLike, p01: ArrayLike) -> Floats:
        """Return the chance (..., C) that each class is shown to be kept, at true shares (..., C)."""
        b, c = np.broadcast_arrays(np.asarray(p10, dtype=np.float64), np.asarray(p01, dtype=np.float64))
        units = np.broadcast_to(self.back, b.shape)
        _, below = self.splits.tails(units.ravel(), b.ravel(), c.ravel())
        return np.asarray(below.reshape(b.shape), dtype=np.float64)


@dataclass(frozen=True)
class Forecast:
    """What validation says of a candidate's chance. ``power``: of the whole gate, ``class_power`` (C,) of each class.

    ``score`` ranks candidates in the search: the logarithm of the power, at sizes at which a pass is possible at all.
    """

    name: str
    size: float
    power: float
    score: float
    class_power: tuple[float, ...]


class Forecaster:
    """Forecasts for one held-out split: ``sizes`` (C,) images of its classes, ``limit`` a share, ``alpha``."""

    def __init__(self, sizes: ArrayLike, limit: float, alpha: float) -> None:
        self.sizes = np.atleast_1d(np.asarray(sizes, dtype=np.int64))
        self.held_out = ClassPower(self.sizes, limit, alpha)
        self.fewest = fewest_images(limit, alpha)
        enough = np.maximum(self.sizes, self.fewest)
        self.reachable = self.held_out if (enough == self.sizes).all() else ClassPower(enough, limit, alpha)

    @property
    def hopeless(self) -> list[int]:
        """Classes with so few held-out images that not even a candidate without a single flip is shown to be kept."""
        return np.flatnonzero(self.held_out.of(np.zeros(self.sizes.shape), 0.0) < 0.5).tolist()

    def forecast(self, name: str, size: float, n: ArrayLike, n10: ArrayLike, n01: ArrayLike) -> Forecast:
        """Return the forecast of a candidate of ``size`` bytes with these validation counts by class (C,)."""
        return self.forecasts([name], [size], n, np.atleast_2d(n10), np.atleast_2d(n01))[0]

    def forecasts(
        self, names: Sequence[str], sizes: Sequence[float], n: ArrayLike, n10: ArrayLike, n01: ArrayLike
    ) -> list[Forecast]:
        """Return the forecasts of K candidates: ``n`` (C,) or (K, C), ``n10`` and ``n01`` (K, C)."""
        p10, p01 = smoothed(n, n10, n01)
        each = self.held_out.of(p10, p01)
        reachable = each if self.reachable is self.held_out else self.reachable.of(p10, p01)
        scores = np.log(np.maximum(reachable, FLOOR)).sum(axis=-1)
        return [
            Forecast(name, float(size), power.of_gate(own), float(score), tuple(own.tolist()))
            for name, size, own, score in zip(names, sizes, each, scores, strict=True)
        ]


def fewest_images(limit: float, alpha: float) -> int:
    """Return about how many images of a class a pass needs where no image flips."""
    return power.images_needed(0.0, limit, alpha)[0] or 1


def in_order(forecasts: Iterable[Forecast]) -> list[Forecast]:
    """Return the forecasts in the order of the gate: the likeliest to pass first, of equals the smaller.

    Where the held-out split is too small for a pass, all powers are near 0, and equal ones go by the score.
    """
    return sorted(forecasts, key=lambda each: (-each.power, -each.score, each.size, each.name))

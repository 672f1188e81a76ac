"""Tests and intervals of many classes at once; the same formulas as ``statistics``, over arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]


def mcnemar_p(n10: ArrayLike, n01: ArrayLike) -> Floats:
    """Return the exact two-sided p value of McNemar's test per class, float64 (C,); 1 without discordant images."""
    lost, won = np.asarray(n10, dtype=np.int64), np.asarray(n01, dtype=np.int64)
    p: Floats = np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(lost, won), lost + won, 0.5))
    return np.where(lost + won > 0, p, 1.0)


def wilson(successes: ArrayLike, n: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the two-sided Wilson score intervals (low, high), float64 (C,) in 0..1 (Wilson 1927); NaN for n = 0."""
    return _wilson(successes, n, float(stats.norm.ppf(0.5 + level / 2)))


def simultaneous_lower_bounds(successes: ArrayLike, n: ArrayLike, level: float = 0.95) -> Floats:
    """Return one-sided Wilson lower bounds that all hold together at ``level`` (Bonferroni), float64 (C,) in 0..1.

    The lowest of many recalls is too low a guess of the worst class; the lowest of these bounds is an honest one.
    Bonferroni's divisor is the number of classes with images; NaN for those without.
    """
    total = np.asarray(n)
    tests = max(1, int((total > 0).sum()))
    return _wilson(successes, total, float(stats.norm.isf((1 - level) / tests)))[0]


def _wilson(successes: ArrayLike, n: ArrayLike, z: float) -> tuple[Floats, Floats]:
    hits, total = np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64)
    size = np.where(total > 0, total, np.nan)
    share = hits / size
    centre = share + z * z / (2 * size)
    half = z * np.sqrt(share * (1 - share) / size + z * z / (4 * size * size))
    scale = 1 + z * z / size
    # At the ends the interval touches 0 and 1 exactly, but for rounding.
    low = np.where(hits == 0, 0.0 * size, (centre - half) / scale)
    high = np.where(hits == total, size / size, (centre + half) / scale)
    return low, high

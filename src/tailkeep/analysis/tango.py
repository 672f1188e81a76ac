"""Tango's score test and interval of a paired difference of two shares (Tango 1998, Statistics in Medicine 17:891-908).

Of ``n`` images, ``n10`` are right by the baseline alone and ``n01`` by the candidate alone, so the loss is estimated by
(n10 - n01) / n. All arguments may be arrays that broadcast; shares and losses are in -1..1, not percentage points.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

HALVINGS = 52
"""Steps of the interval's bisection: [-1, 1] down to the last bit of a double."""


def constrained_mle(n10: ArrayLike, n01: ArrayLike, n: ArrayLike, delta: ArrayLike) -> Floats:
    """Return q, the maximum-likelihood share of n01 images where the loss is held at ``delta``: p10 = q + delta.

    The larger root of A q^2 + B q + C with A = 2n, B = -n10 - n01 + (2n - n10 + n01) delta, C = -n01 delta (1 - delta).
    """
    b, c, total, loss = (np.asarray(values, dtype=np.float64) for values in (n10, n01, n, delta))
    linear = (2 * total - b + c) * loss - b - c
    constant = -c * loss * (1 - loss)
    root = np.sqrt(np.maximum(linear * linear - 8 * total * constant, 0.0))
    # Of the two forms of one root, the one that does not subtract nearly equal numbers.
    added = np.abs(linear) + root
    other = np.divide(-2 * constant, added, out=np.zeros(added.shape), where=added > 0)
    return np.asarray(np.where(linear > 0, other, added / (4 * total)), dtype=np.float64)


def statistic(n10: ArrayLike, n01: ArrayLike, n: ArrayLike, delta: ArrayLike) -> Floats:
    """Return Tango's Z = (n10 - n01 - n delta) / sqrt(n (2q + delta (1 - delta))); 0 where both parts of it are 0.

    Large: the loss is above ``delta``; asymptotically normal where it is equal. ``n`` >= 1 and -1 < ``delta`` < 1.
    """
    b, c, total, loss = (np.asarray(values, dtype=np.float64) for values in (n10, n01, n, delta))
    variance = total * (2 * constrained_mle(b, c, total, loss) + loss * (1 - loss))
    above = b - c - total * loss
    shape = np.broadcast(above, variance).shape
    return np.asarray(
        np.divide(above, np.sqrt(np.maximum(variance, 0.0)), out=np.zeros(shape), where=variance > 0), dtype=np.float64
    )


def score_p(n10: ArrayLike, n01: ArrayLike, n: ArrayLike, delta: ArrayLike) -> tuple[Floats, Floats]:
    """Return the asymptotic one-sided p values (of a loss at most ``delta``, of a loss at least ``delta``)."""
    z = statistic(n10, n01, n, delta)
    return np.asarray(stats.norm.sf(z), dtype=np.float64), np.asarray(stats.norm.cdf(z), dtype=np.float64)


def interval(n10: ArrayLike, n01: ArrayLike, n: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the two-sided score interval (low, high) of the loss: every delta that the score test does not reject.

    NaN where n = 0. Z falls as delta grows, so each bound is found by bisection, for all classes at once.

    From 50 images and at 95 % it covers 93 to 97 % where 10 discordant images or more are expected, 92.5 to 97.4 % from
    5 on (under 92.9 or over 97.0 only where under 5 % of them are won), and never under 92.9 % below.
    """
    b, c, total = np.broadcast_arrays(*(np.asarray(values, dtype=np.float64) for values in (n10, n01, n)))
    z = float(stats.norm.ppf(0.5 + level / 2))
    some = np.where(total > 0, total, 1.0)
    bounds = []
    for limit in (z, -z):
        below, above = np.full(b.shape, -1.0), np.full(b.shape, 1.0)
        for _ in range(HALVINGS):
            middle = (below + above) / 2
            left = statistic(b, c, some, middle) > limit
            below, above = np.where(left, middle, below), np.where(left, above, middle)
        bounds.append(np.where(total > 0, (below + above) / 2, np.nan))
    return bounds[0], bounds[1]

"""Exact p values of a paired difference: the trinomial tail of Tango's statistic, maximised over the nuisance share.

With loss delta, (n10, n01, the rest) are trinomial with shares (p01 + delta, p01, 1 - 2 p01 - delta), where p01 is not
known. The p value of a table is the largest probability, over p01, of a table at least as extreme by Z (Barnard 1945;
for matched pairs Sidik 2003, Lloyd and Moldovan 2007). By Barnard's condition (``tails``) no loss inside the hypothesis
gives more than the loss at its end.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tailkeep.analysis import tails, tango

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EXACT_TO = 1_000_000
"""Images of a unit up to which the exact tail is used, by its cost: 2 ms at 1,000 images, half a second here."""
PEAKS, ROUNDS = 4, 3
BATCH = 20_000
"""Images of the units that are worked on at once: what stays in the cache is quick."""


class PValues(NamedTuple):
    """Float64 (M,) each. ``broken``: of a loss at most delta. ``kept``: of a loss at least delta. ``exact``: bool."""

    broken: Floats
    kept: Floats
    exact: NDArray[np.bool_]


def p_values(n10: ArrayLike, n01: ArrayLike, n: ArrayLike, delta: ArrayLike, exact_to: int = EXACT_TO) -> PValues:
    """Return the one-sided p values of tables (M,) of ``n`` >= 1 images against losses 0 <= ``delta`` < 1.

    Of the true maximum, a value below 0.2 misses less than one in a thousand of itself, one above a half at most 0.005.
    Values under 1e-11 are given as that. Above ``exact_to`` images they are those of Tango's score test. Raises
    ValueError for counts that are not of n images.
    """
    b, c, images, loss = np.broadcast_arrays(*(np.atleast_1d(values) for values in (n10, n01, n, delta)))
    if (np.minimum(b, c) < 0).any() or (b + c > images).any() or (images < 1).any():
        raise ValueError("expected counts n10, n01 >= 0 with n10 + n01 <= n, and n >= 1")
    if (loss < 0).any() or (loss >= 1).any():
        raise ValueError("expected 0 <= delta < 1")
    broken, kept = (np.array(values) for values in tango.score_p(b, c, images, loss))
    exact = np.asarray(images <= exact_to)
    if exact.any():
        # Classes of one size often share their counts.
        tables = np.stack([b[exact], c[exact], images[exact], loss[exact]], axis=1).astype(np.float64)
        unique, back = np.unique(tables, axis=0, return_inverse=True)
        sizes = maximal_tails(unique[:, 2], unique[:, 3], tango.statistic(*unique.T))
        broken[exact], kept[exact] = (values[back.ravel()] for values in sizes)
    return PValues(broken, kept, exact)


def maximal_tails(n: ArrayLike, delta: ArrayLike, z: ArrayLike) -> tuple[Floats, Floats]:
    """Return the largest P(Z >= z) and P(Z <= z) at loss ``delta`` (M,) each: the sizes of tests that reject there."""
    images, loss, at = np.broadcast_arrays(*(np.atleast_1d(values) for values in (n, delta, z)))
    above, below = np.empty(images.shape), np.empty(images.shape)
    order = np.argsort(images, kind="stable")
    # Small units cost what a few hundred images do.
    batches = np.cumsum(images[order] + 500.0) // BATCH
    for batch in np.split(order, np.flatnonzero(np.diff(batches)) + 1):
        above[batch], below[batch] = _maxima(images[batch].astype(np.int64), loss[batch].astype(np.float64), at[batch])
    return above, below


def _maxima(n: Ints, delta: Floats, z: Floats) -> tuple[Floats, Floats]:
    """Maximise both tails of each unit (M,) over p01: a grid, then ever finer ones about its highest peaks."""
    splits = tails.split(n, delta, z)
    grids = [_grid(int(images), float(loss)) for images, loss in zip(n, delta, strict=True)]
    unit, p01 = np.repeat(np.arange(len(n)), [len(grid) for grid in grids]), np.concatenate(grids)
    coarse = splits.tails(unit, p01 + delta[unit], p01)
    starts = np.searchsorted(unit, np.arange(len(n)))
    best = []
    for side in (0, 1):
        high = np.maximum.reduceat(coarse[side], starts)
        # A value over a half decides nothing: one peak of it is enough.
        peaks = np.where(high > 0.5, 1, PEAKS)
        finer, shares = _about_peaks(unit, unit, p01, coarse[side], peaks)
        for _ in range(ROUNDS):
            units = finer // PEAKS
            found = splits.tails(units, shares + delta[units], shares)[side]
            np.maximum.at(high, units, found)
            finer, shares = _about_peaks(finer, units, shares, found, np.ones(len(n)))
        best.append(np.clip(high, 10 * tails.RESOLUTION, 1.0))
    return best[0], best[1]


def _about_peaks(run: Ints, unit: Ints, p01: Floats, found: Floats, peaks: NDArray[Any]) -> tuple[Ints, Floats]:
    """Return finer grids about the ``peaks`` (M,) highest local maxima of each unit.

    ``run`` tells apart the grids that ``p01`` (K,) goes through. Returned: the new runs, unit * PEAKS + rank, and
    shares, in order.
    """
    inner = run[1:] == run[:-1]
    rises = found[1:] > found[:-1]
    top = np.ones(len(run), dtype=bool)
    top[:-1] &= ~(inner & rises)
    top[1:] &= ~(inner & (found[1:] < found[:-1]))
    places = np.flatnonzero(top)
    places = places[np.lexsort((-found[places], unit[places]))]
    units = unit[places]
    rank = np.arange(len(places)) - np.searchsorted(units, units)
    places, rank = places[rank < peaks[units]], rank[rank < peaks[units]]
    low = np.where(np.append(False, inner)[places], places - 1, places)
    high = np.where(np.append(inner, False)[places], places + 1, places)
    steps = np.linspace(0, 1, 8)
    shares = p01[low][:, None] + (p01[high] - p01[low])[:, None] * steps
    return np.repeat(unit[places] * PEAKS + rank, len(steps)), shares.ravel()


def _steps() -> Floats:
    """Return roots of a count, on which its spread is a half: even steps where a tail is rough, then growing ones."""
    steps = [0.0]
    while steps[-1] < 2e3:
        steps.append(steps[-1] + max(0.15, 0.08 * steps[-1]))
    return np.asarray(steps)


STEPS = _steps()


def _grid(n: int, delta: float) -> Floats:
    """Return p01 from 0 to (1 - delta) / 2: fine by the expected n01 at the one end, by the rest at the other."""
    top = (1 - delta) / 2
    counts = STEPS[: np.searchsorted(STEPS, np.sqrt(n * top)) + 1] ** 2 / n
    low, rest = counts[counts < top / 2], counts[counts < top]
    return np.concatenate([low, top - rest[::-1] / 2])

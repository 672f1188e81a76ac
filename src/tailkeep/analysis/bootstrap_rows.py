"""Bootstrap intervals of a multi-label pair, whose classes share images: whole rows are drawn, as counts of patterns.

A row's pattern is what happened in it: per class negative, both right, one right, or both wrong. Drawing the rows anew
gives the patterns a multinomial distribution, and equal rows are drawn together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailkeep.analysis.bootstrap import RESAMPLES, Draws, Sums, tail_weights

Ints = NDArray[np.int64]

MOST_WORK = 100_000_000
"""Patterns times resamples, at most: some seconds. More patterns get fewer resamples."""
FEWEST_RESAMPLES = 1_000
_NEGATIVE, _N11, _N10, _N01, _N00 = range(5)


def bootstrap_rows(
    labels: NDArray[Any],
    baseline: NDArray[Any],
    candidate: NDArray[Any],
    resamples: int = RESAMPLES,
    seed: int = 0,
    tail: tuple[Ints, Ints] | None = None,
) -> Draws | None:
    """Return the summaries of resampled rows; arrays are (N, C) of 0 and 1, ``tail`` as in ``bootstrap``.

    ``accuracy`` is of whole rows. Not stratified, since a row is in several classes; without pseudo-counts. A resample
    without a positive row of some class gives NaN where that class takes part. None where the different rows are so
    many that ``FEWEST_RESAMPLES`` would pass ``MOST_WORK``.
    """
    patterns, times = np.unique(_patterns(labels, baseline, candidate), axis=0, return_counts=True)
    resamples = min(resamples, max(FEWEST_RESAMPLES, MOST_WORK // len(patterns)))
    if len(patterns) * resamples > MOST_WORK:
        return None
    rng = np.random.Generator(np.random.SFC64(seed))
    shares, rows = times / times.sum(), int(times.sum())
    present = np.flatnonzero((patterns[:, :-1] != _NEGATIVE).any(axis=0))
    weights = tail_weights(labels.shape[1], tail)
    kinds = np.concatenate([patterns == kind for kind in (_N11, _N10, _N01, _N00)], axis=1).astype(np.float64)
    width, size = patterns.shape[1], max(1, 2_000_000 // len(patterns))
    parts = []
    for start in range(0, resamples, size):
        drawn = rng.multinomial(rows, shares, size=min(size, resamples - start)).astype(np.float64)
        joint = np.rint(drawn @ kinds).astype(np.int64).reshape(len(drawn), 4, width)
        sums = Sums.empty(len(drawn))
        for index in present:
            n11, n10, n01, n00 = joint[:, :, index].T
            sums.add(n11 + n10 + n01 + n00, n11, n10, n01, weights[index])
        part = sums.draws(rows, len(present), tail is not None)
        _, n10, n01, _ = joint[:, :, -1].T
        parts.append(replace(part, accuracy=(n01 - n10) / rows))
    return Draws.concatenate(parts)


def _patterns(labels: NDArray[Any], baseline: NDArray[Any], candidate: NDArray[Any]) -> NDArray[np.uint8]:
    """Return what happened in each row and class, uint8 (N, C + 1); the last column is about the row as a whole."""
    truth, before, after = (np.asarray(values, dtype=bool) for values in (labels, baseline, candidate))
    right = [
        np.append(hit, (answer == truth).all(axis=1)[:, None], axis=1)
        for hit, answer in ((truth & before, before), (truth & after, after))
    ]
    code = np.where(right[0], np.where(right[1], _N11, _N10), np.where(right[1], _N01, _N00)).astype(np.uint8)
    code[:, :-1][~truth] = _NEGATIVE
    return code

"""Tails of Tango's statistic under the trinomial distribution of a paired difference, for many units at once.

Of ``n`` images, (n10, n01, the rest) are trinomial with shares (p10, p01, 1 - p10 - p01). Tango's Z at a loss ``delta``
rises with every image that moves from n01 to the rest or from the rest to n10 (Barnard's condition). So in the row of t
= n10 + n01 discordant images the tables with Z > z are those with n10 >= k(t), and k stays or grows by one from a row
to the next. That makes a tail cheap: with theta = p10 / (p10 + p01) and f the binomial probability, the tail of row t
beyond k, P(t, k), gives that of the next row by one term, P(t+1, k) = P(t, k) + theta f(t, k-1) or P(t+1, k+1) =
P(t, k) - (1-theta) f(t, k). Two exponentials a row, over the rows that t can reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from tailkeep.analysis import tango

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESOLUTION = 1e-12
"""Probability, at most, of the rows at either end that a sum leaves out."""
TIE = 1e-9
"""Statistics closer than this share of their size count as equal: rounding must not tell equal tables apart."""
TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Splits:
    """The tables of M units, each unit's told apart by Tango's Z: above the unit's z, equal to it, or below.

    ``n`` int64 (M,), the images. Of each unit in turn its rows t = 0..n, which begin at ``first`` (M,): ``k``, the
    smallest n10 that is not below, t + 1 where there is none; ``sign`` +1 where the next row's is the same, -1 where it
    is one more; ``row`` and ``step``, the logarithms of the ways to have t discordant images, and of the ways to the
    cell by which the next row's tail differs. All float64. ``tied``, ``tied_t``, ``tied_b``: the equal tables, as their
    unit, row and n10.
    """

    n: Ints
    first: Ints
    k: Floats
    sign: Floats
    row: Floats
    step: Floats
    tied: Ints
    tied_t: Ints
    tied_b: Ints

    def tails(self, unit: Ints, p10: Floats, p01: Floats) -> tuple[Floats, Floats]:
        """Return (P(Z >= z), P(Z <= z)) of ``unit`` (K,) at its shares (K,), within ``2 * RESOLUTION``."""
        n = self.n[unit]
        either = np.clip(p10 + p01, TINY, 1.0)
        from_b, from_c = p10 / either, p01 / either
        log_t, log_rest = np.log(either), np.log(np.maximum(1 - either, TINY))
        log_b, log_c = np.log(np.maximum(from_b, TINY)), np.log(np.maximum(from_c, TINY))
        low, high = _window(n, either)
        lengths = high - low + 1
        starts = np.cumsum(lengths) - lengths
        steps = np.arange(int(lengths.sum()))
        t = (steps + np.repeat(low - starts, lengths)).astype(np.float64)
        place = steps + np.repeat(low - starts + self.first[unit], lengths)

        # Per row, P(T = t), and the binomial term by which the row's tail differs from the next one's.
        weights = self.row[place]
        weights += t * np.repeat(log_t - log_rest, lengths)
        weights += np.repeat(n * log_rest, lengths)
        changes = self.step[place]
        changes += self.k[place] * np.repeat(log_b - log_c, lengths)
        changes += (t + 1) * np.repeat(log_c, lengths)
        np.exp(weights, out=weights)
        np.exp(changes, out=changes)
        changes *= self.sign[place]
        sums = np.cumsum(changes) - changes
        sums += np.repeat(_binomial_tail(self.k[place[starts]], low, from_b) - sums[starts], lengths)
        sums *= weights
        above = np.add.reduceat(sums, starts)
        below = 1 - above + self._equal(unit, log_b + log_t, log_c + log_t, log_rest)
        return np.clip(above, 0.0, 1.0), np.clip(below, 0.0, 1.0)

    def _equal(self, unit: Ints, log_b: Floats, log_c: Floats, log_rest: Floats) -> Floats:
        """Return P(Z = z) (K,), by the logarithms of the three shares."""
        ends = np.searchsorted(self.tied, [unit, unit + 1])
        lengths = ends[1] - ends[0]
        point = np.repeat(np.arange(len(unit)), lengths)
        which = np.arange(len(point)) + (ends[0] - np.cumsum(lengths) + lengths)[point]
        logs = _log_factorials(int(self.n.max()))
        n, t, b = self.n[unit][point], self.tied_t[which], self.tied_b[which]
        terms = logs[n] - logs[n - t] - logs[b] - logs[t - b]
        terms += b * log_b[point] + (t - b) * log_c[point] + (n - t) * log_rest[point]
        return np.bincount(point, np.exp(terms), minlength=len(unit)).astype(np.float64)


def split(n: ArrayLike, delta: ArrayLike, z: ArrayLike) -> Splits:
    """Return the tables of units (M,) of ``n`` >= 1 images, split at ``z`` of the statistic at 0 <= ``delta`` < 1."""
    images = np.atleast_1d(np.asarray(n, dtype=np.int64))
    loss, at = np.broadcast_to(delta, images.shape), np.broadcast_to(z, images.shape)
    tie = TIE * np.maximum(1.0, np.abs(at))
    # One row more than there is: whether the last one's k grows.
    lengths = images + 2
    first = np.cumsum(lengths) - lengths
    unit = np.repeat(np.arange(len(images)), lengths)
    t = np.arange(len(unit)) - np.repeat(first, lengths)
    all_n, all_delta = np.repeat(images, lengths), np.repeat(loss, lengths)
    k = _bounds(t, all_n.astype(np.float64), all_delta, np.repeat(at - tie, lengths))
    some = np.flatnonzero((k <= t) & (t <= all_n))
    found = tango.statistic(k[some], (t - k)[some], all_n[some], all_delta[some])
    tied = some[found <= (at + tie)[unit[some]]]

    grows = np.diff(k, append=0) > 0
    cell = k - 1 + grows
    inside = (cell >= 0) & (cell <= t)
    cell = np.where(inside, cell, 0)
    logs = _log_factorials(int(images.max()))
    row = logs[all_n] - logs[t] - logs[np.maximum(all_n - t, 0)]
    step = np.where(inside, logs[t] - logs[cell] - logs[t - cell], -np.inf)
    sign = np.where(grows, -1.0, 1.0)
    return Splits(images, first, k.astype(np.float64), sign, row, step, unit[tied], t[tied], k[tied])


def _bounds(t: Ints, n: Floats, delta: Floats, z: Floats) -> Ints:
    """Return the smallest n10 of row t with Z > z, by iterating n10 - n01 = n delta + z sd; then checked."""
    difference = n * delta
    for _ in range(3):
        difference = np.clip(difference, -t, t)
        q = tango.constrained_mle((t + difference) / 2, (t - difference) / 2, n, delta)
        difference = n * delta + z * np.sqrt(n * (2 * q + delta * (1 - delta)))
    k: Ints = np.clip(np.ceil((t + difference) / 2), 0, t + 1).astype(np.int64)
    for step in (-1, 1):
        at = np.arange(len(t))
        while len(at):
            b = k[at] - (step < 0)
            fits = (b >= 0) & (b <= t[at])
            at, b = at[fits], b[fits]
            over = tango.statistic(b, t[at] - b, n[at], delta[at]) > z[at]
            at = at[over == (step < 0)]
            k[at] += step
    return k


def _window(n: Ints, share: Floats) -> tuple[Ints, Ints]:
    """Return the ends of the counts out of ``n`` that the bounds of Bernstein and Chernoff leave over RESOLUTION."""
    reach = -np.log(RESOLUTION)
    mean = n * share
    spread = reach / 3 + np.sqrt(reach * reach / 9 + 2 * reach * mean * (1 - share))
    low = np.floor(mean - np.minimum(spread, np.sqrt(2 * reach * mean)))
    return np.maximum(low, 0).astype(np.int64), np.minimum(np.ceil(mean + spread), n).astype(np.int64)


@lru_cache(maxsize=8)
def _log_factorials(n: int) -> Floats:
    return np.asarray(special.gammaln(np.arange(n + 2) + 1.0), dtype=np.float64)


def _binomial_tail(k: Floats, t: Ints, share: Floats) -> Floats:
    """Return P(Bin(t, share) >= k)."""
    inner = special.betainc(np.maximum(k, 1), np.maximum(t - k + 1, 1), share)
    return np.asarray(np.where(k <= 0, 1.0, np.where(k > t, 0.0, inner)), dtype=np.float64)

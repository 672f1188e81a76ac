"""Intervals and tests over few paired seeds, and on counts. Every p value is two-sided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

NO_SPREAD = 1e-9
"""Percentage points below which values count as equal: a rounding difference is not a spread (one image in a million
is 1e-4)."""


@lru_cache(maxsize=256)
def _normal_quantile(share: float) -> float:
    """Return the standard normal quantile; kept, since a table asks for the same one once a class."""
    return float(stats.norm.ppf(share))


@lru_cache(maxsize=1024)
def _t_quantile(share: float, freedom: int) -> float:
    """Return the quantile of Student's t; kept for the same reason."""
    return float(stats.t.ppf(share, freedom))


def _values(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or np.isnan(array).any():
        raise ValueError("expected a 1-D array without NaN")
    return array


def mean_and_spread(values: ArrayLike) -> tuple[float, float]:
    """Return (mean, sample standard deviation with n - 1); NaN where there are too few values for either."""
    array = _values(values)
    mean = float(array.mean()) if array.size else math.nan
    if array.size < 2:
        return mean, math.nan
    spread = float(array.std(ddof=1))
    return mean, 0.0 if spread < NO_SPREAD else spread


def t_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return the two-sided t interval (low, high) of the mean; (NaN, NaN) for fewer than two values."""
    array = _values(values)
    mean, spread = mean_and_spread(array)
    if array.size < 2:
        return math.nan, math.nan
    half = _t_quantile(0.5 + level / 2, array.size - 1) * spread / math.sqrt(array.size)
    return mean - half, mean + half


def upper_bound(values: ArrayLike, contrasts: int = 1, alpha: float = 0.05) -> float:
    """Return the one-sided upper bound of the mean at level 1 - alpha / contrasts (Bonferroni).

    The bounds of all the ``contrasts`` hold together at level 1 - alpha. NaN for fewer than two values.
    """
    array = _values(values)
    mean, spread = mean_and_spread(array)
    if array.size < 2:
        return math.nan
    return mean + _t_quantile(1 - alpha / contrasts, array.size - 1) * spread / math.sqrt(array.size)


def paired_t_p(differences: ArrayLike) -> float:
    """Return the two-sided p value of the paired t test, a one-sample t test of the differences against 0.

    Differences without spread: 1 where they are 0, else 0 (the limit of the test; read the sign-flip test beside it).
    NaN for fewer than two values.
    """
    array = _values(differences)
    mean, spread = mean_and_spread(array)
    if array.size < 2:
        return math.nan
    if spread == 0:
        return 1.0 if abs(mean) < NO_SPREAD else 0.0
    t = mean / (spread / math.sqrt(array.size))
    return float(2 * stats.t.sf(abs(t), array.size - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values adjusted for their number by Holm's step-down method (Holm 1979), in the given order."""
    m = len(p_values)
    adjusted = [0.0] * m
    running = 0.0
    for place, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (m - place) * p_values[index]))
        adjusted[index] = running
    return adjusted


def sign_flip_floor(n: int) -> float:
    """Return the smallest p value that the exact sign-flip test of ``n`` differences can give, 2 / 2^n."""
    return min(1.0, 2.0 ** (1 - n))


def sign_flip_p(differences: ArrayLike, exact_to: int = 20, draws: int = 100_000, seed: int = 0) -> float:
    """Return the two-sided p value of the sign-flip (paired permutation) test of the mean (Fisher 1935).

    Exact over all 2^n signs to ``exact_to`` differences; beyond, ``draws`` signs drawn with ``seed``, counted with
    the observed one (Phipson and Smyth 2010). NaN for no differences.
    """
    array = _values(differences)
    if not array.size:
        return math.nan
    observed = abs(float(array.sum()))
    # Sums that are equal on paper differ by rounding, and must count as "at least as large".
    reached = observed - NO_SPREAD * max(1.0, observed)
    if array.size > exact_to:
        rng = np.random.default_rng(seed)
        hits = sum(
            int((np.abs(rng.choice((-1.0, 1.0), size=(part, array.size)) @ array) >= reached).sum())
            for part in _parts(draws, 10_000)
        )
        return (hits + 1) / (draws + 1)
    sums: Floats = np.zeros(1)
    for value in array:
        sums = np.concatenate([sums + value, sums - value])
    return float((np.abs(sums) >= reached).mean())


def _parts(total: int, size: int) -> list[int]:
    """Split a number of draws into parts, to bound the memory."""
    return [min(size, total - start) for start in range(0, total, size)]


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval (low, high) of a share, in 0..1 (Wilson 1927); (NaN, NaN) for n = 0."""
    if not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n, got {successes} of {n}")
    if n == 0:
        return math.nan, math.nan
    z = _normal_quantile(0.5 + level / 2)
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends the interval touches 0 and 1 exactly, but for rounding.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == n else (centre + half) / scale
    return low, high


def mcnemar_exact(n10: int, n01: int) -> float:
    """Return the exact two-sided p value of McNemar's test on the discordant counts (McNemar 1947); 1 without any."""
    if n10 < 0 or n01 < 0:
        raise ValueError(f"expected counts >= 0, got {n10} and {n01}")
    n = n10 + n01
    return min(1.0, 2 * float(stats.binom.cdf(min(n10, n01), n, 0.5))) if n else 1.0

"""Bootstrap intervals of a pair's summaries by drawing counts, stratified by class (Efron and Tibshirani 1993, 8.3).

Drawing the n images of a class anew with replacement gives its joint counts (both right, only the baseline right, only
the candidate right, both wrong) a multinomial distribution. So counts are drawn, not rows, and a resample costs the
same for a hundred images as for a million.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES = 10_000
_BLOCK = 16
"""Classes that share a generator: a constant, so that the number of workers changes no draw."""


@dataclass(frozen=True)
class Draws:
    """A pair's summaries in every resample, float64 (resamples,) each, as shares in 0..1 (the slope has no unit).

    The first four are the candidate's value minus the baseline's. ``tail_share`` is the mean recall loss of the rarest
    classes minus that of the most frequent, None where neither is known; ``recall_slope`` that of the normalised
    recalls (Good et al. 2022), NaN in a resample where the baseline's recalls do not differ.
    """

    accuracy: Floats
    balanced_accuracy: Floats
    worst_class_recall: Floats
    g_mean: Floats
    recall_slope: Floats
    tail_share: Floats | None

    @classmethod
    def concatenate(cls, parts: Sequence[Draws]) -> Draws:
        """Return the resamples of all the parts, in their order; parts with and without a tail share do not mix."""
        shares = [part.tail_share for part in parts if part.tail_share is not None]
        return cls(
            accuracy=np.concatenate([part.accuracy for part in parts]),
            balanced_accuracy=np.concatenate([part.balanced_accuracy for part in parts]),
            worst_class_recall=np.concatenate([part.worst_class_recall for part in parts]),
            g_mean=np.concatenate([part.g_mean for part in parts]),
            recall_slope=np.concatenate([part.recall_slope for part in parts]),
            tail_share=np.concatenate(shares) if shares else None,
        )


def bootstrap(
    counts: ArrayLike,
    resamples: int = RESAMPLES,
    seed: int = 0,
    tail: tuple[ArrayLike, ArrayLike] | None = None,
    pseudo_counts: float | None = None,
    workers: int | None = None,
) -> Draws:
    """Return the summaries of ``resamples`` resamples of joint ``counts``, int (C, 4): n11, n10, n01, n00.

    ``tail`` is the class indices of the most frequent and of the rarest group. ``pseudo_counts`` are added to each cell
    of a class before its share is taken, its number of images stays; None takes ``default_pseudo_counts``, 0 is the
    plain bootstrap. Classes without images take no part. The result depends on ``seed``, not on ``workers`` (threads;
    None: two where the machine has them). Raises ValueError where counts or resamples have no meaning, or there are no
    images at all.
    """
    joint = check_counts(counts)
    if resamples < 1 or not joint.sum():
        raise ValueError(f"expected one resample or more, and images; got {resamples} and {joint.sum()}")
    weights = tail_weights(len(joint), tail)
    threads = min(2, os.cpu_count() or 1) if workers is None else workers

    def one(task: tuple[slice, np.random.Generator]) -> Sums:
        block, rng = task
        sums = Sums.empty(resamples)
        for n, cells, weight in zip(sizes[block], weighed[block], weights[block], strict=True):
            if n:
                sums.add(n, *draw_class(n, cells, resamples, rng), weight)
        return sums

    sizes, weighed = joint.sum(axis=1).tolist(), _weigh(joint, pseudo_counts)
    whole = Sums.empty(resamples)
    with ThreadPoolExecutor(threads) as pool:
        for sums in pool.map(one, _blocks(len(joint), seed)):
            whole.join(sums)
    return whole.draws(sum(sizes), sum(n > 0 for n in sizes), tail is not None)


def percentile_interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval (low, high) of the draws that are known; (NaN, NaN) where fewer than half are."""
    known = values[~np.isnan(values)]
    if 2 * len(known) < len(values) or not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def default_pseudo_counts(classes: int) -> float:
    """Return what the bootstrap adds to each of the 4 C cells: two images in all, evenly.

    As Agresti and Min (2005) do for one paired difference. Without them the interval of few discordant images is too
    short (85 % coverage at three expected, simulated); half an image a cell, whatever C, is far too many for ten
    classes.
    """
    return 1 / (2 * classes)


def resample(counts: ArrayLike, resamples: int, seed: int = 0, pseudo_counts: float | None = None) -> Ints:
    """Return joint counts drawn anew, int64 (resamples, C, 4): the draws that ``bootstrap`` summarises.

    Takes 32 bytes a resample and class; ``bootstrap`` never holds so much.
    """
    joint = check_counts(counts)
    sizes, weighed = joint.sum(axis=1).tolist(), _weigh(joint, pseudo_counts)
    drawn: Ints = np.zeros((resamples, len(joint), 4), dtype=np.int64)
    for block, rng in _blocks(len(joint), seed):
        for index in range(*block.indices(len(joint))):
            if sizes[index]:
                n11, n10, n01 = draw_class(sizes[index], weighed[index], resamples, rng)
                drawn[:, index] = np.stack([n11, n10, n01, sizes[index] - n11 - n10 - n01], axis=1)
    return drawn


def check_counts(counts: ArrayLike) -> Ints:
    """Return joint counts as int64 (C, 4); raises ValueError unless they are counts of one or more classes."""
    array = np.asarray(counts)
    if array.ndim != 2 or array.shape[1] != 4 or not np.issubdtype(array.dtype, np.integer) or (array < 0).any():
        raise ValueError("expected joint counts: whole numbers >= 0 of shape (classes, 4): n11, n10, n01, n00")
    return array.astype(np.int64)


def _weigh(joint: Ints, pseudo_counts: float | None) -> Floats:
    present = int((joint.sum(axis=1) > 0).sum())
    extra = default_pseudo_counts(max(1, present)) if pseudo_counts is None else pseudo_counts
    if not 0 <= extra < math.inf:
        raise ValueError(f"pseudo_counts: expected 0 or more, got {extra}")
    return np.asarray(joint + extra, dtype=np.float64)


def _blocks(classes: int, seed: int) -> Iterator[tuple[slice, np.random.Generator]]:
    starts = range(0, classes, _BLOCK)
    seeds = np.random.SeedSequence(seed).spawn(len(starts))
    for start, child in zip(starts, seeds, strict=True):
        yield slice(start, start + _BLOCK), np.random.Generator(np.random.SFC64(child))


def draw_class(n: int, cells: Floats, size: int, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Return (n11, n10, n01), int64 (size,) each, of multinomials of ``n`` images with weights ``cells`` (4,).

    The discordant images first, then who of them and who of the others is right: a chain of binomials.
    """
    n11, n10, n01, n00 = cells.tolist()
    discordant = _sorted_binomial(n, (n10 + n01) / (n11 + n10 + n01 + n00), size, rng)
    # Sorted, equal numbers follow each other, and the generator keeps what it worked out for the one before.
    lost = rng.binomial(discordant, _share(n10, n01))
    both = rng.binomial(n - discordant, _share(n11, n00))
    # What one class drew must say nothing of what the next one did.
    order = rng.permutation(size)
    lost, discordant = lost[order], discordant[order]
    return both[order], lost, discordant - lost


def _share(first: float, second: float) -> float:
    return first / (first + second) if first + second > 0 else 0.0


def _sorted_binomial(n: int, p: float, size: int, rng: np.random.Generator) -> Ints:
    """Return ``size`` draws of Binomial(n, p), ascending: how often each value comes up is itself a multinomial."""
    p = min(1.0, p)
    spread = 12 * math.sqrt(n * p * (1 - p)) + 40  # beyond, the probability is far below rounding
    low, high = max(0, int(n * p - spread)), min(n, int(n * p + spread))
    if high - low >= size:
        plain: Ints = np.sort(rng.binomial(n, p, size=size))
        return plain
    values = np.arange(low, high + 1)
    log = special.xlogy(values, p) + special.xlog1py(n - values, -p)
    log -= special.gammaln(values + 1.0) + special.gammaln(n - values + 1.0)
    shares = np.exp(log - log.max())
    drawn: Ints = np.repeat(values, rng.multinomial(size, shares / shares.sum()))
    return drawn


def tail_weights(classes: int, tail: tuple[ArrayLike, ArrayLike] | None) -> list[float]:
    """Return what each class's recall loss counts in the tail share."""
    weights = np.zeros(classes)
    if tail is not None:
        many, few = (np.asarray(indices, dtype=np.int64) for indices in tail)
        weights[many] -= 1 / len(many)
        weights[few] += 1 / len(few)
    return [float(weight) for weight in weights]


@dataclass
class Sums:
    """What a summary needs of the classes, added up class by class: x is the baseline's recall, y the candidate's."""

    won: Ints  # images, over all classes
    x: Floats
    y: Floats
    xx: Floats
    xy: Floats
    log_x: Floats
    log_y: Floats
    low_x: Floats
    low_y: Floats
    tail: Floats

    @classmethod
    def empty(cls, size: int) -> Sums:
        """Return the sums of no class yet in ``size`` resamples."""
        added = {name: np.zeros(size) for name in ("x", "y", "xx", "xy", "log_x", "log_y", "tail")}
        lowest = {name: np.full(size, np.inf) for name in ("low_x", "low_y")}
        return cls(won=np.zeros(size, dtype=np.int64), **added, **lowest)

    def add(self, n: int | Ints, n11: Ints, n10: Ints, n01: Ints, weight: float) -> None:
        """Add one class of ``n`` images, one number or one a resample; with 0 images its recall is NaN."""
        # Logarithm of a recall of 0: the geometric mean is 0.
        with np.errstate(divide="ignore", invalid="ignore"):
            x, y = (n11 + n10) / n, (n11 + n01) / n
            self.log_x += np.log(x)
            self.log_y += np.log(y)
        self.won += n01 - n10
        self.x += x
        self.y += y
        self.xx += x * x
        self.xy += x * y
        np.minimum(self.low_x, x, out=self.low_x)
        np.minimum(self.low_y, y, out=self.low_y)
        if weight:
            self.tail += weight * (x - y)

    def join(self, other: Sums) -> None:
        """Add the classes of another block."""
        for name in ("won", "x", "y", "xx", "xy", "log_x", "log_y", "tail"):
            total = getattr(self, name)
            total += getattr(other, name)
        np.minimum(self.low_x, other.low_x, out=self.low_x)
        np.minimum(self.low_y, other.low_y, out=self.low_y)

    def draws(self, images: int, classes: int, with_tail: bool) -> Draws:
        """Return the summaries of ``images`` images in ``classes`` classes."""
        mean_x, mean_y = self.x / classes, self.y / classes
        spread = self.xx - classes * mean_x**2
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = (self.xy - classes * mean_x * mean_y) / spread * (mean_x / mean_y)
        slope[~np.isfinite(slope) | (spread <= 1e-12 * mean_x**2)] = np.nan
        return Draws(
            accuracy=self.won / images,
            balanced_accuracy=mean_y - mean_x,
            worst_class_recall=self.low_y - self.low_x,
            g_mean=np.exp(self.log_y / classes) - np.exp(self.log_x / classes),
            recall_slope=slope,
            tail_share=self.tail if with_tail else None,
        )

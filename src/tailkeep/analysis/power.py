"""The power of the gate's checks, by exact enumeration, and the images that a check needs. Shares are in 0..1.

A check on a loss says "kept" where Z is at most a critical value, the largest whose exact size is within alpha; its
power is the trinomial probability of that. A gate passes where every check says "kept": over independent test images
its power is the product.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from tailkeep.analysis import tails, trinomial

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

POWER = 0.8
EXACT_TO = 20_000
"""Images to which the images needed are searched by exact power; above, the normal approximation is as good."""
NEAR = 0.01
"""How far a critical value may lie from its place in that search: half a point of power."""
DOUBLINGS = 60
"""Steps in which the search for a critical value leaves any value that a statistic takes."""
LADDER = np.array([*range(1, 100), *(tens * 10**zeros for zeros in range(1, 7) for tens in range(10, 100))])
"""The numbers of images that are told, to 99 million: two digits, for no more is known of the discordance."""


def critical_values(n: ArrayLike, delta: ArrayLike, alpha: float, kept: bool = True, tolerance: float = 1e-6) -> Floats:
    """Return z (M,), by bisection: a check says "kept" where Z <= z, or for ``kept=False`` "broken" where Z >= z.

    So its exact size is at most ``alpha``, and that of a value ``tolerance`` further is not. ``n`` and ``delta`` (M,).
    Raises ValueError where ``alpha`` is no more than the 1e-11 to which sizes are known, or 1 and above.
    """
    if not 10 * tails.RESOLUTION < alpha < 1:
        raise ValueError(f"alpha {alpha}: expected a share above {10 * tails.RESOLUTION:g} and under 1")
    images, loss = np.broadcast_arrays(np.atleast_1d(n), np.atleast_1d(delta))
    side = -1.0 if kept else 1.0
    start = side * float(stats.norm.isf(alpha))
    allowed, refused = np.full(images.shape, start + side / 8), np.full(images.shape, start - side / 8)

    def is_allowed(z: Floats) -> NDArray[np.bool_]:
        above, below = trinomial.maximal_tails(images, loss, z)
        return np.asarray((below if kept else above) <= alpha)

    for _ in range(DOUBLINGS):
        if (good := is_allowed(allowed)).all():
            break
        allowed = np.where(good, allowed, 2 * allowed - refused)
    for _ in range(DOUBLINGS):
        if not (good := is_allowed(refused)).any():
            break
        refused = np.where(good, 2 * refused - allowed, refused)
    while (np.abs(refused - allowed) > tolerance).any():
        middle = (refused + allowed) / 2
        good = is_allowed(middle)
        allowed, refused = np.where(good, middle, allowed), np.where(good, refused, middle)
    return allowed


def power(
    n: ArrayLike, delta: ArrayLike, p10: ArrayLike, p01: ArrayLike, alpha: float = 0.05, kept: bool = True
) -> Floats:
    """Return the probability (M,) that a check of ``n`` images says "kept" ("broken" for ``kept=False``) at ``alpha``.

    ``p10`` and ``p01`` are the true shares of images that the baseline, or the candidate, alone has right; ``delta``
    the loss that is tested. For "broken" in a gate of m checks give alpha / m: the first step of Holm's method.
    """
    images, loss, b, c = np.broadcast_arrays(*(np.atleast_1d(values) for values in (n, delta, p10, p01)))
    return _power(images, loss, b, c, lambda n, delta: critical_values(n, delta, alpha, kept), kept)


def _power(
    n: Ints, delta: Floats, p10: Floats, p01: Floats, critical: Callable[[Ints, Floats], Floats], kept: bool
) -> Floats:
    """Return the power, with one critical value for checks of one size and limit."""
    settings, back = np.unique(np.stack([n, delta]).astype(np.float64), axis=1, return_inverse=True)
    images, loss = settings[0].astype(np.int64), settings[1]
    splits = tails.split(images, loss, critical(images, loss))
    above, below = splits.tails(back.ravel(), p10.astype(np.float64), p01.astype(np.float64))
    return below if kept else above


def of_gate(powers: ArrayLike) -> float:
    """Return the power of a whole gate, the product of its checks': .866 a class is .24 for ten."""
    return float(np.prod(np.asarray(powers, dtype=np.float64)))


def images_needed(
    discordance: ArrayLike, delta: ArrayLike, alpha: float = 0.05, goal: float = POWER
) -> list[int | None]:
    """Return about how many images of a unit say "kept" with power ``goal``, where there is no true loss.

    ``discordance`` (M,) is the share of images that one of the models alone has right, half of it on either side;
    ``delta`` (M,) the limits. Of the numbers of two digits the first that is enough. None where none is: a limit of 0,
    or so near to it that 99 million are too few. A whole gate of m classes needs ``goal ** (1 / m)`` in each.
    """
    shares, loss = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in (discordance, delta)))
    settings, back = np.unique(np.stack([shares, loss]), axis=1, return_inverse=True)
    found = [_asymptotic_images(share, limit, alpha, goal) for share, limit in settings.T.tolist()]
    searched = np.flatnonzero(np.array(found) < EXACT_TO)
    if searched.size:
        exact = _search(np.array(found)[searched], settings[0, searched], settings[1, searched], alpha, goal)
        for place, value in zip(searched.tolist(), exact.tolist(), strict=True):
            found[place] = value
    told = [int(LADDER[place]) if (place := _rung(value)) < len(LADDER) else None for value in found]
    return [told[index] for index in back.ravel().tolist()]


def _rung(images: float) -> int:
    return int(np.searchsorted(LADDER, images))


def _asymptotic_images(discordance: float, delta: float, alpha: float, goal: float) -> float:
    """Return the images by the normal approximation of Tango's Z; without discordance, those of (0, 0)."""
    if delta <= 0:
        return math.inf
    if discordance <= 0:
        return max(math.log(alpha) / math.log1p(-delta), float(stats.norm.isf(alpha)) ** 2 * (1 - delta) / delta)
    linear, spread = 2 * delta - discordance, delta * (1 - delta)
    q = (math.sqrt(linear * linear + 4 * discordance * spread) - linear) / 4
    under_limit, true = math.sqrt(2 * q + spread), math.sqrt(discordance)
    return float(((stats.norm.isf(alpha) * under_limit + stats.norm.ppf(goal) * true) / delta) ** 2)


def _search(near: Floats, discordance: Floats, delta: Floats, alpha: float, goal: float) -> Ints:
    """Bisect the ladder about ``near`` for the first number whose exact power reaches ``goal``."""
    known: dict[tuple[int, float], float] = {}

    def critical(images: Ints, loss: Floats) -> Floats:
        keys = list(zip(images.tolist(), loss.tolist(), strict=True))
        new = [key for key in keys if key not in known]
        if new:
            n, limit = np.array(new).T
            known.update(zip(new, critical_values(n, limit, alpha, tolerance=NEAR).tolist(), strict=True))
        return np.array([known[key] for key in keys])

    low = np.array([_rung(value * 0.85 - 10) for value in near]) - 1
    high = np.array([_rung(value * 1.2 + 20) for value in near])
    while (high - low > 1).any():
        middle = np.maximum((low + high) // 2, 0)
        half = discordance / 2
        enough = _power(LADDER[middle], delta, half, half, critical, kept=True) >= goal
        low, high = np.where(enough | (high - low <= 1), low, middle), np.where(enough, middle, high)
    return np.asarray(LADDER[high], dtype=np.int64)


def recall_images_needed(
    recall: float, limit: float, alpha: float, alpha_broken: float, goal: float = POWER
) -> int | None:
    """Return about how many images tell, with power ``goal``, a true ``recall`` from its ``limit``.

    Above it they show the limit kept at ``alpha``, below it broken at ``alpha_broken``. None at the limit, or so near
    to it that 99 million are too few.
    """
    n = LADDER
    if recall > limit:
        # The smallest count that is not as likely as alpha at the limit, and the chance to reach it.
        least = stats.binom.isf(alpha, n, limit) + 1
        reached = stats.binom.sf(least - 1, n, recall)
    elif recall < limit:
        most = n - stats.binom.isf(alpha_broken, n, 1 - limit) - 1
        reached = stats.binom.cdf(most, n, recall)
    else:
        return None
    enough = np.flatnonzero(reached >= goal)
    return int(n[enough[0]]) if enough.size else None

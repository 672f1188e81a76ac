"""The gate: does any class or group lose more than its limit, does every one lose less, or can this test set not tell?

Two one-sided tests a check. "Broken" is claimed with Holm's adjustment over all checks, since one false claim fails the
gate. "Kept" is claimed without: the gate passes only where every check says so, an intersection-union test (Berger
1982). A limit on a loss, or on a rise of false positives, is tested by the exact trinomial tail of Tango's statistic
(``trinomial``), one on a recall by the exact binomial test (Clopper and Pearson 1934).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tailkeep import errors
from tailkeep.analysis import power, statistics, tango, trinomial
from tailkeep.errors import BadInput

PAIRED = ("drop", "rise")
KINDS = (*PAIRED, "recall")
UNITS = ("class", "group")
MOST_CONFIDENCE = 0.9999
"""P values are known to 1e-11, and Holm divides by the number of checks; more would be a promise without substance."""


@dataclass(frozen=True)
class Check:
    """One question: does this unit keep its limit?

    ``kind`` "drop": the recall lost against the baseline is at most ``limit``; "rise": the false-positive rate gained
    is at most ``limit``; "recall": the recall itself is at least ``limit``. ``unit`` is "class" or "group", ``name`` a
    class or "column=value". ``n`` counts the unit's test images, for "rise" those that are not of the class; ``n10``
    those that the baseline alone has right, ``n01`` the candidate alone; for "recall" those that are wrong, and
    right. ``limit`` is a share (2 percentage points = 0.02). Raises BadInput where these do not fit.
    """

    kind: str
    unit: str
    name: str
    n: int
    n10: int
    n01: int
    limit: float

    def __post_init__(self) -> None:
        """Check the counts and the limit."""
        place = f"check of {self.unit} {self.name!r}"
        if self.kind not in KINDS or self.unit not in UNITS:
            expected = f"{' or '.join(KINDS)} of a {' or '.join(UNITS)}"
            raise BadInput(f"{place}: kind {self.kind!r} of unit {self.unit!r}; expected {expected}")
        if min(self.n, self.n10, self.n01) < 0:
            raise BadInput(f"{place}: n {self.n}, n10 {self.n10}, n01 {self.n01}; counts are 0 or more")
        if self.kind in PAIRED and self.n10 + self.n01 > self.n:
            raise BadInput(f"{place}: {self.n10} + {self.n01} discordant images of {self.n}; expected at most all")
        if self.kind == "recall" and self.n10 + self.n01 != self.n:
            raise BadInput(
                f"{place}: {self.n10} images wrong and {self.n01} right of {self.n}; expected them to add up"
            )
        if self.kind in PAIRED and not 0 <= self.limit < 1:
            raise BadInput(f"{place}: limit {self.limit}; expected a share from 0 to under 1 (2 points are 0.02)")
        if self.kind == "recall" and not 0 < self.limit <= 1:
            raise BadInput(f"{place}: limit {self.limit}; expected a share above 0, to 1 (a recall of 80 % is 0.8)")


@dataclass(frozen=True)
class CheckResult:
    """What the test set says of a check.

    ``estimate`` is (n10 - n01) / n, or the recall; ``low`` and ``high`` its two-sided interval at the gate's
    confidence, by Tango or by Wilson; NaN without images. ``p_broken`` tests that the limit is kept (small: shown to be
    broken), before Holm, ``p_broken_adjusted`` after; ``p_kept`` that it is not kept (small: shown to be kept).
    ``decision`` is "broken", "kept" or "cannot tell". ``exact`` is False where Tango's score test stands in for the
    exact tail, above ``trinomial.EXACT_TO`` images.

    ``images_needed``, where it cannot tell: about how many images of this unit tell with 80 % power, at the observed
    discordance and no true loss, or at the observed recall (``needed_if``). None where no number of images does, or
    where there are no images to go by. ``outlook`` says whether that number is worth acting on.
    """

    check: Check
    estimate: float
    low: float
    high: float
    p_broken: float
    p_broken_adjusted: float
    p_kept: float
    decision: str
    exact: bool
    images_needed: int | None

    @property
    def outlook(self) -> str | None:
        """Say what more test images would do where it cannot tell; None where it can.

        "no images"; "over the limit": the estimate is on the wrong side already, so a fail would sooner be shown than a
        pass; "loses": within the limit, but the interval leaves out no loss, on which ``images_needed`` rests; "no
        room": no number of images settles it; "near the limit": a unit without loss would have images enough; "more
        images": about ``images_needed`` would settle it.
        """
        if self.decision != "cannot tell":
            return None
        if self.check.n == 0:
            return "no images"
        paired = self.check.kind in PAIRED
        if self.estimate > self.check.limit if paired else self.estimate < self.check.limit:
            return "over the limit"
        if paired and self.low > 0:
            return "loses"
        if self.images_needed is None:
            return "no room"
        return "near the limit" if self.images_needed <= self.check.n else "more images"

    @property
    def needed_if(self) -> str | None:
        """Say what ``images_needed`` takes to be true: "no loss" or "the observed recall"; None where there is none."""
        if self.images_needed is None:
            return None
        return "no loss" if self.check.kind in PAIRED else "the observed recall"


@dataclass(frozen=True)
class Gate:
    """The checks' results, in the order given. ``decision``: "fail" (any broken), "pass" (all kept), "cannot tell"."""

    results: tuple[CheckResult, ...]
    confidence: float
    decision: str

    @property
    def exit_code(self) -> int:
        """Return what the command line exits with: 1, 0, or 5 where it cannot tell."""
        return {"fail": errors.CLASS_LOST, "pass": errors.DONE}.get(self.decision, errors.CANNOT_TELL)


@dataclass
class _Numbers:
    """A check's result before the gate has decided."""

    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_broken: float = 1.0
    p_kept: float = 1.0
    exact: bool = True


def alpha_of(confidence: float) -> float:
    """Return 1 - ``confidence``: in floats 1 - 0.95 is not 0.05 by a rounding error, and a p value may be."""
    return round(1 - confidence, 12)


def gate(checks: Sequence[Check], confidence: float = 0.95) -> Gate:
    """Return what the counts say of every check, and of them all.

    A gate of checks that all stand at their limits fails wrongly with a probability of at most 1 - ``confidence``, and
    one with a single check beyond its limit passes wrongly with at most that. Raises BadInput without checks, or for a
    ``confidence`` that is not above 0.5, or above ``MOST_CONFIDENCE``.
    """
    if not checks:
        raise BadInput("gate: there is nothing to check; name at least one class or group with a limit")
    if not 0.5 < confidence <= MOST_CONFIDENCE:
        raise BadInput(
            f"gate: confidence {confidence}; expected a share above 0.5 and at most {MOST_CONFIDENCE}, such as 0.95"
        )
    alpha = alpha_of(confidence)
    numbers = [_Numbers() for _ in checks]
    _judge_drops(checks, numbers, confidence)
    _judge_recalls(checks, numbers, confidence)
    adjusted = statistics.holm([own.p_broken for own in numbers])
    decisions = [
        "broken" if p <= alpha else "kept" if own.p_kept <= alpha else "cannot tell"
        for p, own in zip(adjusted, numbers, strict=True)
    ]
    needed = _needed(checks, decisions, alpha)
    results = tuple(
        CheckResult(
            check=check,
            estimate=own.estimate,
            low=own.low,
            high=own.high,
            p_broken=own.p_broken,
            p_broken_adjusted=p,
            p_kept=own.p_kept,
            decision=decision,
            exact=own.exact,
            images_needed=images,
        )
        for check, own, p, decision, images in zip(checks, numbers, adjusted, decisions, needed, strict=True)
    )
    whole = "fail" if "broken" in decisions else "pass" if set(decisions) == {"kept"} else "cannot tell"
    return Gate(results, confidence, whole)


def _with_images(checks: Sequence[Check], *kinds: str) -> list[int]:
    return [place for place, check in enumerate(checks) if check.kind in kinds and check.n > 0]


def _judge_drops(checks: Sequence[Check], numbers: list[_Numbers], confidence: float) -> None:
    """Fill in the checks on a loss or a rise, all at once."""
    places = _with_images(checks, *PAIRED)
    if not places:
        return
    n10, n01, n = np.array([(checks[place].n10, checks[place].n01, checks[place].n) for place in places]).T
    p = trinomial.p_values(n10, n01, n, [checks[place].limit for place in places])
    low, high = tango.interval(n10, n01, n, confidence)
    estimates = (n10 - n01) / n
    for place, *row in zip(places, *(v.tolist() for v in (estimates, low, high, *p)), strict=True):
        numbers[place] = _Numbers(*row)


def _judge_recalls(checks: Sequence[Check], numbers: list[_Numbers], confidence: float) -> None:
    """Fill in the checks on a recall."""
    for place in _with_images(checks, "recall"):
        check = checks[place]
        low, high = statistics.wilson(check.n01, check.n, confidence)
        numbers[place] = _Numbers(
            estimate=check.n01 / check.n,
            low=low,
            high=high,
            p_broken=float(stats.binom.cdf(check.n01, check.n, check.limit)),
            p_kept=float(stats.binom.sf(check.n01 - 1, check.n, check.limit)),
        )


def _needed(checks: Sequence[Check], decisions: list[str], alpha: float) -> list[int | None]:
    """Return the images needed of every check that cannot tell."""
    needed: list[int | None] = [None] * len(checks)
    unsure, floors = (
        [place for place in _with_images(checks, *kinds) if decisions[place] == "cannot tell"]
        for kinds in (PAIRED, ("recall",))
    )
    if unsure:
        drops = [checks[place] for place in unsure]
        shares = [(check.n10 + check.n01) / check.n for check in drops]
        found = power.images_needed(shares, [check.limit for check in drops], alpha)
        for place, images in zip(unsure, found, strict=True):
            needed[place] = images
    for place in floors:
        check = checks[place]
        needed[place] = power.recall_images_needed(check.n01 / check.n, check.limit, alpha, alpha / len(checks))
    return needed

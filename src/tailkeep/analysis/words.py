"""A verdict in plain words, for a reader who knows no statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tailkeep.analysis.result import Verdict

TWINS = {"full": "balanced data", "matched": "balanced data of the same size"}
SMALL = 0.05
"""Percentage points below which a figure prints as 0.0, and so is no difference in words."""


def number(value: float) -> str:
    """Return a figure in pp with one decimal, without a negative zero."""
    return f"{0.0 if abs(value) < SMALL else value:.1f}"


def probability(p: float) -> str:
    """Return "p = 0.012", or "p < 0.001" where it is smaller."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def plural(count: int, word: str) -> str:
    """Return "1 seed" or "3 seeds"."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def sentence(
    verdict: Verdict,
    margin: float,
    min_seeds: int,
    reason: str = "",
    drop: float = math.nan,
    name_dataset: bool = False,
    left_out: Sequence[str] = (),
    repair: bool = False,
) -> str:
    """Return the verdict in words.

    ``margin`` and ``drop`` (what compression costs on imbalanced data; NaN: not known) are in pp; ``reason`` says why E
    is not available; ``name_dataset`` puts the dataset beside the model; ``left_out`` are settings without E;
    ``repair``: the method makes nothing smaller.
    """
    where = f"{verdict.dataset}, {verdict.model}" if name_dataset else verdict.model
    subject = f"{verdict.method} ({where})"
    doing = "the repair" if repair else "compression"
    doing = "replacing the teacher by the student" if verdict.reference == "teacher" else doing
    if verdict.excess_gap is None:
        cost = "" if math.isnan(drop) else f"; {doing} {_cost(drop)} on imbalanced data"
        return f"{subject}: the excess gap is not available: {reason}{cost}."
    difference = _difference(doing, verdict.excess_gap, TWINS.get(verdict.twin, "balanced data"))
    return f"{subject}: {difference} ({_evidence(verdict, left_out)}); {_conclusion(verdict, margin, min_seeds)}."


def _cost(drop: float) -> str:
    if abs(drop) < SMALL:
        return "costs nothing"
    return f"costs {number(drop)} pp" if drop > 0 else f"gains {number(-drop)} pp"


def _difference(doing: str, excess: float, balanced: str) -> str:
    if abs(excess) < SMALL:
        return f"{doing} costs as much on imbalanced data as on {balanced}"
    size = "more" if excess > 0 else "less"
    return f"{doing} costs {number(abs(excess))} pp {size} on imbalanced data than on {balanced}"


def _evidence(verdict: Verdict, left_out: Sequence[str]) -> str:
    seeds = plural(verdict.seeds, "seed") + (f", without {', '.join(left_out)}" if left_out else "")
    if verdict.low is None or verdict.high is None:
        return f"{seeds}, no interval"
    return f"95 % interval {number(verdict.low)} to {number(verdict.high)}, {seeds}"


def _conclusion(verdict: Verdict, margin: float, min_seeds: int) -> str:
    if verdict.label == "no claim" or verdict.p_adjusted is None or verdict.upper_simultaneous is None:
        return f"no claim with fewer than {min_seeds} seeds"
    p, upper = f"adjusted {probability(verdict.p_adjusted)}", number(verdict.upper_simultaneous)
    limit = f"{margin:g} pp"
    if verdict.label == "not robust":
        # A difference can be certain and small at once; saying only the first would mislead.
        small = verdict.upper_simultaneous < margin
        return f"not robust against imbalance ({p})" + (f", though shown to cost less than {limit}" if small else "")
    if verdict.label == "more robust":
        other = "its teacher" if verdict.reference == "teacher" else "the dense model"
        return f"more robust against imbalance than {other} ({p})"
    if verdict.label == "robust":
        return f"robust against imbalance: the extra cost is shown to lie below {limit} (upper bound {upper} pp)"
    return f"cannot tell: neither an extra cost is shown nor that it lies below {limit} (upper bound {upper} pp)"

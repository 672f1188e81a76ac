"""The decision: a fixed sequence of gates on the held-out split, until the first that does not pass.

The order does not depend on the held-out split, so the sequence needs no correction: an unsafe model is called safe
only if the first unsafe one in the order passes its gate, and that has a chance of at most 1 - confidence (Maurer,
Hothorn and Lehmacher 1995; Westfall and Krishen 2001, J. Statistical Planning and Inference 99:25). "Nothing is safe"
is a claim of its own: every candidate is shown to lose a class too much, Holm over candidates and classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tailkeep.analysis import statistics
from tailkeep.analysis.gate import Check, Gate, alpha_of, gate

SAFE, NOTHING, CANNOT_TELL = "safe", "nothing is safe", "cannot tell"

Judge = Callable[[Sequence[Check], float], Gate]


@dataclass(frozen=True)
class Looked:
    """A candidate that was held against the held-out split, and what its gate said."""

    name: str
    gate: Gate


@dataclass(frozen=True)
class Decision:
    """``status``: "safe", "nothing is safe" or "cannot tell". ``looked``: every candidate that was looked at, in turn.

    ``passed``: the names that the sequence called safe; ``stopped`` the one that ended it, None where all passed.
    ``broken``: for "nothing is safe", by candidate the classes that are shown to lose too much, after Holm over all.
    """

    status: str
    looked: tuple[Looked, ...] = ()
    passed: tuple[str, ...] = ()
    stopped: str | None = None
    broken: dict[str, tuple[str, ...]] | None = None


def decide(
    order: Sequence[str],
    others: Sequence[str],
    checks_of: Callable[[str], Sequence[Check]],
    confidence: float,
    judge: Judge = gate,
) -> Decision:
    """Test the candidates in ``order`` until the first that does not pass.

    ``checks_of`` gives a candidate's checks on the held-out split, one a class; it is asked only of those that are
    looked at. ``others`` are candidates that the search gave up: they can never be called safe, and are looked at only
    where every one in ``order`` is shown to be broken. ``judge`` is the gate.
    """
    looked: list[Looked] = []
    for name in order:
        looked.append(Looked(name, judge(checks_of(name), confidence)))
        if looked[-1].gate.decision != "pass":
            break
    stopped = looked[-1].name if looked and looked[-1].gate.decision != "pass" else None
    passed = tuple(each.name for each in looked if each.gate.decision == "pass")
    if passed or not order:
        return Decision(SAFE if passed else CANNOT_TELL, tuple(looked), passed, stopped)
    for name in [*order[1:], *others]:
        if looked[-1].gate.decision != "fail":  # Holm over more checks cannot show what Holm over fewer does not
            return Decision(CANNOT_TELL, tuple(looked), stopped=stopped)
        looked.append(Looked(name, judge(checks_of(name), confidence)))
    broken = shown_broken(looked, confidence)
    if all(broken.values()):
        return Decision(NOTHING, tuple(looked), stopped=stopped, broken=broken)
    return Decision(CANNOT_TELL, tuple(looked), stopped=stopped)


def shown_broken(looked: Sequence[Looked], confidence: float) -> dict[str, tuple[str, ...]]:
    """Return, by candidate, the classes that are shown to lose more than the limit: Holm over candidates x classes."""
    results = [(each.name, result) for each in looked for result in each.gate.results]
    adjusted = statistics.holm([result.p_broken for _, result in results])
    alpha = alpha_of(confidence)
    found: dict[str, tuple[str, ...]] = {each.name: () for each in looked}
    for (name, result), p in zip(results, adjusted, strict=True):
        if p <= alpha:
            found[name] = (*found[name], result.check.name)
    return found

"""The audit's decisions in plain sentences; every output says them in these words.

Names come from outside: ``quoted`` takes out what could steer a terminal and shortens them. What a format itself needs
escaped (XML, Markdown), its own module escapes.
"""

from __future__ import annotations

from collections.abc import Sequence

from tailkeep.analysis.audit import AuditAnalysis, CandidateAudit
from tailkeep.analysis.gate import CheckResult
from tailkeep.errors import CANNOT_TELL, CLASS_LOST, DONE
from tailkeep.report.words import number, p_value, printable

WORDS = {"fail": "FAIL", "pass": "PASS", "cannot tell": "CANNOT TELL"}
LONGEST_NAME = 60
MOST_NAMED = 5


def exit_code(analysis: AuditAnalysis) -> int:
    """Return the exit code of an audit: 1 where any candidate fails, else 5 where any cannot be told, else 0."""
    codes = {candidate.gate.exit_code for candidate in analysis.candidates}
    return next((code for code in (CLASS_LOST, CANNOT_TELL) if code in codes), DONE)


def decision(analysis: AuditAnalysis) -> str:
    """Return "fail", "cannot tell" or "pass", as ``exit_code`` does."""
    return {CLASS_LOST: "fail", CANNOT_TELL: "cannot tell", DONE: "pass"}[exit_code(analysis)]


def shown(name: object) -> str:
    """Return a name as it may stand on a terminal, shortened where it is very long."""
    text = printable(name)
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def quoted(name: object) -> str:
    """Return a name in quotes."""
    return f'"{shown(name)}"'


def points(share: float) -> str:
    """Return an estimate (a share of 0..1) in percentage points: "2", "0.5", "6.9"."""
    return number(100 * share, 1).removesuffix(".0")


def limit(share: float) -> str:
    """Return a limit in percentage points, with the digits that it was given: "2", "0.25", "99.9"."""
    return f"{100 * share:.6g}"


def by_decision(results: Sequence[CheckResult], word: str) -> list[CheckResult]:
    """Return the checks of one decision, the largest loss (the lowest recall) first."""
    return sorted((r for r in results if r.decision == word), key=_severity, reverse=True)


def _severity(result: CheckResult) -> float:
    if result.check.n == 0:
        return -1.0
    return result.estimate - result.check.limit if result.check.kind == "drop" else result.check.limit - result.estimate


def verdict(candidate: CandidateAudit, baseline: str) -> str:
    """Return the decision on a candidate in one sentence that needs no statistics, the offenders named."""
    gate = candidate.gate
    broken, open_ = by_decision(gate.results, "broken"), by_decision(gate.results, "cannot tell")
    start = f"{WORDS[gate.decision]}: {quoted(candidate.name)}"
    sure = f"(confidence {limit(gate.confidence)} %)"
    if gate.decision == "fail":
        more = f" {_count(len(open_), 'further check')} cannot be told." if open_ else ""
        return f"{start} is shown to break its limits: {_list([_broken(r) for r in broken])} {sure}.{more}"
    if gate.decision == "pass":
        return (
            f"{start} keeps what it must: of {_count(len(gate.results), 'check')}, every one shows a loss smaller than "
            f"is allowed, or a recall above its floor, against {quoted(baseline)} {sure}."
        )
    return (
        f"{start} is not shown to lose more than is allowed, but the test set does not suffice to show that it "
        f"loses less: {len(open_)} of {_count(len(gate.results), 'check')} cannot be told: "
        f"{_list([_open(r) for r in open_])} {sure}."
    )


def _broken(result: CheckResult) -> str:
    check = result.check
    name = f"{check.unit} {quoted(check.name)}"
    if check.kind == "drop":
        return f"{name} loses {points(result.estimate)} percentage points of recall, {limit(check.limit)} allowed"
    return f"{name} has a recall of {points(result.estimate)} %, {limit(check.limit)} asked"


def _open(result: CheckResult) -> str:
    check, needed = result.check, result.images_needed
    name = f"{check.unit} {quoted(check.name)}"
    if check.n == 0:
        return f"{name} has no test image"
    if needed is None or needed <= check.n:
        return f"{name} is too near its limit"
    return f"{name} needs about {_rounded(needed - check.n):,} more test images"


def _list(items: Sequence[str]) -> str:
    rest = len(items) - MOST_NAMED
    return "; ".join(items[:MOST_NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def _count(number_: int, noun: str) -> str:
    return f"{number_:,} {noun}{'' if number_ == 1 else 's'}"


def of_check(result: CheckResult, confidence: float) -> str:
    """Return what one check found: estimate, interval, counts, decision and, where it is open, what would decide."""
    check = result.check
    name = f"{check.unit.capitalize()} {quoted(check.name)}"
    if check.n == 0:
        return f"{name} cannot be told: it has no test image."
    interval = f"{limit(confidence)} % interval {points(result.low)} to {points(result.high)}"
    if check.kind == "drop":
        what = "loses" if result.estimate >= 0 else "gains"
        counts = f"{_count(check.n, 'test image')}, {check.n10:,} lost and {check.n01:,} won"
        found = (
            f"{name} {what} {points(abs(result.estimate))} percentage points of recall "
            f"(loss: {interval}; {counts}); {limit(check.limit)} may be lost"
        )
        above, below = "more than is allowed", "less than is allowed"
    else:
        found = (
            f"{name} has a recall of {points(result.estimate)} % "
            f"({interval}; {check.n01:,} of {_count(check.n, 'test image')} right); {limit(check.limit)} is asked"
        )
        above, below = "below its floor", "above its floor"
    if result.decision == "broken":
        return f"{found}. Shown to be {above} ({_p(result.p_broken_adjusted)} after Holm)."
    if result.decision == "kept":
        return f"{found}. Shown to be {below} ({_p(result.p_kept)})."
    return f"{found}. Not shown to be {above}, nor {below}: it {need(result)}."


def _p(value: float) -> str:
    text = p_value(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def need(result: CheckResult) -> str:
    """Return what an open check needs: "needs about 1,200 more test images (it has 500)"."""
    n, needed = result.check.n, result.images_needed
    if n == 0:
        return "has no test image"
    if needed is None:
        return "cannot be decided by more test images alone: the limit leaves no room"
    if needed <= n:
        better = "a candidate that loses nothing" if result.check.kind == "drop" else "most recalls like this one"
        return (
            f"has images enough ({n:,}) for {better}; what was seen lies too near the limit, so only many more images "
            "or a better candidate would decide"
        )
    return f"needs about {_rounded(needed - n):,} more test images (it has {n:,})"


def _rounded(value: int) -> int:
    """Return two figures that matter: more would promise too much."""
    return round(value, 2 - len(str(value))) if value >= 100 else value

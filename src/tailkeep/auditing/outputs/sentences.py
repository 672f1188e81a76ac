"""The audit's decisions in plain sentences; every output says them in these words.

Names come from outside: ``quoted`` takes out what could steer a terminal and shortens them. What a format itself needs
escaped (XML, Markdown), its own module escapes.
"""

from __future__ import annotations

from collections.abc import Sequence

from tailkeep.analysis.audit import AuditAnalysis, CandidateAudit
from tailkeep.analysis.gate import PAIRED, CheckResult
from tailkeep.errors import CANNOT_TELL, CLASS_LOST, DONE
from tailkeep.report.audit_words import p_value
from tailkeep.report.words import number, printable

WORDS = {"fail": "FAIL", "pass": "PASS", "cannot tell": "CANNOT TELL"}
LONGEST_NAME = 60
MOST_NAMED = 5
ASKS = {"drop": "loss", "rise": "false positives", "recall": "floor"}
"""What a check is called beside another one of the same class."""


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
    beyond = result.estimate - result.check.limit
    return beyond if result.check.kind in PAIRED else -beyond


def asked(result: CheckResult, results: Sequence[CheckResult]) -> str:
    """Name a check's unit, and what the check asks where there are several of that unit: ``class "cat" (floor)``."""
    check = result.check
    several = sum((r.check.unit, r.check.name) == (check.unit, check.name) for r in results) > 1
    return f"{check.unit} {quoted(check.name)}" + (f" ({ASKS[check.kind]})" if several else "")


def verdict(candidate: CandidateAudit, baseline: str) -> str:
    """Return the decision on a candidate in words that need no statistics, the offenders named, and its caveat."""
    return " ".join(filter(None, (_decision(candidate, baseline), printable(candidate.caveat))))


def _decision(candidate: CandidateAudit, baseline: str) -> str:
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
            f"is allowed{_or_else(gate.results)}, against {quoted(baseline)} {sure}."
        )
    return (
        f"{start} is not shown to lose more than is allowed, but the test set does not suffice to show that it "
        f"loses less: {len(open_)} of {_count(len(gate.results), 'check')} cannot be told: "
        f"{_list([_open(r, asked(r, gate.results)) for r in open_])} {sure}."
    )


def _or_else(results: Sequence[CheckResult]) -> str:
    kinds = {result.check.kind for result in results}
    rise = ", or a smaller rise of false positives" if "rise" in kinds else ""
    return rise + (", or a recall above its floor" if "recall" in kinds else "")


def _broken(result: CheckResult) -> str:
    check = result.check
    name = f"{check.unit} {quoted(check.name)}"
    if check.kind == "drop":
        return f"{name} loses {points(result.estimate)} percentage points of recall, {limit(check.limit)} allowed"
    if check.kind == "rise":
        return (
            f"{name} is wrongly given to {points(result.estimate)} percentage points more of the images that are not "
            f"of it, {limit(check.limit)} allowed"
        )
    return f"{name} has a recall of {points(result.estimate)} %, {limit(check.limit)} asked"


def _open(result: CheckResult, name: str) -> str:
    check, needed = result.check, result.images_needed
    short = {
        "no images": "has no test image",
        "over the limit": "is beyond its limit already, though not shown to be",
        "loses": "loses some, near to its limit",
        "more images": f"needs about {_rounded((needed or 0) - check.n):,} more test images",
    }
    return f"{name} {short.get(str(result.outlook), 'is too near its limit')}"


def _list(items: Sequence[str]) -> str:
    rest = len(items) - MOST_NAMED
    return "; ".join(items[:MOST_NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def _count(number_: int, noun: str) -> str:
    return f"{number_:,} {noun}{'' if number_ == 1 else 's'}"


def of_check(result: CheckResult, confidence: float) -> str:
    """Return what one check found: estimate, interval, counts, decision and, where it is open, what would decide."""
    check = result.check
    name, alpha = f"{check.unit.capitalize()} {quoted(check.name)}", 1 - confidence
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
    elif check.kind == "rise":
        what = "more" if result.estimate >= 0 else "less"
        found = (
            f"{name} is wrongly given to {points(abs(result.estimate))} percentage points {what} of the images that "
            f"are not of it (rise: {interval}; {check.n:,} such images, {check.n10:,} newly given it and {check.n01:,} "
            f"no longer); a rise of {limit(check.limit)} is allowed"
        )
        above, below = "more than is allowed", "less than is allowed"
    else:
        found = (
            f"{name} has a recall of {points(result.estimate)} % "
            f"({interval}; {check.n01:,} of {_count(check.n, 'test image')} right); {limit(check.limit)} is asked"
        )
        above, below = "below its floor", "above its floor"
    if result.decision == "broken":
        return f"{found}. Shown to be {above} ({_p(result.p_broken_adjusted, alpha)} after Holm)."
    if result.decision == "kept":
        return f"{found}. Shown to be {below} ({_p(result.p_kept, alpha)})."
    return f"{found}. Not shown to be {above}, nor {below}: it {need(result)}."


def _p(value: float, alpha: float) -> str:
    text = p_value(value, alpha)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def need(result: CheckResult) -> str:
    """Return what an open check needs: "needs about 1,200 more test images (it has 500), if it truly loses nothing".

    Where what was seen speaks against that "if", it says so in place of a number.
    """
    check, n, needed, outlook = result.check, result.check.n, result.images_needed, result.outlook
    if outlook == "no images":
        return "has no test image"
    seen = f"{points(result.estimate)} points seen, {limit(check.limit)} allowed"
    what = "gain false positives" if check.kind == "rise" else "lose"
    if outlook == "over the limit" and check.kind in PAIRED:
        return f"seems to {what} about the limit or more ({seen}): more images would sooner show a fail than a pass"
    if outlook == "loses":
        return (
            f"seems to {what} ({seen}; its interval leaves out 0): near the limit only many more images or "
            "a better candidate would decide, farther above it more images would sooner show a fail"
        )
    if needed is None:
        return "cannot be decided by more test images alone: the limit leaves no room"
    if needed <= n:
        better = "most recalls like this one" if check.kind == "recall" else "a candidate that loses nothing"
        return (
            f"has images enough ({n:,}) for {better}; what was seen lies too near the limit, so only many more images "
            "or a better candidate would decide"
        )
    more = f"about {_rounded(needed - n):,} more test images"
    if outlook == "over the limit":
        seen = f"{points(result.estimate)} % seen, {limit(check.limit)} asked"
        return f"seems to lie below its floor ({seen}): {more} would sooner show a fail (it has {n:,})"
    if_ = {"recall": "its true recall is what was seen", "rise": "it truly gains none"}
    return f"needs {more} (it has {n:,}), if {if_.get(check.kind, 'it truly loses nothing')}"


def _rounded(value: int) -> int:
    """Return two figures that matter: more would promise too much."""
    return round(value, 2 - len(str(value))) if value >= 100 else value

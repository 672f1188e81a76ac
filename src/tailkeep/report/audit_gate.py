"""The gate in words: a card a candidate, one sentence of what was shown, and what it takes to tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tailkeep.analysis.gate import PAIRED
from tailkeep.report import words
from tailkeep.report.audit_view import DECISIONS, AuditView
from tailkeep.report.verdicts import UNIT

if TYPE_CHECKING:
    from tailkeep.analysis.audit import CandidateAudit
    from tailkeep.analysis.gate import CheckResult, Gate

VERDICTS = {
    # verdict: (style of the theme, sign that reads without colour)
    "fail": ("lost", "✗"),
    "cannot tell": ("unsure", "?"),
    "pass": ("kept", "✓"),
    "no limit": ("silent", "○"),
}
NAMED = 5
"""Classes that a card names of each kind."""
LIMITS = "the limits"
UNITS = {"class": "classes", "group": "groups"}


def verdict(gate: Gate) -> str:
    """Return the gate's decision, or "no limit" where nothing was asked of it."""
    return gate.decision if gate.results else "no limit"


def told(gate: Gate, decision: str) -> list[CheckResult]:
    """Return the checks with this decision, the farthest from its limit first."""
    return sorted((r for r in gate.results if r.decision == decision), key=_nearness, reverse=True)


def _nearness(result: CheckResult) -> float:
    """Return by how much (share) the estimate lies beyond the limit; negative within it, lowest where not known."""
    if not words.known(result.estimate):
        return -9.0
    beyond = float(result.estimate - result.check.limit)
    return beyond if result.check.kind in PAIRED else -beyond


def percent(confidence: float) -> str:
    """Write a confidence: ``95 %``."""
    return f"{100 * confidence:g} %"


def names_of(results: Sequence[CheckResult]) -> list[str]:
    """Return what was checked, each once: a class may have a limit on its loss and a floor."""
    return list(dict.fromkeys(of_unit(r) for r in results))


def units(results: Sequence[CheckResult]) -> str:
    """Count what was checked: ``10 classes``, ``1 group``, ``13 classes and groups``."""
    kinds = [kind for kind in UNITS if any(r.check.unit == kind for r in results)]
    many = len(names_of(results))
    return f"{words.number(many, 0)} {kinds[0] if many == 1 else ' and '.join(UNITS[kind] for kind in kinds)}"


def of_unit(result: CheckResult) -> str:
    """Name a check's unit: a group as one, a class by its name, and as a class where that is a number."""
    name = result.check.name
    return name if result.check.unit == "class" and not name.isdigit() else f"{result.check.unit} {name}"


def change_words(result: CheckResult) -> str:
    """Write what a check found: ``−7.3 pp``, or the recall against its floor."""
    if result.check.kind in PAIRED:
        sign = -100 if result.check.kind == "drop" else 100
        return f"{words.number(sign * result.estimate, sign=True)} pp"
    return f"{words.number(100 * result.estimate)} %"


def loss_words(result: CheckResult) -> str:
    """Say what a unit lost: ``truck loses 7.3 pp``."""
    name, value = of_unit(result), 100 * result.estimate
    if not words.known(value):
        return f"{name} has no test image"
    if result.check.kind == "recall":
        return f"{name} is at {words.number(value)} %, its floor {100 * result.check.limit:g} %"
    if result.check.kind == "rise":
        return f"{name}: false positives {'rise' if value > 0 else 'fall'} by {words.number(abs(value))} pp"
    verb = "loses" if value > 0 else "gains" if value < 0 else "keeps its recall:"
    return f"{name} {verb} {words.number(abs(value))} pp"


def listed(parts: Sequence[str], most: int = NAMED) -> str:
    """Write a list: ``a, b and 3 more``."""
    shown = list(parts[:most])
    if len(parts) > most:
        return f"{', '.join(shown)} and {words.number(len(parts) - most, 0)} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def sentence(gate: Gate) -> str:
    """Say a candidate's verdict in one or two sentences."""
    results, broken = gate.results, told(gate, "broken")
    unsure, kept = told(gate, "cannot tell"), told(gate, "kept")
    if not results:
        return "No limit was set: the page shows what changed, and judges nothing."
    limits, it = _limits(results), _them(results)
    if broken:
        after = _others(kept, unsure, limits)
        return f"{_broke(broken, results)}.{f' Of the others, {after}.' if after else ''}"
    if unsure:
        share = f"{len(names_of(unsure))} of {units(results)} {_be(unsure)}"
        return (
            f"Nothing is shown to break {limits}, but {share} not shown to keep {it} either: the "
            "test set does not settle it."
        )
    return f"{_all(results)} shown to keep {limits}. Nearest to {it}: {_found(kept[0])}."


def _others(kept: Sequence[CheckResult], unsure: Sequence[CheckResult], limits: str) -> str:
    parts = []
    if kept:
        parts.append(f"{len(names_of(kept))} {_be(kept)} shown to keep {limits}")
    if unsure:
        parts.append(f"{len(names_of(unsure))} cannot be told")
    return " and ".join(parts)


def _be(results: Sequence[CheckResult]) -> str:
    return "is" if len(names_of(results)) == 1 else "are"


def _broke(broken: Sequence[CheckResult], results: Sequence[CheckResult]) -> str:
    if len(broken) == 1 and broken[0].check.kind == "drop":
        limit = f"{100 * broken[0].check.limit:g} pp"
        return f"{loss_words(broken[0])} of recall, shown to be more than the limit of {limit}"
    share = f"{len(names_of(broken))} of {units(results)} {_be(broken)}"
    return f"{share} shown to break {_limits(broken)}: {listed([loss_words(r) for r in broken])}"


def _limits(results: Sequence[CheckResult]) -> str:
    drops = {round(100 * r.check.limit, 6) for r in results if r.check.kind == "drop"}
    if len(drops) == 1 and all(r.check.kind == "drop" for r in results):
        return f"the limit of {drops.pop():g} pp"
    return LIMITS


def _them(results: Sequence[CheckResult]) -> str:
    return "them" if _limits(results) == LIMITS else "it"


def _all(results: Sequence[CheckResult]) -> str:
    return f"The one {results[0].check.unit} is" if len(names_of(results)) == 1 else f"All {units(results)} are"


def _found(result: CheckResult) -> str:
    low, high = words.number(100 * result.low), words.number(100 * result.high)
    return f"{loss_words(result)} (interval {low} to {high})"


def needs(gate: Gate, images: str = "test images") -> list[str]:
    """Say, for what cannot be told, how many test images of it would tell, the fewest first; then what stands too
    near to its limit, and what no number of images settles. ``images`` is what they are called."""
    unsure = told(gate, "cannot tell")
    beyond = [r for r in unsure if r.outlook in ("over the limit", "loses")]
    unsure = [r for r in unsure if r not in beyond]
    more = [r for r in unsure if r.images_needed is not None and r.images_needed > r.check.n]
    near = [r for r in unsure if r.images_needed is not None and r.images_needed <= r.check.n]
    never = [r for r in unsure if r.images_needed is None]
    found = [
        f"{of_unit(r)}: about {words.number(r.images_needed, 0)} {images} (it has {words.number(r.check.n, 0)})"
        for r in sorted(more, key=lambda r: r.images_needed or 0)
    ]
    if len(found) > NAMED:
        found = [*found[:NAMED], f"{words.number(len(found) - NAMED, 0)} more: see every check of the gate"]
    if near:
        found.append(
            f"{listed(names_of(near), 3)}: images enough if nothing was lost, so the loss is likely near the limit"
        )
    if beyond:
        found.append(
            f"{listed([loss_words(r) for r in beyond], 3)}, about the limit or more as it seems: more images would "
            "sooner show a fail"
        )
    if never:
        found.append(f"{listed(names_of(never), 3)}: no number of images that could be named")
    return found


def headline(view: AuditView) -> str:
    """Say the outcome of the audit in one sentence."""
    if not view.candidates:
        return "There is no candidate to judge."
    if not view.several:
        return f"{_outcome(view.candidates[0].gate)}."
    groups = [(label, [c.name for c in view.candidates if verdict(c.gate) == label]) for label in VERDICTS]
    groups = [(label, names) for label, names in groups if names]
    whole = ". ".join(f"{label.capitalize()}: {', '.join(names)}" for label, names in groups)
    if len(whole) <= 96:
        return f"{whole}."
    return f"Of {len(view.candidates)} candidates: {', '.join(f'{len(names)} {label}' for label, names in groups)}."


def _outcome(gate: Gate) -> str:
    """Say the outcome for the one candidate."""
    broken, results = told(gate, "broken"), gate.results
    if not results:
        return "No limit was set, so nothing is judged"
    if broken:
        names = names_of(broken)
        return f"Fail: {listed(names, 3)} {'breaks' if len(names) == 1 else 'break'} {_limits(broken)}"
    unsure = told(gate, "cannot tell")
    if unsure:
        share = f"{len(names_of(unsure))} of {units(results)} {_be(unsure)}"
        return f"Cannot tell: {share} neither shown to break {_limits(results)} nor to keep {_them(results)}"
    one = len(names_of(results)) == 1
    return f"Pass: {units(results)} {'keeps' if one else 'keep'} {_limits(results)}"


def cards(view: AuditView) -> list[dict[str, Any]]:
    """Return what each candidate's card says."""
    images = "positives" if view.multilabel else "test images"
    return [_card(each, i, images) for i, each in enumerate(view.candidates)]


def _card(candidate: CandidateAudit, number: int, images: str) -> dict[str, Any]:
    gate = candidate.gate
    label = verdict(gate)
    style, sign = VERDICTS[label]
    first = next((told(gate, d)[0] for d in DECISIONS if told(gate, d)), None)
    counts = {decision: len(told(gate, decision)) for decision in DECISIONS}
    return {
        "name": candidate.name,
        "number": number,
        "verdict": label,
        "style": style,
        "sign": sign,
        "big": change_words(first) if first and words.known(first.estimate) else "",
        "big_of": _big_of(first, gate) if first else "",
        "sentence": UNIT.sub(words.NO_BREAK, _whole(candidate)),
        "needs": needs(gate, images),
        "strip": _strip(counts),
        "counts": [f"{words.number(counts[d], 0)} {d}" for d in DECISIONS if counts[d]],
        "asked": f"{_asked(gate)}, {percent(gate.confidence)} confidence" if gate.results else "",
    }


def _whole(candidate: CandidateAudit) -> str:
    """Say the verdict, what it leaves out, and what it does not see."""
    warned = [f"Warning: {warning}." for warning in candidate.warnings]
    return " ".join(part for part in (sentence(candidate.gate), candidate.caveat, *warned) if part)


def _asked(gate: Gate) -> str:
    """Write what the gate asked for: ``limit 2 pp``, or how many limits there are."""
    asked = {(r.check.kind, round(100 * r.check.limit, 6)) for r in gate.results}
    if len(asked) > 1:
        return f"{len(asked)} different limits"
    kind, limit = asked.pop()
    return f"floor {limit:g} %" if kind == "recall" else f"limit {limit:g} pp"


def _big_of(result: CheckResult, gate: Gate) -> str:
    sign = -100 if result.check.kind == "drop" else 100
    ends = sorted((sign * result.low, sign * result.high)) if words.known(result.low) else [None, None]
    spread = words.interval(*ends).replace(" ", words.NO_BREAK)
    level = percent(gate.confidence).replace(" ", words.NO_BREAK)
    changes = {"drop": "change of the recall", "rise": "change of the false positives", "recall": "recall"}
    what = changes[result.check.kind]
    return f"{what} of {of_unit(result)}" + (f", {level}{words.NO_BREAK}{spread}" if spread else "")


def _strip(counts: dict[str, int]) -> list[dict[str, Any]]:
    """Return the parts of a bar of 100 units, one a decision."""
    total, at, parts = sum(counts.values()), 0.0, []
    for decision, many in counts.items():
        if many:
            wide = 100 * many / total
            parts.append({"style": DECISIONS[decision][0], "x": f"{at:.2f}", "width": f"{wide:.2f}"})
            at += wide
    return parts

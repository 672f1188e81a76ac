"""Which classes matter most to a decision, and the one word for what the checks of a unit found."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from tailkeep.analysis.audit import CandidateAudit
from tailkeep.analysis.gate import CheckResult, Gate
from tailkeep.analysis.slices import FREQUENCY

BROKEN = {"drop": "loses more", "rise": "more false positives", "recall": "below floor"}
_ORDER = {"broken": 0, "cannot tell": 1, "kept": 2}


@dataclass(frozen=True)
class ClassRow:
    """A class: its row of the analysis' table, and what the gate found of it."""

    facts: dict[Hashable, Any]
    results: tuple[CheckResult, ...]

    @property
    def p_more(self) -> float:
        """P value of "loses no more than its limit", after Holm; NaN where the loss is not checked."""
        return next((r.p_broken_adjusted for r in self.results if r.check.kind == "drop"), math.nan)

    @property
    def p_less(self) -> float:
        """P value of "loses at least its limit"; NaN where the loss is not checked."""
        return next((r.p_kept for r in self.results if r.check.kind == "drop"), math.nan)


def classes_by_weight(candidate: CandidateAudit) -> list[ClassRow]:
    """Return the classes, those first that decide: broken, then open, then kept, the largest loss first in each."""
    found: dict[str, list[CheckResult]] = {}
    for result in candidate.gate.results:
        if result.check.unit == "class":
            found.setdefault(result.check.name, []).append(result)
    rows = [
        ClassRow(facts, tuple(found.get(str(facts["class_name"]), ())))
        for facts in candidate.classes.to_dict("records")
    ]
    return sorted(rows, key=_weight)


def _weight(row: ClassRow) -> tuple[int, float]:
    worst = min((_ORDER[r.decision] for r in row.results), default=len(_ORDER))
    change = row.facts["change"]
    return worst, float(change) if change == change else math.inf


def group_results(gate: Gate, kind: str, name: str) -> tuple[CheckResult, ...]:
    """Return what the gate found of a group: a frequency group goes by its name, another as "column=value"."""
    wanted = name if kind == FREQUENCY else f"{kind}={name}"
    return tuple(r for r in gate.results if r.check.unit == "group" and r.check.name == wanted)


def word(results: Sequence[CheckResult]) -> str:
    """Return what the checks of one unit found together: "loses more", "more false positives", "below floor",
    "cannot tell", "kept"."""
    broken = [r.check.kind for r in results if r.decision == "broken"]
    if broken:
        return ", ".join(BROKEN[kind] for kind in broken)
    if any(r.decision == "cannot tell" for r in results):
        return "cannot tell"
    return "kept" if results else "not checked"

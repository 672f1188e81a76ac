"""What the figures and tables of an audit share: its candidates, the order of its classes, which of them to show."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from tailkeep.report import words
from tailkeep.report.canvas import rows_of
from tailkeep.report.heatmap import slug
from tailkeep.report.select import clean_frame, clean_tree, cleaned
from tailkeep.report.words import printable

if TYPE_CHECKING:
    from tailkeep.analysis.audit import AuditAnalysis, CandidateAudit
    from tailkeep.analysis.gate import CheckResult, Gate

MOST_CLASSES = 40
"""Above this many classes a figure shows the ends alone."""
WORST, BEST = 20, 10
"""How many classes a figure then shows of either end."""

DECISIONS = {
    # decision: (style of the theme, sign that reads without colour)
    "broken": ("lost", "▼"),
    "cannot tell": ("unsure", "?"),
    "kept": ("kept", "✓"),
}
"""The decisions on one check, the one that weighs most first."""


def cleaned_audit(analysis: AuditAnalysis) -> AuditAnalysis:
    """Return the audit with every name printable, so that no writer has to think of it again."""
    return replace(
        analysis,
        name=printable(analysis.name),
        baseline=printable(analysis.baseline),
        class_names=tuple(printable(name) for name in analysis.class_names),
        group_names=tuple(printable(name) for name in analysis.group_names),
        group_rule=printable(analysis.group_rule),
        candidates=tuple(_clean_candidate(each) for each in analysis.candidates),
        notes=tuple(printable(note) for note in analysis.notes),
        provenance=clean_tree(analysis.provenance),
        study=cleaned(analysis.study),
    )


def _clean_candidate(candidate: CandidateAudit) -> CandidateAudit:
    changes: dict[str, Any] = {
        each.name: clean_frame(value)
        for each in fields(candidate)
        if isinstance(value := getattr(candidate, each.name), pd.DataFrame)
    }
    results = tuple(
        replace(each, check=replace(each.check, name=printable(each.check.name))) for each in candidate.gate.results
    )
    gate = replace(candidate.gate, results=results)
    changes["caveat"] = printable(candidate.caveat)
    changes["warnings"] = tuple(printable(warning) for warning in candidate.warnings)
    return replace(candidate, name=printable(candidate.name), gate=gate, **changes)


@dataclass(frozen=True)
class AuditView:
    """A cleaned audit and the questions that drawing it asks."""

    analysis: AuditAnalysis

    @property
    def candidates(self) -> tuple[CandidateAudit, ...]:
        """The candidates, in the order in which they were given."""
        found: tuple[CandidateAudit, ...] = self.analysis.candidates
        return found

    @property
    def several(self) -> bool:
        """Whether there is more than one candidate, so that each must be named."""
        return len(self.candidates) > 1

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several classes."""
        return bool(self.analysis.task == "multilabel")

    @property
    def images(self) -> str:
        """What a class's test images are called: in a multi-label audit only positives count for a class."""
        return "positives" if self.multilabel else "images"

    @cached_property
    def suffixes(self) -> list[str]:
        """What each candidate's own figure files are called behind the figure's name, all different."""
        if not self.several:
            return [""]
        plain = [slug(each.name) for each in self.candidates]
        return [f"-{name}" if plain.count(name) == 1 else f"-{i + 1}-{name}" for i, name in enumerate(plain)]

    @cached_property
    def has_training(self) -> bool:
        """Whether the classes' training images are known, and so an order by frequency."""
        frame = self.candidates[0].classes if self.candidates else pd.DataFrame()
        return bool(len(frame)) and bool(frame["train_count"].notna().all())

    @cached_property
    def has_scores(self) -> bool:
        """Whether calibration is known for any class of any candidate."""
        return any(bool(each.classes["ece_change"].notna().any()) for each in self.candidates)

    @cached_property
    def has_seeds(self) -> bool:
        """Whether several seeds were compared for any candidate."""
        return any(each.seeds is not None and len(each.seeds) > 0 for each in self.candidates)

    @property
    def order_words(self) -> str:
        """Say how the classes are ordered."""
        if self.has_training:
            return "Classes from most to least frequent in training."
        return f"Classes by their number of test {self.images}, then in their own order."

    def ordered(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Sort classes by training images where they are known, else by test images, then by index."""
        first = "train_count" if self.has_training else "n"
        return frame.sort_values([first, "class_index"], ascending=[False, True], kind="stable")

    def chosen(self, frame: pd.DataFrame, by: str = "change", up: bool = True) -> tuple[pd.DataFrame, int]:
        """Return the classes that a figure has room for, with a column ``label``, and how many it leaves out.

        Of many classes the worst come first, then the best; ``by`` is what they are ranked by, ``up`` whether a low
        value is the worse one.
        """
        frame = frame.assign(label=unique_labels(frame))
        known = frame[frame[by].notna()]
        if len(frame) <= MOST_CLASSES:
            return self.ordered(known), 0
        ranked = known.sort_values([by, "class_index"], ascending=[up, True], kind="stable")
        if len(ranked) <= WORST + BEST:
            return ranked, 0
        return pd.concat([ranked.head(WORST), ranked.tail(BEST)]), len(ranked) - WORST - BEST

    def chosen_words(self, left: int) -> str:
        """Say which classes a figure shows."""
        if not left:
            return self.order_words
        return f"The {WORST} worst and the {BEST} best classes; {words.number(left, 0)} between them are in the table."


def unique_labels(frame: pd.DataFrame) -> list[str]:
    """Return each class's name, with its index where two are written alike."""
    names = list(frame["class_name"])
    seen = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    return [
        f"{r['class_name']} (#{r['class_index']})" if r["class_name"] in seen else r["class_name"]
        for r in rows_of(frame)
    ]


def judged(gate: Gate, unit: str) -> dict[str, CheckResult]:
    """Return, by the name of a class or group, the check that weighs most: a broken one before one that cannot tell.

    Those on false positives are left out: they are shown beside no recall.
    """
    weight = list(DECISIONS)
    found: dict[str, CheckResult] = {}
    for each in gate.results:
        if each.check.unit != unit or each.check.kind == "rise":
            continue
        old = found.get(each.check.name)
        if old is None or weight.index(each.decision) < weight.index(old.decision):
            found[each.check.name] = each
    return found


def drop_limits(gate: Gate, unit: str) -> dict[str, float]:
    """Return the largest loss of recall that each class or group may have (pp)."""
    return {r.check.name: 100 * r.check.limit for r in gate.results if r.check.kind == "drop" and r.check.unit == unit}


def group_key(kind: str, name: str) -> str:
    """Return how a check names a row of the groups' table."""
    return name if kind == "frequency" else f"{kind}={name}"

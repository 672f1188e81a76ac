"""What the figures and tables of a recommendation share. It is read from plain values, as in its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tailkeep.report.select import clean_tree

STATUSES = {
    # status of a candidate: (style of the theme, sign that reads without colour)
    "passed": ("kept", "✓"),
    "not passed": ("lost", "✗"),
    "not reached": ("silent", "○"),
    "pruned early": ("absent", "–"),
    "out of budget": ("absent", "–"),
    "failed": ("unsure", "!"),
}
ANSWERS = {"safe": ("kept", "✓"), "nothing is safe": ("lost", "✗"), "cannot tell": ("unsure", "?")}
SHOWN = 6
"""Candidates whose classes are drawn: the chosen one, and the first of the sequence."""


@dataclass(frozen=True)
class RecommendView:
    """``facts``: a recommendation's plain values, every name printable."""

    facts: dict[str, Any]

    @property
    def frontier(self) -> list[dict[str, Any]]:
        """The candidates in the order of the gate, then those that did not get there."""
        return sorted(self.facts["frontier"], key=lambda row: (row["place"] or 1_000_000, -(row["times_smaller"] or 0)))

    @property
    def chosen(self) -> str:
        """The recommended model, or nothing."""
        return str(self.facts["chosen"] or "")

    @property
    def confidence(self) -> str:
        """The confidence: ``95 %``."""
        return f"{100 * self.facts['question']['confidence']:g} %"

    @cached_property
    def evidence(self) -> list[dict[str, Any]]:
        """The candidates whose classes are drawn, in the order in which they were looked at, with that ``place``."""
        every = [{**each, "place": place} for place, each in enumerate(self.facts["evidence"], 1)]
        first = [each for each in every if each["name"] == self.chosen]
        kept = first + [each for each in every if each["name"] != self.chosen]
        return sorted(kept[:SHOWN], key=lambda each: int(each["place"]))


def view_of(facts: Mapping[str, Any]) -> RecommendView:
    """Return the view of a recommendation's plain values."""
    return RecommendView(dict(clean_tree(dict(facts))))

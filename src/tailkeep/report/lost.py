"""What a technique costs the class that fares worst: the first thing to say where no excess gap is known."""

from __future__ import annotations

from dataclasses import dataclass

from tailkeep.analysis.result import Verdict
from tailkeep.report import words
from tailkeep.report.select import View


@dataclass(frozen=True)
class WorstOff:
    """The class whose recall changes most for the worse, in the setting where it does; pp, a mean over the seeds."""

    technique: str
    change: float
    class_name: str
    setting: str


def worst_off(view: View, verdict: Verdict) -> WorstOff | None:
    """Return it for a technique against its reference; None where no class's change is known."""
    frame = view.headline_recall
    mine = frame[
        (frame["dataset"] == verdict.dataset)
        & (frame["model"] == verdict.model)
        & (frame["method"] == verdict.method)
        & frame["change"].notna()
    ]
    if mine.empty:
        return None
    row = mine.sort_values("change", kind="stable").iloc[0]
    family = view.family_name(verdict.dataset, verdict.model)
    technique = f"{verdict.method} ({family})" if family else verdict.method
    return WorstOff(technique, float(row["change"]), str(row["class_name"]), str(row["setting"]))


def said(view: View, found: WorstOff) -> str:
    """Name the class, and the setting where the study has several."""
    where = f" ({found.setting})" if len(view.settings) > 1 else ""
    return f"{found.class_name}{where}"


def summary(view: View, found: list[WorstOff]) -> str:
    """Say in one sentence between what and what the techniques take from the class that each hurts most."""
    worst, best = (pick(found, key=lambda each: each.change) for pick in (min, max))

    def lost(each: WorstOff) -> str:
        return f"{words.number(max(0.0, -each.change))} pp"

    if len(found) == 1:
        return f"The most that a class loses: {lost(worst)} ({said(view, worst)})."
    return f"The most that a class loses: {lost(best)} with {best.technique}, {lost(worst)} with {worst.technique}."

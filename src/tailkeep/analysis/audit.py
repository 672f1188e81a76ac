"""What an audit gives: the plain tables of every candidate that a report draws and a script reads.

Recalls, changes, calibration errors and churn are in percentage points (0..100), limits of the gate are shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from tailkeep.analysis.gate import Gate
from tailkeep.analysis.result import StudyAnalysis


@dataclass(frozen=True)
class CandidateAudit:
    """One candidate against the baseline. What is not known is NaN.

    classes: class_index class_name group train_count n recall_baseline recall recall_low recall_high change change_low
        change_high n11 n10 n01 n00 changed p_mcnemar p_adjusted worst_bound ece_baseline ece ece_change (multi-label
        also precision_baseline precision negatives false_positives_baseline false_positives p_false_positives, and with
        scores average_precision_baseline average_precision)
    groups: kind name classes n recall_baseline recall change change_low change_high n11 n10 n01 n00 p_mcnemar
        p_adjusted (``kind`` "frequency" or a group column)
    summary: metric baseline candidate change low high warning (units: ``analysis.summaries.UNITS``)
    flips: row id label baseline candidate kind severity (``kind`` lost, won or other; the worst first)
    seeds: class_name change change_low change_high seeds (t interval over seed pairs), None for one pair

    ``caveat`` is a sentence on what the decision leaves out, ``warnings`` are sentences on what it does not see.
    """

    name: str
    gate: Gate
    classes: pd.DataFrame
    groups: pd.DataFrame
    summary: pd.DataFrame
    flips: pd.DataFrame
    seeds: pd.DataFrame | None
    caveat: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class AuditAnalysis:
    """A baseline and its candidates on one test set. ``study`` is the same counts read as a study of one setting."""

    name: str
    task: str  # "multiclass" or "multilabel"
    baseline: str
    class_names: tuple[str, ...]
    group_names: tuple[str, ...]  # by frequency, most frequent first
    group_rule: str
    candidates: tuple[CandidateAudit, ...]
    notes: tuple[str, ...]
    provenance: dict[str, Any]
    study: StudyAnalysis

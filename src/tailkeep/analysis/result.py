"""What an analysis gives: plain tables and verdicts that a report draws and a script reads.

Accuracies, recalls and their differences are in percentage points (0..100) here, shares in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Verdict:
    """The verdict on one technique in one model's family of tests (percentage points).

    ``label`` is one of "not robust", "robust", "more robust", "cannot tell", "no claim", "not available".
    """

    dataset: str
    model: str
    method: str
    reference: str  # "dense" or "teacher": whose excess gap this is
    twin: str  # "full" or "matched"; "none" where E is not available
    label: str
    seeds: int
    excess_gap: float | None = None
    low: float | None = None  # 95 % t interval
    high: float | None = None
    upper_simultaneous: float | None = None  # Bonferroni upper 95 % bound, compared with the margin
    p: float | None = None
    p_adjusted: float | None = None  # Holm over the techniques of the family
    sign_flip_p: float | None = None
    sign_flip_floor: float | None = None
    sentence: str = ""  # the verdict in words, for a reader who knows no statistics


@dataclass(frozen=True)
class RepairAnalysis:
    """Where to repair, in one (dataset, setting). A row or cell is named by (model, method).

    table: dataset setting model method role stage compressed seeds packed_bytes times_smaller balanced_accuracy
        worst_class_recall tail_recall gain gain_low gain_high gain_worst(_low _high) below_best(_low _high)
        below_best_worst(_low _high) excess(_low _high) validation_accuracy
        (means over the seeds that the row shares with the baseline. ``gain`` is balanced accuracy, ``gain_worst``
        worst-class recall minus the baseline's; ``below_best`` is the best repaired uncompressed model's minus the
        row's. All paired by seed, with 95 % t intervals. ``stage``: "none", "before", "before + after"...)
    where: dataset setting smaller_from smaller_to stage rows chosen_on model method times_smaller balanced_accuracy
        worst_class_recall gain gain_low gain_high below_best(_low _high) validation_accuracy
        (one row a size and stage of the compressed models: the row that stands for it, and among how many it was
        chosen; ``chosen_on`` "" and no names: none could be, for want of validation images)
    summary: dataset setting method stage rows smaller_from smaller_to gain_least gain_most worst_least worst_most
        (one row a compressed method and stage: the span over its models, nothing chosen)
    """

    dataset: str
    setting: str
    baseline: tuple[str, str]  # the dense model without any repair
    best: tuple[str, str] | None  # the best repaired model that nothing made smaller
    best_chosen_on: str  # "validation"; "" where none was chosen
    table: pd.DataFrame
    where: pd.DataFrame
    summary: pd.DataFrame
    order: tuple[tuple[str, str], ...]  # the repaired uncompressed models, best on validation first
    sentences: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class StudyAnalysis:
    """Everything that a report of a study draws. Tables are tidy pandas frames with these columns.

    Rows keep the frame's order. A cell that is compared with nothing (a dense model, a student alone) has reference
    "self": its drop, excess and change are NaN. What is not known is NaN; with one seed no t interval is.

    accuracy: dataset setting twin model method role seeds accuracy accuracy_sd worst_recall worst_class g_mean macro_f1
        macro_recall (means over seeds; accuracy is the mean recall where the test set is not balanced)
    gaps: dataset setting twin model method role reference seeds drop drop_low drop_high gap gap_low gap_high
        relative_gap excess excess_low excess_high (``twin`` is which balanced twin G and E use, "none": D alone)
    recall: dataset setting twin model method role reference seeds class_name rank train_count group recall recall_low
        recall_high change change_low change_high (``rank`` 0 = most frequent; ``change`` against ``reference``)
    tail: dataset setting twin model method role reference seeds tail_share tail_share_low tail_share_high slope
        excess_risk_gap churn churn_floor recall_change_many recall_change_medium recall_change_few
        (the study's most frequent, middle and rarest group, whatever ``group_names`` calls them; two groups: medium is
        NaN; a study of step and other settings has both families of names)
    size: dataset setting twin model method role weights macs packed_bytes worst_recall accuracy
        (where a model was exported, also file_bytes gzip_bytes agreement worst_agreement worst_agreement_class
        largest_difference)
    failures: dataset setting twin model method seed reason detail
    seed_gaps: dataset setting twin model method role reference seed accuracy drop gap excess (one row a seed)
    latency: dataset setting twin model method role batch median_ms low_ms high_ms ratio ratio_low ratio_high speedup
        speedup_low speedup_high threads bits_note (quartiles; ``speedup`` is 1 / ratio; empty: not measured)
    pareto: dataset setting twin model method role seeds worst_recall worst_class accuracy axis batch cost cost_low
        cost_high on_frontier (one row a cost; ``axis`` packed_bytes, file_bytes, macs or, with its batch, latency)
    """

    name: str
    margin: float
    primary_twin: str
    group_names: tuple[str, ...]
    group_rule: str  # one sentence: how the groups were made
    accuracy_is: str  # "accuracy" or "mean recall"
    seeds: tuple[int, ...]
    verdicts: tuple[Verdict, ...]
    accuracy: pd.DataFrame
    gaps: pd.DataFrame
    recall: pd.DataFrame
    tail: pd.DataFrame
    size: pd.DataFrame
    failures: pd.DataFrame
    seed_gaps: pd.DataFrame
    notes: tuple[str, ...] = field(default=())  # "E is not available: class X has n images", dataset notes, warnings
    provenance: dict[str, Any] = field(default_factory=dict)
    """``spec`` (the study file's text), ``environment`` (dict), ``data`` (dict of hashes), ``result_hash``,
    ``code_version``, ``steps`` (count), ``compute_seconds``."""
    latency: pd.DataFrame = field(default_factory=pd.DataFrame)
    pareto: pd.DataFrame = field(default_factory=pd.DataFrame)
    repairs: tuple[RepairAnalysis, ...] = ()  # one a (dataset, setting) with a repaired model and a plain one

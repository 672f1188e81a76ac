"""An audit as a study of one setting: the same tidy table, so that the same analysis and the same page read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tailkeep import frame
from tailkeep.analysis.pair_counts import PairCounts
from tailkeep.analysis.pair_scores import ScoreFigures
from tailkeep.analysis.result import StudyAnalysis
from tailkeep.analysis.study import analyse

SETTING = "as given"
_FACTS = ("dataset", "setting", "twin", "model", "method", "seed")


def rows(
    name: str, baseline: str, candidate: str, seed: int, counts: PairCounts, classes: Sequence[str],
    train_counts: NDArray[np.int64] | None, scores: tuple[ScoreFigures, ScoreFigures],
) -> pd.DataFrame:  # fmt: skip
    """Return the frame's rows of one pair: the baseline as the dense model, the candidate as a technique.

    Training counts that are not known are 0 for every class: a setting that is not imbalanced, without groups.
    """
    known = np.zeros(len(classes), dtype=np.int64) if train_counts is None else train_counts
    cell = {"dataset": name, "setting": SETTING, "twin": "imbalanced", "model": baseline, "seed": seed, "split": "test"}
    per_class = {"class_index": np.arange(len(classes)), "class_name": list(classes), "train_count": known}
    n11, n10, n01, n00 = counts.joint.T
    n, none = counts.n, np.zeros_like(counts.n)

    def alone(tp: NDArray[np.int64]) -> dict[str, Any]:
        return {"n11": tp, "n10": none, "n01": none, "n00": n - tp, "changed": none}

    parts = []
    for method, role, own, figures in (
        (baseline, "dense", counts.baseline, scores[0]),
        (candidate, "technique", counts.candidate, scores[1]),
    ):
        loss = np.where(n > 0, figures.mean_loss * n, np.where(np.isnan(figures.mean_loss).all(), np.nan, 0.0))
        made = {**cell, "method": method, "role": role, **per_class, **own._asdict(), "loss_sum": loss}
        parts.append({**made, "reference": "self", **alone(own.tp)})
        if role == "technique":
            joint = {"n11": n11, "n10": n10, "n01": n01, "n00": n00, "changed": counts.changed}
            parts.append({**made, "reference": "dense", **joint})
    return frame.build_columns(pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True))


def as_study(
    table: pd.DataFrame, name: str, cuts: tuple[int, int], provenance: Mapping[str, Any], notes: Sequence[str]
) -> StudyAnalysis:
    """Return the study's analysis of the frame of an audit: no twin was trained, so no excess gap is known."""
    sizes = pd.DataFrame({column: [] for column in (*_FACTS, "role", "weights", "macs", "packed_bytes")})
    failures = pd.DataFrame({column: [] for column in (*_FACTS, "reason", "detail")})
    return analyse(
        table, sizes, failures, name=name, cuts=cuts, planned_twins=(), provenance=provenance, notes=notes, split="test"
    )

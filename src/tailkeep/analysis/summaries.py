"""One number for a whole pair, several times over: accuracy and its kin, tail share, slope, risk gap, churn."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tailkeep.analysis import rates
from tailkeep.analysis.bootstrap import Draws, percentile_interval
from tailkeep.analysis.pair_counts import PairCounts
from tailkeep.analysis.pair_scores import ScoreFigures
from tailkeep.analysis.slices import FrequencyGroups
from tailkeep.evaluation import metrics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SUMMARY_COLUMNS = ["metric", "baseline", "candidate", "change", "low", "high", "warning"]
UNITS = {
    **dict.fromkeys(("accuracy", "balanced_accuracy", "worst_class_recall", "g_mean", "macro_f1"), "pp"),
    **dict.fromkeys(("average_precision", "tail_share", "ece", "churn"), "pp"),
    "recall_slope": "",
    "excess_risk_gap": "nats",
}
"""The unit of each metric: percentage points (0..100), none, or nats."""
FEWEST_DISCORDANT = 10
FEWEST_WRONG = 8
RELIABLE = 0.95
"""Share of the variance of the baseline's recalls that must be of the classes, not of the images drawn: with less, the
slope is pulled to 0 and its interval covers less than it says (91 % at 0.84, simulated)."""


def summary_table(
    counts: PairCounts,
    draws: Draws | None,
    frequency: FrequencyGroups,
    scores: tuple[ScoreFigures, ScoreFigures],
    level: float = 0.95,
) -> pd.DataFrame:
    """Return a row per metric, in the units of ``UNITS``, with what warns of its interval.

    ``change`` is the candidate's value minus the baseline's; tail share (mean recall loss of the rarest group minus
    that of the most frequent), slope of the normalised recalls (Good et al. 2022), excess risk gap (largest difference
    between two classes in the change of mean loss; Tran et al. 2022) and churn (share of images that got another
    answer) compare the two by themselves and stand under ``change`` alone. Intervals are the bootstrap's, churn's is
    Wilson's; macro-F1, average precision, calibration and risk gap have none: the counts that are drawn do not give
    them. ``draws`` None: no bootstrap intervals at all.
    """
    joint = counts.joint
    recalls = [
        metrics.rate_of_counts(right, counts.n) for right in (joint[:, 0] + joint[:, 1], joint[:, 0] + joint[:, 2])
    ]
    pairs = {
        "accuracy": _accuracies(counts),
        "balanced_accuracy": [metrics.mean_of_recalls(recall) for recall in recalls],
        "worst_class_recall": [metrics.worst_of_recalls(recall)[1] for recall in recalls],
        "g_mean": [metrics.g_mean_of_recalls(recall) for recall in recalls],
        "macro_f1": [_macro_f1(own) for own in (counts.baseline, counts.candidate)],
        "average_precision": [metrics.mean_of_recalls(one.average_precision) for one in scores],
        "ece": [one.ece_overall for one in scores],
    }
    alone = {
        "tail_share": _tail_share(recalls[0] - recalls[1], frequency),
        "recall_slope": metrics.recall_slope(recalls[1], recalls[0]),
        "excess_risk_gap": _risk_gap(scores[1].mean_loss - scores[0].mean_loss),
        "churn": counts.rows_changed / counts.rows,
    }
    warnings = _warnings(counts, recalls, frequency)
    rows = []
    for metric, unit in UNITS.items():
        scale = 100 if unit == "pp" else 1
        before, after = pairs.get(metric, (math.nan, math.nan))
        change = after - before if metric in pairs else alone[metric]
        low, high = _interval(metric, counts, draws, level)
        figures = [scale * value for value in (before, after, change, low, high)]
        rows.append([metric, *figures, warnings.get(metric, "") if not math.isnan(low) else ""])
    table = pd.DataFrame(rows, columns=SUMMARY_COLUMNS)
    if all(np.isnan(one.average_precision).all() for one in scores):
        table = table[table["metric"] != "average_precision"].reset_index(drop=True)
    return table


def _accuracies(counts: PairCounts) -> list[float]:
    n11, n10, n01, _ = counts.rows_right.tolist()
    return [(n11 + n10) / counts.rows, (n11 + n01) / counts.rows]


def _macro_f1(own: metrics.Confusion) -> float:
    return float(metrics.f1_of_counts(own.tp, own.fp, own.fn).mean())


def _tail_share(loss: Floats, frequency: FrequencyGroups) -> float:
    if frequency.tail is None:
        return math.nan
    many, few = (metrics.mean_of_recalls(loss[indices]) for indices in frequency.tail)
    return few - many


def _risk_gap(change: Floats) -> float:
    known = change[~np.isnan(change)]
    return float(known.max() - known.min()) if known.size else math.nan


def _interval(metric: str, counts: PairCounts, draws: Draws | None, level: float) -> tuple[float, float]:
    if metric == "churn":
        low, high = rates.wilson(counts.rows_changed, counts.rows, level)
        return float(low), float(high)
    values: Floats | None = getattr(draws, metric, None)
    return (math.nan, math.nan) if values is None else percentile_interval(values, level)


def _warnings(counts: PairCounts, recalls: list[Floats], frequency: FrequencyGroups) -> dict[str, str]:
    """Return what to say of each metric's interval: the images that it rests on are too few."""
    joint = counts.joint
    everything = reliability_warning(joint)
    worst = [metrics.worst_of_recalls(recall)[0] for recall in recalls]
    known = ~np.isnan(recalls[0])
    slope = [everything] if everything else []
    noise = metrics.mean_of_recalls(recalls[0] * (1 - recalls[0]) / np.where(known, joint.sum(axis=1), np.nan))
    spread = float(np.var(recalls[0][known])) if known.any() else 0.0
    if noise > (1 - RELIABLE) * spread:
        slope.append("the classes' recalls differ little for their number of images: the slope is pulled to 0")
    return {
        "accuracy": reliability_warning(counts.rows_right[None]),
        **dict.fromkeys(("balanced_accuracy", "g_mean"), everything),
        "recall_slope": "; ".join(slope),
        "worst_class_recall": reliability_warning(joint[np.unique([index for index in worst if index >= 0])]),
        "tail_share": "" if frequency.tail is None else reliability_warning(joint[np.concatenate(frequency.tail)]),
    }


def reliability_warning(joint: Ints) -> str:
    """Return what to print beside a bootstrap interval that rests on these joint counts (units, 4); "" for enough.

    Percentile intervals fall short under 10 discordant images in all, or n (1 - p) < 8 images wrong.
    """
    _, n10, n01, n00 = joint.sum(axis=0).tolist()
    said = []
    if n10 + n01 < FEWEST_DISCORDANT:
        said.append(f"rests on {n10 + n01} images that only one model has right, fewer than {FEWEST_DISCORDANT}")
    wrong = min(n10 + n00, n01 + n00)
    if wrong < FEWEST_WRONG:
        said.append(f"rests on {wrong} images wrong, fewer than {FEWEST_WRONG}")
    return f"the interval may be too short: {' and '.join(said)}" if said else ""

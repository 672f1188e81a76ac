"""The evidence within one pair of models on one test set: who pays, how sure, and one number for the whole.

Recalls, their changes, calibration errors and churn are in percentage points (0..100) in every table. All of it is
conditional on this test set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tailkeep.analysis import rates, statistics
from tailkeep.analysis.bootstrap import RESAMPLES, Draws, bootstrap
from tailkeep.analysis.bootstrap_rows import bootstrap_rows
from tailkeep.analysis.negatives import COLUMNS as NEGATIVE_COLUMNS
from tailkeep.analysis.negatives import negative_table
from tailkeep.analysis.pair_counts import Answers, PairCounts, count_pair
from tailkeep.analysis.pair_scores import ScoreFigures, figures_of_scores
from tailkeep.analysis.slices import FrequencyGroups, frequency_groups, group_table, joint_figures
from tailkeep.analysis.summaries import summary_table
from tailkeep.errors import BadInput
from tailkeep.evaluation.calibration import BINS

CLASS_COLUMNS = [
    *("class_index", "class_name", "group", "train_count", "n", "recall_baseline", "recall", "recall_low"),
    *("recall_high", "change", "change_low", "change_high", "n11", "n10", "n01", "n00", "changed", "p_mcnemar"),
    *("p_adjusted", "worst_bound", "ece_baseline", "ece", "ece_change"),
]
PRECISION_COLUMNS = ["average_precision_baseline", "average_precision"]
FEW_FLIPS = 10
"""Discordant images of a class under which its interval's coverage dips below 93 % (``benchmarks/gate.py``)."""
SEED_COLUMNS = ["class_name", "change", "change_low", "change_high", "seeds"]


@dataclass(frozen=True, eq=False)
class PairTables:
    """The tables of one candidate against its baseline, and what they come from.

    ``scores`` are the baseline's and the candidate's figures; ``notes`` say what is not known and why.
    """

    classes: pd.DataFrame
    groups: pd.DataFrame
    summary: pd.DataFrame
    counts: PairCounts
    frequency: FrequencyGroups
    scores: tuple[ScoreFigures, ScoreFigures]
    notes: tuple[str, ...]


def pair_tables(
    baseline: Answers,
    candidate: Answers,
    *,
    train_counts: Sequence[int] | NDArray[np.int64] | None = None,
    cuts: tuple[int, int] = (20, 100),
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    bins: int = BINS,
    baseline_scores: ScoreFigures | None = None,
) -> PairTables:
    """Return the tables of two models' answers, whose rows are the same images in the same order.

    ``train_counts`` are the training images of each class (C,), ``cuts`` the cut points of few and many in training
    images, ``level`` that of every interval, ``seed`` that of the bootstrap. ``baseline_scores`` spares working out a
    baseline's figures again for each candidate. Raises BadInput where an option has no meaning, ValueError where the
    two do not belong together.
    """
    classes = len(baseline.class_names)
    if not 0 < level < 1:
        raise BadInput(f"level {level}: expected a share between 0 and 1, such as 0.95")
    if resamples < 1:
        raise BadInput(f"resamples {resamples}: expected 1 or more")
    if train_counts is not None and len(train_counts) != classes:
        raise BadInput(f"training counts: {len(train_counts)} numbers for {classes} classes")
    counts = count_pair(baseline, candidate)
    frequency = frequency_groups(train_counts, cuts)
    scores = (baseline_scores or figures_of_scores(baseline, bins), figures_of_scores(candidate, bins))
    tail = _present_tail(counts, frequency)
    draws: Draws | None
    if baseline.task == "multilabel":
        draws = bootstrap_rows(baseline.labels, baseline.predicted, candidate.predicted, resamples, seed, tail)
    else:
        draws = bootstrap(counts.joint, resamples, seed, tail)
    return PairTables(
        classes=class_table(
            counts, frequency, scores, baseline.class_names, train_counts, level, baseline.task == "multilabel"
        ),
        groups=group_table(counts, frequency, baseline, candidate, level),
        summary=summary_table(counts, draws, frequency, scores, level),
        counts=counts,
        frequency=frequency,
        scores=scores,
        notes=_notes(counts, frequency, (baseline, candidate), draws),
    )


def class_table(
    counts: PairCounts,
    frequency: FrequencyGroups,
    scores: tuple[ScoreFigures, ScoreFigures],
    class_names: Sequence[str],
    train_counts: Sequence[int] | NDArray[np.int64] | None = None,
    level: float = 0.95,
    negatives: bool = False,
) -> pd.DataFrame:
    """Return a row per class with ``CLASS_COLUMNS`` (multi-label: ``PRECISION_COLUMNS`` too).

    ``negatives`` adds the columns of ``negatives.negative_table``.

    The recall's interval is Wilson's, the change's Tango's, p is McNemar's exact one and Holm's over the classes with
    images. ``worst_bound`` is a lower bound of the recall that holds for all classes together: the class where it is
    lowest is the worst one that can be shown. NaN where a class has no images, or there are no scores.
    """
    joint = counts.joint
    right = joint[:, 0] + joint[:, 2]
    low, high = rates.wilson(right, counts.n, level)
    classes = len(joint)
    before, after = scores
    columns = {
        "class_index": np.arange(classes),
        "class_name": list(class_names),
        "group": list(frequency.members) or [""] * classes,
        "train_count": np.full(classes, np.nan) if train_counts is None else np.asarray(train_counts),
        **joint_figures(joint, level),
        "recall_low": 100 * low,
        "recall_high": 100 * high,
        "changed": counts.changed,
        "worst_bound": 100 * rates.simultaneous_lower_bounds(right, counts.n, level),
        "ece_baseline": 100 * before.ece,
        "ece": 100 * after.ece,
        "ece_change": 100 * (after.ece - before.ece),
        "average_precision_baseline": 100 * before.average_precision,
        "average_precision": 100 * after.average_precision,
    }
    shown = CLASS_COLUMNS
    if not all(np.isnan(one.average_precision).all() for one in scores):
        shown = [*CLASS_COLUMNS, *PRECISION_COLUMNS]
    table = pd.DataFrame(columns)[shown]
    return pd.concat([table, negative_table(counts)[NEGATIVE_COLUMNS]], axis=1) if negatives else table


def seed_table(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the mean recall change of each class over seed pairs, with its t interval, in percentage points.

    ``tables`` are the class tables of the same two methods trained with different seeds, one a pair. ``seeds`` counts
    the pairs in which the class has images; with one, there is no interval.
    """
    names = list(tables[0]["class_name"])
    if any(list(table["class_name"]) != names for table in tables):
        raise ValueError("the seeds have different classes")
    changes = np.stack([table["change"].to_numpy(dtype=np.float64) for table in tables], axis=1)
    rows = []
    for name, values in zip(names, changes, strict=True):
        known = values[~np.isnan(values)]
        mean, _ = statistics.mean_and_spread(known)
        rows.append([name, mean, *statistics.t_interval(known), len(known)])
    return pd.DataFrame(rows, columns=SEED_COLUMNS)


def worst_class(classes: pd.DataFrame) -> str | None:
    """Return the name of the class whose simultaneous lower bound is the lowest, the first of equals; None without."""
    bounds = classes["worst_bound"].to_numpy(dtype=np.float64)
    return None if np.isnan(bounds).all() else str(classes["class_name"].iloc[int(np.nanargmin(bounds))])


def _present_tail(counts: PairCounts, frequency: FrequencyGroups) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return the classes of either end that have images; None where an end has none."""
    if frequency.tail is None:
        return None
    many, few = (indices[counts.n[indices] > 0] for indices in frequency.tail)
    return (many, few) if len(many) and len(few) else None


def _notes(
    counts: PairCounts, frequency: FrequencyGroups, answers: tuple[Answers, Answers], draws: Draws | None
) -> tuple[str, ...]:
    notes = []
    if not frequency.members:
        notes.append(f"{frequency.rule}; so there is no tail share")
    empty = [name for name, n in zip(answers[0].class_names, counts.n.tolist(), strict=True) if n == 0]
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        notes.append(f"classes without test images, of which nothing is said: {', '.join(empty[:5])}{more}")
    flipped = counts.joint[:, 1] + counts.joint[:, 2]
    few = int(((flipped > 0) & (flipped < FEW_FLIPS)).sum())
    if few:
        notes.append(
            f"{few} of {len(flipped)} classes have 1 to {FEW_FLIPS - 1} images that only one model has right: Tango's "
            "intervals of so few cover as little as 92.6 % where 95 % is said (the gate's p values are exact)"
        )
    without = [who for who, one in zip(("baseline", "candidate"), answers, strict=True) if one.scores is None]
    if without:
        notes.append(f"no calibration and no excess risk gap: the {' and the '.join(without)} came without scores")
    if answers[0].task == "multilabel":
        notes.append(
            "multi-label: a class's images are its positive rows; accuracy counts the rows that are right whole"
        )
    if draws is None:
        notes.append("no bootstrap intervals: the test set has too many different rows of labels and answers")
    return tuple(notes)

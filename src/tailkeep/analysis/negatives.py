"""What happens to the rows that are not of a class: its precision, and the false positives that recall does not see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tailkeep.analysis import rates, statistics
from tailkeep.analysis.pair_counts import PairCounts

COLUMNS = [
    *("precision_baseline", "precision", "negatives", "false_positives_baseline", "false_positives"),
    "p_false_positives",
]
NAMED = 3
LONGEST_NAME = 60


def negative_table(counts: PairCounts) -> pd.DataFrame:
    """Return a row a class with ``COLUMNS``: precision in percent (NaN where nothing is given the class), counts, and
    the p value of "the false-positive rate is the same", exact McNemar over the negatives, Holm over the classes that
    have some."""
    negatives = counts.negatives
    n = negatives.sum(axis=1)
    adjusted = np.ones(len(n))
    p = rates.mcnemar_p(negatives[:, 1], negatives[:, 2])
    adjusted[n > 0] = statistics.holm(p[n > 0].tolist())

    def precision(tp: np.ndarray, fp: np.ndarray) -> np.ndarray:
        return 100 * tp / np.where(tp + fp > 0, tp + fp, np.nan)

    return pd.DataFrame(
        {
            "precision_baseline": precision(counts.baseline.tp, counts.baseline.fp),
            "precision": precision(counts.candidate.tp, counts.candidate.fp),
            "negatives": n,
            "false_positives_baseline": counts.baseline.fp,
            "false_positives": counts.candidate.fp,
            "p_false_positives": adjusted,
        }
    )


def false_positive_warning(
    counts: PairCounts, class_names: Sequence[str], multilabel: bool, limit: float, alpha: float
) -> str | None:
    """Return a sentence on the classes that the candidate gives too often, None where there are none.

    Multi-label: more false positives than the baseline's, and either a rise that is shown at ``alpha`` or a precision
    that falls by more than ``limit`` (percentage points). Where a row has one class, a false positive of one class is a
    loss of another, so both are asked.
    """
    table = negative_table(counts)
    rises = table["false_positives"] > table["false_positives_baseline"]
    shown = table["p_false_positives"] <= alpha
    fall = table["precision_baseline"] - table["precision"]
    falls = fall > limit
    wanted = rises & ((shown | falls) if multilabel else (shown & falls))
    if not wanted.any():
        return None
    order = fall[wanted].fillna(0).sort_values(ascending=False, kind="stable").index.tolist()
    parts = [_words(class_names[index], table.iloc[index], bool(shown[index])) for index in order[:NAMED]]
    more = f"; and {len(order) - NAMED} more" if len(order) > NAMED else ""
    return f"more false positives, which a class's own recall does not see: {'; '.join(parts)}{more}"


def _words(name: str, row: pd.Series, shown: bool) -> str:
    name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
    before, after = (f"{row[key]:.1f}" for key in ("precision_baseline", "precision"))
    if before != "nan":
        precision = f"precision {before} to {after} %"
    else:
        precision = f"precision {after} % (before, nothing was given this class)"
    counts = f"false positives {row['false_positives_baseline']:,.0f} to {row['false_positives']:,.0f}"
    return (
        f'class "{name}": {precision}, {counts} of {row["negatives"]:,.0f} negatives '
        f"({'shown' if shown else 'not shown'} to rise)"
    )

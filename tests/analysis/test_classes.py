from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from tailkeep.analysis import statistics
from tailkeep.errors import BadInput
from tailkeep.evaluation import metrics


def test_accuracy_table_by_hand(rows_of, analysed) -> None:
    rows = rows_of([90, 60, 50], seed=0) + rows_of([90, 40, 80], seed=1) + rows_of([90, 30, 80], seed=2)
    row = analysed(rows, twins=()).accuracy.iloc[0]
    assert row["seeds"] == 3
    assert row["accuracy"] == pytest.approx(np.mean([200 / 3, 70, 200 / 3]))
    assert row["accuracy_sd"] == pytest.approx(np.std([200 / 3, 70, 200 / 3], ddof=1))
    assert row["macro_recall"] == pytest.approx(row["accuracy"])
    assert row["worst_recall"] == pytest.approx((50 + 40 + 30) / 3)
    assert row["worst_class"] == "class1"
    assert row["g_mean"] == pytest.approx(
        100 * np.mean([(0.9 * 0.6 * 0.5) ** (1 / 3), (0.9 * 0.4 * 0.8) ** (1 / 3), (0.9 * 0.3 * 0.8) ** (1 / 3)])
    )


def test_macro_f1_comes_from_the_counts(rows_of, analysed) -> None:
    rows = rows_of([90, 60, 50])
    counts = [(r["tp"], r["fp"], r["fn"]) for r in rows]
    expected = np.mean(metrics.f1_of_counts(*zip(*counts, strict=True)))
    assert analysed(rows, twins=()).accuracy.iloc[0]["macro_f1"] == pytest.approx(100 * expected)


def test_recall_has_a_wilson_interval_for_one_seed(rows_of, analysed) -> None:
    recall = analysed(rows_of([100, 31], counts=[9, 5]), twins=()).recall
    for row, tp in zip(recall.itertuples(), (100, 31), strict=True):
        low, high = statistics.wilson(tp, 100)
        assert (row.recall_low, row.recall_high) == pytest.approx((100 * low, 100 * high))
        assert math.isnan(row.change)


def test_recall_has_a_t_interval_over_seeds_within_its_ends(rows_of, analysed) -> None:
    rows = rows_of([99, 30], seed=0) + rows_of([95, 40], seed=1)
    recall = analysed(rows, twins=()).recall
    low, high = statistics.t_interval([30.0, 40.0])
    assert high < 100
    assert recall.iloc[1]["recall_high"] == pytest.approx(high)
    assert recall.iloc[1]["recall_low"] == pytest.approx(max(0.0, low))
    assert recall.iloc[0]["recall_high"] == 100.0


def test_recall_rows_are_in_order_of_frequency(rows_of, analysed) -> None:
    recall = analysed(rows_of([10, 20, 30], counts=[5, 500, 50]), twins=()).recall
    assert recall["class_name"].tolist() == ["class1", "class2", "class0"]
    assert recall["recall"].tolist() == pytest.approx([20.0, 30.0, 10.0])
    assert recall["train_count"].tolist() == [500, 50, 5]


def test_a_twins_recall_rows_take_the_ranks_of_the_imbalanced_cell(rows_of, analysed) -> None:
    rows = rows_of([10, 20, 30], counts=[5, 500, 50]) + rows_of([40, 50, 60], counts=[500] * 3, twin="full")
    recall = analysed(rows).recall
    twin = recall[recall["twin"] == "full"]
    assert twin["class_name"].tolist() == ["class1", "class2", "class0"]
    assert twin["train_count"].tolist() == [500] * 3


def test_size_stands_beside_accuracy(technique, analysed) -> None:
    columns = ["dataset", "setting", "twin", "model", "method", "role", "seed", "weights", "macs", "packed_bytes"]
    arm = ("toy", "exponential-100", "imbalanced", "resnet20")
    sizes = pd.DataFrame(
        [
            (*arm, "dense", "dense", 0, 270896, 40813184, 1083584),
            (*arm, "dense", "dense", 1, 270896, 40813184, 1083584),
            (*arm, "pruned", "technique", 0, 137264, 20759168, 549056),
            (*arm, "ghost", "technique", 0, 1, 1, 1.5),
        ],
        columns=columns,
    )
    size = analysed(technique({0: 20, 1: 20}), sizes=sizes).size
    assert size["weights"].tolist() == [270896, 137264, 1]
    assert str(size["weights"].dtype) == "int64"
    assert size["accuracy"].tolist()[:2] == pytest.approx([75.0, 73.0])
    assert size["worst_recall"].tolist()[:2] == pytest.approx([60.0, 58.0])
    assert math.isnan(size["accuracy"].tolist()[2])
    with pytest.raises(BadInput, match="columns are missing: macs"):
        analysed(technique({0: 20}), sizes=sizes.drop(columns="macs"))

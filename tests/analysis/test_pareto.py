from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tailkeep.analysis.pareto import PARETO_COLUMNS, on_frontier

ARM = ("toy", "exponential-100", "imbalanced", "resnet20")
SIZES = ["dataset", "setting", "twin", "model", "method", "role", "seed", "weights", "macs", "packed_bytes"]


def naive(cost: list[float], value: list[float]) -> list[bool]:
    """By the definition: nobody has at least the value at no more cost, with one of them better."""
    points = list(zip(cost, value, strict=True))
    return [not any(c <= cost_i and v >= value_i and (c, v) != (cost_i, value_i) for c, v in points)
            for cost_i, value_i in points]  # fmt: skip


def sizes(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame([(*ARM, *row) for row in rows], columns=SIZES)


def times(*rows: tuple) -> pd.DataFrame:
    columns = ["dataset", "setting", "twin", "model", "method", "role", "batch", "median_ms", "ratio"]
    frame = pd.DataFrame([(*ARM, *row) for row in rows], columns=columns)
    both = dict.fromkeys(("low_ms", "high_ms"), frame["median_ms"])
    both |= dict.fromkeys(("ratio_low", "ratio_high"), frame["ratio"])
    return frame.assign(**both, threads=1, bits_note="")


@pytest.mark.parametrize("many", [1, 2, 3, 10, 60])
def test_the_frontier_is_that_of_its_definition(many: int, rng: np.random.Generator) -> None:
    for high in (2, 5, 100):  # few values make many ties
        for _ in range(20):
            cost, value = rng.integers(0, high, many).tolist(), rng.integers(0, high, many).tolist()
            assert on_frontier(cost, value).tolist() == naive(cost, value)


def test_equals_stand_together_and_nothing_has_no_frontier() -> None:
    assert on_frontier([1, 1, 2], [5, 5, 5]).tolist() == [True, True, False]
    assert on_frontier([], []).tolist() == []


def test_a_last_bit_beats_nobody() -> None:
    assert on_frontier([1.0, 2.0], [0.1 + 0.2, 0.3]).tolist() == [True, False]
    assert on_frontier([2.0, 1.0], [0.1 + 0.2, 0.3]).tolist() == [False, True]


def test_an_unknown_figure_is_refused() -> None:
    with pytest.raises(ValueError, match="without NaN"):
        on_frontier([1.0, np.nan], [1.0, 2.0])
    with pytest.raises(ValueError, match="one length"):
        on_frontier([1.0], [1.0, 2.0])


def test_the_table_takes_the_mean_of_each_seeds_lowest_recall_and_names_the_classes(rows_of, analysed) -> None:
    rows = rows_of([90, 60, 50], seed=0) + rows_of([90, 40, 80], seed=1) + rows_of([90, 30, 80], seed=2)
    table = analysed(rows, twins=(), sizes=sizes(("dense", "dense", 0, 10, 20, 40))).pareto
    assert table["axis"].tolist() == ["packed_bytes", "macs"]
    assert table["cost"].tolist() == [40, 20]
    row = table.iloc[0]
    assert row["worst_recall"] == pytest.approx((50 + 40 + 30) / 3)
    assert row["worst_class"] == "class1 / class2"
    assert (row["seeds"], bool(row["on_frontier"])) == (3, True)


def test_each_cost_has_its_frontier(rows_of, analysed) -> None:
    rows = []
    for method, role, worst in (("dense", "dense", 60), ("small", "technique", 50), ("slow", "technique", 40)):
        rows += rows_of([90, worst], method=method, role=role)
        rows += rows_of([90, 90], method=method, role=role, twin="full", counts=[500, 500])
    given = sizes(
        ("dense", "dense", 0, 10, 20, 40), ("small", "technique", 0, 10, 20, 10), ("slow", "technique", 0, 10, 5, 10)
    )
    latency = times(
        ("dense", "dense", 1, 2.0, 1.0),
        ("dense", "dense", 64, 9.0, 1.0),
        ("small", "technique", 1, 1.0, 0.5),
        ("slow", "technique", 64, 8.0, 0.9),
    )
    table = analysed(rows, sizes=given, latency=latency).pareto
    assert list(table.columns) == PARETO_COLUMNS
    assert set(table["twin"]) == {"imbalanced"}
    on = {
        (axis, batch): sorted(part.loc[part["on_frontier"], "method"])
        for (axis, batch), part in table.groupby(["axis", "batch"])
    }
    assert on == {
        ("packed_bytes", 0): ["dense", "small"],
        ("macs", 0): ["dense", "slow"],
        ("latency", 1): ["dense", "small"],
        ("latency", 64): ["dense", "slow"],
    }
    # Who has no number stands on no frontier, and in no row.
    assert sorted(table.loc[table["axis"] == "latency", "method"]) == ["dense", "dense", "slow", "small"]


def test_without_sizes_there_is_no_frontier(technique, analysed) -> None:
    table = analysed(technique({0: 10, 1: 20})).pareto
    assert table.empty
    assert list(table.columns) == PARETO_COLUMNS

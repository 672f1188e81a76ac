from __future__ import annotations

import math

import pytest

from tailkeep.evaluation import metrics

COUNTS = [1000, 500, 100, 50, 40, 30]  # no class below 20 images, so thirds: classes 0-1, 2-3, 4-5
DENSE = [90, 88, 80, 76, 60, 50]
PRUNED = [89, 87, 78, 72, 54, 40]


def only(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, table
    return table.iloc[0]


def pair(rows_of, dense=None, pruned=None, **cell):
    dense, pruned = dense or DENSE, pruned or PRUNED
    given = {"counts": COUNTS, **cell}
    rows = rows_of(dense, {"other_seed": [tp + 2 for tp in dense]}, **given)
    return rows + rows_of(pruned, {"dense": dense}, method="pruned", role="technique", **given)


def test_tail_figures_by_hand(rows_of, analysed) -> None:
    study = analysed(pair(rows_of), twins=())
    row = only(study.tail, method="pruned")
    changes = (row["recall_change_many"], row["recall_change_medium"], row["recall_change_few"])
    assert changes == pytest.approx((-1.0, -3.0, -8.0))
    assert row["tail_share"] == pytest.approx(8.0 - 1.0)
    assert row["churn"] == pytest.approx((1 + 1 + 2 + 4 + 6 + 10) / 600)
    assert row["churn_floor"] == pytest.approx(0.02)
    assert row["slope"] == pytest.approx(metrics.recall_slope([v / 100 for v in PRUNED], [v / 100 for v in DENSE]))
    assert row["slope"] > 1


def test_excess_risk_gap_by_hand(rows_of, analysed) -> None:
    dense = rows_of(DENSE, counts=COUNTS, loss_sum=[10.0, 20.0, 30.0, 40.0, 50.0, 60.0])
    losses = [10.0, 15.0, 30.0, 60.0, 100.0, 140.0]  # per image: 0, -0.05, 0, 0.2, 0.5, 0.8
    pruned = rows_of(PRUNED, {"dense": DENSE}, counts=COUNTS, loss_sum=losses, method="pruned", role="technique")
    row = only(analysed(dense + pruned, twins=()).tail, method="pruned")
    assert row["excess_risk_gap"] == pytest.approx(0.85)


def test_excess_risk_gap_needs_the_references_own_cell(rows_of, analysed) -> None:
    pruned = rows_of(PRUNED, {"dense": DENSE}, counts=COUNTS, method="pruned", role="technique")
    row = only(analysed(pruned, twins=()).tail, method="pruned")
    assert math.isnan(row["excess_risk_gap"])
    assert math.isnan(row["churn_floor"])
    # A dense cell with other counts is not the one that the technique was compared with.
    stranger = rows_of([tp - 1 for tp in DENSE], counts=COUNTS)
    assert math.isnan(only(analysed(stranger + pruned, twins=()).tail, method="pruned")["excess_risk_gap"])


def test_a_student_alone_is_found_as_a_control_or_as_another_familys_dense(rows_of, analysed) -> None:
    alone, student = [tp - 3 for tp in DENSE], [tp - 2 for tp in DENSE]
    teacher = rows_of(DENSE, counts=COUNTS)
    kd = rows_of(
        student, {"teacher": DENSE, "student_alone": alone}, counts=COUNTS, method="distilled", role="technique"
    )
    control = rows_of(alone, counts=COUNTS, method="student alone (distilled)", role="control")
    shared = rows_of(alone, counts=COUNTS, model="resnet8")
    for extra in (control, shared):
        study = analysed(teacher + kd + extra, twins=())
        row = only(study.tail, method="distilled", reference="student_alone")
        assert row["excess_risk_gap"] == pytest.approx(0.0)
        assert row["recall_change_few"] == pytest.approx(1.0)


def test_the_twin_is_grouped_like_its_imbalanced_cell(rows_of, analysed) -> None:
    even = {"twin": "full", "counts": [1000] * 6}
    study = analysed(pair(rows_of) + pair(rows_of, dense=[90] * 6, pruned=[90, 90, 90, 90, 86, 86], **even))
    row = only(study.tail, method="pruned", twin="full")
    assert row["tail_share"] == pytest.approx(4.0)
    assert row["recall_change_few"] == pytest.approx(-4.0)
    assert math.isnan(row["slope"])  # the dense twin's recalls do not differ


def test_two_groups_leave_the_middle_out(rows_of, analysed) -> None:
    study = analysed(pair(rows_of, counts=[500] * 3 + [5] * 3), twins=())
    row = only(study.tail, method="pruned")
    assert study.group_names == ("majority", "minority")
    assert math.isnan(row["recall_change_medium"])
    assert row["recall_change_many"] == pytest.approx(-4 / 3)
    assert row["tail_share"] == pytest.approx(20 / 3 - 4 / 3)


def test_a_rotated_order_is_averaged_by_rank(rows_of, analysed) -> None:
    rotated = {"seed": 1, "counts": COUNTS[::-1]}
    rows = pair(rows_of) + pair(rows_of, dense=DENSE[::-1], pruned=PRUNED[::-1], **rotated)
    study = analysed(rows, twins=())
    row = only(study.tail, method="pruned")
    assert row["seeds"] == 2
    assert row["tail_share"] == pytest.approx(7.0)
    assert row["tail_share_low"] == pytest.approx(7.0)
    recall = study.recall[study.recall["method"] == "pruned"]
    assert recall["rank"].tolist() == list(range(6))
    assert recall["recall"].tolist() == pytest.approx(PRUNED)
    assert recall["change"].tolist() == pytest.approx([p - d for p, d in zip(PRUNED, DENSE, strict=True)])
    assert recall["train_count"].tolist() == COUNTS
    assert recall["class_name"].tolist()[0] == "class0 / class5"
    assert recall["group"].tolist() == ["frequent"] * 2 + ["middle"] * 2 + ["rare"] * 2
    assert any("the class order differs between seeds" in note for note in study.notes)


def test_a_class_without_test_images_does_not_break_the_tail(rows_of, analysed) -> None:
    n = [100, 100, 100, 100, 100, 0]
    rows = pair(rows_of, dense=[*DENSE[:5], 0], pruned=[*PRUNED[:5], 0], n=n)
    rows = [{**r, "n00": r["n"] - r["n11"] - r["n10"] - r["n01"]} for r in rows if r["reference"] != "other_seed"]
    row = only(analysed(rows, twins=()).tail, method="pruned")
    assert row["recall_change_few"] == pytest.approx(-6.0)
    assert math.isnan(row["churn_floor"])

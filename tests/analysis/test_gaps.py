from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from scipy import stats

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_text())["gaps"]


def only(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, table
    return table.iloc[0]


def reference_rows(rows_of):
    """Two classes of 500 images whose total gives each accuracy of the reference to one decimal."""
    accuracy = REFERENCE["accuracy_pp"]
    rows = []
    for twin, name in (("imbalanced", "imbalanced"), ("full", "balanced")):
        counts = [100, 10] if twin == "imbalanced" else [100, 100]
        tp = {arm: [500 - 10, round(10 * accuracy[arm][name]) - 490] for arm in accuracy}
        rows += rows_of(tp["dense"], n=500, twin=twin, counts=counts)
        technique = {"method": "pruned", "role": "technique"}
        rows += rows_of(tp["pruned"], {"dense": tp["dense"]}, n=500, twin=twin, counts=counts, **technique)
    return rows


def test_gaps_equal_the_reference(rows_of, analysed) -> None:
    study = analysed(reference_rows(rows_of))
    pruned = only(study.gaps, method="pruned")
    assert pruned["drop"] == pytest.approx(REFERENCE["drop_imbalanced"])
    assert pruned["gap"] == pytest.approx(REFERENCE["imbalance_gap_pruned"])
    assert pruned["excess"] == pytest.approx(REFERENCE["excess_gap"])
    assert pruned["relative_gap"] == pytest.approx(REFERENCE["relative_imbalance_gap_pruned"])
    assert pruned["drop"] - pruned["excess"] == pytest.approx(REFERENCE["drop_balanced"])
    dense = only(study.gaps, method="dense")
    assert dense["gap"] == pytest.approx(REFERENCE["imbalance_gap_dense"])
    assert pruned["excess"] == pytest.approx(pruned["gap"] - dense["gap"])
    assert math.isnan(dense["drop"])
    assert math.isnan(dense["excess"])


def test_one_seed_has_no_interval(rows_of, analysed) -> None:
    row = only(analysed(reference_rows(rows_of)).gaps, method="pruned")
    assert row["seeds"] == 1
    assert math.isnan(row["excess_low"])


def test_seeds_are_averaged_with_a_t_interval(technique, analysed) -> None:
    study = analysed(technique({0: 10, 1: 20, 2: 60}))
    row = only(study.gaps, method="pruned")
    per_seed = study.seed_gaps[study.seed_gaps["method"] == "pruned"]
    assert per_seed["excess"].tolist() == pytest.approx([1.0, 2.0, 6.0])
    interval = stats.ttest_1samp([1.0, 2.0, 6.0], 0).confidence_interval(0.95)
    assert row["excess"] == pytest.approx(3.0)
    assert (row["excess_low"], row["excess_high"]) == pytest.approx((interval.low, interval.high))


def test_identity_compression_drops_nothing_anywhere(technique, analysed) -> None:
    study = analysed(technique({0: 0, 1: 0, 2: 0}, method="identity"))
    row = only(study.gaps, method="identity")
    assert [row[c] for c in ("drop", "drop_low", "drop_high", "excess", "excess_low", "excess_high")] == [0.0] * 6
    recall = study.recall[study.recall["method"] == "identity"]
    assert (recall[["change", "change_low", "change_high"]] == 0).all(axis=None)
    tail = study.tail[study.tail["method"] == "identity"]
    zero = ["tail_share", "excess_risk_gap", "churn", "recall_change_many", "recall_change_few"]
    assert (tail[zero] == 0).all(axis=None)
    assert tail["slope"].tolist() == pytest.approx([1.0, 1.0])


def test_both_twins_are_reported_apart(technique, analysed) -> None:
    rows = technique({0: 10, 1: 20}) + technique({0: 10, 1: 20}, twin="matched")
    study = analysed(rows, twins=("full", "matched"))
    assert study.primary_twin == "full"
    assert set(study.gaps[study.gaps["method"] == "pruned"]["twin"]) == {"full", "matched"}
    assert analysed(rows, twins=("matched",)).primary_twin == "matched"


def test_no_planned_twin_leaves_the_drop_alone(technique, analysed) -> None:
    study = analysed(technique({0: 10, 1: 20}), twins=())
    assert study.primary_twin == "none"
    row = only(study.gaps, method="pruned")
    assert (row["twin"], row["seeds"]) == ("none", 2)
    assert row["drop"] == pytest.approx(1.5)
    assert math.isnan(row["gap"])
    assert math.isnan(row["excess"])


def test_figures_of_a_row_come_from_the_same_seeds(technique, analysed) -> None:
    rows = [r for r in technique({0: 10, 1: 20, 2: 90}) if not (r["seed"] == 2 and r["twin"] == "full")]
    study = analysed(rows)
    row = only(study.gaps, method="pruned")
    assert row["seeds"] == 2
    assert row["drop"] == pytest.approx(1.5)
    assert row["excess"] == pytest.approx(1.5)
    third = only(study.seed_gaps, method="pruned", seed=2)
    assert third["drop"] == pytest.approx(9.0)
    assert math.isnan(third["excess"])
    assert (
        "pruned (resnet20, exponential-100): excess gap against the full twin from 2 of 3 seeds (missing: seed 2)."
        in (study.notes)
    )


def test_a_missing_twin_leaves_the_drop(technique, analysed) -> None:
    rows = [r for r in technique({0: 10, 1: 20}) if r["twin"] == "imbalanced"]
    study = analysed(rows)
    row = only(study.gaps, method="pruned")
    assert row["drop"] == pytest.approx(1.5)
    assert math.isnan(row["excess"])
    assert any("No full twin" in note for note in study.notes)


def test_an_unbalanced_test_set_uses_the_mean_recall(rows_of, analysed) -> None:
    n = [900, 100]
    rows = rows_of([810, 50], n=n) + rows_of([810, 40], {"dense": [810, 50]}, n=n, method="pruned", role="technique")
    study = analysed(rows, twins=())
    assert study.accuracy_is == "mean recall"
    assert only(study.accuracy, method="dense")["accuracy"] == pytest.approx(70.0)  # not 86
    assert only(study.gaps, method="pruned")["drop"] == pytest.approx(5.0)  # not 1
    assert any("not balanced" in note for note in study.notes)


def test_a_distilled_student_has_both_references(rows_of, analysed) -> None:
    rows = []
    for twin, counts in (("imbalanced", [100, 10]), ("full", [100, 100])):
        rows += rows_of([90, 70], twin=twin, counts=counts)
        student = {"method": "distilled", "role": "technique", "twin": twin, "counts": counts}
        lost = 10 if twin == "imbalanced" else 0
        rows += rows_of([90, 70 - lost], {"teacher": [90, 70], "student_alone": [90, 62 - lost]}, **student)
        alone = {"method": "student alone (distilled)", "role": "control", "twin": twin, "counts": counts}
        rows += rows_of([90, 62 - lost], **alone)
    study = analysed(rows)
    teacher = only(study.gaps, method="distilled", reference="teacher")
    alone = only(study.gaps, method="distilled", reference="student_alone")
    assert teacher["excess"] == pytest.approx(5.0)
    assert (alone["drop"], alone["excess"]) == (pytest.approx(-4.0), pytest.approx(0.0))
    control = only(study.gaps, method="student alone (distilled)")
    assert control["reference"] == "self"
    assert not math.isnan(control["gap"])
    assert [(v.method, v.reference) for v in study.verdicts] == [("distilled", "teacher")]

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from tailkeep.analysis import rates, statistics, tango
from tailkeep.analysis.pair_counts import count_pair
from tailkeep.analysis.pairs import CLASS_COLUMNS, PairTables, pair_tables, seed_table, worst_class
from tailkeep.analysis.slices import GROUP_COLUMNS, frequency_groups
from tailkeep.analysis.summaries import SUMMARY_COLUMNS, UNITS
from tailkeep.errors import BadInput
from tailkeep.evaluation import calibration, metrics, multilabel

NAMES = ("ant", "bee", "cow", "dog", "elk", "fox")
TRAIN = [500, 200, 90, 60, 15, 5]
EXACT = {"rtol": 0, "atol": 1e-10}  # of percentage points: 1e-12 of a share


@dataclass(frozen=True, eq=False)
class Given:
    labels: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray | None = None
    scores_are: str | None = None
    class_names: tuple[str, ...] = NAMES
    task: str = "multiclass"
    groups: dict[str, np.ndarray] = field(default_factory=dict)


def models(rows: int = 900, seed: int = 0) -> tuple[Given, Given]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, rows)
    before = (2 * rng.normal(size=(rows, 6)) + 3 * np.eye(6)[labels]).astype(np.float32)
    after = before + rng.normal(size=(rows, 6)).astype(np.float32) * [0.2, 0.2, 0.5, 0.5, 2, 3]
    groups = {"site": rng.choice(["north", "south"], rows), "sex": rng.choice(["f", "m", "?"], rows)}
    return (
        Given(labels, before.argmax(axis=1), before, "logits", groups=groups),
        Given(labels, after.argmax(axis=1), after, "logits", groups=groups),
    )


@pytest.fixture(scope="module")
def pair() -> tuple[Given, Given]:
    return models()


@pytest.fixture(scope="module")
def tables(pair) -> PairTables:
    return pair_tables(*pair, train_counts=TRAIN, resamples=1000)


def value(table: pd.DataFrame, metric: str, column: str) -> float:
    return float(table.set_index("metric").loc[metric, column])


def test_the_columns_are_the_declared_ones(tables) -> None:
    assert list(tables.classes.columns) == CLASS_COLUMNS
    assert list(tables.groups.columns) == GROUP_COLUMNS
    assert list(tables.summary.columns) == SUMMARY_COLUMNS
    assert list(tables.summary["metric"]) == [name for name in UNITS if name != "average_precision"]
    assert tables.classes["class_name"].tolist() == list(NAMES)
    assert tables.classes["train_count"].tolist() == TRAIN
    assert tables.notes == ()


def test_counts_equal_those_of_the_metrics(pair, tables) -> None:
    before, after = pair
    counts = count_pair(before, after)
    paired = metrics.paired_counts(before.labels, after.predicted, before.predicted, 6)
    assert np.array_equal(counts.joint, np.stack(paired[:4], axis=1))
    assert np.array_equal(counts.changed, paired.changed)
    for own, one in ((counts.baseline, before), (counts.candidate, after)):
        theirs = metrics.confusion_counts(one.labels, one.predicted, 6)
        assert all(np.array_equal(a, b) for a, b in zip(own, theirs, strict=True))
    assert np.array_equal(tables.classes[["n11", "n10", "n01", "n00"]].to_numpy(), counts.joint)


def test_recalls_equal_scikit_learns(pair, tables) -> None:
    for one, column in zip(pair, ("recall_baseline", "recall"), strict=True):
        theirs = 100 * reference.recall_score(one.labels, one.predicted, average=None)
        np.testing.assert_allclose(tables.classes[column], theirs, **EXACT)
        scores = {
            "accuracy": reference.accuracy_score(one.labels, one.predicted),
            "balanced_accuracy": reference.balanced_accuracy_score(one.labels, one.predicted),
            "macro_f1": reference.f1_score(one.labels, one.predicted, average="macro"),
            "worst_class_recall": theirs.min() / 100,
            "g_mean": np.prod(theirs / 100) ** (1 / 6),
        }
        for name, score in scores.items():
            shown = value(tables.summary, name, "baseline" if one is pair[0] else "candidate")
            assert shown == pytest.approx(100 * score, abs=1e-10)


def test_tests_and_intervals_of_a_class_equal_the_references(tables) -> None:
    table = tables.classes
    for row in table.itertuples():
        exact = mcnemar([[row.n11, row.n10], [row.n01, row.n00]], exact=True).pvalue
        assert row.p_mcnemar == pytest.approx(exact, abs=1e-12)
        assert row.p_mcnemar == pytest.approx(statistics.mcnemar_exact(row.n10, row.n01), rel=1e-13)
        wilson = proportion_confint(row.n11 + row.n01, row.n, method="wilson")
        assert (row.recall_low, row.recall_high) == pytest.approx([100 * bound for bound in wilson], abs=1e-10)
        bound = proportion_confint(row.n11 + row.n01, row.n, alpha=2 * 0.05 / 6, method="wilson")[0]
        assert row.worst_bound == pytest.approx(100 * bound, abs=1e-10)
        low, high = tango.interval(row.n10, row.n01, row.n)
        assert (row.change_low, row.change_high) == pytest.approx((-100 * high, -100 * low))
        assert row.change == pytest.approx(row.recall - row.recall_baseline)
        assert row.change_low < row.change < row.change_high
    adjusted = multipletests(table["p_mcnemar"], method="holm")[1]
    np.testing.assert_allclose(table["p_adjusted"], adjusted, rtol=0, atol=1e-12)
    assert worst_class(table) == table["class_name"][table["worst_bound"].argmin()]


def test_calibration_and_risk_come_from_the_scores(pair, tables) -> None:
    before, after = pair
    sure = calibration.probability_of(after.scores, after.predicted)
    right = after.predicted == after.labels
    expected = calibration.class_calibration_error(sure, right, after.labels, 6)
    np.testing.assert_allclose(tables.classes["ece"], 100 * expected, **EXACT)
    np.testing.assert_allclose(tables.classes["ece_change"], tables.classes["ece"] - tables.classes["ece_baseline"])
    overall = calibration.expected_calibration_error(sure, right)
    assert value(tables.summary, "ece", "candidate") == pytest.approx(100 * overall, abs=1e-10)
    loss = metrics.cross_entropy(after.labels, after.scores) - metrics.cross_entropy(before.labels, before.scores)
    change = [loss[after.labels == c].mean() for c in range(6)]
    gap = max(abs(a - b) for a in change for b in change)
    assert value(tables.summary, "excess_risk_gap", "change") == pytest.approx(gap, abs=1e-12)


def test_who_pays(pair, tables) -> None:
    table, summary = tables.classes, tables.summary
    assert table["group"].tolist() == ["many", "many", "medium", "medium", "few", "few"]
    loss = -table["change"].to_numpy()
    share = loss[4:].mean() - loss[:2].mean()
    assert value(summary, "tail_share", "change") == pytest.approx(share, abs=1e-10)
    slope = np.polyfit(*(column / column.mean() for column in (table["recall_baseline"], table["recall"])), 1)[0]
    assert value(summary, "recall_slope", "change") == pytest.approx(slope, abs=1e-9)
    changed = (pair[0].predicted != pair[1].predicted).mean()
    assert value(summary, "churn", "change") == pytest.approx(100 * changed, abs=1e-10)
    for metric in (
        "accuracy",
        "balanced_accuracy",
        "worst_class_recall",
        "g_mean",
        "tail_share",
        "recall_slope",
        "churn",
    ):
        assert value(summary, metric, "low") < value(summary, metric, "change") < value(summary, metric, "high")
    for metric in ("macro_f1", "ece", "excess_risk_gap"):
        assert math.isnan(value(summary, metric, "low"))
    for metric in ("accuracy", "ece"):
        parts = [value(summary, metric, name) for name in ("baseline", "candidate", "change")]
        assert parts[1] - parts[0] == pytest.approx(parts[2])


def test_groups_pool_their_images(pair, tables) -> None:
    before, after = pair
    groups = tables.groups.set_index(["kind", "name"])
    assert [key for key in groups.index if key[0] == "frequency"] == [
        ("frequency", n) for n in ("many", "medium", "few")
    ]
    masks = {("frequency", "few"): before.labels >= 4, ("site", "south"): before.groups["site"] == "south"}
    for key, rows in masks.items():
        one = groups.loc[key]
        right = [answers.predicted[rows] == before.labels[rows] for answers in pair]
        assert one["n"] == rows.sum()
        assert one["classes"] == len(set(before.labels[rows]))
        assert (one["recall_baseline"], one["recall"]) == pytest.approx([100 * hit.mean() for hit in right])
        counts = [[(a & b).sum() for b in (right[1], ~right[1])] for a in (right[0], ~right[0])]
        assert one["p_mcnemar"] == pytest.approx(mcnemar(counts, exact=True).pvalue, abs=1e-12)
    sexes = groups.loc["sex"]
    assert sexes.index.tolist() == ["?", "f", "m"]
    np.testing.assert_allclose(sexes["p_adjusted"], multipletests(sexes["p_mcnemar"], method="holm")[1])
    assert sexes["n"].sum() == len(after.labels)


def test_rates_of_many_are_those_of_one() -> None:
    n = np.array([0, 1, 7, 40, 40, 40, 100_000])
    hits = np.array([0, 1, 0, 0, 11, 40, 5])
    expected = np.array([statistics.wilson(*one, level=0.9) for one in zip(hits.tolist(), n.tolist(), strict=True)])
    np.testing.assert_allclose(np.stack(rates.wilson(hits, n, 0.9), axis=1), expected, rtol=1e-12, atol=1e-15)
    lost, won = (grid.ravel() for grid in np.meshgrid(np.arange(12), np.arange(12)))
    one_by_one = [statistics.mcnemar_exact(*one) for one in zip(lost.tolist(), won.tolist(), strict=True)]
    np.testing.assert_allclose(rates.mcnemar_p(lost, won), one_by_one, rtol=1e-13)


def test_frequency_groups_follow_the_rule_of_a_study() -> None:
    few = frequency_groups([100, 50, 40, 30, 20, 10])
    assert few.names == ("frequent", "middle", "rare")
    assert "leave a group empty in the training data" in few.rule
    assert [indices.tolist() for indices in few.tail or ()] == [[0, 1], [4, 5]]
    step = frequency_groups([9, 9, 3, 3])
    assert step.names == ("majority", "minority")
    assert [indices.tolist() for indices in step.tail or ()] == [[0, 1], [2, 3]]
    even = frequency_groups([50] * 4)
    assert (even.names, even.members, even.tail) == ((), (), None)
    with pytest.raises(BadInput, match="cut points"):
        frequency_groups([1, 2], (5, 2))
    with pytest.raises(BadInput, match="training counts"):
        frequency_groups([1, -2])


def test_what_is_not_known_is_nan_and_noted(pair) -> None:
    plain = tuple(replace(one, scores=None, scores_are=None, groups={}) for one in pair)
    labels = np.where(pair[0].labels == 3, 2, pair[0].labels)
    plain = tuple(replace(one, labels=labels) for one in plain)
    found = pair_tables(*plain, resamples=200)
    row = found.classes.iloc[3]
    assert row["n"] == 0
    columns = ["recall", "recall_low", "change", "change_low", "worst_bound", "ece", "train_count"]
    assert row[columns].isna().all()
    assert row["p_adjusted"] == 1
    assert found.groups.empty
    for metric in ("tail_share", "ece", "excess_risk_gap"):
        assert math.isnan(value(found.summary, metric, "change"))
    assert len(found.notes) == 3
    assert "training images of each class are not known" in found.notes[0]
    assert "dog" in found.notes[1]
    assert "baseline and the candidate came without scores" in found.notes[2]


def test_few_discordant_images_are_warned_of(pair) -> None:
    guess = pair[0].predicted.copy()
    wrong = np.flatnonzero(guess == pair[0].labels)[:3]
    guess[wrong] = (guess[wrong] + 1) % 6
    found = pair_tables(pair[0], replace(pair[1], predicted=guess), train_counts=TRAIN, resamples=200).summary
    assert "rests on 3 images that only one model has right" in found.set_index("metric").loc["accuracy", "warning"]
    same = pair_tables(*pair, train_counts=TRAIN, resamples=200).summary.set_index("metric")["warning"]
    assert same["accuracy"] == ""
    assert same["churn"] == ""


def test_a_slope_of_noise_is_warned_of() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 50)
    one, two = (np.where(rng.random(300) < 0.8, labels, (labels + 1) % 6) for _ in range(2))
    found = pair_tables(Given(labels, one), Given(labels, two), resamples=200).summary.set_index("metric")
    assert "pulled to 0" in found.loc["recall_slope", "warning"]


def test_multi_label_classes_are_their_positive_rows() -> None:
    rng = np.random.default_rng(2)
    labels = (rng.random((400, 6)) < 0.3).astype(np.uint8)
    scores = [rng.normal(size=labels.shape) + 2 * labels - 1 for _ in range(2)]
    site = rng.choice(["a", "b"], 400)
    before, after = (
        Given(labels, multilabel.at_threshold(one, 0.0), one, "logits", task="multilabel", groups={"site": site})
        for one in scores
    )
    found = pair_tables(before, after, train_counts=TRAIN, resamples=1000)
    kwargs: dict[str, Any] = {"average": None, "zero_division": 0}
    np.testing.assert_allclose(
        found.classes["recall"], 100 * reference.recall_score(labels, after.predicted, **kwargs), **EXACT
    )
    precision = reference.average_precision_score(labels, scores[1], average=None)
    np.testing.assert_allclose(found.classes["average_precision"], 100 * precision, **EXACT)
    summary = found.summary
    assert value(summary, "average_precision", "candidate") == pytest.approx(100 * precision.mean())
    accuracy = reference.accuracy_score(labels, after.predicted)
    assert value(summary, "accuracy", "candidate") == pytest.approx(100 * accuracy)
    f1 = reference.f1_score(labels, after.predicted, average="macro", zero_division=0)
    assert value(summary, "macro_f1", "candidate") == pytest.approx(100 * f1)
    assert value(summary, "accuracy", "low") < value(summary, "accuracy", "change") < value(summary, "accuracy", "high")
    rows = found.groups.set_index(["kind", "name"]).loc[("site", "b")]
    inside = site == "b"
    assert rows["n"] == labels[inside].sum()
    assert rows["classes"] == 6
    assert rows["recall"] == pytest.approx(100 * after.predicted[inside][labels[inside] == 1].mean())
    n10 = ((labels == 1) & (before.predicted == 1) & (after.predicted == 0))[inside].sum()
    assert rows["n10"] == n10
    assert "positive rows" in found.notes[-1]
    loss = [-np.log(1 / (1 + np.exp(-one))) for one in scores]
    change = [(loss[1] - loss[0])[:, c][labels[:, c] == 1].mean() for c in range(6)]
    assert value(summary, "excess_risk_gap", "change") == pytest.approx(max(change) - min(change))


def test_seeds_give_t_intervals() -> None:
    found = [pair_tables(*models(seed=seed), resamples=1).classes for seed in range(4)]
    table = seed_table(found)
    changes = np.stack([one["change"] for one in found])
    assert table["seeds"].tolist() == [4] * 6
    for index, row in enumerate(table.itertuples()):
        assert row.change == pytest.approx(changes[:, index].mean())
        assert (row.change_low, row.change_high) == pytest.approx(statistics.t_interval(changes[:, index]))
    assert seed_table(found[:1])["change_low"].isna().all()
    with pytest.raises(ValueError, match="different classes"):
        seed_table([found[0], found[1].iloc[:3]])


def test_a_pair_that_does_not_belong_together_is_refused(pair) -> None:
    before, after = pair
    with pytest.raises(ValueError, match="different labels"):
        count_pair(before, replace(after, labels=after.labels[::-1]))
    with pytest.raises(ValueError, match="class_names"):
        count_pair(before, replace(after, class_names=NAMES[::-1]))
    with pytest.raises(ValueError, match="beyond the last class"):
        count_pair(before, replace(after, predicted=after.predicted + 1))
    with pytest.raises(BadInput, match="5 numbers for 6 classes"):
        pair_tables(before, after, train_counts=TRAIN[:5])
    with pytest.raises(BadInput, match="level"):
        pair_tables(before, after, level=95)
    ids = np.array([str(i) for i in range(len(after.labels))])
    many = replace(after, groups={"id": np.resize(ids, len(ids))})
    assert len(pair_tables(replace(before, groups={}), many, resamples=1).groups) == 900
    with pytest.raises(BadInput, match="rename"):
        pair_tables(before, replace(after, groups={"frequency": ids}), resamples=1)


def test_a_column_of_ids_makes_no_groups(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailkeep.analysis.pair_counts.MOST_VALUES", 2)
    with pytest.raises(BadInput, match="'sex' has 3 different values"):
        pair_tables(*pair, resamples=1)

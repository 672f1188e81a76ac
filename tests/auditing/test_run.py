"""The audit as a whole, from arrays and from files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn_metrics

import tailkeep
from tailkeep import frame
from tailkeep.auditing.files import audit_files
from tailkeep.auditing.request import AuditRequest
from tailkeep.errors import BadInput

CLASSES = 5


@pytest.fixture(scope="module")
def answers() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of 5,000 examples, a baseline, and a candidate that loses 12 points of the last class alone."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), 1000)
    baseline = np.where(rng.random(len(labels)) < 0.9, labels, (labels + 1) % CLASSES)
    candidate = baseline.copy()
    lost = (labels == CLASSES - 1) & (baseline == labels) & (rng.random(len(labels)) < 0.13)
    candidate[lost] = 0
    return labels, baseline, candidate


def test_a_lost_class_fails_the_gate_by_name_and_an_identical_model_passes(answers: tuple[np.ndarray, ...]) -> None:
    labels, baseline, candidate = answers
    found = tailkeep.audit(labels, baseline, {"int8": candidate, "copy": baseline}, n_boot=200)
    int8, copy = found.candidates
    broken = [one.check.name for one in int8.gate.results if one.decision == "broken"]
    assert (int8.gate.decision, broken, copy.gate.decision) == ("fail", ["4"], "pass")
    assert (found.decision, found.exit_code) == ("fail", 1)
    assert (copy.classes["change"] == 0).all()
    assert copy.flips.empty


def test_too_few_images_cannot_tell_and_say_how_many_would(answers: tuple[np.ndarray, ...]) -> None:
    labels, baseline, _ = answers
    some = np.arange(0, len(labels), 20)
    found = tailkeep.audit(labels[some], baseline[some], baseline[some].copy(), n_boot=100)
    assert found.exit_code == 5
    needed = [one.images_needed for one in found.candidates[0].gate.results]
    assert all(number is not None and number > 50 for number in needed)


def test_an_interval_of_few_flips_is_warned_of(answers: tuple[np.ndarray, ...]) -> None:
    labels, baseline, _ = answers
    flipped = baseline.copy()
    flipped[np.flatnonzero(labels == baseline)[:5]] = 4  # the first class, right before
    (note,) = [note for note in tailkeep.audit(labels, baseline, flipped, n_boot=100).analysis.notes if "Tango" in note]
    assert note.startswith("1 of 5 classes have 1 to 9 images")


def test_figures_are_scikit_learns(answers: tuple[np.ndarray, ...]) -> None:
    labels, baseline, candidate = answers
    found = tailkeep.audit(labels, baseline, candidate, n_boot=100)
    recall = sklearn_metrics.recall_score(labels, candidate, average=None)
    np.testing.assert_allclose(found.classes["recall"], 100 * recall, rtol=0, atol=1e-12)
    summary = found.summary.set_index("metric")["candidate"]
    assert summary["balanced_accuracy"] == pytest.approx(100 * recall.mean(), abs=1e-12)
    macro_f1 = sklearn_metrics.f1_score(labels, candidate, average="macro")
    assert summary["macro_f1"] == pytest.approx(100 * macro_f1, abs=1e-10)


def test_the_frame_is_the_studys_and_without_scores_no_loss_is_made_up(answers: tuple[np.ndarray, ...]) -> None:
    labels, baseline, candidate = answers
    found = tailkeep.audit(labels, baseline, candidate, train_counts=[500, 200, 90, 40, 12], n_boot=100)
    frame.check(found.frame)
    assert set(found.frame["reference"]) == {"self", "dense"}
    assert found.frame["loss_sum"].isna().all()
    assert found.analysis.study.tail["excess_risk_gap"].isna().all()
    assert set(found.groups["name"]) == {"many", "medium", "few"}
    few = found.groups.set_index("name").loc["few"]
    assert few["change"] == pytest.approx(found.classes.set_index("class_name").loc["4", "change"])


def test_names_scores_and_seeds(answers: tuple[np.ndarray, ...]) -> None:
    labels, baseline, candidate = answers
    names = np.array(["ant", "bee", "cat", "dog", "elk"])
    by_name = tailkeep.audit(names[labels], names[baseline], names[candidate], n_boot=100)
    assert list(by_name.classes["class_name"]) == list(names)

    def scores(predicted: np.ndarray) -> np.ndarray:
        return np.eye(CLASSES)[predicted] * 0.6 + 0.08

    scored = tailkeep.audit(labels, scores(baseline), scores(candidate), class_names=names, n_boot=100)
    assert scored.classes["ece"].notna().all()
    assert list(scored.classes["n10"]) == list(by_name.classes["n10"])
    seeds = tailkeep.audit(labels, [baseline, baseline], {"int8": [candidate, baseline]}, n_boot=100)
    table = seeds.candidates[0].seeds
    assert table is not None
    assert table["change"].iloc[4] == pytest.approx(by_name.classes["change"].iloc[4] / 2)
    assert seeds.decision == "fail"  # the seed that comes off worst decides
    assert any("pairs of seeds" in note for note in seeds.analysis.notes)


def test_files_give_what_arrays_give(answers: tuple[np.ndarray, ...], tmp_path: Path) -> None:
    labels, baseline, candidate = answers
    for name, predicted in (("dense", baseline), ("int8", candidate)):
        table = pd.DataFrame({"label": labels, "prediction": predicted, "camera": np.where(labels % 2, "a", "b")})
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    counts = tmp_path / "counts.csv"
    counts.write_text("class,images\n" + "\n".join(f"{i},{c}" for i, c in enumerate([500, 200, 90, 40, 12])))
    request = AuditRequest(
        (tmp_path / "dense.csv",), (("int8", (tmp_path / "int8.csv",)),), train_counts=counts,
        group_columns=("camera",), resamples=100,
    )  # fmt: skip
    found = audit_files(request)
    arrays = tailkeep.audit(
        labels, baseline, {"int8": candidate}, train_counts=[500, 200, 90, 40, 12], n_boot=100,
        groups={"camera": np.where(labels % 2, "a", "b")},
    )  # fmt: skip
    pd.testing.assert_frame_equal(found.classes, arrays.classes, check_dtype=False)
    pd.testing.assert_frame_equal(found.groups, arrays.groups, check_dtype=False)
    assert json.loads(found.to_json())["candidates"][0]["gate"]["decision"] == "fail"
    assert len(found.analysis.provenance["baseline"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"candidate": np.array([0, 1])}, "2 rows for 4 labels"),
        ({"candidate": np.array(["a", "b", "a", "b"])}, "one holds names"),
        ({"candidate": np.array([0.5, 1, 0, 1])}, "row 0 holds 0.5"),
        ({"candidate": np.full((4, 2), 0.4)}, "row 0 sums to 0.8"),
        ({"candidate": np.full((4, 3), 1 / 3), "class_names": ["a", "b"]}, r"shape \(4, 3\)"),
        ({"candidate": np.array([[np.nan, 1]] * 4)}, "row 0 has NaN"),
        ({"candidate": {}}, "there is none"),
        ({"candidate": np.array([0, 1, 2, 1]), "class_names": ["a", "b"]}, "row 2 holds 2"),
        ({"train_counts": {"0": 5}}, "no count for class '1'"),
        ({"train_counts": [1, 2, 3]}, "expected one number for each of 2 classes"),
        ({"ids": ["x", "x", "y", "z"]}, "stands twice"),
        ({"max_class_drop": 200}, "max_class_drop 200"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(change: dict, words: str) -> None:
    given = {"y_true": np.array([0, 1, 0, 1]), "baseline": np.array([0, 1, 0, 1]), "candidate": np.array([0, 1, 0, 0])}
    with pytest.raises(BadInput, match=words):
        tailkeep.audit(**{**given, **change})

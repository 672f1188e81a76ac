from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tailkeep import frame as frames
from tailkeep.errors import BadInput

CELL = {
    "dataset": "digits",
    "setting": "exponential-10",
    "twin": "imbalanced",
    "model": "net",
    "method": "pruned",
    "role": "technique",
    "seed": 3,
    "split": "test",
}
LABELS = np.array([0, 0, 1, 1, 1])
GUESS = np.array([0, 1, 1, 1, 0])
OTHER = np.array([0, 0, 1, 0, 0])


def logits_of(guess: np.ndarray) -> np.ndarray:
    return np.eye(2, dtype=np.float32)[guess]


def rows(reference: str = "self", other: np.ndarray | None = None) -> list[dict]:
    given = None if other is None else logits_of(other)
    return frames.class_rows(CELL, LABELS, logits_of(GUESS), ["cat", "dog"], [100, 10], reference, given)


def test_rows_against_itself() -> None:
    first, second = rows()
    assert list(first) == list(frames.COLUMNS)
    assert (first["class_name"], first["train_count"], first["n"], first["tp"], first["fn"]) == ("cat", 100, 2, 1, 1)
    assert (second["n11"], second["n10"], second["n01"], second["n00"], second["changed"]) == (2, 0, 0, 1, 0)
    right, wrong = np.log(1 + np.exp(-1)), np.log(1 + np.exp(1))
    assert second["loss_sum"] == pytest.approx(2 * right + wrong)


def test_rows_against_a_reference() -> None:
    first, second = rows("dense", OTHER)
    assert (first["n11"], first["n10"], first["n01"], first["n00"], first["changed"]) == (1, 1, 0, 0, 1)
    assert (second["n11"], second["n10"], second["n01"], second["n00"], second["changed"]) == (1, 0, 1, 1, 1)


def test_a_copy_of_the_reference_changes_nothing() -> None:
    for row, own in zip(rows("dense", GUESS), rows(), strict=True):
        assert {**row, "reference": "self"} == own
        assert row["n10"] == row["n01"] == row["changed"] == 0


def test_build_gives_the_declared_columns_and_types() -> None:
    frame = frames.build(rows() + rows("dense", OTHER))
    assert list(frame.columns) == list(frames.COLUMNS)
    assert len(frame) == 4
    for name, kind in frames.COLUMNS.items():
        if kind == "str":
            assert pd.api.types.is_string_dtype(frame[name])
        else:
            assert str(frame[name].dtype) == kind
    frames.check(frame)


def test_no_rows_give_an_empty_frame_with_the_same_types() -> None:
    empty, full = frames.build([]), frames.build(rows())
    assert len(empty) == 0
    assert list(empty.columns) == list(frames.COLUMNS)
    assert (empty.dtypes == full.dtypes).all()


def test_a_class_without_test_images_is_allowed() -> None:
    given = frames.class_rows(CELL, [0, 0], logits_of(np.array([0, 1])), ["cat", "dog"], [5, 5])
    assert frames.build(given)["n"].tolist() == [2, 0]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("tp", 0, "tp \\+ fn == n"),
        ("n11", 5, "n11 \\+ n10 \\+ n01 \\+ n00 == n"),
        ("changed", 7, "changed"),
        ("fp", -1, "counts >= 0"),
        ("train_count", -1, "counts >= 0"),
        ("loss_sum", float("inf"), "loss_sum"),
        ("n", float("nan"), "missing values in n"),
        ("twin", "half", "not one of imbalanced"),
        ("reference", "nobody", "not one of self"),
    ],
)
def test_counts_that_disagree_are_refused(column: str, value: object, words: str) -> None:
    frame = frames.build(rows("dense", OTHER))
    frame.loc[0, column] = value
    with pytest.raises(BadInput, match=words):
        frames.check(frame)


def test_joint_counts_must_give_the_models_own() -> None:
    frame = frames.build(rows("dense", OTHER))
    frame.loc[0, ["n11", "n10", "n01", "n00"]] = [0, 2, 0, 0]
    frame.loc[0, "changed"] = 2
    with pytest.raises(BadInput, match="n11 \\+ n01 == tp"):
        frames.check(frame)


def test_a_change_against_itself_is_refused() -> None:
    frame = frames.build(rows())
    frame.loc[0, "changed"] = 1
    with pytest.raises(BadInput, match="no change against itself"):
        frames.check(frame)


def test_two_rows_of_one_key_are_refused() -> None:
    with pytest.raises(BadInput, match=r"two rows of one key.*class_index=0, reference=self"):
        frames.build(rows() + rows()[:1])


def test_missing_columns_and_wrong_types_are_refused() -> None:
    with pytest.raises(BadInput, match="columns are missing: changed"):
        frames.check(frames.build(rows()).drop(columns="changed"))
    with pytest.raises(BadInput, match="wrong type"):
        frames.build([{**rows()[0], "n": "many"}])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cell": {"dataset": "x"}}, "the cell lacks setting"),
        ({"class_names": ["a"]}, "number of classes differs"),
        ({"train_counts": [1]}, "number of classes differs"),
        ({"labels": [0, 5]}, "from 0 to 1"),
        ({"logits": np.full((5, 2), np.nan)}, "NaN"),
        ({"reference": "dense"}, 'reference "dense" without logits'),
        ({"reference_logits": np.zeros((5, 2))}, 'reference "self" with logits'),
        ({"reference": "dense", "reference_logits": np.zeros((4, 2))}, "different shapes"),
        ({"reference": "dense", "reference_logits": np.zeros((5, 3))}, "different shapes"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict, words: str) -> None:
    given = {
        "cell": CELL,
        "labels": LABELS,
        "logits": logits_of(GUESS),
        "class_names": ["cat", "dog"],
        "train_counts": [100, 10],
        **change,
    }
    with pytest.raises(BadInput, match=words):
        frames.class_rows(**given)

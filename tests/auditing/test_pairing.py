from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailkeep.auditing.pairing import pair, read_pair
from tailkeep.auditing.predictions import Predictions
from tailkeep.errors import BAD_INPUT, BadInput

NAMES = ("cat", "dog", "owl")


def model(name: str, labels: Any, predicted: Any, **rest: Any) -> Predictions:
    rest = {"class_names": NAMES, **rest}
    for column in ("ids", "scores"):
        if column in rest:
            rest[column] = np.asarray(rest[column])
    groups = {key: np.asarray(values) for key, values in rest.pop("groups", {}).items()}
    kind = np.uint8 if rest.get("task") == "multilabel" else np.int64
    return Predictions(name, np.asarray(labels, kind), np.asarray(predicted, kind), groups=groups, **rest)


def refused(words: str, baseline: Predictions, candidate: Predictions) -> None:
    with pytest.raises(BadInput, match=re.escape(words)) as caught:
        pair(baseline, candidate)
    assert caught.value.exit_code == BAD_INPUT


def test_rows_without_ids_go_by_their_order() -> None:
    dense, pruned = model("dense", [0, 1, 2], [0, 1, 2]), model("pruned", [0, 1, 2], [0, 1, 1])
    first, second = pair(dense, pruned)
    assert (first.predicted.tolist(), second.predicted.tolist()) == ([0, 1, 2], [0, 1, 1])
    with_ids = model("dense", [0, 1, 2], [0, 1, 2], ids=["a", "b", "c"])
    for one, other in (pair(with_ids, pruned), pair(pruned, with_ids)):
        assert one.ids is not None
        assert other.ids is not None
        assert one.ids.tolist() == other.ids.tolist() == ["a", "b", "c"]


def test_rows_with_ids_come_into_the_order_of_the_baseline() -> None:
    dense = model("dense", [0, 1, 2], [0, 1, 2], ids=["a", "b", "c"], groups={"site": ["n", "s", "n"]})
    pruned = model(
        "pruned", [2, 0, 1], [2, 1, 1], ids=["c", "a", "b"], groups={"age": ["3", "1", "2"], "site": ["n", "n", "s"]},
        scores=[[0, 0, 9.0], [0, 8, 1], [0, 7, 2]], scores_are="logits",
    )  # fmt: skip
    first, second = pair(dense, pruned)
    assert second.labels.tolist() == [0, 1, 2]
    assert second.predicted.tolist() == [1, 1, 2]
    assert second.scores is not None
    assert second.scores.tolist() == [[0, 8, 1], [0, 7, 2], [0, 0, 9]]
    assert second.ids is not None
    assert second.ids.tolist() == ["a", "b", "c"]
    for found in (first, second):  # the groups of either
        assert {name: values.tolist() for name, values in found.groups.items()} == {
            "site": ["n", "s", "n"],
            "age": ["1", "2", "3"],
        }


def test_classes_come_into_the_order_of_the_baseline() -> None:
    dense = model("dense", [0, 1, 2], [0, 1, 2])
    pruned = model(
        "pruned", [1, 2, 0], [1, 2, 1], class_names=("owl", "cat", "dog"), scores_are="logits",
        scores=[[1, 9, 2.0], [1, 2, 9], [3, 9, 4]],
    )  # fmt: skip
    _, second = pair(dense, pruned)
    assert second.class_names == NAMES
    assert (second.labels.tolist(), second.predicted.tolist()) == ([0, 1, 2], [0, 1, 0])
    assert second.scores is not None
    assert second.scores.tolist() == [[9, 2, 1], [2, 9, 1], [9, 4, 3]]


def test_multilabel_classes_and_rows() -> None:
    marks = np.array([[1, 0, 1], [0, 1, 0]])
    dense = model("dense", marks, marks, task="multilabel", ids=["a", "b"])
    order, names = [2, 0, 1], ("owl", "cat", "dog")
    pruned = model(
        "p", marks[::-1, order], 1 - marks[::-1, order], task="multilabel", ids=["b", "a"], class_names=names
    )
    _, second = pair(dense, pruned)
    assert np.array_equal(second.labels, marks)
    assert np.array_equal(second.predicted, 1 - marks)
    changed = replace(pruned, labels=np.array([[0, 0, 1], [1, 0, 0]], np.uint8))
    refused("row 1, id 'a': the label of class 'cat' is 1 in dense and 0 in p (1 of 2 rows", dense, changed)


@given(data=st.data())
def test_any_order_of_rows_and_classes_is_brought_back(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 12))
    labels = np.array(data.draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows)))
    predicted = np.array(data.draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows)))
    ids = np.array([f"img{index}" for index in range(rows)])
    order = np.array(data.draw(st.permutations(range(rows))))
    classes = np.array(data.draw(st.permutations(range(3))))
    renamed = np.argsort(classes)
    candidate = model(
        "b", renamed[labels[order]], renamed[predicted[order]], ids=ids[order], class_names=[NAMES[i] for i in classes]
    )
    _, second = pair(model("a", labels, labels, ids=ids), replace(candidate, class_names=tuple(candidate.class_names)))
    assert second.labels.tolist() == labels.tolist()
    assert second.predicted.tolist() == predicted.tolist()


def test_refusals() -> None:
    dense = model("dense", [0, 1, 2], [0, 1, 2], ids=["a", "b", "c"], groups={"site": ["n", "s", "n"]})
    plain = model("dense", [0, 1, 2], [0, 1, 2])
    marks = np.eye(3)
    refused(
        "pruned: its predictions are multilabel, those of dense multiclass; compare two models for one task",
        dense,
        model("pruned", marks, marks, task="multilabel"),
    )
    refused(
        "pruned and dense have different classes: only dense has 'cat'; give the names of all classes",
        dense,
        model("pruned", [0, 1], [0, 1], class_names=("dog", "owl")),
    )
    refused("only pruned has 'emu'", dense, model("pruned", [0], [0], class_names=(*NAMES, "emu")))
    refused("pruned has 2 rows, dense has 3; give the predictions of", plain, model("pruned", [0, 1], [0, 1]))
    refused(
        "row 2: the label is 'dog' in dense and 'owl' in pruned (2 of 3 rows differ); are they in another order? Give",
        plain,
        model("pruned", [0, 2, 1], [0, 1, 2]),
    )
    ids = model("pruned", [2, 1, 1], [0, 1, 2], ids=["c", "b", "a"])
    refused(
        "row 1, id 'a': the label is 'cat' in dense and 'dog' in pruned (1 of 3 rows differ); one of the", dense, ids
    )
    refused(
        "pruned lacks the id 'b' (row 2 of dense), 2 of 3 in all; give the predictions of both models on the same",
        dense,
        model("pruned", [0, 1], [0, 1], ids=["a", "x"]),
    )
    refused("dense lacks the id 'd' (row 1 of pruned), 1 of 4 in all", dense, model(
        "pruned", [0, 0, 1, 2], [0, 0, 1, 2], ids=["d", "a", "b", "c"]))  # fmt: skip
    refused("pruned: the id 'a' stands twice", dense, model("pruned", [0, 0, 1], [0, 0, 1], ids=["a", "a", "b"]))
    refused(
        "row 2, id 'b': the group 'site' is 's' in dense and 'w' in pruned; an example has one group",
        dense,
        model("pruned", [0, 1, 2], [0, 1, 2], groups={"site": ["n", "w", "w"]}),
    )


def test_a_candidate_that_never_predicts_a_class_keeps_it(tmp_path: Path) -> None:
    first, second = tmp_path / "dense.csv", tmp_path / "pruned.csv"
    first.write_text("label,prediction,site\n0,0,n\n1,9,s\n", encoding="utf-8")
    second.write_text("label,prediction\n0,0\n1,1\n", encoding="utf-8")
    dense, pruned = read_pair(first, second, group_columns=["site"])
    assert dense.class_names == pruned.class_names == ("0", "1", "9")
    assert pruned.groups["site"].tolist() == ["n", "s"]
    assert (dense.name, pruned.name) == ("dense", "pruned")
    first.write_text("label,prediction\ncat,cat\ndog,owl\n", encoding="utf-8")
    second.write_text("label,prediction\ncat,cat\ndog,dog\n", encoding="utf-8")
    dense, pruned = read_pair(first, second)
    assert dense.class_names == pruned.class_names == NAMES
    assert pruned.predicted.tolist() == [0, 1]


def test_files_that_name_other_classes(tmp_path: Path) -> None:
    first, second = tmp_path / "dense.csv", tmp_path / "pruned.csv"
    first.write_text("label,logit_a,logit_b\na,1,2\n", encoding="utf-8")
    second.write_text("label,logit_a,logit_c\na,1,2\n", encoding="utf-8")
    with pytest.raises(BadInput, match="pruned and dense have different classes: only dense has 'b'"):
        read_pair(first, second)
    second.write_text("label,logit_b,logit_a\na,1,2\n", encoding="utf-8")
    dense, pruned = read_pair(first, second)
    assert pruned.class_names == dense.class_names == ("a", "b")
    assert pruned.predicted.tolist() == [0]
    second.write_text("label,prediction\n0,cat\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"pruned\.csv: row 1 .*'prediction': 'cat' is none of the 2 classes"):
        read_pair(first, second)

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailkeep.auditing.cells import Options
from tailkeep.auditing.predictions import Predictions
from tailkeep.auditing.tables import read_all, read_predictions

Table = dict[str, list[Any]]
FORMS = ("csv", "parquet", "npz")
NAMES = ("cat", "dog", "fox, red", 'owl "small"', "Ätna")
LOGITS = np.array([[2.0, -1.0, 0.5], [0.25, 3.0, 1.0], [-1.0, -2.0, -0.5], [5.0, 4.0, 3.0]])
CHANCES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)


def save(path: Path, table: Table) -> Path:
    """Write one table in the form that the name says; in ``.npz`` every column is an array."""
    if path.suffix == ".csv":
        pd.DataFrame(table).to_csv(path, index=False)
    elif path.suffix == ".parquet":
        pytest.importorskip("pyarrow.parquet").write_table(pytest.importorskip("pyarrow").table(table), path)
    else:
        np.savez(path, **{name: np.array(values) for name, values in table.items()})
    return path


@pytest.fixture(params=FORMS)
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Predictions]:
    """Write a table in each of the forms and read it."""
    return lambda table, **options: read_predictions(save(tmp_path / f"mine.{request.param}", table), **options)


def columns(prefix: str, names: tuple[str, ...], values: Any) -> Table:
    return {f"{prefix}{name}": np.asarray(values)[:, index].tolist() for index, name in enumerate(names)}


def test_whole_numbers(read: Callable[..., Predictions], tmp_path: Path) -> None:
    found = read({"label": [0, 3, 1], "prediction": [0, 1, 1]})
    assert found.class_names == ("0", "1", "3"), "a number that never occurs is no class"
    assert (found.labels.tolist(), found.predicted.tolist()) == ([0, 2, 1], [0, 1, 1])
    assert found.labels.dtype == found.predicted.dtype == np.int64
    assert (found.task, found.scores, found.scores_are, found.ids) == ("multiclass", None, None, None)
    path = Path(found.source["path"])
    assert found.name == "mine"
    assert found.source["form"] == path.suffix[1:]
    assert found.source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_floats_that_are_whole_and_truth_values(read: Callable[..., Predictions]) -> None:
    assert read({"label": [0.0, 2.0], "prediction": [1, 1]}).labels.tolist() == [0, 2]


def test_truth_values_are_0_and_1(tmp_path: Path) -> None:
    for form in ("npz", "parquet"):
        table = {"label": [True, False], "prediction": [True, True]}
        found = read_predictions(save(tmp_path / f"a.{form}", table))
        assert (found.labels.tolist(), found.class_names) == ([1, 0], ("0", "1"))


def test_names_ids_and_groups(read: Callable[..., Predictions]) -> None:
    table = {
        "id": ["007", "b", "c c"],
        "label": ["dog", "Ätna", 'a,"b"'],
        "prediction": ["dog", "dog", "cat"],
        "site": ["north", "south", "south"],
        "age": [30, 41, 30],
        "notes": ["x", "y", "z"],
    }
    found = read(table, group_columns=["site", "age"])
    assert found.class_names == ('a,"b"', "cat", "dog", "Ätna")
    assert found.labels.tolist() == [2, 3, 0]
    assert found.predicted.tolist() == [2, 2, 1]
    assert found.ids is not None
    assert found.ids.tolist() == ["007", "b", "c c"]
    assert {name: values.tolist() for name, values in found.groups.items()} == {
        "site": ["north", "south", "south"],
        "age": ["30", "41", "30"],
    }


def test_other_column_names(read: Callable[..., Predictions]) -> None:
    table = {"image": ["a", "b"], "y": [0, 1], "y_hat": [1, 1]}
    found = read(table, label_column="y", prediction_column="y_hat", id_column="image", name="pruned")
    assert (found.name, found.labels.tolist(), found.predicted.tolist()) == ("pruned", [0, 1], [1, 1])


def test_given_class_names_order_the_classes(read: Callable[..., Predictions]) -> None:
    found = read({"label": ["dog", "cat"], "prediction": ["cat", "cat"]}, class_names=["owl", "dog", "cat"])
    assert (found.labels.tolist(), found.predicted.tolist()) == ([1, 2], [2, 2])
    found = read({"label": [0, 2], "prediction": [1, 1]}, class_names=["owl", "dog", "cat"])
    assert (found.labels.tolist(), found.predicted.tolist()) == ([0, 2], [1, 1])


def test_classes_named_by_numbers_are_looked_up(read: Callable[..., Predictions]) -> None:
    found = read({"label": [3, 7], "prediction": [7, 7]}, class_names=["7", "3"])
    assert (found.labels.tolist(), found.predicted.tolist()) == ([1, 0], [0, 0])


def test_leading_zeros_make_names(read: Callable[..., Predictions]) -> None:
    found = read({"label": ["02", "10", "010"], "prediction": ["02", "02", "10"]})
    assert found.class_names == ("02", "010", "10")


def test_words_that_pandas_takes_for_missing_are_names(read: Callable[..., Predictions]) -> None:
    assert read({"label": ["NA", "None"], "prediction": ["null", "NA"]}).class_names == ("NA", "None", "null")


@pytest.mark.parametrize(
    ("prefix", "are", "values"), [("logit_", "logits", LOGITS), ("prob_", "probabilities", CHANCES)]
)
def test_score_columns(read: Callable[..., Predictions], prefix: str, are: str, values: Any) -> None:
    names = ("owl", "ant", "cat")
    found = read({"label": ["ant", "ant", "cat", "owl"], **columns(prefix, names, values)})
    assert (found.class_names, found.scores_are) == (names, are)
    assert found.labels.tolist() == [1, 1, 2, 0]
    assert found.predicted.tolist() == [0, 1, 2, 0]
    assert found.scores is not None
    assert np.array_equal(found.scores, values)


def test_scores_in_the_order_of_given_names(read: Callable[..., Predictions]) -> None:
    table = {"label": [0, 1, 2, 0], **columns("logit_", ("b", "a", "c"), LOGITS)}
    found = read(table, class_names=["a", "b", "c"])
    assert found.scores is not None
    assert np.array_equal(found.scores, LOGITS[:, [1, 0, 2]])
    assert found.labels.tolist() == [0, 1, 2, 0]  # whole numbers go by the names that were given
    assert found.predicted.tolist() == [1, 0, 2, 1]


def test_scores_without_a_word_are_told_by_their_values(read: Callable[..., Predictions]) -> None:
    for values, are in ((LOGITS, "logits"), (CHANCES, "probabilities")):
        assert read({"label": [0, 1, 2, 0], **columns("score_", tuple("abc"), values)}).scores_are == are


def test_what_the_user_says_of_scores_holds(read: Callable[..., Predictions]) -> None:
    table = {"label": [0, 1, 2, 0], **columns("logit_", tuple("abc"), CHANCES)}
    assert read(table, scores="logits").scores_are == "logits"
    assert read(table, scores="probabilities").scores_are == "probabilities"
    both = {**table, **columns("prob_", tuple("abc"), CHANCES)}
    assert read(both, scores="probabilities").scores_are == "probabilities"


def test_predictions_beside_scores_may_break_ties(read: Callable[..., Predictions]) -> None:
    values = [[0.5, 0.5], [0.25, 0.75]]
    found = read({"label": [0, 1], "prediction": [1, 1], **columns("prob_", ("0", "1"), values)})
    assert found.predicted.tolist() == [1, 1]
    assert read({"label": [0, 1], **columns("prob_", ("0", "1"), values)}).predicted.tolist() == [0, 1]


@pytest.mark.parametrize("form", ["parquet", "npz"])
def test_one_array_of_scores(tmp_path: Path, form: str) -> None:
    def read(table: Table, **options: Any) -> Predictions:
        return read_predictions(save(tmp_path / f"a.{form}", table), **options)

    found = read({"labels": [0, 1, 2, 0], "logits": LOGITS.tolist()})
    assert (found.class_names, found.scores_are, found.predicted.tolist()) == (("0", "1", "2"), "logits", [0, 1, 2, 0])
    assert found.scores is not None
    assert np.array_equal(found.scores, LOGITS)
    found = read({"label": ["b", "a", "c", "b"], "probabilities": CHANCES.tolist()}, class_names=tuple("bca"))
    assert (found.labels.tolist(), found.scores_are) == ([0, 2, 1, 0], "probabilities")


def test_what_a_study_stores_is_read(tmp_path: Path) -> None:
    path = tmp_path / "predictions.npz"
    ids = np.array([f"test/{index}" for index in range(4)])
    np.savez(path, labels=np.array([0, 1, 2, 0]), logits=LOGITS.astype(np.float32), ids=ids)
    found = read_predictions(path)
    assert found.ids is not None
    assert found.ids.tolist() == ids.tolist()
    assert found.scores is not None
    assert found.scores.dtype == np.float32
    assert np.array_equal(found.scores, LOGITS.astype(np.float32))


def test_npz_class_names_and_groups(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    names, site = np.array(["b", "a", "c"]), np.array([1, 2, 1, 2])
    np.savez_compressed(path, labels=["a", "b", "c", "b"], logits=LOGITS.T.copy().T, class_names=names, group_site=site)
    found = read_predictions(path, group_columns=["site"])
    assert (found.class_names, found.labels.tolist()) == (("b", "a", "c"), [1, 0, 2, 0])
    assert found.groups["site"].tolist() == ["1", "2", "1", "2"]
    assert found.scores is not None
    assert np.array_equal(found.scores, LOGITS)  # whatever the order in memory


@pytest.mark.parametrize("kind", [">i4", "u1", "S3", ">f8", "U5", "i8"])
def test_npz_types(tmp_path: Path, kind: str) -> None:
    np.savez(tmp_path / "a.npz", labels=np.array([1, 0, 2]).astype(kind), predictions=np.array([[1], [0], [2]]))
    assert read_predictions(tmp_path / "a.npz").labels.tolist() == [1, 0, 2]


def test_multilabel(read: Callable[..., Predictions]) -> None:
    marks = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    chances = np.array([[0.5, 0.1, 0.9], [0.49, 0.2, 0.0], [1.0, 0.3, 0.6], [0.7, 0.8, 0.1]])
    table = {**columns("label_", tuple("abc"), marks), **columns("prob_", tuple("cba"), chances[:, ::-1])}
    found = read(table, threshold=0.5)
    assert (found.task, set(found.class_names)) == ("multilabel", set("abc"))
    order = ["abc".index(name) for name in found.class_names]
    assert np.array_equal(found.labels, marks[:, order])
    assert np.array_equal(found.predicted, (chances >= 0.5)[:, order])
    assert found.labels.dtype == found.predicted.dtype == np.uint8
    assert np.array_equal(read(table, threshold=0.8).predicted, (chances >= 0.8)[:, order])
    logits = read({**columns("label_", tuple("abc"), marks), **columns("logit_", tuple("abc"), LOGITS)}, threshold=0.7)
    assert np.array_equal(logits.predicted, 1 / (1 + np.exp(-LOGITS)) >= 0.7)
    given_marks = read({**columns("label_", tuple("abc"), marks), **columns("prediction_", tuple("bca"), marks)})
    assert np.array_equal(given_marks.predicted, marks[:, [2, 0, 1]])


@pytest.mark.parametrize("form", ["parquet", "npz"])
def test_multilabel_arrays(tmp_path: Path, form: str) -> None:
    marks = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    path = save(tmp_path / f"a.{form}", {"labels": marks.tolist(), "predictions": marks.tolist()})
    found = read_predictions(path, class_names=tuple("abc"))
    assert np.array_equal(found.labels, marks)
    assert np.array_equal(found.predicted, marks)


@pytest.mark.parametrize(
    "text",
    [
        "label,prediction\n0,1\n1,1",
        "label,prediction\r\n0,1\r\n1,1\r\n",
        "\ufefflabel,prediction\n0,1\n1,1\n\n\n",
        "\n label , prediction\n\n 0 , 1\n1 ,1 \n",
        '"label","prediction"\n"0","1"\n1,"1"\n',
        "label,prediction\r0,1\r1,1\r",
    ],
)
def test_csv_shapes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    found = read_predictions(path)
    assert (found.labels.tolist(), found.predicted.tolist()) == ([0, 1], [1, 1])


def test_the_content_tells_the_form(tmp_path: Path) -> None:
    table = {"label": [0, 1], "prediction": [1, 1]}
    for form in FORMS:
        path = save(tmp_path / f"a.{form}", table).rename(tmp_path / f"{form}.data")
        assert read_predictions(path).source["form"] == form
    for name in ("a.tsv", "a.txt"):
        (tmp_path / name).write_text("label\tprediction\nred, dark\tblue\n", encoding="utf-8")
        assert read_predictions(tmp_path / name).class_names == ("blue", "red, dark")


def test_files_read_together_share_their_classes(tmp_path: Path) -> None:
    first = save(tmp_path / "a.csv", {"label": [0, 1, 9], "prediction": [0, 1, 9]})
    second = save(tmp_path / "b.npz", {"label": [0, 1, 9], "prediction": [0, 1, 1]})
    third = save(tmp_path / "c.parquet", {"label": [0, 1, 9], "prediction": [12, 1, 1]})
    found = read_all([first, second, third])
    assert {one.class_names for one in found} == {("0", "1", "9", "12")}
    assert [one.name for one in found] == ["a", "b", "c"]
    scored = save(tmp_path / "d.csv", {"label": ["x", "y", "x", "z"], **columns("logit_", tuple("zyx"), LOGITS)})
    plain = save(tmp_path / "e.csv", {"label": ["x", "y", "x", "z"], "prediction": ["x"] * 4})
    assert [one.class_names for one in read_all([plain, scored])] == [("z", "y", "x")] * 2


def test_models_are_named_by_as_much_of_the_path_as_tells_them_apart(tmp_path: Path) -> None:
    paths = []
    for folder in ("dense", "pruned"):
        (tmp_path / folder).mkdir()
        paths.append(save(tmp_path / folder / "test.csv", {"label": [0, 1], "prediction": [1, 1]}))
    assert [found.name for found in read_all(paths)] == ["dense/test", "pruned/test"]
    assert [found.name for found in read_all(paths, Options(), ["a", "b"])] == ["a", "b"]


TEXTS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8).filter(
    lambda text: not any(letter.isdigit() for letter in text) and text.lower() not in ("nan",)
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), form=st.sampled_from(FORMS))
def test_what_is_written_is_read(tmp_path: Path, data: st.DataObject, form: str) -> None:
    names = data.draw(st.lists(TEXTS, min_size=2, max_size=5, unique=True))
    rows = data.draw(st.integers(1, 8))
    labels = data.draw(st.lists(st.integers(0, len(names) - 1), min_size=rows, max_size=rows))
    number = st.floats(-1e6, 1e6, width=64).map(lambda value: value + 0.0)
    scores = data.draw(
        st.lists(st.lists(number, min_size=len(names), max_size=len(names)), min_size=rows, max_size=rows)
    )
    ids = data.draw(st.lists(TEXTS, min_size=rows, max_size=rows, unique=True))
    table = {
        "label": [names[index] for index in labels],
        **columns("logit_", tuple(names), scores),
        "id": ids,
        "site": ids,
    }
    found = read_predictions(save(tmp_path / f"a.{form}", table), scores="logits", group_columns=["site"])
    assert found.class_names == tuple(names)
    assert found.labels.tolist() == labels
    assert found.predicted.tolist() == np.argmax(scores, axis=1).tolist()
    assert found.scores is not None
    assert np.array_equal(found.scores, scores)
    assert found.ids is not None
    assert found.ids.tolist() == found.groups["site"].tolist() == ids

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailkeep.auditing.tables import read_all, read_predictions
from tailkeep.errors import BAD_INPUT, BadInput, MissingExtra

pa: Any = pytest.importorskip("pyarrow")
pq: Any = pytest.importorskip("pyarrow.parquet")


def refused(path: Path, content: bytes | str | None, words: str, **options: Any) -> None:
    """Expect that a file is refused in these words, which begin with its path."""
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(BadInput) as caught:
        read_predictions(path, **options)
    assert caught.value.exit_code == BAD_INPUT
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


HEAD = "label,prediction\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty; write it again"),
        (HEAD, "there are no rows under the header"),
        ("0,1\n1,1\n", "there is no column 'label', the true class of each row (it has: '0', '1')"),
        ("Label,prediction\n0,1\n", "there is no column 'label', the true class of each row; did you mean 'Label'?"),
        ("label,site\n0,1\n", "no column 'prediction', what the model predicted (or logit_<class> or prob_<class>"),
        ("label;prediction\n0;1\n", "separated by ',' (label and prediction, or scores); its fields seem to be "),
        ("label,prediction,label\n0,1,0\n", "the column 'label' stands twice; give every column a name of its own"),
        (HEAD + "0,1\n1\n", "row 2 (line 3) has 1 fields and the header has 2; is a line cut off"),
        (HEAD + "0,1\n\n1,1,1\n", "row 2 (line 4) has 3 fields and the header has 2; is a line cut off, or a text"),
        (HEAD + '0,1\n"1,1\n0,1\n', "line 3: unexpected end of data; are the quotes of a text closed and doubled?"),
        (HEAD + '0,1\n"1"1,1\n', "line 3: ',' expected after '\"'; are the quotes"),
        (HEAD + "0,1\n,1\n1,\n", "row 2 (line 3), column 'label': the value is missing; fill it in or leave the"),
        (HEAD + '0,"\n"\n,1\n,1\n', "row 2 (line 4), column 'label': the value is missing (and in 1 more rows)"),
        (HEAD + "0,1\nnan,1\n", "row 2 (line 3), column 'label': the value is missing"),
        (HEAD + "0,1\n1.5,1\n", "row 2 (line 3), column 'label': '1.5' is no class: expected a whole number or a name"),
        (HEAD + "0,1\n-1,1\n", "row 2 (line 3), column 'label': -1 is no class, expected 0 to 1"),
        (HEAD + "0,1\nx,1\n1,0\n", "row 2 (line 3), column 'label': 'x' stands among numbers; correct it, or give the"),
        (HEAD + "a,b\nb,3\na,b\n", "row 2 (line 3), column 'prediction': '3' stands among names"),
        (HEAD + "0,cat\n1,dog\n", "row 1 (line 2), column 'prediction': holds names ('cat'), column"),
        (
            HEAD + "0,0\n0,0\n",
            "column 'label' holds one class only (0); give the names of all classes with --class-names",
        ),
        (
            HEAD + "7,1\n123456,1\n",
            "holds up to 123456, so there would be 123457 classes (limit 100000); is it",
        ),
        (HEAD + "0,1\n9" + "9" * 30 + ",1\n", "is no class: expected a whole number or a name"),
        (HEAD + "cat,dog\n" + "x" * 1001 + ",dog\n", "is too long for the name of a class"),
        (HEAD + "cat,dog\nc\x1b[31mat,dog\n", r"class name: 'c\x1b[31mat' holds a control character; remove it"),
        (HEAD + "0,1\n1,1\0\n", "line 3 holds NUL bytes; is it damaged, or UTF-16? Save it as UTF-8"),
        (
            "id,label,prediction\na,0,1\nb,1,1\na,1,1\n",
            "column 'id': the id 'a' stands in row 1 (line 2) too",
        ),
        ("id,label,prediction\na,0,1\n,1,1\n", "row 2 (line 3), column 'id': the value is missing"),
        ("id,label,prediction\na,0,1\nb\x07,1,1\n", r"row 2 (line 3), column 'id': 'b\x07' holds a control character"),
        ("version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer, not the predictions; run `git lfs"),
        ("<!DOCTYPE html><html>", "is a web page (HTML), not predictions; the link led to a login or a preview page"),
        ('[{"label": 0}]', "is JSON; write CSV, Parquet or .npz"),
    ],
)
def test_csv(tmp_path: Path, text: str, words: str) -> None:
    refused(tmp_path / "a.csv", text, words)


SCORES = "label,prob_a,prob_b\n"


@pytest.mark.parametrize(
    ("text", "words", "options"),
    [
        (SCORES + "a,0.5,0.5\nb,0.9,0.9\n", "row 2 (line 3), column 'prob_a': the scores sum to 1.8, not to 1", {}),
        (SCORES + "a,0.5,0.5\nb,-3,4\n", "row 2 (line 3), column 'prob_a': -3.0 is no probability; say which they", {}),
        (SCORES + "a,0.5,0.5\nb,,1\n", "row 2 (line 3), column 'prob_a': the value is missing; correct it", {}),
        (SCORES + "a,0.5,0.5\nb,0;5,1\n", "row 2 (line 3), column 'prob_a': '0;5' is not a number; correct it", {}),
        (SCORES + "a,0.5,0.5\nb,1,nan\n", "row 2 (line 3), column 'prob_b': ", {}),
        (SCORES + "a,0.5,0.5\nb,1,1e999\n", "row 2 (line 3), column 'prob_b': the score is inf; did the model", {}),
        (SCORES + "a,0.5,0.5\nc,0,1\n", "row 2 (line 3), column 'label': 'c' is none of the 2 classes ('a', 'b')", {}),
        (SCORES + "0,0.5,0.5\n2,0,1\n", "row 2 (line 3), column 'label': 2 is no class, expected 0 to 1", {}),
        ("label,logit_a,logit_b\na,0.5,0.5\n", "these are called logits but are probabilities; say which", {}),
        ("label,logit_a,logit_b\na,1,0\na,.5,.7\n", "row 2 (line 3), column 'logit_a': these are called", {}),
        ("label,score_a,score_b\na,.5,.7\n", "sum to 1.2, not to 1, and can be logits or probabilities; say which", {}),
        (
            "label,logit_a,logit_b\na,1,2\na,3,4\n",
            "row 1 (line 2), column 'logit_b': 2.0 is no probability; say",
            {"scores": "probabilities"},
        ),
        ("label,logit_a,prob_a,logit_b,prob_b\na,1,1,2,0\n", "in two forms, 'logit_a' and 'prob_a'; say which", {}),
        (
            "label,prediction,prob_a,prob_b\na,a,.9,.1\nb,b,.6,.4\nb,b,.6,.4\n",
            "row 2 (line 3), column 'prediction': the prediction is not the class with the highest score (and in 1",
            {},
        ),
        (SCORES + "a,0.5,0.5\n", "only the names that were given has 'c'", {"class_names": ["a", "b", "c"]}),
        (SCORES + "a,0.5,0.5\n", "there is no column 'site', the group of each row", {"group_columns": ["site"]}),
        (SCORES + "a,0.5,0.5\n", "no column 'pred', what the model predicted", {"prediction_column": "pred"}),
        (SCORES + "a,0.5,0.5\n", "no column 'image', the id of each row", {"id_column": "image"}),
        (HEAD + "cot,cat\n", "column 'label': 'cot' is none of the 2 classes ('cat', 'dog'); did you mean 'cat'?", {
            "class_names": ["cat", "dog"]}),
        ("label_a,label_b,prob_a,prob_b\n1,0,1,0\n2,0,1,0\n", "row 2 (line 3), column 'label_a': 2 is neither 0", {}),
        ("label_a,label_b,prob_a,prob_c\n1,0,1,0\n", "class 'b' has a column beside 'label_a'; labels, ", {}),
        (
            "label_a,label_b,prediction_a,prediction_b,prob_a,prob_b\n1,0,1,0,.9,.1\n0,1,0,0,.1,.6\n",
            "row 2 (line 3), column 'prediction_b': the prediction is not what the scores say at threshold 0.5",
            {},
        ),
    ],
)  # fmt: skip
def test_scores(tmp_path: Path, text: str, words: str, options: dict[str, Any]) -> None:
    refused(tmp_path / "a.csv", text, words, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"class_names": ["a"]}, "class names: expected two or more, all different"),
        ({"class_names": ["a", "a"]}, "class names: expected two or more, all different"),
        ({"scores": "chances"}, "scores 'chances': expected auto, logits or probabilities"),
        ({"threshold": 1.0}, "threshold 1.0: expected a probability between 0 and 1"),
        ({"group_columns": ["id"]}, "column 'id' cannot be two things at once"),
    ],
)
def test_options(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_predictions(tmp_path / "a.csv", **options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.csv",
            "label,prediction\n0,\xe9\n".encode("latin-1"),
            "line 2 is not UTF-8 (byte 0xe9); save the file as UTF-8",
        ),
        ("a.csv", "label,prediction\n0,1\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        ("a.csv.gz", b"\x1f\x8b\x08", "is packed with gzip; unpack it first (gunzip)"),
        ("a.npy", b"\x93NUMPY\x01\x00", "is a single array (.npy); write labels and predictions together with"),
        ("a.pkl", b"\x80\x04\x95", "is a pickle, which could run any code; it is not opened"),
        ("a.parquet", b"PARE....PARE", "is an encrypted Parquet file"),
        ("a.npz", b"label,prediction\n0,1\n", "is no .npz file, by its first bytes; is it damaged"),
        ("a.parquet", b"label,prediction\n0,1\n", "is no .parquet file, by its first bytes"),
        ("a.parquet", b"PAR1" + b"\0" * 40, "not readable as Parquet (it does not end as a Parquet file does"),
        ("a.npz", b"PK\x03\x04" + b"\0" * 40, "not readable as an .npz of plain arrays"),
    ],
)
def test_other_files(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    refused(tmp_path / name, content, words)


def test_what_is_no_file(tmp_path: Path) -> None:
    refused(tmp_path, None, "is a folder; name a file of predictions")
    refused(tmp_path / "none.csv", None, "there is no such file; name a file of predictions")
    os.mkfifo(tmp_path / "pipe.csv")
    refused(tmp_path / "pipe.csv", None, "is a pipe or a device, not a file")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"labels": [0, 1]}, "no column 'prediction'"),
        ({"labels": [0, 1], "predictions": [0]}, "labels has 2 rows and predictions has 1; give one row an example"),
        ({"labels": [], "predictions": []}, "there are no rows; labels is empty"),
        ({"labels": [0, 1], "predictions": [0, 2.5]}, "row 2, column 'predictions': '2.5' is no class"),
        ({"labels": [0, 1], "predictions": [0, np.nan]}, "row 2, column 'predictions': the value is missing"),
        ({"labels": [0, -1], "predictions": [0, 1]}, "row 2, column 'labels': -1 is no class, expected 0 to 1"),
        ({"labels": np.zeros((2, 2, 2)), "predictions": [0, 1]}, "labels has shape (2, 2, 2), expected (2,)"),
        ({"labels": [0, 1], "logits": [0.0, 1.0]}, "logits is float64 of shape (2,), expected numbers of shape (N, C)"),
        ({"labels": [0, 1], "logits": [[1j, 2j]] * 2}, "is no plain array of numbers or texts"),
        ({"labels": [0, 1], "logits": [["a", "b"]] * 2}, "logits is <U1 of shape (2, 2), expected numbers"),
        (
            {"labels": [0, 1], "logits": [[0.0, np.inf]] * 2},
            "row 1, column 'logits[1]': the score is inf; did the model",
        ),
        (
            {"labels": [0, 1], "logits": np.eye(2)},
            "row 1, column 'logits': these are called logits but are probabilities",
        ),
        ({"labels": [0, 5], "logits": np.eye(2) * 9}, "row 2, column 'labels': 5 is no class, expected 0 to 1"),
        ({"labels": ["a", "b"], "logits": np.eye(2) * 9}, "nothing says which column of 'logits' is which class"),
        (
            {"labels": np.eye(2), "predictions": [0, 1]},
            "the labels are multilabel and the predictions are not; both must",
        ),
        ({"labels": np.eye(2) * 3, "predictions": np.eye(2)}, "row 1, column 'labels[0]': 3 is neither 0 nor 1"),
        ({"labels": np.eye(2), "predictions": np.ones((2, 3))}, "predictions has 3 columns, and there are 2 classes"),
        (
            {"labels": [0, 1], "logits": np.eye(2) * 9, "class_names": ["a", "b", "c"]},
            "logits has 2 columns, and there are 3 classes",
        ),
        ({"labels": [0, 1], "predictions": [0, 1], "class_names": ["a", "a"]}, "two or more names, all different"),
        ({"labels": [b"\xff", b"b"], "predictions": [0, 1]}, "labels holds bytes that are not UTF-8"),
        (
            {"labels": [0, 1], "predictions": np.array([{}, []], dtype=object)},
            "holds Python objects, which are pickled",
        ),
    ],
)
def test_npz(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "a.npz", **{name: np.asarray(values) for name, values in arrays.items()})
    refused(tmp_path / "a.npz", None, words)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"label": [0, None], "prediction": [0, 1]}, "row 2, column 'label': the value is missing"),
        ({"label": ["a", None], "prediction": ["a", "b"]}, "row 2, column 'label': the value is missing"),
        ({"label": [0.0, 0.5], "prediction": [0, 1]}, "row 2, column 'label': '0.5' is no class"),
        ({"label": [0], "prediction": [b"x"]}, "column 'prediction' is binary, expected whole numbers or texts"),
        (
            {"label": [0, 1], "logit_0": [1.0, None], "logit_1": [1.0, 2.0]},
            "row 2, column 'logit_0': the score is miss",
        ),
        (
            {"label": [0, 1], "logit_0": ["1", "2"], "logit_1": [1.0, 2.0]},
            "column 'logit_0' is string, expected numbers",
        ),
        ({"label": [0, 1], "logits": [[1.0, 2.0], [1.0]]}, "row 2, column 'logits': a list of 1 numbers, row 1 has 2"),
        ({"label": [0, 1], "logits": [[1.0, 2.0], None]}, "row 2, column 'logits': the value is missing"),
        ({"label": [0, 1], "logits": [[1.0, 2.0], [9.0, None]]}, "row 2, column 'logits[1]': the score is missing"),
        ({"label": [0, 1], "logits": [1.0, 2.0]}, "column 'logits' is double, expected a list of numbers, one a class"),
        ({"label": [], "prediction": []}, "there are no rows"),
    ],
)
def test_parquet(tmp_path: Path, table: dict[str, Any], words: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", None, words)


def test_parquet_with_one_name_twice(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([0, 1])] * 3, names=["label", "prediction", "label"])
    pq.write_table(table, tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", None, "the column 'label' stands twice")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"label": [0, 1], "prediction": [0, 1]}), tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tailkeep\[parquet\]', or write CSV or \.npz"):
        read_predictions(tmp_path / "a.parquet")


def test_a_group_that_no_file_has(tmp_path: Path) -> None:
    from tailkeep.auditing.cells import Options

    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path in paths:
        path.write_text("label,prediction\n0,1\n", encoding="utf-8")
    with pytest.raises(BadInput, match="none has the group column 'site'"):
        read_all(paths, Options(group_columns=("site",)))

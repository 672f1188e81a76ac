from __future__ import annotations

from dataclasses import replace

import pandas as pd

from tailkeep.report.select import View, clean_frame, cleaned


def test_dense_comes_first_and_controls_last(analysis) -> None:
    view = View(analysis)
    assert view.methods[0] == "dense"
    assert view.methods[-2:] == ["continued training", "student alone"]


def test_the_headline_takes_the_verdicts_reference(analysis) -> None:
    headline = View(analysis).headline(analysis.gaps)
    kept = headline[headline["method"] == "distilled x0.5"]["reference"]
    assert set(kept) == {"teacher"}
    assert not headline.duplicated(["dataset", "setting", "model", "method"]).any()


def test_only_what_differs_is_named(analysis, make_analysis) -> None:
    assert View(analysis).shown == ()
    assert View(make_analysis(models=("resnet20", "resnet56"))).family_name("cifar10", "resnet56") == "resnet56"


def test_classes_of_one_name_are_told_apart(make_analysis) -> None:
    view = View(make_analysis(classes=("a", "a", "b")))
    assert view.class_labels(view.analysis.recall) == {0: "a (#1)", 1: "a (#2)", 2: "b"}


def test_a_rank_of_several_classes_is_called_a_rank(analysis) -> None:
    recall = analysis.recall.copy()
    recall.loc[(recall["rank"] == 0) & (recall["method"] == "dense"), "class_name"] = "other"
    view = View(replace(analysis, recall=recall))
    assert view.class_labels(view.analysis.recall)[0] == "rank 1"


def test_cleaning_changes_names_and_no_numbers(analysis) -> None:
    dirty = replace(analysis, name="a\x1b[2J", notes=("\udc80",))
    clean = cleaned(dirty)
    assert clean.name == "a�[2J"
    assert clean.notes == ("�",)
    assert clean.gaps.equals(analysis.gaps.astype(clean.gaps.dtypes.to_dict()))


def test_a_table_of_plain_objects_is_cleaned_too() -> None:
    # Where Arrow is installed, only a column of objects can hold a lone surrogate.
    names = pd.Series(["a\ud800b", None, "c\x1b"], dtype=object)
    frame = pd.DataFrame({"name": names, "n": [1, 2, 3]}).iloc[[2, 0, 1]]
    clean = clean_frame(frame)
    assert list(clean["name"]) == ["c�", "a�b", None]
    assert list(clean["n"]) == [3, 1, 2]
    assert list(clean.index) == [0, 1, 2]
